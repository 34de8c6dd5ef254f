//! The pods a set of manifests describes, without a cluster to create them.
//!
//! Kubernetes' controllers turn Deployments, StatefulSets, DaemonSets, ReplicaSets and Jobs into pods with random names and
//! addresses. Here the same is a pure function: names and addresses follow from the manifests alone, so they are the same
//! after a restart, and the same in `lateen explain` as in a running mesh.

mod expected;
mod groups;
mod injection;
mod names;
mod settings;
mod workloads;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use lateen_api::diagnostic::{Diagnostic, Severity};
use lateen_api::kube::{PodSpec, Service};
use lateen_api::{Resource, Spec};
use serde::{Deserialize, Serialize};

use crate::addresses::{self, Allocator};
use crate::cron::{Schedule, ScheduleError};
use injection::Candidate;
pub use settings::{ANNOTATION as PROXY_CONFIG_ANNOTATION, ProxySettings};
use workloads::Workload;

/// What made a pod: the workload a user wrote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// `Deployment`, `StatefulSet`, `Job`, …; `Pod` for a bare pod.
    pub kind: String,
    /// Its name, in the pod's namespace.
    pub name: String,
}

/// What a pod is for the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodRole {
    /// A workload with a sidecar.
    Sidecar,
    /// A workload that is not in the mesh.
    Plain,
    /// A gateway: the proxy is its only container.
    Gateway,
}

/// One pod that is to run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodPlan {
    /// Its namespace.
    pub namespace: String,
    /// Its name, such as `reviews-v1-7d9f8c5b6d-x2k4p`.
    pub name: String,
    /// The workload it belongs to.
    pub owner: Owner,
    /// A hash of everything that needs a new pod when it changes (the pod template and its injection).
    pub template_hash: u64,
    /// Labels, with those that controllers and injection add.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// `serviceAccountName`, `default` when unset.
    pub service_account: String,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address, when the mesh is dual-stack.
    pub ipv6: Option<Ipv6Addr>,
    /// Sidecar, plain or gateway.
    pub role: PodRole,
    /// What the mesh says about its proxy.
    pub settings: ProxySettings,
    /// The pod spec as written.
    pub spec: Arc<PodSpec>,
}

impl PodPlan {
    /// How connections get to its proxy: the annotation `sidecar.istio.io/interceptionMode`, else the mesh's ProxyConfig.
    pub fn interception_mode(&self) -> String {
        let own = self.annotations.get("sidecar.istio.io/interceptionMode");
        let of_mesh = || {
            Some(
                self.settings
                    .field("interceptionMode")?
                    .as_str()?
                    .to_owned(),
            )
        };
        let mode = own.cloned().or_else(of_mesh);
        mode.map_or_else(|| "REDIRECT".to_owned(), |m| m.to_ascii_uppercase())
    }

    /// Named container ports, for services whose `targetPort` is a name.
    pub fn named_ports(&self) -> BTreeMap<String, u16> {
        let sidecars = self
            .spec
            .init_containers
            .iter()
            .filter(|c| c.restart_policy == "Always");
        let ports = self
            .spec
            .containers
            .iter()
            .chain(sidecars)
            .flat_map(|c| &c.ports);
        ports
            .filter(|p| !p.name.is_empty())
            .map(|p| (p.name.clone(), p.container_port))
            .collect()
    }
}

/// How far a pod has come. Kubernetes' phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Not all containers have started.
    #[default]
    Pending,
    /// At least one container runs.
    Running,
    /// All containers ended with exit status 0 and will not be restarted.
    Succeeded,
    /// A container ended with another status and will not be restarted.
    Failed,
}

/// One container of a running pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its name.
    pub name: String,
    /// Whether its readiness probe passes (or it runs and has none).
    pub ready: bool,
    /// How often it was restarted.
    pub restarts: u32,
    /// `Running`, `Waiting`, `CrashLoopBackOff`, `Completed`, `Error`, …: what `get pods` shows.
    pub status: String,
    /// The exit status of the last run that ended.
    pub exit_code: Option<i32>,
    /// Why it cannot run, and what to do; empty if it can.
    #[serde(default)]
    pub message: String,
}

