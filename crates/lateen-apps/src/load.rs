//! `load`: sends requests at a steady rate and prints, as JSON, what became of them.
//!
//! The rate does not wait for answers, and a latency counts from when its request was due: a server that stalls is seen
//! to stall. Connections are kept and reused unless `--fresh`; a request that a closing connection never took is sent
//! again on another, every other failure is counted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Response};
use regex::bytes::Regex;
use serde_json::{Value, json};
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;

use crate::RunError;
use crate::client::{Call, ClientError, Connection, Target, with_causes};
use crate::options::Options;

const USAGE: &str = "usage: load --url URL [--rps N] [--seconds S | --count N] [--header 'NAME: VALUE']… [--method M] \
     [--body TEXT] [--timeout SECONDS] [--concurrency N] [--key REGEX] [--fresh]";
/// Characters of a failure that are shown.
const LONGEST_EXAMPLE: usize = 500;
/// Distinct keys and failures that are counted apart.
const MOST_KEYS: usize = 1000;
/// Connections that are kept for the next request.
const KEPT: usize = 256;
/// The most requests of one run: their latencies are kept.
const MOST_REQUESTS: u64 = 50_000_000;

/// What to send, how fast, and what to count.
struct Plan {
    call: Call,
    url: String,
    /// Time between two requests.
    interval: Duration,
    count: u64,
    timeout: Duration,
    concurrency: usize,
    key: Option<Regex>,
    fresh: bool,
}

pub(crate) async fn run(arguments: &[String], stop: CancellationToken) -> Result<u8, RunError> {
    let plan = Plan::parse(arguments)?;
    let (report, failed) = LocalSet::new().run_until(drive(Rc::new(plan), stop)).await;
    println!("{report:#}");
    Ok(u8::from(failed > 0))
}

impl Plan {
    fn parse(arguments: &[String]) -> Result<Plan, RunError> {
        let known = [
            "url",
            "rps",
            "seconds",
            "count",
            "header",
            "method",
            "body",
            "timeout",
            "concurrency",
            "key",
        ];
        let options = Options::parse(arguments, &known, &["fresh"])?;
        let usage = |problem: String| RunError::Usage(format!("{problem}\n{USAGE}"));
        let url = options
            .last("url")
            .or(options.rest.first().map(String::as_str));
        let url = url.ok_or_else(|| usage("no URL".to_owned()))?;
        let target = Target::parse(url).map_err(|error| usage(error.to_string()))?;
        let positive = |name: &str, default: f64| match options.number::<f64>(name)? {
            Some(value) if value > 0.0 && value <= 1e6 => Ok(value),
            None => Ok(default),
            Some(_) => Err(usage(format!("--{name} is out of range"))),
        };
        let rps = positive("rps", 100.0)?;
        let seconds = positive("seconds", 10.0)?;
        let count = options
            .number::<u64>("count")?
            .unwrap_or((rps * seconds).ceil() as u64);
        let key = options.last("key").map(Regex::new).transpose();
        Ok(Plan {
            call: call(&options, target).map_err(usage)?,
            url: url.to_owned(),
            interval: Duration::from_secs_f64(1.0 / rps),
            count: count.min(MOST_REQUESTS),
            timeout: Duration::from_secs_f64(positive("timeout", 10.0)?),
            concurrency: positive("concurrency", 256.0)?.ceil() as usize,
            key: key.map_err(|error| usage(format!("--key: {error}")))?,
            fresh: options.last("fresh").is_some(),
        })
    }
}

fn call(options: &Options, target: Target) -> Result<Call, String> {
    let mut call = Call::get(target);
    for line in options.all("header") {
        let wrong = || format!("`{line}` is not a header");
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        call.headers.insert(
            name,
            HeaderValue::from_str(value.trim()).map_err(|_| wrong())?,
        );
    }
    if let Some(body) = options.last("body") {
        call.method = Method::POST;
        call.body = Bytes::from(body.to_owned());
    }
    if let Some(method) = options.last("method") {
        let method = Method::from_bytes(method.as_bytes());
        call.method = method.map_err(|_| "--method is not a method".to_owned())?;
    }
    Ok(call)
}

/// What became of the requests so far.
#[derive(Default)]
struct Outcomes {
    ok: u64,
    failed: u64,
    failures: BTreeMap<String, u64>,
    /// The first of each kind of failure: what came back, or why nothing did.
    examples: BTreeMap<String, String>,
    /// When the first and the last of each kind of failure came, in seconds from the beginning.
    failed_at_s: BTreeMap<String, [f64; 2]>,
    statuses: BTreeMap<String, u64>,
    split: BTreeMap<String, u64>,
    latencies_microseconds: Vec<u32>,
}

async fn drive(plan: Rc<Plan>, stop: CancellationToken) -> (Value, u64) {
    let outcomes = Rc::new(RefCell::new(Outcomes::default()));
    let pool: Rc<RefCell<Vec<Connection>>> = Rc::default();
    let mut running = JoinSet::new();
    let began = Instant::now();
    let mut sent = 0;
    while sent < plan.count && !stop.is_cancelled() {
        let due = began + Duration::from_secs_f64(plan.interval.as_secs_f64() * sent as f64);
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(due.into()) => {}
        }
        while running.len() >= plan.concurrency {
            running.join_next().await;
        }
        while running.try_join_next().is_some() {}
        let (plan, pool) = (Rc::clone(&plan), Rc::clone(&pool));
        let outcomes = Rc::clone(&outcomes);
        running.spawn_local(async move {
            let answered = tokio::time::timeout(plan.timeout, exchange(&plan, &pool)).await;
            let answered = answered.unwrap_or(Err(ClientError::Timeout(plan.timeout)));
            let (at, latency) = (began.elapsed(), due.elapsed());
            let key = plan.key.as_ref();
            outcomes.borrow_mut().count(answered, at, latency, key);
        });
        sent += 1;
    }
    while running.join_next().await.is_some() {}
    let outcomes = outcomes.take();
    let failed = outcomes.failed;
    (outcomes.report(&plan.url, sent, began.elapsed()), failed)
}

