//! The load generator: `lateen-bench load --target ADDR --protocol http1|https|handshake|http2|grpc|tcp|websocket …`,
//! result as JSON on standard output.
//!
//! Closed: each connection (or stream) sends its next request when the last was answered. Paced (`--rate`): requests are
//! due at fixed times whatever became of earlier ones, and a latency counts from when the request was due, so that a proxy
//! that stalls is seen to stall. One thread; bounded in time.

mod clock;
mod h1;
mod h2;
mod tcp;
mod tls;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::task::LocalSet;

use crate::options::{number, text};
use crate::process;

use self::clock::Pace;
pub(crate) use self::h1::find_end;
pub(crate) use self::h2::message;

/// Latencies kept for one run; later ones are only counted.
const MOST_LATENCIES: usize = 20_000_000;

/// What to send.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where to.
    pub(crate) target: SocketAddr,
    /// `Host` or `:authority`.
    pub(crate) authority: String,
    /// The path; the origin answers `/N` with N bytes.
    pub(crate) path: String,
    /// Extra header of every request.
    pub(crate) header: Option<(String, String)>,
    /// Connections.
    pub(crate) connections: usize,
    /// Requests at a time on each connection (HTTP/2).
    pub(crate) streams: usize,
    /// Bytes of a message (gRPC, TCP, WebSocket).
    pub(crate) message: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Requests answered as expected.
    pub(crate) requests: u64,
    /// The same with those of the warm-up.
    pub(crate) all_requests: u64,
    /// Requests that failed; a run with any is not a measurement.
    pub(crate) errors: u64,
    /// The first failure.
    pub(crate) error: Option<String>,
    /// Bytes of bodies.
    pub(crate) bytes: u64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Latencies.
    pub(crate) p50_us: f64,
    /// The 99th percentile.
    pub(crate) p99_us: f64,
    /// The 99.9th percentile.
    pub(crate) p999_us: f64,
    /// The slowest.
    pub(crate) max_us: f64,
}

/// A run's counters, shared by its connections.
#[derive(Debug)]
pub(crate) struct Run {
    /// What to send.
    pub(crate) plan: Plan,
    pace: Option<Pace>,
    stop: Cell<bool>,
    /// Requests that may still be begun.
    left: Cell<u64>,
    requests: Cell<u64>,
    warm_requests: Cell<u64>,
    bytes: Cell<u64>,
    errors: Cell<u64>,
    error: RefCell<Option<String>>,
    /// Tenths of a microsecond.
    latencies: RefCell<Vec<u32>>,
}

impl Run {
    /// Whether there is anything left to send.
    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.get() && self.left.get() > 0
    }

    /// Waits until the next request is due; `None` when the run is over.
    pub(crate) async fn due(&self) -> Option<Instant> {
        if !self.goes_on() {
            return None;
        }
        self.left.set(self.left.get() - 1);
        match &self.pace {
            None => Some(Instant::now()),
            Some(pace) => pace.next().await.filter(|_| !self.stop.get()),
        }
    }

    /// Notes an answer.
    pub(crate) fn answered(&self, due: Instant, bytes: usize) {
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(self.bytes.get() + bytes as u64);
        let mut latencies = self.latencies.borrow_mut();
        if latencies.len() < MOST_LATENCIES {
            let tenths = due.elapsed().as_nanos() / 100;
            latencies.push(u32::try_from(tenths).unwrap_or(u32::MAX));
        }
    }

    /// Notes a failure, unless the run is over and connections are being cut.
    pub(crate) fn failed(&self, error: &anyhow::Error) {
        if self.stop.get() {
            return;
        }
        self.errors.set(self.errors.get() + 1);
        self.error
            .borrow_mut()
            .get_or_insert_with(|| format!("{error:#}"));
    }

    fn outcome(&self, seconds: f64) -> Outcome {
        let mut latencies = self.latencies.borrow_mut();
        latencies.sort_unstable();
        let at = |share: f64| {
            let index =
                ((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1));
            latencies
                .get(index)
                .map_or(0.0, |tenths| f64::from(*tenths) / 10.0)
        };
        Outcome {
            requests: self.requests.get(),
            all_requests: self.warm_requests.get() + self.requests.get(),
            errors: self.errors.get(),
            error: self.error.borrow().clone(),
            bytes: self.bytes.get(),
            seconds,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: at(1.0),
        }
    }

    fn reset(&self) {
        self.warm_requests.set(self.requests.replace(0));
        self.bytes.set(0);
        self.latencies.borrow_mut().clear();
    }
}

