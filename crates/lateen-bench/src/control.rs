//! The control plane at scale: what it costs to bring up a mesh, and to tell everyone of one change.
//!
//! Three processes: the control plane (`plane.rs`) on a core of its own, its simulated proxies (`clients.rs`) on the other, and this one, which
//! makes changes, waits until nothing moves any more, and reads who received something and when.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::options::Options;
use crate::process::rss_kib;
use crate::report::{Figures, Report, Row};

pub(crate) mod clients;
mod growth;
pub(crate) mod plane;
mod world;

/// Where the control plane listens.
const PORT: u16 = 28310;
/// How long nothing may move before a change counts as done.
const QUIET: Duration = Duration::from_millis(300);
/// The longest a cold start or a change is waited for.
const PATIENCE: Duration = Duration::from_secs(300);
/// Endpoint changes a second in the steady case, and for how long.
const STORM: (usize, usize) = (35, 60);

/// One size of mesh.
#[derive(Clone, Copy, Debug)]
struct Case {
    services: usize,
    proxies: usize,
    scoped: bool,
    delta: bool,
}

const CASES: &[Case] = &[
    scoped(1_000, 100),
    scoped(1_000, 1_000),
    scoped(10_000, 100),
    scoped(10_000, 1_000),
    scoped(10_000, 5_000),
    Case {
        delta: false,
        ..scoped(10_000, 1_000)
    },
    unscoped(1_000, 100),
    unscoped(1_000, 1_000),
    unscoped(10_000, 100),
];

const fn scoped(services: usize, proxies: usize) -> Case {
    Case {
        services,
        proxies,
        scoped: true,
        delta: true,
    }
}

const fn unscoped(services: usize, proxies: usize) -> Case {
    Case {
        scoped: false,
        ..scoped(services, proxies)
    }
}

/// The changes that are measured one by one.
const CHANGES: &[&str] = &[
    "endpoint",
    "virtual-service",
    "service",
    "namespace",
    "policy",
];

/// The time of the clock that all processes of the machine share, in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

impl Case {
    fn name(self) -> String {
        format!(
            "{} services, {} proxies, {}, {}",
            self.services,
            self.proxies,
            if self.scoped {
                "Sidecars"
            } else {
                "no Sidecars"
            },
            if self.delta {
                "delta"
            } else {
                "state of the world"
            },
        )
    }
}

/// The names of the cases.
pub(crate) fn cases() -> Vec<String> {
    CASES.iter().map(|case| case.name()).collect()
}

/// Runs the experiment.
///
/// # Errors
/// A process ends, or a change does not arrive.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut report = Report::new("control");
    let mut measured = Vec::new();
    for case in CASES.iter().filter(|case| options.wants_case(&case.name())) {
        eprintln!("control: {} …", case.name());
        let rows = measure(*case, options).with_context(|| case.name())?;
        report.extend(rows.iter().cloned());
        measured.push((*case, rows));
    }
    report.extend(growth::rows(&measured));
    report.finish(&options.out)
}

/// One cold start, every change as often as there are runs, then the steady case.
fn measure(case: Case, options: &Options) -> Result<Vec<Row>> {
    let row = |what: &str| Row {
        case: format!("{}: {what}", case.name()),
        subject: "lateen".to_owned(),
        runs: Vec::new(),
    };
    let mut cold = row("cold start");
    let mut changes: Vec<Row> = CHANGES.iter().map(|change| row(change)).collect();
    let mut bench = Bench::start(case)?;
    cold.runs.push(bench.cold_start(case)?);
    for run in 0..options.runs {
        for (change, row) in CHANGES.iter().zip(&mut changes) {
            let index = (run * 37 + 5) % case.services;
            row.runs.push(bench.change(change, index)?);
        }
    }
    let mut steady = row(&format!("{} endpoint changes a second", STORM.0));
    let seconds = usize::try_from(options.time.as_secs() * 12).unwrap_or(STORM.1);
    steady.runs.push(bench.storm(seconds.clamp(1, STORM.1))?);
    let mut rows = vec![cold];
    rows.extend(changes);
    rows.push(steady);
    Ok(rows)
}

