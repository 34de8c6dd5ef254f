//! The mesh path: client, its sidecar, mTLS, the server's sidecar, server; each pod in a network namespace with real redirection, both
//! data planes configured by our control plane with the same resources. Beside them pairs of other proxies: HAProxy with the same mTLS
//! and nothing else that a mesh does, linkerd2-proxy, and ztunnel, which carries TCP alone.
//!
//! What is counted is the CPU time of both sidecars together. A stock Envoy reports its own statistics but not Istio's metrics,
//! whose filters it does not have; so the comparison favours it.

mod pair;
mod running;

use anyhow::{Context, Result};

pub(crate) use self::pair::Rival;
pub(crate) use self::running::{DataPlane, Mesh, Sidecar, lateen};

use crate::hop::figures;
use crate::options::Options;
use crate::process::{cpu_us, rss_kib};
use crate::report::{Figures, Report, Row};

/// The server's service.
pub(crate) const SERVICE: &str = "10.96.200.1";

/// A way to use the path.
#[derive(Clone, Copy, Debug)]
struct Case {
    protocol: &'static str,
    port: u16,
    path: &'static str,
    connections: usize,
    streams: usize,
    /// Bytes of a message (gRPC, TCP).
    message: usize,
}

const fn http1(connections: usize) -> Case {
    Case {
        protocol: "http1",
        port: 8081,
        path: "/1024",
        connections,
        streams: 1,
        message: 128,
    }
}

const fn tcp(connections: usize, message: usize) -> Case {
    Case {
        protocol: "tcp",
        port: 8083,
        path: "/",
        connections,
        streams: 1,
        message,
    }
}

const fn grpc(connections: usize, streams: usize) -> Case {
    Case {
        protocol: "grpc",
        port: 8082,
        path: "/128",
        connections,
        streams,
        message: 128,
    }
}

const CASES: &[Case] = &[
    http1(1),
    http1(16),
    http1(64),
    http1(1000),
    Case {
        path: "/1048576",
        ..http1(16)
    },
    grpc(1, 1),
    grpc(4, 4),
    grpc(4, 32),
    grpc(16, 1),
    grpc(64, 1),
    grpc(1000, 1),
    tcp(1, 128),
    tcp(64, 128),
    tcp(16, 1 << 20),
];

impl Case {
    fn name(&self, log: bool) -> String {
        let Self {
            protocol,
            connections,
            streams,
            ..
        } = self;
        let log = if log { ", access log" } else { "" };
        let protocol = match (self.path, self.message) {
            ("/1048576", _) | (_, 1_048_576) => format!("{protocol} 1 MiB"),
            _ => protocol.to_string(),
        };
        if *streams > 1 {
            format!("{protocol}, {connections} × {streams} streams{log}")
        } else {
            format!("{protocol}, {connections} connections{log}")
        }
    }
}

/// The names of the cases.
pub(crate) fn cases() -> Vec<String> {
    let all = [false, true].into_iter().flat_map(with_log);
    all.map(|(case, log)| case.name(log)).collect()
}

/// What is measured with the access log on, or off.
fn with_log(log: bool) -> impl Iterator<Item = (Case, bool)> {
    let cases = CASES.iter().copied();
    cases
        .filter(move |case| !log || case.connections == 64)
        .map(move |case| (case, log))
}

/// Runs the experiment.
///
/// # Errors
/// A mesh does not start, or a request fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut report = Report::new("mesh");
    lateen()?;
    for log in [false, true] {
        let wanted: Vec<Case> = with_log(log)
            .map(|(case, _)| case)
            .filter(|case| options.wants_case(&case.name(log)))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let mut paths = Vec::new();
        for plane in planes(options, &mut report) {
            eprintln!("mesh: starting with {} …", plane.name());
            paths.push(Path::of(plane, log)?);
        }
        if !log {
            for rival in Rival::ALL {
                paths.extend(pair(rival, options, &mut report)?);
            }
        }
        for case in wanted {
            eprintln!("mesh: {} …", case.name(log));
            report.extend(turns(&case, log, &paths, options)?);
        }
    }
    report.finish(&options.out)
}

/// A way from the client to the server, ready to be used.
struct Path {
    name: &'static str,
    mesh: Mesh,
    sidecars: Vec<Sidecar>,
    /// What the client calls.
    host: &'static str,
    pair: Option<(Rival, pair::Pair)>,
}

impl Path {
    fn of(plane: DataPlane, log: bool) -> Result<Self> {
        let mesh = Mesh::up(&[("mesh.yaml", manifests(log)?)], plane)?;
        let sidecars = mesh.sidecars(plane)?;
        anyhow::ensure!(
            sidecars.len() == 2,
            "two sidecars were expected: {sidecars:?}"
        );
        Ok(Self {
            name: plane.name(),
            mesh,
            sidecars,
            host: SERVICE,
            pair: None,
        })
    }

