//! The running mesh: files to desired pods, the supervisor, cluster DNS, published ports, and what the user is told.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use lateen_agent::dns::{DnsServer, Scope, Upstream, UpstreamOptions};
use lateen_compile::Settings;
use lateen_control::findings;
use lateen_envoy::istio::nds::{NameTable, name_table::NameInfo};
use lateen_identity::TrustDomain;
use lateen_identity::ca::{CaOptions, CertificateAuthority};
use lateen_identity::token::{PodRef, TokenKey};
use lateen_local::addresses::{DNS_V4, DNS_V6, ISTIOD_V4, ISTIOD_V6};
use lateen_local::images::Images;
use lateen_local::node::Node;
use lateen_local::publish::publish;
use lateen_local::state::StateDir as LocalState;
use lateen_local::supervisor::{CommandLine, Credentials, Desired, Options, Supervisor, Target};
use lateen_sources::files::Reader;
use lateen_sources::plan::{PodPlan, PodRole, PodState};
use lateen_sources::watch::watch_files;
use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::progress::Progress;
use super::report;
use super::told::{self, Told};
use crate::cli::{DataPlane, UpArgs};
use crate::http::{self, Admin};
use crate::output::print;
use crate::state::{StateDir, Up};
use crate::up::cron::CronJobs;
use crate::up::desired::{Planned, cluster_names, desired};
use crate::up::publish::Publish;

/// How long a workload's token is good for, and when it is replaced.
const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// How long a pod that is to end still serves, so that every proxy learns of it first. A change takes well under 500 ms.
const DRAIN_DELAY: Duration = Duration::from_secs(2);
/// How often it is asked whether everything is ready, until it is.
const LOOK: Duration = Duration::from_millis(50);
/// How often in a row it must be: a stream may not have looked yet at what was just compiled for it.
const STEADY: u32 = 4;
/// How often the authority's files are looked at.
const FOLLOW: Duration = Duration::from_secs(1);
/// How long a container waits for its proxy at most.
const HOLD: Duration = Duration::from_secs(30);

/// What a mesh is started from.
pub(crate) struct Mesh<'a> {
    pub(crate) state: &'a StateDir,
    pub(crate) args: &'a UpArgs,
    pub(crate) up: &'a Up,
    pub(crate) publish: Vec<Publish>,
    pub(crate) images: Images,
    pub(crate) node: Node,
    /// Started by `--detach`.
    pub(crate) is_background: bool,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(mesh: Mesh<'_>) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let started = Instant::now();
    let dual_stack = mesh.args.dual_stack && mesh.node.ipv6;
    let reader = Reader::new(mesh.up.paths.clone(), mesh.up.namespace.as_str());
    let mut files = watch_files(reader);
    let mut loaded = files.borrow_and_update().clone();
    let mut crons = CronJobs::default();
    crons.set(&loaded.resources.to_vec(), OffsetDateTime::now_utc());
    let native = mesh.args.data_plane == DataPlane::Lateen;
    let settings = findings::settings(&loaded.resources.to_vec(), dual_stack);
    let mut verdicts = told::judge(files.clone(), settings.clone(), native);
    let mut told = Told::default();
    let mut progress = Progress::new(started);
    let mut planned = desired(&loaded, crons.jobs(), dual_stack);
    let (wanted, desired_seen) = watch::channel(Arc::new(planned.desired.clone()));
    let ca = authority(&mesh, &settings)?;
    let supervisor = start(&mesh, &settings, ca.clone(), desired_seen)?;
    let mut tasks = JoinSet::new();
    let mut roots = ca.bundle();
    tasks.spawn(async move { ca.follow_files(FOLLOW).await });
    let (names, names_seen) = watch::channel(None);
    names.send_replace(Some(name_table(&planned, &[])));
    serve_dns(&mut tasks, names_seen).await?;
    serve_ports(&mut tasks, &mesh, &supervisor, &planned).await?;
    let mut pods = supervisor.pods();
    let mut told_ready = false;
    let mut steady = 0;
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = signals.received() => break,
            Some(verdict) = verdicts.recv() => {
                progress.clear();
                told.tell(&verdict)?;
            }
            _ = look.tick(), if !told_ready => {
                let now = pods.borrow().clone();
                let ready = is_ready(&mesh, &planned.desired, &now).await;
                steady = if ready { steady + 1 } else { 0 };
                progress.show(&now, planned.desired.pods.len());
                if steady >= STEADY && told.anything_yet() {
                    told_ready = true;
                    progress.clear();
                    print(&report::ready(&now, started.elapsed()))?;
                    print(&hints(&mesh))?;
                    mesh.state.write_up(&Up { ready: true, ..mesh.up.clone() })?;
                }
            }
            changed = files.changed() => {
                changed.context("the file watch has ended")?;
                loaded = files.borrow_and_update().clone();
                crons.set(&loaded.resources.to_vec(), OffsetDateTime::now_utc());
                planned = desired(&loaded, crons.jobs(), dual_stack);
                send_if_changed(&wanted, &planned.desired);
                names.send_replace(Some(name_table(&planned, &pods.borrow())));
            }
            Ok(()) = roots.changed() => supervisor.refresh().await.context("passing on the roots")?,
            changed = pods.changed() => {
                changed.context("the supervisor has failed")?;
                let now = pods.borrow_and_update().clone();
                progress.tell_stuck(mesh.state, &now)?;
                names.send_replace(Some(name_table(&planned, &now)));
            }
            () = due(crons.next()) => {
                let now = pods.borrow().clone();
                if crons.advance(&now, OffsetDateTime::now_utc()) {
                    planned = desired(&loaded, crons.jobs(), dual_stack);
                    send_if_changed(&wanted, &planned.desired);
                }
            }
        }
    }
    progress.clear();
    print("ending …\n")?;
    supervisor.shutdown().await.context("ending the pods")?;
    Ok(ExitCode::SUCCESS)
}

