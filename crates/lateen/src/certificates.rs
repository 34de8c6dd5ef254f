//! The certificates that the proxies of a running mesh hold, asked for one proxy after the other.
//!
//! A process can enter only one pod's network, so each answer comes from a `lateen proxy-config secret` of its own.

use std::process::Command;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lateen_identity::x509::CertificateFacts;
use lateen_sources::plan::PodState;
use serde_json::Value;

use crate::state::StateDir;

/// What one proxy holds.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// `POD.NAMESPACE`.
    pub(crate) pod: String,
    /// Its own certificate and those above it, in no order.
    pub(crate) chain: Vec<CertificateFacts>,
    /// The roots it trusts.
    pub(crate) roots: Vec<CertificateFacts>,
}

/// What every proxy holds that is ready. A pod that ends meanwhile is left out.
pub(crate) fn held(state: &StateDir) -> Result<Vec<Held>> {
    let pods = state.read_pods()?;
    let proxied =
        |pod: &&PodState| pod.ready && pod.containers.iter().any(|c| c.name == "istio-proxy");
    let mut all = Vec::new();
    for pod in pods.iter().filter(proxied) {
        match of_pod(state, pod) {
            Ok(held) => all.push(held),
            Err(error) if still_there(state, pod) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(all)
}

fn still_there(state: &StateDir, pod: &PodState) -> bool {
    let pods = state.read_pods().unwrap_or_default();
    pods.iter().any(|now| {
        now.namespace == pod.namespace && now.name == pod.name && now.pid == pod.pid && now.ready
    })
}

fn of_pod(state: &StateDir, pod: &PodState) -> Result<Held> {
    let output = Command::new("/proc/self/exe")
        .arg("--state")
        .arg(state.root())
        .args(["--namespace", &pod.namespace])
        .args(["proxy-config", "secret", &pod.name, "-o", "json"])
        .output()
        .context("asking for a proxy's certificates")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("asking {} for its certificates: {}", pod.name, why.trim());
    }
    let items: Vec<Value> = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("reading the certificates of {}", pod.name))?;
    let named = |name: &str| -> Vec<CertificateFacts> {
        let of_name = items.iter().filter(|item| item["resource_name"] == name);
        of_name.filter_map(facts).collect()
    };
    Ok(Held {
        pod: format!("{}.{}", pod.name, pod.namespace),
        chain: named("default"),
        roots: named("ROOTCA"),
    })
}

fn facts(item: &Value) -> Option<CertificateFacts> {
    let der = STANDARD.decode(item["cert"].as_str()?).ok()?;
    CertificateFacts::from_der(&der).ok()
}