/// A process that answers each line with a line.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start(arguments: &[String]) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("running this program again")?;
        let input = child.stdin.take().context("its input")?;
        let output = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Self {
            child,
            input,
            output,
        })
    }

    fn ask(&mut self, command: &str) -> Result<Value> {
        writeln!(self.input, "{command}").with_context(|| format!("asking {command}"))?;
        self.line()
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("reading")?;
        if line.is_empty() {
            bail!("a process of the experiment has ended");
        }
        serde_json::from_str(&line).with_context(|| format!("parsing {line}"))
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only if it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the control plane has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Done {
    cpu_ns: f64,
    bytes: f64,
    generators: f64,
    compilations: f64,
}

struct Bench {
    plane: Peer,
    clients: Peer,
    begun: u64,
    before: Done,
}

impl Bench {
    fn start(case: Case) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], PORT)).to_string();
        let word = |text: &str| text.to_owned();
        let services = case.services.to_string();
        let scoped = u8::from(case.scoped).to_string();
        let plane = [
            "plane",
            "--services",
            &services,
            "--scoped",
            &scoped,
            "--listen",
            &address,
        ];
        let begun = now_ns();
        let mut plane = Peer::start(&plane.map(word))?;
        plane.line().context("waiting for the control plane")?;
        let protocol = if case.delta { "delta" } else { "sotw" };
        let proxies = case.proxies.to_string();
        let clients = [
            "clients",
            "--services",
            &services,
            "--proxies",
            &proxies,
            "--target",
            &address,
            "--protocol",
            protocol,
        ];
        let clients = Peer::start(&clients.map(word))?;
        Ok(Self {
            plane,
            clients,
            begun,
            before: Done::default(),
        })
    }

    /// From the start of the control plane to the last proxy's first full configuration.
    fn cold_start(&mut self, case: Case) -> Result<Figures> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.clients.ask("report")?;
            let ready = numbers(&report["ready"]);
            if ready.len() == case.proxies {
                let last = ready.iter().copied().max().unwrap_or(self.begun);
                self.settle(0.0)?;
                let mut figures = self.figures()?;
                let took = last.saturating_sub(self.begun);
                figures.insert("converged_ms_max", took as f64 / 1e6);
                return Ok(figures);
            }
            if Instant::now() > deadline {
                bail!("after {PATIENCE:?} only {} proxies are ready", ready.len());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// One change, until everyone who needs it has it.
    fn change(&mut self, kind: &str, index: usize) -> Result<Figures> {
        self.before = self.done()?;
        self.clients.ask("mark")?;
        let generation = number(&self.plane.ask("stats")?["generation"]);
        let at = self.plane.ask(&format!("{kind} {index}"))?["at_ns"]
            .as_u64()
            .context("the time of the change")?;
        self.settle(generation)?;
        let mut figures = self.figures()?;
        let report = self.clients.ask("report")?;
        let latencies = numbers(&report["last"]);
        let latencies = latencies.iter().map(|last| last.saturating_sub(at));
        add_latencies(&mut figures, latencies.collect());
        Ok(figures)
    }

    /// Endpoint changes at a steady rate.
    fn storm(&mut self, seconds: usize) -> Result<Figures> {
        self.before = self.done()?;
        self.clients.ask("note")?;
        let begun = Instant::now();
        let answer = self.plane.ask(&format!("storm {} {seconds}", STORM.0))?;
        self.settle(0.0)?;
        let took = begun.elapsed().as_secs_f64();
        let mut figures = self.figures()?;
        figures.insert("cpu_percent", figures["cpu_ms"] / took / 10.0);
        let mut changes: HashMap<&str, Vec<u64>> = HashMap::new();
        for change in answer["changes"].as_array().into_iter().flatten() {
            if let (Some(host), Some(at)) = (change[0].as_str(), change[1].as_u64()) {
                changes.entry(host).or_default().push(at);
            }
        }
        let notes = self.clients.ask("notes")?;
        let mut latencies = Vec::new();
        for note in notes["notes"].as_array().into_iter().flatten() {
            let (Some(name), Some(at)) = (note[0].as_str(), note[1].as_u64()) else {
                continue;
            };
            let host = name.rsplit('|').next().unwrap_or(name);
            // Of a service's changes, which are seconds apart, the last one before.
            let of_service = changes.get(host).into_iter().flatten();
            latencies.extend(
                of_service
                    .filter(|change| **change < at)
                    .max()
                    .map(|change| at - change),
            );
        }
        add_latencies(&mut figures, latencies);
        Ok(figures)
    }

    /// Waits until there is a later snapshot than `after`, every proxy has acknowledged what there is, and nothing more is sent.
    fn settle(&mut self, after: f64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = (0.0, 0.0);
        let mut since = Instant::now();
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            let stats = self.plane.ask("stats")?;
            let now = (number(&stats["bytes"]), number(&stats["generation"]));
            if now != last || now.1 <= after || number(&stats["behind"]) > 0.0 {
                (last, since) = (now, Instant::now());
            }
            if since.elapsed() > QUIET {
                return Ok(());
            }
        }
        bail!("after {PATIENCE:?} proxies still wait for something")
    }

    fn done(&mut self) -> Result<Done> {
        let stats = self.plane.ask("stats")?;
        Ok(Done {
            cpu_ns: number(&stats["cpu_ns"]),
            bytes: number(&stats["bytes"]),
            generators: number(&stats["generators"]),
            compilations: number(&stats["compilations"]),
        })
    }

    /// What was done since `before`.
    fn figures(&mut self) -> Result<Figures> {
        let (now, before) = (self.done()?, self.before);
        Ok(Figures::from([
            ("cpu_ms", (now.cpu_ns - before.cpu_ns) / 1e6),
            ("bytes_sent", now.bytes - before.bytes),
            ("compiled", now.generators - before.generators),
            ("proxies_compiled", now.compilations - before.compilations),
            ("rss_mib", rss_kib(self.plane.pid()) as f64 / 1024.0),
        ]))
    }
}

fn add_latencies(figures: &mut Figures, mut latencies: Vec<u64>) {
    latencies.sort_unstable();
    figures.insert("received", latencies.len() as f64);
    let at = |part: f64| {
        let index = (latencies.len() as f64 * part) as usize;
        let value = latencies.get(index.min(latencies.len().saturating_sub(1)));
        value.copied().unwrap_or(0) as f64 / 1e6
    };
    figures.insert("converged_ms_p50", at(0.5));
    figures.insert("converged_ms_p99", at(0.99));
    figures.insert("converged_ms_max", at(1.0));
}

fn numbers(list: &Value) -> Vec<u64> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(Value::as_u64).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}