/// Whether every pod is ready and every proxy has been told so: from then on a request finds its way.
async fn is_ready(mesh: &Mesh<'_>, desired: &Desired, pods: &[PodState]) -> bool {
    if !report::all_settled(pods) || pods.len() < desired.pods.len() {
        return false;
    }
    let socket = Admin::Unix(mesh.state.istiod_socket());
    let ask = move || http::request(&socket, "GET", "/debug/snapshotz");
    let Ok(Ok(text)) = tokio::task::spawn_blocking(ask).await else {
        return false;
    };
    let Ok(state) = serde_json::from_slice::<serde_json::Value>(&text) else {
        return false;
    };
    let ready = pods.iter().filter(|pod| pod.ready).count();
    let proxies = pods
        .iter()
        .filter(|pod| pod.ready && pod.role != PodRole::Plain)
        .count();
    let number = |key: &str| state[key].as_u64().and_then(|n| usize::try_from(n).ok());
    number("readyPods") == Some(ready)
        && number("behind") == Some(0)
        && number("connected").is_some_and(|connected| connected >= proxies)
}

/// Waits for a time, in steps: a machine may sleep, and clocks are set.
async fn due(at: Option<OffsetDateTime>) {
    const STEP: Duration = Duration::from_secs(30);
    let Some(at) = at else {
        return std::future::pending().await;
    };
    loop {
        let left = at - OffsetDateTime::now_utc();
        let Ok(left) = Duration::try_from(left) else {
            return;
        };
        tokio::time::sleep(left.min(STEP)).await;
    }
}

fn send_if_changed(wanted: &watch::Sender<Arc<Desired>>, desired: &Desired) {
    wanted.send_if_modified(|last| {
        let changed = **last != *desired;
        if changed {
            *last = Arc::new(desired.clone());
        }
        changed
    });
}

/// What to try next.
fn hints(mesh: &Mesh<'_>) -> String {
    let mut text = String::new();
    for publish in &mesh.publish {
        text.push_str(&format!(
            "  http://{} leads to {}:{}\n",
            publish.host, publish.service, publish.port
        ));
    }
    let end = match mesh.is_background {
        true => "`lateen down`",
        false => "Ctrl-C",
    };
    text + &format!("edits are picked up live; {end} ends the mesh\n")
}

/// The authority, for its roots: istiod has it open for signing.
fn authority(mesh: &Mesh<'_>, settings: &Settings) -> Result<Arc<CertificateAuthority>> {
    let trust_domain = &settings.trust_domain;
    let options = CaOptions {
        trust_domain: TrustDomain::parse(trust_domain.as_bytes())
            .with_context(|| format!("`{trust_domain}` as the trust domain"))?,
        ..CaOptions::default()
    };
    let source = mesh.up.ca_source(mesh.state);
    let ca = CertificateAuthority::open(source, options, SystemTime::now());
    Ok(Arc::new(ca.context("opening the certificate authority")?))
}

