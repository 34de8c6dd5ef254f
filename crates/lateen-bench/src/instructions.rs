//! Instructions of the proxy for each request, by callgrind: what a change costs or saves, on a machine however busy.
//!
//! Counts user space alone; what the kernel does is in `hop`. One connection, so that setting it up is nothing against the requests; with many
//! a turn of the event loop serves several requests, which saves some of it and costs the wait for the turn's end.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::hop::{ORIGIN, origin};
use crate::options::Options;
use crate::process;
use crate::report::{Figures, Report, Row};
use crate::rivals::{Hop, Subject, Wire};

/// Where the proxy listens.
const PORT: u16 = 28110;
/// Requests before those that count, at least.
const WARM: u32 = 100;
/// Requests that count, at least.
const COUNTED: u32 = 300;
/// Requests of each connection, at least: half as many before those that count.
const OF_EACH: u32 = 100;

/// What is counted: its name, what is spoken, the load's name for that, the path, the connections.
type Case = (&'static str, Wire, &'static str, &'static str, u32);

const CASES: &[Case] = &[
    ("http1 1 KiB", Wire::Http1, "http1", "/1024", 1),
    ("http1 1 KiB, 64", Wire::Http1, "http1", "/1024", 64),
    ("http2 1 KiB", Wire::Http2, "http2", "/1024", 1),
    ("grpc unary 128 B", Wire::Grpc, "grpc", "/128", 1),
    ("tcp 64 B echo", Wire::Tcp, "tcp", "/", 1),
    ("websocket 64 B echo", Wire::Http1, "websocket", "/", 1),
];

/// The names of the cases.
pub(crate) fn cases() -> Vec<String> {
    CASES.iter().map(|(name, ..)| (*name).to_owned()).collect()
}

/// Runs the experiment.
///
/// # Errors
/// The proxy does not start, or a request fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut report = Report::new("instructions");
    let there = Command::new("valgrind").arg("--version").output().is_ok();
    if !there {
        report.skip("valgrind is not installed (apt-get install valgrind)".to_owned());
        return report.finish(&options.out);
    }
    let dir = tempfile::tempdir().context("making a directory")?;
    let _origin = origin(dir.path())?;
    for case in CASES {
        let name = case.0;
        if options.wants_case(name) {
            eprintln!("instructions: {name} …");
            let count = count(case, dir.path()).with_context(|| name.to_owned())?;
            report.extend([Row {
                case: name.to_owned(),
                subject: Subject::Lateen.name().to_owned(),
                runs: vec![Figures::from([("instructions_per_request", count)])],
            }]);
        }
    }
    report.finish(&options.out)
}

fn count(&(_, wire, protocol, path, connections): &Case, dir: &Path) -> Result<f64> {
    let counted = COUNTED.max(OF_EACH * connections);
    let warm = WARM.max(OF_EACH / 2 * connections);
    let this = std::env::current_exe().context("finding this program")?;
    let listen = SocketAddr::from(([127, 0, 0, 1], PORT));
    let port = match wire {
        Wire::Http1 | Wire::Https => ORIGIN.http1,
        Wire::Http2 | Wire::Grpc => ORIGIN.http2,
        Wire::Tcp => ORIGIN.tcp,
    };
    let hop = Hop {
        wire,
        listen,
        origin: ([127, 0, 0, 1], port).into(),
        rate_limited: false,
    };
    let out = dir.join("callgrind.out");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--instr-atstart=no"]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(&this);
    let proxy = Subject::Lateen.start_as(command, &hop, dir)?;
    let target = listen.to_string();
    let load = |count: u32| -> Result<()> {
        let mut command = Command::new(&this);
        command.args([
            "load",
            "--protocol",
            protocol,
            "--path",
            path,
            "--target",
            &target,
        ]);
        command.args([
            "--authority",
            "origin.example",
            "--connections",
            &connections.to_string(),
            "--message",
            "128",
        ]);
        command.args(["--seconds", "300", "--count", &count.to_string()]);
        process::output(&mut command).map(drop)
    };
    let pid = proxy.pid().to_string();
    let instrument = |state: &str| -> Result<()> {
        let mut control = Command::new("callgrind_control");
        let output = control.args(["-i", state, &pid]).output();
        output.context("running callgrind_control").map(drop)
    };
    load(warm)?;
    instrument("on")?;
    load(counted)?;
    instrument("off")?;
    proxy.stop(Duration::from_secs(30));
    let total = total(&dir.join("lateen.log"))?;
    Ok(total / f64::from(counted))
}

/// The number of instructions callgrind says it collected.
fn total(log: &Path) -> Result<f64> {
    let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    let digits = text
        .lines()
        .rev()
        .find_map(|line| line.split_once("Collected :"))
        .map(|(_, rest)| rest.trim().replace(',', ""));
    digits
        .and_then(|digits| digits.parse().ok())
        .with_context(|| format!("callgrind collected nothing:\n{text}"))
}
