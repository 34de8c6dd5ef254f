//! ztunnel in place of the sidecars: TCP over mTLS (HBONE) and no HTTP, as in Istio's ambient mode, but one for each pod
//! (`PROXY_MODE=dedicated`), so that what a pod's traffic costs is its own.
//!
//! It reads the two pods and their service from a file, and its authority is the one that its tests have.

use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};

use super::{PORTS, Pods, Side, redirect};
use crate::mesh::SERVICE;

/// Where it takes what the pod's application sends.
const OUTBOUND: u16 = 15001;
/// The service's name as its workloads refer to it.
const HOST: &str = "server.default.svc.cluster.local";

/// What runs in the two pods.
///
/// # Errors
/// A file cannot be written.
pub(super) fn sides(pods: &Pods, files: &Path) -> Result<[Side; 2]> {
    let path = files.join("ztunnel.yaml");
    fs::write(&path, config(pods)).context("writing a configuration")?;
    let side = |pod: &'static str| Side {
        pod,
        environment: [
            ("FAKE_CA", "true".into()),
            ("XDS_ADDRESS", "".into()),
            ("LOCAL_XDS_PATH", path.clone().into()),
            ("PROXY_MODE", "dedicated".into()),
            (
                "PROXY_WORKLOAD_INFO",
                format!("default/{pod}/default").into(),
            ),
            ("NODE_NAME", "local".into()),
            ("ZTUNNEL_WORKER_THREADS", "1".into()),
            // The client's address would need rules of routing for what the application answers.
            ("ENABLE_ORIG_SRC", "false".into()),
            ("RUST_LOG", "warn".into()),
        ]
        .map(|(name, value): (&str, OsString)| (name.to_owned(), value))
        .into(),
        arguments: vec!["proxy".into()],
        ..Side::default()
    };
    let client = Side {
        setup: redirect("output", &format!("ip daddr {SERVICE}"), OUTBOUND),
        ..side("client")
    };
    Ok([side("server"), client])
}

/// The pods and the service, as its `LOCAL_XDS_PATH` has them. Text: the keys of its maps of ports are numbers, which JSON has none of.
fn config(pods: &Pods) -> String {
    let ports = PORTS.map(|port| format!("{port}: {port}")).join(", ");
    let workload = |name: &str, address: Ipv4Addr, services: &str| {
        format!(
            "- {{uid: Kubernetes//Pod/default/{name}, name: {name}, namespace: default, serviceAccount: default, workloadIps: [{address}], \
             protocol: HBONE, node: local, network: \"\", services: {{{services}}}}}\n"
        )
    };
    format!(
        "workloads:\n{}{}services:\n- {{name: server, namespace: default, hostname: {HOST}, vips: [/{SERVICE}], ports: {{{ports}}}}}\n",
        workload("client", pods.client, ""),
        workload(
            "server",
            pods.server,
            &format!("default/{HOST}: {{{ports}}}")
        ),
    )
}
