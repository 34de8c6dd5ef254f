//! What a local rate limit adds that no request meets. On one hop: Istio configures it by EnvoyFilter alone, and the filter is the same.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::hop::{ORIGIN, figures, origin};
use crate::load::Outcome;
use crate::options::Options;
use crate::process::{Process, cpu_us, output, rss_kib};
use crate::report::{Figures, Report, Row};
use crate::rivals::{Hop, Subject, Wire};

pub(super) const CASE: &str = "local rate limit, one hop";
/// Without the limit, and with it.
const PORTS: [u16; 2] = [28130, 28131];

/// Measures it, in turns with the hop that has none.
///
/// # Errors
/// A subject does not start, or a request fails.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    if !options.wants_case(CASE) {
        return Ok(());
    }
    let dir = tempfile::tempdir().context("making a directory")?;
    let _origin = origin(dir.path())?;
    for subject in [Subject::Envoy, Subject::Lateen] {
        if !options.wants_subject(subject.name()) {
            continue;
        }
        let Some(program) = subject.program() else {
            let (name, how) = (subject.name(), subject.install());
            report.skip(format!("{CASE}: {name} is not installed ({how})"));
            continue;
        };
        eprintln!("filters: {CASE}, {} …", subject.name());
        let start = |port, rate_limited| {
            let hop = Hop {
                wire: Wire::Http1,
                listen: SocketAddr::from(([127, 0, 0, 1], port)),
                origin: SocketAddr::from(([127, 0, 0, 1], ORIGIN.http1)),
                rate_limited,
            };
            Ok::<_, anyhow::Error>((hop.listen, subject.start(&program, &hop, dir.path())?))
        };
        let (bare, limited) = (start(PORTS[0], false)?, start(PORTS[1], true)?);
        let mut row = Row {
            case: CASE.to_owned(),
            subject: subject.name().to_owned(),
            runs: Vec::new(),
        };
        for _ in 0..options.runs {
            let base = load(&bare, options)?;
            let mut with = load(&limited, options)?;
            let cpu = |figures: &Figures| figures["cpu_us_per_request"];
            let added = cpu(&with) - cpu(&base);
            with.insert("added_us", added);
            row.runs.push(with);
        }
        report.extend([row]);
    }
    Ok(())
}

fn load((address, process): &(SocketAddr, Process), options: &Options) -> Result<Figures> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    let seconds = options.time.as_secs_f64();
    command
        .args(["load", "--protocol", "http1", "--path", "/1024"])
        .args(["--authority", "origin.example", "--connections", "64"])
        .args(["--target", &address.to_string()])
        .args(["--seconds", &seconds.to_string()])
        .args(["--warm", &(seconds / 10.0).to_string()]);
    let before = cpu_us(process.pid());
    let outcome: Outcome =
        serde_json::from_str(&output(&mut command)?).context("the generator's output")?;
    let spent = cpu_us(process.pid()).saturating_sub(before);
    if outcome.errors > 0 || outcome.requests == 0 {
        bail!("{CASE}: {}", outcome.error.unwrap_or_default());
    }
    Ok(figures(&outcome, spent, rss_kib(process.pid())))
}
