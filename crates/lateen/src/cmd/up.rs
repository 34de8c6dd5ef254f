//! `lateen up`: a mesh from files, in this process and its children.

mod crashes;
mod detach;
mod progress;
mod report;
mod run;
mod told;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use lateen_identity::ca::{CaOptions, CertificateAuthority};
use lateen_local::node::{self, NodeOptions};

use crate::cli::UpArgs;
use crate::output::now;
use crate::state::{StateDir, Up, ca_source, start_ticks};
use crate::up::images;
use crate::up::publish::Publish;

/// Starts a mesh and keeps it until it is told to end.
pub(crate) fn run(state: &StateDir, namespace: Option<&str>, args: &UpArgs) -> Result<ExitCode> {
    if let Some(up) = state.running_on()? {
        bail!(
            "a mesh already runs (process {}); `lateen down` ends it, --state DIR makes a second one",
            up.pid
        );
    }
    for path in &args.paths {
        std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
    }
    let publish: Vec<Publish> = args
        .publish
        .iter()
        .map(|p| p.parse())
        .collect::<Result<_>>()?;
    let images = images::table(&args.image)?;
    if let Some(dir) = &args.cacerts {
        // Before anything is started: what is wrong with the set is the user's to mend.
        let source = ca_source(state, Some(dir.clone()));
        CertificateAuthority::open(source, CaOptions::default(), SystemTime::now())
            .with_context(|| format!("using the authority in {}", dir.display()))?;
    }
    state.create()?;
    // Pods that a killed mesh has left in the records are not this one's.
    state.clear_up();
    let is_background = detach::is_background();
    if args.detach && !is_background {
        return detach::run(state);
    }
    let listen: Vec<SocketAddr> = publish.iter().map(|p| p.host).collect();
    // From here on this process is in a network of its own.
    let node = node::enter(&NodeOptions { listen }).context("entering the node's namespaces")?;
    super::start_logging("warn");
    let up = record(namespace, args)?;
    state.write_up(&up)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(run::run(run::Mesh {
        state,
        args,
        up: &up,
        publish,
        images,
        node,
        is_background,
    }));
    state.clear_up();
    result
}

fn record(namespace: Option<&str>, args: &UpArgs) -> Result<Up> {
    let pid = std::process::id();
    let paths = args
        .paths
        .iter()
        .map(std::path::absolute)
        .collect::<std::io::Result<_>>();
    let cacerts = args.cacerts.as_ref().map(std::path::absolute);
    Ok(Up {
        pid,
        start_ticks: start_ticks(pid).context("reading this process's start time")?,
        paths: paths.context("resolving the paths")?,
        namespace: namespace.unwrap_or("default").to_owned(),
        data_plane: args.data_plane.as_str().to_owned(),
        ready: false,
        started_at: now().unsigned_abs(),
        publish: args.publish.clone(),
        cacerts: cacerts.transpose().context("resolving --cacerts")?,
    })
}