/// What the supervisor knows of a pod; `run/pods.json` is a list of these.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodState {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The workload it belongs to.
    pub owner: Owner,
    /// The plan's template hash this pod was started from.
    pub template_hash: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Its service account.
    pub service_account: String,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Sidecar, plain or gateway.
    pub role: PodRole,
    /// Named container ports, for `targetPort` by name.
    pub ports: BTreeMap<String, u16>,
    /// How far it has come.
    pub phase: Phase,
    /// Ready to take traffic. A terminating pod is never ready.
    pub ready: bool,
    /// Being ended.
    pub terminating: bool,
    /// Its containers, the proxy (`istio-proxy`) among them.
    pub containers: Vec<ContainerState>,
    /// Start time, milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// The process whose namespaces are the pod's, as the host sees it.
    pub pid: Option<u32>,
    /// `proxyAdminPort`: where its proxy's admin interface is, on the pod's loopback.
    #[serde(default = "admin_port")]
    pub admin_port: u16,
}

impl AsRef<Self> for PodState {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// Istio's default of `proxyAdminPort`.
pub const fn admin_port() -> u16 {
    15000
}

/// Everything planned from a set of manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The pods, by namespace and name.
    pub pods: Vec<PodPlan>,
    /// The addresses of services that take a cluster IP: those they ask for, or assigned ones.
    pub cluster_ips: Arc<ClusterIps>,
}

/// Plans pods and service addresses. With `dual_stack`, each has an IPv6 address too.
pub fn plan(resources: &[Resource], dual_stack: bool) -> (Plan, Vec<Diagnostic>) {
    let namespaces = namespace_labels(resources);
    let mesh = settings::Mesh::new(resources);
    let mut diagnostics = Vec::new();
    let mut drafts = Vec::new();
    for resource in resources {
        if let Spec::CronJob(cron) = &*resource.spec
            && let Err(error) = Schedule::of(cron)
        {
            diagnostics.push(cron_job(resource, &error));
        }
        if let Some(workload) = workloads::workload(resource) {
            let (pods, problems) = draft(&workload, &namespaces, &mesh);
            drafts.extend(pods);
            diagnostics.extend(problems.iter().map(|p| settings::finding(resource, p)));
        }
    }
    drafts.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    assign(&mut drafts, dual_stack);
    let plan = Plan {
        pods: drafts,
        cluster_ips: Arc::new(cluster_ips(resources, dual_stack)),
    };
    (plan, diagnostics)
}

fn namespace_labels(resources: &[Resource]) -> BTreeMap<&str, &BTreeMap<String, String>> {
    resources
        .iter()
        .filter(|r| matches!(&*r.spec, Spec::Namespace(_)))
        .map(|r| (r.meta.name.as_str(), &r.meta.labels))
        .collect()
}

/// The addresses of Services, by namespace and name.
pub type ClusterIps = BTreeMap<(String, String), Vec<IpAddr>>;

