//! One hop: client, proxy, origin. What a request costs the proxy, and how long it keeps it.
//!
//! Load and origin share a core, the proxy has another. The proxies of a case are all started, then measured in turns, so that
//! whatever the machine does besides falls on all of them alike.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::load::Outcome;
use crate::options::Options;
use crate::process::{Core, Process, cpu_us, output, pin, rss_kib, tail};
use crate::report::{Figures, Report, Row, Spread};
use crate::rivals::{Hop, Subject, Wire};

/// Where the origin listens.
pub(crate) const ORIGIN: Ports = Ports {
    http1: 28081,
    http2: 28082,
    tcp: 28083,
};
/// Where another one listens that shares the proxies' core, to be called without a proxy.
const DIRECTLY: Ports = Ports {
    http1: 28084,
    http2: 28085,
    tcp: 28086,
};
/// The first subject's port; the others follow.
const FIRST: u16 = 28100;

pub(crate) struct Ports {
    pub(crate) http1: u16,
    pub(crate) http2: u16,
    pub(crate) tcp: u16,
}

impl Ports {
    const fn of(&self, wire: Wire) -> u16 {
        match wire {
            Wire::Http1 | Wire::Https => self.http1,
            Wire::Http2 | Wire::Grpc => self.http2,
            Wire::Tcp => self.tcp,
        }
    }
}

/// What is sent in a case.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    wire: Wire,
    /// The generator's protocol.
    protocol: &'static str,
    path: &'static str,
    connections: usize,
    streams: usize,
    message: usize,
    /// Whether it is also measured at half of Envoy's highest rate.
    paced: bool,
}

const PLAIN: Case = Case {
    name: "",
    wire: Wire::Http1,
    protocol: "http1",
    path: "/1024",
    connections: 64,
    streams: 1,
    message: 64,
    paced: false,
};

const CASES: &[Case] = &[
    Case {
        name: "http1 1 KiB, 64 connections",
        paced: true,
        ..PLAIN
    },
    Case {
        name: "http1 1 KiB, 1 connection",
        connections: 1,
        ..PLAIN
    },
    Case {
        name: "http1 64 KiB, 64 connections",
        path: "/65536",
        ..PLAIN
    },
    Case {
        name: "http1 1 MiB, 16 connections",
        path: "/1048576",
        connections: 16,
        ..PLAIN
    },
    Case {
        name: "http2 1 KiB, 4 × 32 streams",
        wire: Wire::Http2,
        protocol: "http2",
        connections: 4,
        streams: 32,
        paced: true,
        ..PLAIN
    },
    Case {
        name: "grpc unary 128 B, 4 × 32 streams",
        wire: Wire::Grpc,
        protocol: "grpc",
        path: "/128",
        connections: 4,
        streams: 32,
        message: 128,
        paced: true,
    },
    Case {
        name: "https 1 KiB, 64 connections",
        wire: Wire::Https,
        protocol: "https",
        paced: true,
        ..PLAIN
    },
    Case {
        name: "https 1 MiB, 16 connections",
        wire: Wire::Https,
        protocol: "https",
        path: "/1048576",
        connections: 16,
        ..PLAIN
    },
    Case {
        name: "a TLS handshake for each request, 16 connections",
        wire: Wire::Https,
        protocol: "handshake",
        connections: 16,
        ..PLAIN
    },
    Case {
        name: "tcp 64 B echo, 64 connections",
        wire: Wire::Tcp,
        protocol: "tcp",
        ..PLAIN
    },
    Case {
        name: "tcp 1 MiB echo, 16 connections",
        wire: Wire::Tcp,
        protocol: "tcp",
        connections: 16,
        message: 1 << 20,
        ..PLAIN
    },
    Case {
        name: "websocket 64 B echo, 64 connections",
        protocol: "websocket",
        ..PLAIN
    },
];

/// The names of the cases.
pub(crate) fn cases() -> Vec<String> {
    CASES.iter().map(|case| case.name.to_owned()).collect()
}

/// Runs the experiment.
///
/// # Errors
/// A subject does not start, or a request fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut report = Report::new("hop");
    let subjects = installed(options, &mut report);
    let dir = tempfile::tempdir().context("making a directory")?;
    let _origin = origin(dir.path())?;
    let _directly = origin_on(Core::Subject, &DIRECTLY, dir.path())?;
    for case in CASES.iter().filter(|case| options.wants_case(case.name)) {
        eprintln!("hop: {} …", case.name);
        let rows = measure(case, &subjects, options, dir.path(), &mut report)?;
        report.extend(rows);
    }
    report.finish(&options.out)
}

/// Starts the origin server.
///
/// # Errors
/// Its ports are taken.
pub(crate) fn origin(dir: &Path) -> Result<Process> {
    origin_on(Core::Load, &ORIGIN, dir)
}

fn origin_on(core: Core, ports: &Ports, dir: &Path) -> Result<Process> {
    let log = dir.join(format!("origin-{}.log", ports.http1));
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port)).to_string();
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args(["origin", "--http1", &at(ports.http1)]);
    command.args(["--http2", &at(ports.http2), "--tcp", &at(ports.tcp)]);
    let mut origin = Process::start(&mut command, core, &log)?;
    origin.wait_for_port(([127, 0, 0, 1], ports.http1).into(), &log)?;
    pin(origin.pid(), core)?;
    Ok(origin)
}

