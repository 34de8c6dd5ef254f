//! What a sidecar occupies when it knows ten, a thousand and ten thousand services: after it has started, and after it has carried
//! traffic; how large the program is, and how soon it is ready.
//!
//! Both data planes get the same resources from our control plane. What is counted is the process that carries traffic.

pub(crate) mod ready;

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::mesh::{DataPlane, Mesh, Sidecar, lateen, manifests, measured, planes};
use crate::options::Options;
use crate::process::rss_kib;
use crate::report::{Figures, Report, Row};

/// Services known to a sidecar, besides those that every mesh has.
const SERVICES: &[usize] = &[10, 1_000, 10_000];
/// Services to a file.
const TO_A_FILE: usize = 500;
/// How long a sidecar is left alone before it counts as idle.
const QUIET: Duration = Duration::from_secs(12);
/// Idle connections that are opened to see what one costs.
const CONNECTIONS: usize = 1000;

/// The size of what is installed.
const BINARY: &str = "binary: control plane, proxy and command line";

/// The names of the cases.
pub(crate) fn cases() -> Vec<String> {
    let sidecars = SERVICES.iter().map(|services| sidecar_case(*services));
    std::iter::once(BINARY.to_owned())
        .chain(ready::cases(SERVICES))
        .chain(sidecars)
        .collect()
}

fn sidecar_case(services: usize) -> String {
    format!("sidecar, {services} services")
}

/// Runs the experiment.
///
/// # Errors
/// A mesh does not start, or a request fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut report = Report::new("footprint");
    if options.wants_case(BINARY) {
        report.extend([binary()?]);
    }
    ready::run(SERVICES, options, &mut report)?;
    for services in SERVICES {
        let case = sidecar_case(*services);
        if !options.wants_case(&case) {
            continue;
        }
        for plane in &planes(options, &mut report) {
            eprintln!("footprint: {case}, {} …", plane.name());
            let mut row = Row {
                case: case.clone(),
                subject: plane.name().to_owned(),
                runs: Vec::new(),
            };
            for _ in 0..options.runs {
                let figures = measure(*services, *plane, options);
                row.runs
                    .push(figures.with_context(|| format!("{case}, {}", plane.name()))?);
            }
            report.extend([row]);
        }
    }
    report.finish(&options.out)
}

fn binary() -> Result<Row> {
    let path = lateen()?;
    let size = fs::metadata(&path).with_context(|| format!("looking at {}", path.display()))?;
    let mib = size.len() as f64 / f64::from(1 << 20);
    Ok(Row {
        case: BINARY.to_owned(),
        subject: "lateen".to_owned(),
        runs: vec![Figures::from([("binary_mib", mib)])],
    })
}

fn measure(services: usize, plane: DataPlane, options: &Options) -> Result<Figures> {
    let mut files = vec![("mesh.yaml".to_owned(), manifests(false)?)];
    for first in (0..services).step_by(TO_A_FILE) {
        let last = services.min(first + TO_A_FILE);
        files.push((format!("services-{first:05}.yaml"), others(first, last)));
    }
    let files: Vec<(&str, String)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.clone()))
        .collect();
    let mesh = Mesh::up(&files, plane)?;
    let sidecars = mesh.sidecars(plane)?;
    ensure!(
        sidecars.len() == 2,
        "two sidecars were expected: {sidecars:?}"
    );
    std::thread::sleep(QUIET);
    let idle = resident_mib(&sidecars);
    let target = format!("{}:8081", crate::mesh::SERVICE);
    let seconds = options.time.as_secs_f64().to_string();
    let load = |connections: usize, more: &[&str]| {
        let connections = connections.to_string();
        let mut arguments = vec![
            "--protocol",
            "http1",
            "--authority",
            "server:8081",
            "--path",
            "/1024",
            "--target",
            &target,
            "--connections",
            &connections,
        ];
        arguments.extend_from_slice(more);
        measured(&mesh, &sidecars, &arguments)
    };
    load(64, &["--seconds", &seconds])?;
    let loaded = resident_mib(&sidecars);
    // Many connections of few requests each: what is left of them is what an idle connection costs, on both sides of both sidecars.
    load(CONNECTIONS, &["--rate", "500", "--seconds", &seconds])?;
    let many = resident_mib(&sidecars);
    Ok(Figures::from([
        ("idle_rss_mib", idle),
        ("rss_mib", loaded),
        ("rss_mib_after_1000_connections", many),
        (
            "kib_per_connection",
            (many - loaded).max(0.0) * 1024.0 / CONNECTIONS as f64,
        ),
    ]))
}

/// The mean of the sidecars.
fn resident_mib(sidecars: &[Sidecar]) -> f64 {
    let kib: u64 = sidecars.iter().map(|sidecar| rss_kib(sidecar.proxy)).sum();
    kib as f64 / 1024.0 / sidecars.len().max(1) as f64
}

/// Services that nobody calls, each with an address behind it.
fn others(first: usize, last: usize) -> String {
    let mut text = String::new();
    for index in first..last {
        let (name, port) = (format!("other-{index:05}"), [8080, 9090, 7070][index % 3]);
        let [_, _, c, d] = u32::try_from(index).unwrap_or(0).to_be_bytes();
        // A string takes whatever is written.
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: others}}\nspec:\n  ports: [{{name: http, port: \
             {port}}}]\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-1, namespace: others, \
             labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: http, port: {port}}}]\n\
             endpoints: [{{addresses: [10.128.{c}.{d}]}}]\n---\n"
        );
    }
    text
}