/// A workload's pods, still without addresses.
fn draft(
    workload: &Workload<'_>,
    namespaces: &BTreeMap<&str, &BTreeMap<String, String>>,
    mesh: &settings::Mesh<'_>,
) -> (Vec<PodPlan>, Vec<String>) {
    let unlabelled = BTreeMap::new();
    let mut labels = workload.metadata.labels.clone();
    let annotations = workload.metadata.annotations.clone();
    let role = injection::role(Candidate {
        namespace: workload.namespace,
        namespace_labels: namespaces
            .get(workload.namespace)
            .copied()
            .unwrap_or(&unlabelled),
        labels: &labels,
        annotations: &annotations,
        host_network: workload.spec.host_network,
    });
    if role != PodRole::Plain {
        injection::label(&mut labels, &workload.owner.name, role);
    }
    let mut spec = workload.spec.clone();
    if spec.restart_policy.is_empty() {
        workload.restart_policy.clone_into(&mut spec.restart_policy);
    }
    let (settings, problems) = match role {
        PodRole::Plain => (ProxySettings::default(), Vec::new()),
        _ => mesh.of(workload.namespace, &labels, &annotations),
    };
    // A pod keeps the settings it was injected with, so other settings are another pod.
    let template_hash = match settings == ProxySettings::default() {
        true => hash(&(&labels, &annotations, &spec, role)),
        false => hash(&(&labels, &annotations, &spec, role, &settings)),
    };
    let hashed = names::safe(template_hash, 10);
    match workload.naming {
        workloads::Naming::Hashed => drop(labels.insert("pod-template-hash".to_owned(), hashed)),
        workloads::Naming::Ordinal(_) | workloads::Naming::Suffixed | workloads::Naming::Own => {}
    }
    let service_account = [&spec.service_account_name, &spec.service_account]
        .into_iter()
        .find(|name| !name.is_empty())
        .map_or("default", String::as_str)
        .to_owned();
    let spec = Arc::new(spec);
    let pods = (0..workload.replicas).map(|index| {
        let name = names::pod(workload, template_hash, index);
        let mut labels = labels.clone();
        if let workloads::Naming::Ordinal(_) = workload.naming {
            labels.insert(
                "statefulset.kubernetes.io/pod-name".to_owned(),
                name.clone(),
            );
        }
        PodPlan {
            namespace: workload.namespace.to_owned(),
            name,
            owner: workload.owner.clone(),
            template_hash,
            labels,
            annotations: annotations.clone(),
            service_account: service_account.clone(),
            ipv4: Ipv4Addr::UNSPECIFIED,
            ipv6: None,
            role,
            settings: settings.clone(),
            spec: spec.clone(),
        }
    });
    (pods.collect(), problems)
}

/// `SipHash` with fixed keys: the same value in every run of the same build, which is as long as a plan lives.
fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn assign(pods: &mut [PodPlan], dual_stack: bool) {
    let names: Vec<String> = pods
        .iter()
        .map(|p| format!("{}/{}", p.namespace, p.name))
        .collect();
    let given = Allocator::default().allocate(names.iter().map(String::as_str));
    for (pod, name) in pods.iter_mut().zip(&names) {
        let Some(suffix) = given.get(name.as_str()) else {
            continue;
        };
        pod.ipv4 = addresses::v4(addresses::POD_V4, *suffix);
        pod.ipv6 = dual_stack.then(|| addresses::v6(addresses::POD_V6, *suffix));
    }
}

/// The addresses of Services, by namespace and name: those that were written, and for the others some that follow from all names.
/// They depend on Services alone.
pub fn cluster_ips(resources: &[Resource], dual_stack: bool) -> ClusterIps {
    let mut all = given_ips(resources, dual_stack);
    for (key, service) in services(resources) {
        if let Some(own) = own_addresses(service).filter(|own| !own.is_empty()) {
            all.entry(key()).or_insert(own);
        }
    }
    all
}

/// Those of [`cluster_ips`] that were not written: nothing of a mesh whose Services all say theirs.
pub fn given_ips(resources: &[Resource], dual_stack: bool) -> ClusterIps {
    let mut allocator = Allocator::default();
    let mut waiting = Vec::new();
    for (key, service) in services(resources) {
        match own_addresses(service) {
            Some(own) if own.is_empty() => {
                let (key, families) = (key(), Families::of(service, dual_stack));
                waiting.push((format!("{}/{}", key.0, key.1), key, families));
            }
            Some(own) => own
                .iter()
                .for_each(|ip| allocator.reserve(addresses::SERVICE_V4, *ip)),
            None => {}
        }
    }
    let given = allocator.allocate(waiting.iter().map(|(name, ..)| name.as_str()));
    let addresses = |name: &str, families: Families| Some(families.addresses(*given.get(name)?));
    waiting
        .iter()
        .filter_map(|(name, key, families)| Some((key.clone(), addresses(name, *families)?)))
        .collect()
}

