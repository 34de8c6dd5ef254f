//! `lateen istiod`: the control plane.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use lateen_compile::Features;
use lateen_control::findings::settings;
use lateen_control::mesh::Debounce;
use lateen_control::{AddressGuard, Config, ControlPlane, JwksSettings};
use lateen_sources::files::Reader;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::IstiodArgs;
use crate::state::{StateDir, ca_source};

pub(crate) fn run(
    state: &StateDir,
    namespace: Option<&str>,
    args: &IstiodArgs,
) -> Result<ExitCode> {
    super::start_logging("info");
    state.create()?;
    let namespace = namespace.unwrap_or("default");
    let files = Reader::new(args.paths.clone(), namespace).read();
    let mut settings = settings(
        &files.unwrap_or_default().resources.to_vec(),
        args.dual_stack,
    );
    if let Some(given) = &args.trust_domain {
        settings.trust_domain.clone_from(given);
    }
    switch(&mut settings.features);
    let config = Config {
        paths: args.paths.clone(),
        default_namespace: namespace.to_owned(),
        pods: args.pods.clone(),
        ca: ca_source(state, args.cacerts.clone()),
        token_key: state.token_key(),
        listen: args.listen.clone(),
        plain: plain(&args.grpc_addr)?,
        workloads: state.workloads_json(),
        debug_socket: state.istiod_socket(),
        settings,
        debounce: Debounce::default(),
        jwks: JwksSettings {
            guard: AddressGuard {
                blocked: args.jwks_blocked_cidrs.clone(),
                allowed: args.jwks_allowed_cidrs.clone(),
            },
            extra_roots: args.jwks_ca.clone(),
        },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(config))
}

/// istiod's switches as its environment has them, which wins over an IstioOperator.
fn switch(features: &mut Features) {
    for name in Features::VARIABLES {
        let Ok(value) = std::env::var(name) else {
            continue;
        };
        if !features.set(name, &value) {
            tracing::warn!(name, value, "a switch has a value that it cannot have");
        }
    }
}

/// The address of plain-text ADS. Without a host it is loopback, which is all that may be named.
fn plain(text: &str) -> Result<Option<SocketAddr>> {
    let address = match text.strip_prefix(':') {
        _ if text.is_empty() => return Ok(None),
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    let address = address
        .parse()
        .with_context(|| format!("`--grpc-addr {text}` is not an address and a port"))?;
    Ok(Some(address))
}

async fn serve(config: Config) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut plane = ControlPlane::start(config)
        .await
        .context("starting the control plane")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = plane.failed() => anyhow::bail!("a server of the control plane has ended"),
    }
    plane.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