    fn can(&self, case: &Case) -> bool {
        self.pair.as_ref().is_none_or(|(rival, _)| rival.can(case))
    }
}

/// A pair of somebody else's proxies, if it is wanted and there.
fn pair(rival: Rival, options: &Options, report: &mut Report) -> Result<Option<Path>> {
    if !options.wants_subject(rival.name()) {
        return Ok(None);
    }
    let Some(program) = rival.program() else {
        report.skip(format!(
            "{} is not installed ({})",
            rival.name(),
            rival.install()
        ));
        return Ok(None);
    };
    eprintln!("mesh: starting a pair of {} …", rival.name());
    let plain = manifests(false)?.replace(", labels: {istio-injection: enabled}", "");
    let (mesh, sidecars, pair) = pair::up(rival, &program, plain)?;
    Ok(Some(Path {
        name: rival.name(),
        mesh,
        sidecars,
        host: rival.host(),
        pair: Some((rival, pair)),
    }))
}

/// The data planes that are there.
pub(crate) fn planes(options: &Options, report: &mut Report) -> Vec<DataPlane> {
    let mut planes = Vec::new();
    for plane in DataPlane::BOTH {
        if !options.wants_subject(plane.name()) {
            continue;
        }
        let subject = crate::rivals::Subject::Envoy;
        if plane == DataPlane::Envoy && subject.program().is_none() {
            report.skip(format!("envoy is not installed ({})", subject.install()));
            continue;
        }
        planes.push(plane);
    }
    planes
}

fn turns(case: &Case, log: bool, paths: &[Path], options: &Options) -> Result<Vec<Row>> {
    let paths: Vec<&Path> = paths.iter().filter(|path| path.can(case)).collect();
    let mut rows: Vec<Row> = paths
        .iter()
        .map(|path| Row {
            case: case.name(log),
            subject: path.name.to_owned(),
            runs: Vec::new(),
        })
        .collect();
    for _ in 0..options.runs {
        for (row, path) in rows.iter_mut().zip(&paths) {
            let figures = once(case, path, options);
            let figures = figures.with_context(|| format!("{}, {}", path.name, case.name(log)))?;
            row.runs.push(figures);
        }
    }
    Ok(rows)
}

fn once(case: &Case, path: &Path, options: &Options) -> Result<Figures> {
    let target = format!("{}:{}", path.host, case.port);
    let authority = format!("server:{}", case.port);
    let seconds = options.time.as_secs_f64();
    let arguments = [
        "--protocol",
        case.protocol,
        "--target",
        &target,
        "--authority",
        &authority,
        "--path",
        case.path,
        "--connections",
        &case.connections.to_string(),
        "--streams",
        &case.streams.to_string(),
        "--message",
        &case.message.to_string(),
        "--seconds",
        &seconds.to_string(),
        "--warm",
        &(seconds / 10.0).to_string(),
    ];
    measured(&path.mesh, &path.sidecars, &arguments)
}

/// One run of the generator in the client's pod, set against the CPU time of the sidecars.
///
/// # Errors
/// A request fails.
pub(crate) fn measured(mesh: &Mesh, sidecars: &[Sidecar], arguments: &[&str]) -> Result<Figures> {
    let spent = || {
        sidecars
            .iter()
            .map(|sidecar| cpu_us(sidecar.proxy))
            .sum::<u64>()
    };
    let before = spent();
    let outcome = mesh.load("deploy/client", arguments)?;
    let cpu = spent().saturating_sub(before);
    let resident: u64 = sidecars.iter().map(|sidecar| rss_kib(sidecar.proxy)).sum();
    let each = resident / sidecars.len().max(1) as u64;
    Ok(figures(&outcome, cpu, each))
}

/// Client and server with strict mTLS between them.
///
/// # Errors
/// This program cannot be found.
pub(crate) fn manifests(log: bool) -> Result<String> {
    let this = std::env::current_exe().context("finding this program")?;
    let program = this.display();
    let log = if log { "/dev/stdout" } else { "" };
    Ok(format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |-
    accessLogFile: "{log}"
    defaultConfig: {{concurrency: 1}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: default, labels: {{istio-injection: enabled}}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: istio-system}}
spec: {{mtls: {{mode: STRICT}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: default}}
spec:
  clusterIP: {SERVICE}
  selector: {{app: server}}
  ports:
  - {{name: http, port: 8081}}
  - {{name: grpc, port: 8082}}
  - {{name: tcp, port: 8083}}
---
{server}
---
{client}
"#,
        server = deployment(
            "server",
            &format!(
                r#"["{program}", "origin", "--http1", "0.0.0.0:8081", "--http2", "0.0.0.0:8082", "--tcp", "0.0.0.0:8083"]"#
            )
        ),
        client = deployment("client", r#"["sleep", "1000000"]"#),
    ))
}

fn deployment(name: &str, command: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  selector: {{matchLabels: \
         {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      containers:\n      - name: \
         {name}\n        image: bench\n        command: {command}\n"
    )
}