/// What of a Service the addresses of all of them follow from, beside its name.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    /// None if it is to have no address; empty if it is given one.
    own: Option<Vec<IpAddr>>,
    families: Families,
}

impl Claim {
    /// What a Service claims.
    pub fn of(service: &Service, dual_stack: bool) -> Self {
        Self {
            own: own_addresses(service),
            families: Families::of(service, dual_stack),
        }
    }

    /// Whether it has no address of its own, and so is given one.
    pub fn is_given_ips(&self) -> bool {
        self.own.as_ref().is_some_and(Vec::is_empty)
    }
}

/// The Services among objects, each with what makes its key.
fn services(
    resources: &[Resource],
) -> impl Iterator<Item = (impl Fn() -> (String, String), &Service)> {
    resources.iter().filter_map(|resource| {
        let Spec::Service(service) = &*resource.spec else {
            return None;
        };
        let meta = &resource.meta;
        let key = move || (meta.namespace.clone(), meta.name.clone());
        Some((key, service))
    })
}

/// The address families a service gets, the main one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Families {
    V4,
    V6,
    V4AndV6,
    V6AndV4,
}

impl Families {
    /// `ipFamilies` as far as the mesh has them; without any, both. A family that is not there is no reason to have no address.
    fn of(service: &Service, dual_stack: bool) -> Self {
        let spec = &service.spec;
        let single = spec.ip_families.len() == 1 && !spec.ip_family_policy.ends_with("DualStack");
        let six = spec
            .ip_families
            .first()
            .is_some_and(|first| first == "IPv6");
        match (dual_stack, single, six) {
            (false, ..) | (true, true, false) => Self::V4,
            (true, true, true) => Self::V6,
            (true, false, false) => Self::V4AndV6,
            (true, false, true) => Self::V6AndV4,
        }
    }

    fn addresses(self, suffix: u16) -> Vec<IpAddr> {
        let v4 = IpAddr::from(addresses::v4(addresses::SERVICE_V4, suffix));
        let v6 = IpAddr::from(addresses::v6(addresses::SERVICE_V6, suffix));
        match self {
            Self::V4 => vec![v4],
            Self::V6 => vec![v6],
            Self::V4AndV6 => vec![v4, v6],
            Self::V6AndV4 => vec![v6, v4],
        }
    }
}

/// The cluster IPs a service asks for; `None` when it takes none (headless, `ExternalName`).
fn own_addresses(service: &Service) -> Option<Vec<IpAddr>> {
    let spec = &service.spec;
    let written = || std::iter::once(&spec.cluster_ip).chain(&spec.cluster_ips);
    if spec.r#type == "ExternalName" || written().any(|ip| ip.eq_ignore_ascii_case("none")) {
        return None;
    }
    let mut own: Vec<IpAddr> = Vec::new();
    for ip in written().filter_map(|ip| ip.parse().ok()) {
        if !own.contains(&ip) {
            own.push(ip);
        }
    }
    Some(own)
}

/// A schedule that cannot be kept.
fn cron_job(resource: &Resource, error: &ScheduleError) -> Diagnostic {
    let field = match error {
        ScheduleError::TimeZone(_) => "spec.timeZone",
        _ => "spec.schedule",
    };
    Diagnostic::new("LAT0501", Severity::Warning, error.to_string())
        .on(resource.reference())
        .at(field)
        .spanned(Some(resource.file_span(field)))
        .effect("its Jobs are not run; everything else is")
        .fix("write the schedule as five fields, such as `*/5 * * * *`, in UTC")
}

#[cfg(test)]
mod tests;