fn start(
    mesh: &Mesh<'_>,
    settings: &Settings,
    ca: Arc<CertificateAuthority>,
    desired: watch::Receiver<Arc<Desired>>,
) -> Result<Supervisor> {
    let state = LocalState::open(mesh.state.root()).context("opening the state directory")?;
    let key =
        TokenKey::open(&mesh.state.token_key()).context("opening the key of workload tokens")?;
    let data_plane = mesh.args.data_plane.as_str();
    let mut proxy_env: Vec<(String, String)> = ["PATH", "HOME", "LATEEN_ENVOY", "RUST_LOG"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .collect();
    // The allocator's huge pages cost an idle proxy 6 MB for nothing.
    proxy_env.push(("MIMALLOC_ALLOW_THP".to_owned(), "0".to_owned()));
    let options = Options {
        state,
        images: mesh.images.clone(),
        proxy: Arc::new(move |pod| proxy_command(pod, data_plane, &proxy_env)),
        credentials: Arc::new(move |pod| credentials(pod, &key, &ca)),
        control_plane: Some(control_plane(mesh, settings)),
        trust_domain: settings.trust_domain.clone(),
        cluster_id: "Kubernetes".to_owned(),
        drain_delay: DRAIN_DELAY,
        hold_for_proxy: Some(HOLD),
        packet_filter: mesh.args.packet_filter,
    };
    Supervisor::start(options, desired).context("starting the supervisor")
}

fn proxy_command(pod: &PodPlan, data_plane: &str, env: &[(String, String)]) -> CommandLine {
    let kind = if pod.role == PodRole::Gateway {
        "router"
    } else {
        "sidecar"
    };
    let argv = ["/proc/self/exe", "proxy", kind, "--data-plane", data_plane];
    CommandLine {
        argv: argv.map(str::to_owned).into(),
        env: env.to_vec(),
    }
}

fn credentials(pod: &PodPlan, key: &TokenKey, ca: &CertificateAuthority) -> Credentials {
    let uid = format!("{}/{}", pod.namespace, pod.name);
    let token = key.issue(
        PodRef {
            namespace: &pod.namespace,
            service_account: &pod.service_account,
            name: &pod.name,
            uid: &uid,
        },
        TOKEN_LIFETIME,
        SystemTime::now(),
    );
    let root_cert_pem = ca.bundle().borrow().to_pem();
    Credentials {
        token,
        root_cert_pem,
        refresh_after: Some(TOKEN_LIFETIME / 2),
    }
}

fn control_plane(mesh: &Mesh<'_>, settings: &Settings) -> CommandLine {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut argv: Vec<String> = ["/proc/self/exe", "--state"].map(str::to_owned).into();
    argv.push(text(mesh.state.root()));
    argv.extend([
        "--namespace".to_owned(),
        mesh.up.namespace.clone(),
        "istiod".to_owned(),
    ]);
    argv.extend(["--pods".to_owned(), text(&mesh.state.pods())]);
    argv.extend(["--listen".to_owned(), ISTIOD_V4.to_string()]);
    if mesh.node.ipv6 {
        argv.extend(["--listen".to_owned(), ISTIOD_V6.to_string()]);
    }
    argv.extend(["--trust-domain".to_owned(), settings.trust_domain.clone()]);
    if let Some(dir) = &mesh.up.cacerts {
        argv.extend(["--cacerts".to_owned(), text(dir)]);
    }
    if settings.dual_stack {
        argv.push("--dual-stack".to_owned());
    }
    argv.extend(mesh.up.paths.iter().map(|path| text(path)));
    CommandLine {
        argv,
        env: Vec::new(),
    }
}

/// The cluster's own DNS, for pods without a sidecar and for finding istiod.
async fn serve_dns(
    tasks: &mut JoinSet<()>,
    names: watch::Receiver<Option<Arc<NameTable>>>,
) -> Result<()> {
    let addresses = [IpAddr::from(DNS_V4), IpAddr::from(DNS_V6)].map(|ip| SocketAddr::new(ip, 53));
    let scope = Scope {
        domain: "svc.cluster.local".to_owned(),
        authority: vec!["cluster.local".to_owned()],
        ..Scope::default()
    };
    let upstream = Upstream::new(UpstreamOptions {
        servers: Vec::new(),
        timeout: Duration::from_secs(5),
        mark: None,
    });
    let server = DnsServer::bind(&addresses, names, scope, upstream).await;
    tasks.spawn(server.context("starting the cluster's DNS")?.run());
    Ok(())
}

fn name_table(planned: &Planned, pods: &[PodState]) -> Arc<NameTable> {
    let names = cluster_names(&planned.resources, &planned.plan, pods);
    let table = names.into_iter().map(|(host, ips)| {
        let ips = ips.iter().map(ToString::to_string).collect();
        (
            host,
            NameInfo {
                ips,
                registry: "Kubernetes".to_owned(),
                ..NameInfo::default()
            },
        )
    });
    Arc::new(NameTable {
        table: table.collect(),
    })
}

async fn serve_ports(
    tasks: &mut JoinSet<()>,
    mesh: &Mesh<'_>,
    supervisor: &Supervisor,
    planned: &Planned,
) -> Result<()> {
    for (wanted, listener) in mesh.publish.iter().zip(&mesh.node.listeners) {
        let target = Target {
            namespace: wanted.namespace(&planned.resources)?,
            service: wanted.service.clone(),
            port: wanted.port,
        };
        let endpoints = supervisor
            .endpoints(target)
            .await
            .context("asking for endpoints")?;
        let listener = listener.try_clone().context("sharing a listener")?;
        let host = wanted.host;
        tasks.spawn(async move {
            if let Err(error) = publish(listener, endpoints).await {
                tracing::error!(%error, %host, "a published port is closed");
            }
        });
    }
    Ok(())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listening for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listening for SIGINT")?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