fn installed(options: &Options, report: &mut Report) -> Vec<(Subject, std::path::PathBuf)> {
    let mut found = Vec::new();
    for subject in Subject::ALL {
        if !options.wants_subject(subject.name()) {
            continue;
        }
        match subject.program() {
            Some(program) => found.push((subject, program)),
            None => report.skip(format!(
                "{} is not installed ({})",
                subject.name(),
                subject.install()
            )),
        }
    }
    found
}

/// What is measured at a paced rate without any proxy, the origin in its place on its core: how much of a latency is what it costs to wake
/// the other core and be woken by it.
pub(crate) const DIRECT: &str = "direct";

/// A subject that runs.
struct Running {
    name: &'static str,
    /// The proxy; none if the origin is called directly.
    process: Option<Process>,
    address: SocketAddr,
    runs: Vec<Figures>,
}

fn measure(
    case: &Case,
    subjects: &[(Subject, std::path::PathBuf)],
    options: &Options,
    dir: &Path,
    report: &mut Report,
) -> Result<Vec<Row>> {
    let (origin, directly) = (ORIGIN.of(case.wire), DIRECTLY.of(case.wire));
    let mut running = Vec::new();
    for (at, (subject, program)) in subjects.iter().enumerate() {
        if let Some(why) = subject.cannot(case.wire) {
            report.skip(format!("{}: {why}", case.name));
            continue;
        }
        let port = FIRST + u16::try_from(at).context("few subjects")?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let hop = Hop {
            wire: case.wire,
            listen: address,
            origin: ([127, 0, 0, 1], origin).into(),
            rate_limited: false,
        };
        let process = subject.start(program, &hop, dir)?;
        running.push(Running {
            name: subject.name(),
            process: Some(process),
            address,
            runs: Vec::new(),
        });
    }
    turns(case, &mut running, None, options, dir)?;
    let mut rows = rows(case.name, &mut running);
    if let Some(rate) = half_of_envoys(&rows).filter(|_| case.paced) {
        if options.wants_subject(DIRECT) && case.wire != Wire::Https {
            running.push(Running {
                name: DIRECT,
                process: None,
                address: ([127, 0, 0, 1], directly).into(),
                runs: Vec::new(),
            });
        }
        turns(case, &mut running, Some(rate), options, dir)?;
        let name = format!("{} at {rate:.0}/s", case.name);
        rows.extend(self::rows(&name, &mut running));
    }
    Ok(rows)
}

/// Half of the highest rate Envoy reached.
fn half_of_envoys(rows: &[Row]) -> Option<f64> {
    let envoy = rows
        .iter()
        .find(|row| row.subject == Subject::Envoy.name())?;
    envoy
        .spread("rps")
        .map(|Spread { median, .. }| (median / 2.0).round())
}

fn turns(
    case: &Case,
    running: &mut [Running],
    rate: Option<f64>,
    options: &Options,
    dir: &Path,
) -> Result<()> {
    for _ in 0..options.runs {
        for subject in running.iter_mut() {
            let name = subject.name;
            let figures = once(case, subject, rate, options).with_context(|| {
                let log = tail(&dir.join(format!("{name}.log")), 10);
                format!("{name}, {}\n{log}", case.name)
            })?;
            subject.runs.push(figures);
        }
    }
    Ok(())
}

fn once(case: &Case, subject: &Running, rate: Option<f64>, options: &Options) -> Result<Figures> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command
        .args(["load", "--protocol", case.protocol, "--path", case.path])
        .args(["--authority", "origin.example"])
        .args(["--target", &subject.address.to_string()])
        .args(["--connections", &case.connections.to_string()])
        .args(["--streams", &case.streams.to_string()])
        .args(["--message", &case.message.to_string()])
        .args(["--rate", &rate.unwrap_or(0.0).to_string()])
        .args(["--seconds", &options.time.as_secs_f64().to_string()]);
    // The generator's warm-up and end are the proxy's work, too: all of its time is set against all requests of the run.
    let warm = options.time.as_secs_f64() / 10.0;
    command.args(["--warm", &warm.to_string()]);
    let pid = subject.process.as_ref().map(Process::pid);
    let spent = || pid.map_or(0, cpu_us);
    let before = spent();
    let outcome: Outcome =
        serde_json::from_str(&output(&mut command)?).context("the generator's output")?;
    let spent = spent().saturating_sub(before);
    if outcome.errors > 0 || outcome.requests == 0 {
        bail!(
            "{} requests failed: {}",
            outcome.errors,
            outcome.error.unwrap_or_default()
        );
    }
    let mut figures = figures(&outcome, spent, pid.map_or(0, rss_kib));
    if pid.is_none() {
        figures.remove("cpu_us_per_request");
        figures.remove("rss_mib");
    }
    Ok(figures)
}

/// The figures of one run.
pub(crate) fn figures(outcome: &Outcome, cpu_us: u64, rss_kib: u64) -> Figures {
    let all = outcome.all_requests as f64;
    Figures::from([
        ("cpu_us_per_request", cpu_us as f64 / all),
        ("rps", outcome.requests as f64 / outcome.seconds),
        (
            "mib_per_s",
            outcome.bytes as f64 / outcome.seconds / f64::from(1 << 20),
        ),
        ("p50_us", outcome.p50_us),
        ("p99_us", outcome.p99_us),
        ("p999_us", outcome.p999_us),
        ("rss_mib", rss_kib as f64 / 1024.0),
    ])
}

fn rows(case: &str, running: &mut [Running]) -> Vec<Row> {
    running
        .iter_mut()
        .map(|subject| Row {
            case: case.to_owned(),
            subject: subject.name.to_owned(),
            runs: std::mem::take(&mut subject.runs),
        })
        .collect()
}
