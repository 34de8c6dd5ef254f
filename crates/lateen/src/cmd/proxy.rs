//! `lateen proxy`: the agent of a pod and the proxy beside it, ours in this process or a stock Envoy as its child.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use lateen_agent::bootstrap;
use lateen_agent::http_client::HttpError;
use lateen_agent::{
    Agent, AgentConfig, AgentOptions, DataPlane as AgentDataPlane, DataPlaneKind, NodeType,
    NotReady,
};
use lateen_identity::BoxFuture;
use lateen_local::addresses::PROXY_MARK;
use lateen_proxy::{
    ConfigSource, DecisionIds, LogControl as _, Proxy, ProxyConfig, ProxyHandle, State,
    StatsMatcher, XdsSource,
};
use lateen_telemetry::metrics::render::{Filter, prometheus};
use lateen_xds::grpc::{ClientConfig, Link};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{DataPlane, ProxyArgs, ProxyKind};
use crate::log_levels::LogLevels;
use crate::memory;

pub(crate) fn run(args: &ProxyArgs) -> Result<ExitCode> {
    let levels = Arc::new(LogLevels::start("warning"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(args, levels))
}

async fn serve(args: &ProxyArgs, levels: Arc<LogLevels>) -> Result<ExitCode> {
    let node_type = match args.kind {
        ProxyKind::Sidecar => NodeType::Sidecar,
        ProxyKind::Router => NodeType::Router,
    };
    let kind = match args.data_plane {
        DataPlane::Lateen => DataPlaneKind::Lateen,
        DataPlane::Envoy => DataPlaneKind::Envoy,
    };
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let options = AgentOptions {
        mark: Some(PROXY_MARK),
        ..AgentOptions::new(node_type, kind)
    };
    let config = AgentConfig::from_env(environment, options).context("reading the environment")?;
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let agent = Agent::start(config, &resolv_conf)
        .await
        .context("starting the agent")?;
    match args.data_plane {
        DataPlane::Lateen => run_ours(agent, levels).await?,
        DataPlane::Envoy => {
            let path = std::env::var_os("PATH");
            agent
                .run_envoy(path.as_deref(), ended())
                .await
                .context("running Envoy")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The setting by which clients are told the ids of denials: `mesh` or `all`. It comes with `proxyMetadata`, so that a mesh, a namespace
/// and a pod may each have their own.
const DECISION_IDS: &str = "LATEEN_DECISION_IDS";

fn decision_ids(written: Option<&String>) -> DecisionIds {
    let text = written.map_or("", String::as_str);
    DecisionIds::parse(text).unwrap_or_else(|| {
        tracing::warn!(
            value = text,
            "{DECISION_IDS} is neither `mesh` nor `all`: no client is told the ids of denials"
        );
        DecisionIds::Nobody
    })
}

/// SIGTERM or SIGINT.
async fn ended() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn run_ours(mut agent: Agent, levels: Arc<LogLevels>) -> Result<()> {
    let node = agent.node();
    let channel = agent.xds();
    let source = XdsSource {
        connect: Box::new(move || {
            let link = Link::from(channel.clone());
            Box::pin(async move { Ok(link) })
        }),
        client: ClientConfig::new(node.clone()),
    };
    let mut config = ProxyConfig::new(node, ConfigSource::xds(source), agent.identity().watch());
    config.socket_mark = agent.config().mark;
    apply_log_levels(agent.config(), &levels);
    config.log_control = Some(levels);
    if bootstrap::chooses_stats(agent.config()) {
        let kept = bootstrap::stats_inclusion(agent.config());
        config.stats = Some(StatsMatcher::new(
            kept.prefixes,
            kept.suffixes,
            &kept.regexps,
        ));
    }
    config.give_back = Some(memory::give_back);
    config.decision_ids = decision_ids(agent.config().environment.get(DECISION_IDS));
    if let Some(workers) = agent.config().proxy_config.concurrency {
        config.concurrency = usize::try_from(workers).unwrap_or(usize::MAX);
    }
    config.share_connections = shares_connections(&agent.config().proxy_config.proxy_metadata);
    if agent.config().self_discovery {
        config.local_cluster = Some(bootstrap::LOCAL_CLUSTER.into());
    }
    let admin = agent.config().proxy_config.admin_port;
    config.admin = Some(std::net::SocketAddr::from(([127, 0, 0, 1], admin)));
    config.drain.termination = agent.config().proxy_config.termination_drain_duration;
    config.drain.listener = agent.config().proxy_config.drain_duration;
    let proxy = Arc::new(Proxy::start(config).context("starting the proxy")?);
    agent
        .serve_status(Arc::new(Beside(proxy.clone())))
        .await
        .context("serving the pod's status")?;
    let quit = agent.quit();
    let mut state = proxy.state();
    tokio::select! {
        () = memory::keep_giving_back() => {}
        () = ended() => proxy.drain().await,
        () = quit.cancelled() => {}
        // By its admin interface's `/quitquitquit`, or by a bug that its log tells of.
        _ = state.wait_for(|state| *state == State::Stopped) => {}
    }
    drop(agent);
    if let Some(proxy) = Arc::into_inner(proxy) {
        proxy.shutdown().await;
    }
    Ok(())
}

/// The levels that annotations want. Where `RUST_LOG` is set nothing else counts.
fn apply_log_levels(config: &AgentConfig, levels: &LogLevels) {
    if std::env::var_os("RUST_LOG").is_some() {
        return;
    }
    let (level, components) = config.log_levels();
    for (logger, level) in log_changes(&level, components.as_deref()) {
        levels.set(logger, level);
    }
}

/// The changes that `sidecar.istio.io/logLevel` and `componentLogLevel` (`NAME:LEVEL,…`) make, as far as Envoy knows the words.
fn log_changes<'a>(level: &'a str, components: Option<&'a str>) -> Vec<(Option<&'a str>, &'a str)> {
    const LEVELS: [&str; 7] = [
        "trace", "debug", "info", "warning", "error", "critical", "off",
    ];
    let pairs = components.into_iter().flat_map(|list| list.split(','));
    let pairs = pairs.filter_map(|pair| pair.trim().split_once(':'));
    let all = pairs.map(|(logger, level)| (Some(logger.trim()), level.trim()));
    let mut changes = Vec::new();
    for (logger, level) in std::iter::once((None, level)).chain(all) {
        // Envoy takes this spelling, too.
        let level = if level == "warn" { "warning" } else { level };
        match LEVELS.contains(&level) {
            true => changes.push((logger, level)),
            false => tracing::warn!(level, "an annotation wants a log level that there is not"),
        }
    }
    changes
}

/// Requests to other sidecars of our own share connections unless `proxyMetadata` says otherwise.
fn shares_connections(metadata: &[(String, String)]) -> bool {
    let told = metadata
        .iter()
        .find(|(name, _)| name == "LATEEN_SHARE_CONNECTIONS");
    told.is_none_or(|(_, value)| value != "false")
}

/// Our own proxy as its agent sees it.
struct Beside(Arc<ProxyHandle>);

impl AgentDataPlane for Beside {
    fn ready(&self) -> BoxFuture<'_, Result<(), NotReady>> {
        let state = *self.0.state().borrow();
        Box::pin(async move {
            match state {
                State::Live => Ok(()),
                State::Initializing => Err(NotReady("no configuration from istiod yet".to_owned())),
                State::Draining => Err(NotReady("the proxy is draining".to_owned())),
                State::Stopped => Err(NotReady("the proxy has stopped".to_owned())),
            }
        })
    }

    fn metrics<'a>(&'a self, _query: Option<&'a str>) -> BoxFuture<'a, Result<Bytes, HttpError>> {
        Box::pin(async move {
            let mut text = String::new();
            prometheus(&self.0.metrics(), &Filter::default(), &mut text);
            Ok(Bytes::from(text))
        })
    }

    fn drain(&self) -> BoxFuture<'_, Result<(), HttpError>> {
        Box::pin(async move {
            self.0.drain().await;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_set_the_level_of_all_and_of_some() {
        assert_eq!(
            log_changes("debug", Some("http:trace, pool:warn,nonsense,rbac:loud")),
            [
                (None, "debug"),
                (Some("http"), "trace"),
                (Some("pool"), "warning")
            ]
        );
        assert_eq!(log_changes("warning", None), [(None, "warning")]);
    }
}
