//! A mesh to write scenarios with: pods and services by a few words, waiting with limits.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use lateen_api::kube::{Container, ContainerPort, PodSpec};
use lateen_local::images::Images;
use lateen_local::node::{self, NodeOptions};
use lateen_local::redirect::PacketFilter;
use lateen_local::services::Protocol;
use lateen_local::state::StateDir;
use lateen_local::supervisor::{
    CommandLine, Credentials, Desired, Options, Service, ServicePort, Supervisor, TargetPort,
};
use lateen_sources::plan::{Owner, PodPlan, PodRole, PodState};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(20);

/// A running mesh.
pub(crate) struct World {
    pub(crate) supervisor: Supervisor,
    pub(crate) state: StateDir,
    desired: watch::Sender<Arc<Desired>>,
    pods: watch::Receiver<Arc<Vec<PodState>>>,
}

/// Enters the node and runs a scenario in it.
pub(crate) fn run<F: Future<Output = ()>>(state: &Path, scenario: impl FnOnce(World) -> F) {
    run_by(PacketFilter::default(), state, scenario);
}

/// The same with rules set in a certain way.
pub(crate) fn run_by<F: Future<Output = ()>>(
    by: PacketFilter,
    state: &Path,
    scenario: impl FnOnce(World) -> F,
) {
    // Before any thread exists.
    let node = node::enter(&NodeOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    assert!(node.listeners.is_empty());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let limit = Duration::from_secs(50);
        let scenario = async { scenario(World::start(state, by)).await };
        tokio::time::timeout(limit, scenario)
            .await
            .expect("the scenario takes too long");
    });
}

impl World {
    fn start(path: &Path, packet_filter: PacketFilter) -> Self {
        let state = StateDir::open(path).unwrap();
        let (desired, receiver) = watch::channel(Arc::new(Desired::default()));
        let own = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        let proxy = CommandLine {
            argv: own(&["/proc/self/exe", "app", "proxy"]),
            env: Vec::new(),
        };
        let options = Options {
            state: state.clone(),
            images: Images::new(),
            proxy: Arc::new(move |_| proxy.clone()),
            credentials: Arc::new(|plan| Credentials {
                token: format!("token of {}", plan.name),
                root_cert_pem: "root".to_owned(),
                refresh_after: None,
            }),
            control_plane: Some(CommandLine {
                argv: own(&["/proc/self/exe", "app", "sleep"]),
                env: Vec::new(),
            }),
            trust_domain: "cluster.local".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            drain_delay: Duration::from_millis(100),
            hold_for_proxy: Some(Duration::from_secs(5)),
            packet_filter,
        };
        let supervisor = Supervisor::start(options, receiver).unwrap();
        let pods = supervisor.pods();
        Self {
            supervisor,
            state,
            desired,
            pods,
        }
    }

    pub(crate) fn want(&self, desired: Desired) {
        self.desired.send_replace(Arc::new(desired));
    }

    /// Waits until the pods are as described; fails with how they are instead.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        fits: impl Fn(&[PodState]) -> bool,
    ) -> Vec<PodState> {
        let wait = self.pods.wait_for(|pods| fits(pods));
        let found = tokio::time::timeout(PATIENCE, wait)
            .await
            .map(|p| p.unwrap().to_vec());
        found.unwrap_or_else(|_| panic!("{what}: not so, but {:#?}", self.pods.borrow().to_vec()))
    }

    pub(crate) async fn until_ready(&mut self, count: usize) -> Vec<PodState> {
        self.until("all pods are ready", |pods| {
            pods.len() == count && pods.iter().all(|pod| pod.ready)
        })
        .await
    }

    pub(crate) async fn shutdown(self) {
        self.supervisor.shutdown().await.unwrap();
    }

    /// Runs a command in a pod, as `lateen exec` does: in a process of its own.
    pub(crate) fn exec(&self, pod: &PodState, container: &str, argv: &[&str]) -> String {
        let mut command = Command::new("/proc/self/exe");
        command.args(["scenario", "exec"]).arg(self.state.root());
        command
            .args([&pod.namespace, &pod.name, container])
            .args(argv);
        let output = command.output().unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }
}

/// A plan for a pod with one container.
pub(crate) fn pod(name: &str, number: u8, role: PodRole, app: &[&str]) -> PodPlan {
    let mut spec = PodSpec::default();
    spec.containers.push(container("app", app));
    spec.termination_grace_period_seconds = Some(5);
    PodPlan {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        owner: Owner {
            kind: "Deployment".to_owned(),
            name: name.to_owned(),
        },
        template_hash: 1,
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        annotations: BTreeMap::new(),
        service_account: "default".to_owned(),
        ipv4: Ipv4Addr::new(10, 244, 1, number),
        ipv6: Some(format!("fd00:10:244::1:{number:x}").parse().unwrap()),
        role,
        settings: lateen_sources::plan::ProxySettings::default(),
        spec: Arc::new(spec),
    }
}

/// A container that runs an app of this binary.
pub(crate) fn container(name: &str, app: &[&str]) -> Container {
    let words = ["/proc/self/exe", "app"].iter().chain(app);
    Container {
        name: name.to_owned(),
        command: words.map(|w| (*w).to_owned()).collect(),
        ports: vec![ContainerPort {
            name: "http".to_owned(),
            container_port: 8080,
            ..Default::default()
        }],
        ..Container::default()
    }
}

/// Changes a plan's spec.
pub(crate) fn edit(mut plan: PodPlan, change: impl FnOnce(&mut PodSpec)) -> PodPlan {
    change(Arc::make_mut(&mut plan.spec));
    plan
}

/// A service at 10.96.1.N:80 for the pods with label `app`.
pub(crate) fn service(app: &str, number: u8, protocol: Protocol) -> Service {
    Service {
        namespace: "default".to_owned(),
        name: app.to_owned(),
        ips: vec![vip(number)],
        selector: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        ports: vec![ServicePort {
            name: "http".to_owned(),
            port: 80,
            protocol,
            target: TargetPort::Name("http".to_owned()),
            fixed: Vec::new(),
        }],
    }
}

pub(crate) fn vip(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 96, 1, number))
}

pub(crate) fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}
