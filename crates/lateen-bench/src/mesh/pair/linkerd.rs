//! Linkerd's sidecars in place of ours, each with a control plane of its own beside it ([`crate::linkerd`]).

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Pods, Side, redirect};
use crate::linkerd::{self, Root};
use crate::mesh::SERVICE;

/// Where a control plane listens, on its pod's loopback.
const CONTROL: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8086);

/// What runs in the two pods.
///
/// # Errors
/// A file cannot be written.
pub(super) fn sides(pods: &Pods, files: &Path) -> Result<[Side; 2]> {
    let root = linkerd::write_root(files)?;
    let server = Side {
        // Nothing that goes between the two comes this way; but the proxy asks where a connection was going, and without it there is no answer.
        setup: redirect("prerouting", "iifname != \"lo\"", linkerd::INBOUND),
        ..side(linkerd::Side::Server, pods, &root, files)?
    };
    let client = Side {
        setup: redirect("output", &format!("ip daddr {SERVICE}"), linkerd::OUTBOUND),
        ..side(linkerd::Side::Client, pods, &root, files)?
    };
    Ok([server, client])
}

fn side(of: linkerd::Side, pods: &Pods, root: &Root, files: &Path) -> Result<Side> {
    let (pod, address) = match of {
        linkerd::Side::Client => ("client", pods.client),
        linkerd::Side::Server => ("server", pods.server),
    };
    let dir = files.join(pod);
    fs::create_dir(&dir).context("making a directory")?;
    let environment = linkerd::environment(of, address, CONTROL, root, &dir)?;
    let own = std::env::current_exe().context("finding this program")?;
    let (listen, server) = (CONTROL.to_string(), pods.server.to_string());
    let mut companion = vec![own.into_os_string(), "linkerd-control".into()];
    companion.extend(["--listen", &listen, "--server", &server].map(Into::into));
    companion.extend(["--root-cert".into(), root.cert.clone().into_os_string()]);
    companion.extend(["--root-key".into(), root.key.clone().into_os_string()]);
    Ok(Side {
        pod,
        companion,
        environment: environment
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect(),
        ..Side::default()
    })
}