/// Sends one request on a kept connection, or a new one.
async fn exchange(
    plan: &Plan,
    pool: &RefCell<Vec<Connection>>,
) -> Result<Response<Bytes>, ClientError> {
    let kept = || pool.borrow_mut().pop();
    while let Some(mut connection) = kept() {
        // A connection that the server has closed takes no request: nothing was sent, so try the next.
        if connection.is_closed() || !connection.ready().await {
            continue;
        }
        match connection.exchange(&plan.call).await {
            Err(ClientError::Exchange { source, .. }) if source.is_canceled() => continue,
            outcome => return keep(plan, pool, connection, outcome),
        }
    }
    let mut connection = Connection::open(&plan.call.target).await?;
    let outcome = connection.exchange(&plan.call).await;
    keep(plan, pool, connection, outcome)
}

fn keep(
    plan: &Plan,
    pool: &RefCell<Vec<Connection>>,
    connection: Connection,
    outcome: Result<Response<Bytes>, ClientError>,
) -> Result<Response<Bytes>, ClientError> {
    let mut pool = pool.borrow_mut();
    if outcome.is_ok() && !plan.fresh && !connection.is_closed() && pool.len() < KEPT {
        pool.push(connection);
    }
    outcome
}

impl Outcomes {
    fn count(
        &mut self,
        answered: Result<Response<Bytes>, ClientError>,
        at: Duration,
        latency: Duration,
        key: Option<&Regex>,
    ) {
        let microseconds = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.latencies_microseconds.push(microseconds);
        let response = match answered {
            Ok(response) => response,
            Err(error) => return self.fail(error.kind().to_owned(), at, || with_causes(&error)),
        };
        let status = response.status();
        add(&mut self.statuses, status.as_str().to_owned());
        if status.is_client_error() || status.is_server_error() {
            let body = || {
                let text = String::from_utf8_lossy(response.body());
                text.chars().take(LONGEST_EXAMPLE).collect()
            };
            self.fail(format!("status_{}", status.as_u16()), at, body);
        } else {
            self.ok += 1;
        }
        if let Some(key) = key {
            add(&mut self.split, key_of(key, response.body()));
        }
    }

    fn fail(&mut self, kind: String, at: Duration, example: impl FnOnce() -> String) {
        self.failed += 1;
        if self.examples.len() < MOST_KEYS && !self.examples.contains_key(&kind) {
            self.examples.insert(kind.clone(), example());
        }
        let at = at.as_secs_f64();
        if let Some([_, last]) = self.failed_at_s.get_mut(&kind) {
            *last = at;
        } else if self.failed_at_s.len() < MOST_KEYS {
            self.failed_at_s.insert(kind.clone(), [at, at]);
        }
        add(&mut self.failures, kind);
    }

    fn report(mut self, url: &str, sent: u64, elapsed: Duration) -> Value {
        self.latencies_microseconds.sort_unstable();
        let latencies = &self.latencies_microseconds;
        let at = |share: f64| {
            let index = (share * latencies.len() as f64).ceil() as usize;
            let value = latencies.get(
                index
                    .saturating_sub(1)
                    .min(latencies.len().saturating_sub(1)),
            );
            value.map(|microseconds| f64::from(*microseconds) / 1000.0)
        };
        json!({
            "url": url,
            "sent": sent,
            "ok": self.ok,
            "failed": self.failed,
            "failures": self.failures,
            "examples": self.examples,
            "failed_at_s": self.failed_at_s,
            "statuses": self.statuses,
            "split": self.split,
            "seconds": elapsed.as_secs_f64(),
            "rps": sent as f64 / elapsed.as_secs_f64().max(1e-9),
            "latency_ms": {
                "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p99_9": at(0.999), "max": at(1.0),
            },
        })
    }
}

fn add(counts: &mut BTreeMap<String, u64>, key: String) {
    if counts.len() >= MOST_KEYS && !counts.contains_key(&key) {
        *counts.entry("other".to_owned()).or_default() += 1;
    } else {
        *counts.entry(key).or_default() += 1;
    }
}

/// What the last match of `key` captures: of nested answers the innermost service's comes last.
fn key_of(key: &Regex, body: &[u8]) -> String {
    let Some(captures) = key.captures_iter(body).last() else {
        return "none".to_owned();
    };
    let matched = captures
        .get(1)
        .or(captures.get(0))
        .map_or(&b""[..], |matched| matched.as_bytes());
    String::from_utf8_lossy(matched).into_owned()
}

#[cfg(test)]
pub(crate) async fn report(arguments: &[String]) -> Result<Value, RunError> {
    let plan = Rc::new(Plan::parse(arguments)?);
    Ok(LocalSet::new()
        .run_until(drive(plan, CancellationToken::new()))
        .await
        .0)
}
