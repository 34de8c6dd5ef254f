//! `lateen authn migration`: who still sends plain text to whom in the running mesh, and what STRICT would break.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::{Result, bail};
use lateen_explain::security::{self, PortTls, ServerTls};
use lateen_explain::{Mesh, Place};
use lateen_sources::plan::{PodRole, PodState};
use serde_json::{Value, json};

use crate::admin;
use crate::cli::Structured;
use crate::migration::{Seen, Strict};
use crate::output::{self, print_json, print_yaml};
use crate::state::StateDir;
use crate::table::Table;
use crate::world;

/// A workload with a sidecar.
struct Row {
    namespace: String,
    workload: String,
    ports: Vec<PortTls>,
    seen: Seen,
}

pub(crate) fn run(
    state: &StateDir,
    namespace: Option<&str>,
    output: Option<Structured>,
) -> Result<ExitCode> {
    let up = state.expect_running()?;
    if up.data_plane != "lateen" {
        bail!(
            "a stock Envoy does not report Istio's metrics, which this is read off; start the mesh with Lateen's proxy"
        );
    }
    let mesh = world::mesh(state, None, &[])?;
    let pods = state.read_pods()?;
    let rows = rows(state, &mesh, &pods, namespace);
    if rows.is_empty() {
        bail!("no workload with a sidecar runs{}", in_namespace(namespace));
    }
    match output {
        Some(Structured::Json) => print_json(&data(&rows))?,
        Some(Structured::Yaml) => print_yaml(&data(&rows))?,
        None => output::print(&text(&rows, &without_sidecar(&mesh, &pods)))?,
    }
    let breaks = rows.iter().any(|row| row.strict() == Strict::Breaks);
    Ok(if breaks {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn in_namespace(namespace: Option<&str>) -> String {
    namespace.map_or_else(String::new, |namespace| format!(" in {namespace}"))
}

impl Row {
    fn strict(&self) -> Strict {
        let modes: Vec<ServerTls> = self.ports.iter().map(|port| port.mode).collect();
        self.seen.strict(&modes)
    }

    /// The modes of the ports, and the policy that set the first of them.
    fn mode(&self) -> (String, Option<&Place>) {
        let modes: BTreeSet<&str> = self.ports.iter().map(|port| port.mode.as_str()).collect();
        let modes: Vec<&str> = modes.into_iter().collect();
        let place = self.ports.iter().find_map(|port| port.decided_by.as_ref());
        (modes.join("/"), place)
    }
}

/// What the sidecars of each workload saw.
fn rows(state: &StateDir, mesh: &Mesh, pods: &[PodState], namespace: Option<&str>) -> Vec<Row> {
    let mut rows: BTreeMap<(String, String), Row> = BTreeMap::new();
    let wanted = pods.iter().filter(|pod| {
        pod.role == PodRole::Sidecar && namespace.is_none_or(|wanted| pod.namespace == wanted)
    });
    for pod in wanted {
        let Some(known) = mesh.snapshot().pod(&pod.namespace, &pod.name) else {
            continue;
        };
        let workload = mesh.workload(known);
        let key = (pod.namespace.clone(), workload.clone());
        let row = rows.entry(key).or_insert_with(|| Row {
            namespace: pod.namespace.clone(),
            workload,
            ports: mesh
                .proxy(known)
                .map(|proxy| security::ports(mesh.places(), &proxy))
                .unwrap_or_default(),
            seen: Seen::default(),
        });
        match admin::ask_apart(state, pod, "/stats/prometheus") {
            Ok(metrics) => row.seen.add(&String::from_utf8_lossy(&metrics)),
            Err(error) => eprintln!("note: {} is left out: {error:#}", pod.name),
        }
    }
    rows.into_values().collect()
}

/// Workloads that have no identity: their plain text is what STRICT refuses.
fn without_sidecar(mesh: &Mesh, pods: &[PodState]) -> Vec<String> {
    let plain = pods.iter().filter(|pod| pod.role == PodRole::Plain);
    let names: BTreeSet<String> = plain
        .filter_map(|pod| mesh.snapshot().pod(&pod.namespace, &pod.name))
        .map(|pod| format!("{}.{}", mesh.workload(pod), pod.namespace))
        .collect();
    names.into_iter().collect()
}

fn text(rows: &[Row], without_sidecar: &[String]) -> String {
    let cells = rows.iter().map(|row| {
        let (mode, place) = row.mode();
        let from: Vec<String> = row
            .seen
            .plain
            .iter()
            .map(|(client, count)| format!("{client} ({count})"))
            .collect();
        vec![
            format!("{}.{}", row.workload, row.namespace),
            mode,
            row.seen.mutual.to_string(),
            row.seen.plain_total().to_string(),
            row.strict().as_str().to_owned(),
            if from.is_empty() {
                "-".to_owned()
            } else {
                from.join(", ")
            },
            place
                .and_then(|place| place.source.as_ref())
                .map_or_else(|| "-".to_owned(), ToString::to_string),
        ]
    });
    let header = [
        "WORKLOAD",
        "MODE",
        "MUTUAL TLS",
        "PLAIN TEXT",
        "STRICT",
        "PLAIN TEXT FROM",
        "PEER AUTHENTICATION",
    ];
    let mut out = Table::from_parts(&header, cells.collect()).render();
    out.push_str("\nRequests and TCP connections since each proxy started.\n");
    let breaking: Vec<String> = of(rows, Strict::Breaks);
    if breaking.is_empty() {
        out.push_str("STRICT would break nothing that was seen.\n");
    } else {
        let list = breaking.join(", ");
        out.push_str(&format!("STRICT would break clients of {list}.\n"));
        if !without_sidecar.is_empty() {
            let list = without_sidecar.join(", ");
            out.push_str(&format!(
                "Without a sidecar run {list}: give them one, or set their destinations' ports to PERMISSIVE (portLevelMtls).\n"
            ));
        }
    }
    let unseen = of(rows, Strict::Unseen);
    if !unseen.is_empty() {
        let list = unseen.join(", ");
        out.push_str(&format!(
            "Nothing can be said of {list}: nobody has asked them yet.\n"
        ));
    }
    out
}

fn of(rows: &[Row], strict: Strict) -> Vec<String> {
    rows.iter()
        .filter(|row| row.strict() == strict)
        .map(|row| format!("{}.{}", row.workload, row.namespace))
        .collect()
}

fn data(rows: &[Row]) -> Value {
    let list: Vec<Value> = rows
        .iter()
        .map(|row| {
            let (mode, place) = row.mode();
            json!({
                "workload": row.workload,
                "namespace": row.namespace,
                "mode": mode,
                "peerAuthentication": place,
                "mutualTls": row.seen.mutual,
                "plainText": row.seen.plain_total(),
                "plainTextFrom": row.seen.plain,
                "strict": row.strict().as_str(),
            })
        })
        .collect();
    let breaks = rows.iter().any(|row| row.strict() == Strict::Breaks);
    json!({"workloads": list, "strictBreaks": breaks})
}
