//! `lateen istiod`: the control plane.

use std::process::ExitCode;

use anyhow::{Context, Result};
use lateen_compile::Settings;
use lateen_control::mesh::Debounce;
use lateen_control::{Config, ControlPlane};
use lateen_identity::ca::CaSource;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::IstiodArgs;
use crate::state::StateDir;

pub(crate) fn run(
    state: &StateDir,
    namespace: Option<&str>,
    args: &IstiodArgs,
) -> Result<ExitCode> {
    super::start_logging("info");
    state.create()?;
    let config = Config {
        paths: args.paths.clone(),
        default_namespace: namespace.unwrap_or("default").to_owned(),
        pods: args.pods.clone(),
        ca: CaSource::SelfMade { dir: state.ca() },
        token_key: state.token_key(),
        listen: args.listen.clone(),
        debug_socket: state.istiod_socket(),
        settings: Settings {
            dual_stack: args.dual_stack,
            ..Settings::default()
        },
        debounce: Debounce::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(config))
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
