//! How long a data plane takes to be ready: a process with one listener, and a sidecar's data plane that is handed the
//! configuration of a mesh with many services.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lateen_api::{SourceFile, parse_file};
use lateen_compile::{Compiler, ProxyKind, ProxyNode, Snapshot, SnapshotInputs};
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::{ResourceSet, TypeUrl};
use lateen_proxy::{ConfigSource, Proxy, ProxyConfig};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::options::{Options, number};
use crate::process::{output, rss_kib};
use crate::report::{Figures, Report, Row};
use crate::rivals::{Hop, Subject, Wire};

/// Where the process that is started listens, and the origin that nobody asks for anything.
const PORTS: (u16, u16) = (28120, 28121);
/// Longest a configuration may take to be in effect.
const PATIENCE: Duration = Duration::from_secs(120);

/// The start of a process.
const START: &str = "start of a process with one listener";

/// The names of the cases.
pub(super) fn cases(services: &[usize]) -> Vec<String> {
    let ready = services.iter().map(|services| ready_case(*services));
    std::iter::once(START.to_owned()).chain(ready).collect()
}

fn ready_case(services: usize) -> String {
    format!("ready after the configuration of {services} services")
}

/// Measures both.
///
/// # Errors
/// Something does not start.
pub(super) fn run(services: &[usize], options: &Options, report: &mut Report) -> Result<()> {
    if options.wants_case(START) {
        for subject in [Subject::Envoy, Subject::Lateen] {
            if !options.wants_subject(subject.name()) {
                continue;
            }
            let Some(program) = subject.program() else {
                let (name, how) = (subject.name(), subject.install());
                report.skip(format!("{START}: {name} is not installed ({how})"));
                continue;
            };
            let mut row = row(START, subject.name());
            for _ in 0..options.runs {
                row.runs.push(started(subject, &program)?);
            }
            report.extend([row]);
        }
    }
    for services in services {
        let case = ready_case(*services);
        if !options.wants_case(&case) {
            continue;
        }
        eprintln!("footprint: {case} …");
        let mut row = row(&case, Subject::Lateen.name());
        for _ in 0..options.runs {
            let mut command =
                Command::new(std::env::current_exe().context("finding this program")?);
            command.args(["ready", "--services", &services.to_string()]);
            let text = output(&mut command)?;
            let value: Value = serde_json::from_str(&text).context("the role's output")?;
            let figure = |name: &str| value[name].as_f64().unwrap_or(0.0);
            row.runs.push(Figures::from([
                ("ready_ms", figure("ready_ms")),
                ("held_rss_mib", figure("held_rss_mib")),
            ]));
        }
        report.extend([row]);
    }
    Ok(())
}

fn row(case: &str, subject: &str) -> Row {
    Row {
        case: case.to_owned(),
        subject: subject.to_owned(),
        runs: Vec::new(),
    }
}

/// From the start of a process until its port is open.
fn started(subject: Subject, program: &std::path::Path) -> Result<Figures> {
    let dir = tempfile::tempdir().context("making a directory")?;
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let hop = Hop {
        wire: Wire::Http1,
        listen: local(PORTS.0),
        origin: local(PORTS.1),
        rate_limited: false,
    };
    let begun = Instant::now();
    let process = subject.start(program, &hop, dir.path())?;
    let took = begun.elapsed();
    Ok(Figures::from([
        ("start_ms", took.as_secs_f64() * 1e3),
        ("rss_mib", rss_kib(process.pid()) as f64 / 1024.0),
    ]))
}

/// The role `ready`: starts a data plane with the configuration of so many services and says how long it took.
///
/// # Errors
/// It does not become ready.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let services = number(arguments, "services", 1000)?;
    let set = resources(services);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let before = rss_kib(std::process::id());
    let took = runtime.block_on(async {
        let node = Node {
            id: "sidecar~10.244.0.1~web.default~default.svc.cluster.local".to_owned(),
            ..Node::default()
        };
        let source = ConfigSource::fixed(set);
        let mut config = ProxyConfig::new(node, source, watch::channel(None).1);
        (config.admin, config.prometheus, config.health) = (None, None, None);
        let begun = Instant::now();
        let proxy = Proxy::start(config)?;
        let ready = tokio::time::timeout(PATIENCE, proxy.ready()).await;
        ensure!(ready == Ok(true), "it is not ready after {PATIENCE:?}");
        Ok(begun.elapsed())
    })?;
    let held = rss_kib(std::process::id()).saturating_sub(before) as f64 / 1024.0;
    println!(
        "{}",
        json!({"ready_ms": took.as_secs_f64() * 1e3, "held_rss_mib": held})
    );
    Ok(())
}

/// What the control plane tells a sidecar. Without its own listeners, which bind ports, and without mTLS, which waits for a
/// certificate.
fn resources(services: usize) -> ResourceSet {
    let text = super::others(0, services)
        + "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: plain, namespace: istio-system}\n\
           spec: {host: '*', trafficPolicy: {tls: {mode: DISABLE}}}\n";
    let parsed = parse_file(&SourceFile::new("services.yaml", text.as_str()), "others");
    let (snapshot, _) = Snapshot::new(SnapshotInputs {
        resources: parsed.resources,
        ..SnapshotInputs::default()
    });
    let node = ProxyNode {
        kind: ProxyKind::Sidecar,
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        ips: vec![IpAddr::from([10, 244, 0, 1])],
        dns_domain: "default.svc.cluster.local".to_owned(),
        ..ProxyNode::default()
    };
    let mut set = Compiler::new().compile(&snapshot, &node).resources;
    let listeners = set.get(TypeUrl::Listener);
    let unbound = listeners
        .iter()
        .filter(|(name, _)| !name.starts_with("virtual"));
    let unbound = unbound.map(|(name, listener)| (Arc::clone(name), listener.clone()));
    set.set(TypeUrl::Listener, Arc::new(unbound.collect()));
    set
}