/// The role `load`.
///
/// # Errors
/// The arguments are wrong, or nothing could be sent at all.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    process::join_load()?;
    let target = text(arguments, "target").context("--target ADDR is missing")?;
    let plan = Plan {
        target: target.parse().context("--target")?,
        authority: text(arguments, "authority").unwrap_or(target).to_owned(),
        path: text(arguments, "path").unwrap_or("/1024").to_owned(),
        header: text(arguments, "header")
            .and_then(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        connections: number(arguments, "connections", 64)?,
        streams: number(arguments, "streams", 1)?,
        message: number(arguments, "message", 64)?,
    };
    let protocol = text(arguments, "protocol").unwrap_or("http1").to_owned();
    let rate: f64 = number(arguments, "rate", 0.0)?;
    let warm = Duration::from_secs_f64(number(arguments, "warm", 0.5)?);
    let time = Duration::from_secs_f64(number(arguments, "seconds", 5.0)?);
    // So that pacing is not rounded to the default slack of 50 µs. Where it is refused, latencies say so.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let count: u64 = number(arguments, "count", 0)?;
    let work = async {
        let run = start(plan, &protocol, rate, count)?;
        if count > 0 {
            return counted(&run, count, time).await;
        }
        timed(&run, warm, time).await
    };
    let outcome = LocalSet::new().block_on(&runtime, work)?;
    println!("{}", serde_json::to_string(&outcome).context("encoding")?);
    Ok(())
}

fn start(plan: Plan, protocol: &str, rate: f64, count: u64) -> Result<Rc<Run>> {
    let pace = (rate > 0.0).then(|| Pace::new(rate)).transpose()?;
    let run = Rc::new(Run {
        plan,
        pace,
        stop: Cell::new(false),
        left: Cell::new(if count == 0 { u64::MAX } else { count }),
        requests: Cell::new(0),
        warm_requests: Cell::new(0),
        bytes: Cell::new(0),
        errors: Cell::new(0),
        error: RefCell::default(),
        latencies: RefCell::new(Vec::with_capacity(1 << 20)),
    });
    for _ in 0..run.plan.connections {
        let run = Rc::clone(&run);
        match protocol {
            "http1" => tokio::task::spawn_local(h1::connection(run)),
            "https" => tokio::task::spawn_local(tls::connection(run, false)),
            "handshake" => tokio::task::spawn_local(tls::connection(run, true)),
            "http2" => tokio::task::spawn_local(h2::connection(run, false)),
            "grpc" => tokio::task::spawn_local(h2::connection(run, true)),
            "tcp" => tokio::task::spawn_local(tcp::connection(run, false)),
            "websocket" => tokio::task::spawn_local(tcp::connection(run, true)),
            other => bail!("no protocol is called `{other}`"),
        };
    }
    if run.pace.is_some() {
        tokio::task::spawn_local(clock::tick(Rc::clone(&run)));
    }
    Ok(run)
}

/// Counts what is answered in a time, after a warm-up.
async fn timed(run: &Run, warm: Duration, time: Duration) -> Result<Outcome> {
    tokio::time::sleep(warm).await;
    run.reset();
    let started = Instant::now();
    tokio::time::sleep(time).await;
    let outcome = run.outcome(started.elapsed().as_secs_f64());
    run.stop.set(true);
    Ok(outcome)
}

/// Sends so many requests and no more.
async fn counted(run: &Run, count: u64, longest: Duration) -> Result<Outcome> {
    let started = Instant::now();
    while run.requests.get() < count && run.errors.get() == 0 {
        if started.elapsed() > longest {
            bail!(
                "{} of {count} requests were answered in time",
                run.requests.get()
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    run.stop.set(true);
    Ok(run.outcome(started.elapsed().as_secs_f64()))
}
