//! The agent as a whole: what it starts, in which order, and how it ends.
//!
//! Order: the connection to istiod, the first certificate in the background, names, sockets for Envoy, the status server; then the
//! proxy. Everything started is owned by the [`Agent`] and ends with it. The DNS and status servers are the last to go: the
//! application may still need names while it finishes.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use lateen_envoy::istio::nds::NameTable;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_identity::rotation::IdentityHandle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};

use crate::ads::AdsProxy;
use crate::bootstrap::{Sockets, bootstrap};
use crate::config::AgentConfig;
use crate::data_plane::{DataPlane, EnvoyDataPlane, NotReady};
use crate::dns::resolv::ResolvConf;
use crate::dns::{DnsError, DnsServer, Scope, Upstream, UpstreamOptions};
use crate::envoy::{EnvoyError, EnvoyProcess, LocateError, locate, write_bootstrap};
use crate::istiod::{Istiod, IstiodError, prepare};
use crate::sds::SecretService;
use crate::status::{
    AgentMetrics, AppProbers, Check, ProbeError, ScrapeConfig, ScrapeConfigError, StatusOptions,
    StatusServer,
};
use crate::subscription::{self, Sinks};
use crate::workload_health::{self, WorkloadProbe};
use crate::{node, uds};

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// istiod cannot be reached at all.
    #[error("preparing the connection to istiod")]
    Istiod(#[source] IstiodError),
    /// Names cannot be answered.
    #[error("starting the DNS server")]
    Dns(#[source] DnsError),
    /// The application's probes cannot be read.
    #[error("reading the application's probes")]
    Probes(#[source] ProbeError),
    /// The application's metrics cannot be scraped.
    #[error("reading how the application's metrics are scraped")]
    Scrape(#[source] ScrapeConfigError),
    /// The status port is taken.
    #[error("listening on the status port {port}")]
    Status {
        /// The port.
        port: u16,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A socket for Envoy cannot be made.
    #[error("listening on the socket `{path}`")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no Envoy.
    #[error("looking for Envoy")]
    Locate(#[source] LocateError),
    /// Envoy does not run.
    #[error("running Envoy")]
    Envoy(#[source] EnvoyError),
}

/// A running agent. Dropping it ends everything it started.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    istiod: Istiod,
    names: watch::Receiver<Option<Arc<NameTable>>>,
    metrics: AgentMetrics,
    quit: CancellationToken,
    tasks: JoinSet<()>,
}

impl Agent {
    /// Connects to istiod, gets the first certificate in the background, and answers names if it is to. `resolv_conf` is the text
    /// of the pod's `/etc/resolv.conf`.
    ///
    /// # Errors
    /// The root file is missing, or the DNS port is taken. That istiod is away is no error: it is waited for.
    pub async fn start(config: AgentConfig, resolv_conf: &str) -> Result<Self, AgentError> {
        let (istiod, background) = prepare(&config).map_err(AgentError::Istiod)?;
        let quit = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(background.run(quit.clone().cancelled_owned()));
        let (sender, names) = watch::channel(None);
        let metrics = AgentMetrics {
            identity: Some(istiod.identity.clone()),
            ..AgentMetrics::default()
        };
        let mut agent = Self {
            config,
            istiod,
            names,
            metrics,
            quit,
            tasks,
        };
        let names = if agent.config.dns.enabled {
            agent.start_dns(resolv_conf).await?;
            Some(sender)
        } else {
            None
        };
        agent.subscribe(names);
        Ok(agent)
    }

    /// Asks the control plane for what the agent itself needs.
    fn subscribe(&mut self, names: Option<watch::Sender<Option<Arc<NameTable>>>>) {
        let roots = self.istiod.peer_roots.clone();
        let sinks = Sinks { names, roots };
        let subscription = subscription::subscribe(self.xds(), self.node(), sinks);
        let identity = self.identity();
        self.tasks.spawn(async move {
            // Without a certificate there is nothing to connect with.
            if identity.ready().await.is_ok() {
                subscription.await;
            }
        });
    }

    async fn start_dns(&mut self, resolv_conf: &str) -> Result<(), AgentError> {
        let AgentConfig {
            namespace,
            domain,
            dns,
            mark,
            ..
        } = &self.config;
        let resolv = ResolvConf::parse(resolv_conf);
        // A resolver that already names us must not be asked by us.
        let servers = resolv
            .servers
            .into_iter()
            .filter(|server| !dns.listen.contains(server));
        let upstream = Upstream::new(UpstreamOptions {
            servers: servers.collect(),
            timeout: dns.forward_timeout,
            mark: *mark,
        });
        let scope = Scope::of_pod(namespace, domain, resolv.search);
        let server = DnsServer::bind(&dns.listen, self.names.clone(), scope, upstream).await;
        let server = server.map_err(AgentError::Dns)?;
        self.metrics.dns = Some(server.counters());
        self.tasks.spawn(server.run());
        Ok(())
    }

    /// Its settings.
    pub fn config(&self) -> &AgentConfig {
        &self.config
    }

    /// The workload's identity, for a proxy in this process.
    pub fn identity(&self) -> IdentityHandle {
        self.istiod.identity.clone()
    }

    /// The channel to istiod, with mTLS; usable as soon as there is a certificate.
    pub fn xds(&self) -> Channel {
        self.istiod.xds.clone()
    }

    /// How the proxy introduces itself.
    pub fn node(&self) -> Node {
        node::node(&self.config)
    }

    /// The name table, if names are answered.
    pub fn names(&self) -> watch::Receiver<Option<Arc<NameTable>>> {
        self.names.clone()
    }

    /// Cancelled when somebody on this machine asked the pod's proxy to quit.
    pub fn quit(&self) -> CancellationToken {
        self.quit.clone()
    }

    /// Starts the status server for the proxy beside it. Gives the port.
    ///
    /// # Errors
    /// The port is taken, or the injector's variables make no sense.
    pub async fn serve_status(
        &mut self,
        data_plane: Arc<dyn DataPlane>,
    ) -> Result<u16, AgentError> {
        let config = &self.config;
        let port = config.proxy_config.status_port;
        let probers = AppProbers::parse(config.app_probers.as_deref(), config.pod_ip());
        let scrape = ScrapeConfig::parse(config.prometheus_annotations.as_deref(), port);
        let options = StatusOptions {
            checks: self.checks(),
            data_plane: Arc::clone(&data_plane),
            probers: probers.map_err(AgentError::Probes)?,
            scrape: scrape.map_err(AgentError::Scrape)?,
            metrics: self.metrics.clone(),
            quit: self.quit.clone(),
        };
        self.start_health_reports(data_plane)?;
        let server = StatusServer::bind(port, options).await;
        let server = server.map_err(|source| AgentError::Status { port, source })?;
        let port = server.port();
        self.tasks.spawn(server.run());
        Ok(port)
    }

    /// Probes the workload for the control plane, if it is to.
    fn start_health_reports(&mut self, proxy: Arc<dyn DataPlane>) -> Result<(), AgentError> {
        let probe = WorkloadProbe::read(&self.config.proxy_config.raw);
        let Some(probe) = probe.map_err(AgentError::Probes)? else {
            return Ok(());
        };
        let (own, identity) = (self.config.pod_ip(), self.identity());
        let reports = workload_health::run(probe, own, proxy, self.xds(), self.node());
        self.tasks.spawn(async move {
            // Without a certificate there is nothing to connect with.
            if identity.ready().await.is_ok() {
                reports.await;
            }
        });
        Ok(())
    }

    fn checks(&self) -> Vec<Check> {
        let identity = self.istiod.identity.clone();
        let certificate: Check = Arc::new(move || match identity.current() {
            Some(_) => Ok(()),
            None => Err(NotReady("no certificate from istiod yet".to_owned())),
        });
        let names = self.names.clone();
        let table: Check = Arc::new(move || match &*names.borrow() {
            Some(_) => Ok(()),
            None => Err(NotReady("no name table from istiod yet".to_owned())),
        });
        if self.config.dns.enabled {
            vec![certificate, table]
        } else {
            vec![certificate]
        }
    }

    /// Starts the two sockets a stock Envoy finds us by.
    ///
    /// # Errors
    /// A socket cannot be made.
    pub fn serve_sockets(&mut self) -> Result<Sockets, AgentError> {
        let sockets = Sockets::below(&self.config.run_dir);
        let listen = |path: &PathBuf| {
            uds::listen(path).map_err(|source| AgentError::Socket {
                path: path.clone(),
                source,
            })
        };
        let (ads, sds) = (listen(&sockets.ads)?, listen(&sockets.sds)?);
        let proxy = Server::builder().add_service(AdsProxy::new(self.xds(), self.identity()));
        let secrets = SecretService::new(self.identity().watch()).into_server();
        let secrets = Server::builder().add_service(secrets);
        self.tasks.spawn(async move {
            let served = proxy.serve_with_incoming(ads).await;
            tracing::error!(?served, "ADS socket has ended");
        });
        self.tasks.spawn(async move {
            let served = secrets.serve_with_incoming(sds).await;
            tracing::error!(?served, "SDS socket has ended");
        });
        Ok(sockets)
    }

    /// Runs a stock Envoy beside the agent until `shutdown` resolves or somebody asks it to quit, then drains and ends it. `path` is
    /// the `PATH` in which Envoy is looked for.
    ///
    /// # Errors
    /// There is no Envoy, a port or socket is taken, or Envoy crashes again and again.
    pub async fn run_envoy(
        mut self,
        path: Option<&std::ffi::OsStr>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        let binary = locate(self.config.envoy.as_deref(), path).map_err(AgentError::Locate)?;
        let sockets = self.serve_sockets()?;
        let file = self.config.run_dir.join("envoy-rev.json");
        let content = bootstrap(&self.config, &sockets);
        write_bootstrap(&file, &content).map_err(AgentError::Envoy)?;
        let process = EnvoyProcess::new(&self.config, binary, file);
        self.serve_status(Arc::new(EnvoyDataPlane {
            admin_port: self.config.proxy_config.admin_port,
            prometheus_port: self.config.envoy_prometheus_port,
            drain: process.drain,
        }))
        .await?;
        let quit = self.quit();
        let ended = async {
            tokio::select! {
                () = shutdown => {}
                () = quit.cancelled() => {}
            }
        };
        process.run(ended).await.map_err(AgentError::Envoy)
    }
}
