//! Asking the admin interfaces of the running mesh's proxies. Each listens on loopback in its pod's network, so that who asks has to go there.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use lateen_sources::plan::PodState;

use crate::http::{self, Admin};
use crate::state::StateDir;
use crate::target;

/// Enters a pod's network and asks its proxy. The process stays there: it can ask no other.
pub(crate) fn ask(
    state: &StateDir,
    namespace: Option<&str>,
    target: &str,
    (method, path): (&str, &str),
) -> Result<Vec<u8>> {
    state.expect_running()?;
    let pods = state.read_pods()?;
    let pod = target::find(&pods, target, namespace)?;
    let pid = pod
        .pid
        .with_context(|| format!("{} is not running", pod.name))?;
    if !has_proxy(pod) {
        bail!("{} has no proxy: it is not in the mesh", pod.name);
    }
    lateen_local::exec::enter_network(pid)
        .with_context(|| format!("entering the network of {}", pod.name))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, pod.admin_port));
    let answer = http::request(&Admin::Tcp(address), method, path);
    Ok(answer
        .with_context(|| format!("asking the proxy of {}", pod.name))?
        .to_vec())
}

/// Whether a pod runs a proxy.
pub(crate) fn has_proxy(pod: &PodState) -> bool {
    pod.pid.is_some() && pod.containers.iter().any(|c| c.name == "istio-proxy")
}

/// Asks a pod's proxy by a process of its own (`lateen admin`), which then is in that pod's network instead of this one.
pub(crate) fn ask_apart(state: &StateDir, pod: &PodState, path: &str) -> Result<Vec<u8>> {
    let program = std::env::current_exe().context("finding this program")?;
    let output = Command::new(program)
        .arg("--state")
        .arg(state.root())
        .args([
            "-n",
            &pod.namespace,
            "admin",
            &format!("pod/{}", pod.name),
            path,
        ])
        .stdin(Stdio::null())
        .output()
        .context("running this program again")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}", said.trim().trim_start_matches("error: "));
    }
    Ok(output.stdout)
}
