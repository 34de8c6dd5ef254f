//! A mesh to explain: everything the control plane would know, and the proxies' programs compiled from it as they are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use lateen_api::mesh::MeshConfig;
use lateen_api::{Diagnostic, Resource};
use lateen_compile::{
    Compiler, Interception, JwksSource, JwksStore, LOCAL_CLUSTER, Pod, PodRole, ProxyKind,
    ProxyNode, Settings, Snapshot, SnapshotInputs,
};
use lateen_envoy::istio::nds::NameTable;
use lateen_envoy::{ResourceSet, TypeUrl, unpack};
use lateen_traffic::lb::Vicinity;
use lateen_traffic::{Change, Program, Rejection};

use serde_json::{Map, Value};

use crate::asked::Asked;
use crate::place::{Place, Places};
use crate::token::TokenError;

/// What a mesh is made of.
#[derive(Clone, Debug, Default)]
pub struct MeshInputs {
    /// MeshConfig, as written.
    pub mesh: MeshConfig,
    /// What the installation fixes.
    pub settings: Settings,
    /// Every object, those of the default installation among them.
    pub resources: Vec<Resource>,
    /// The pods.
    pub pods: Vec<Pod>,
    /// The kind of workload each pod belongs to, by namespace and name of the pod: `Deployment`.
    pub kinds: BTreeMap<(String, String), String>,
    /// Pods whose proxies are told of their peers (`ISTIO_META_ENABLE_SELF_DISCOVERY`), by namespace and name.
    pub self_discovery: BTreeSet<(String, String)>,
    /// The addresses of Services.
    pub cluster_ips: Arc<BTreeMap<(String, String), Vec<IpAddr>>>,
    /// The keys of token issuers whose policies name a place instead of holding them.
    pub jwks: JwksStore,
}

impl MeshInputs {
    /// Lets the mesh take tokens that are described by their claims ([`Mesh::carry`]), beside those of the issuers. For a mesh that is
    /// only explained.
    #[must_use]
    pub fn taking_described_tokens(mut self) -> Self {
        crate::token::trust(&mut self.resources, &mut self.jwks);
        self
    }
}

/// A mesh to explain.
pub struct Mesh {
    snapshot: Snapshot,
    compiler: Compiler,
    pods: Vec<Pod>,
    kinds: BTreeMap<(String, String), String>,
    self_discovery: BTreeSet<(String, String)>,
    places: Places,
    trust_domain: String,
    domain_suffix: String,
    root_namespace: String,
    diagnostics: Vec<Diagnostic>,
    /// Where keys are that are not known here, by issuer.
    unknown_keys: BTreeMap<String, JwksSource>,
    proxies: Mutex<BTreeMap<(String, String), Arc<Proxy>>>,
}

/// One proxy, with what it was told.
#[derive(Debug)]
pub struct Proxy {
    /// How steps name it.
    pub name: String,
    /// What it was told, compiled.
    pub program: Program,
    /// What it was told and refused.
    pub rejections: Vec<Rejection>,
    /// The names its DNS knows.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Its own addresses.
    pub ips: Vec<IpAddr>,
    /// The identity in its certificate.
    pub identity: Option<String>,
    /// What a resolver appends to names, in order.
    pub search: Vec<String>,
    /// Where it and its peers are, if it knows.
    pub vicinity: Option<Vicinity>,
}

/// Who sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// A workload: `deploy/web`, `pod/web-1`, `web.shop`.
    Workload {
        /// Its namespace.
        namespace: String,
        /// The pod that stands for it.
        pod: String,
    },
    /// Somebody outside the mesh, through a gateway.
    Outside {
        /// The gateway's pod.
        namespace: String,
        /// The pod that stands for it.
        pod: String,
    },
}

/// Why a workload is not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// No pod belongs to it.
    #[error("there is no workload `{wanted}`{}; there are: {}", in_namespace(.namespace), .known.join(", "))]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// Where it was looked for.
        namespace: Option<String>,
        /// What there is.
        known: Vec<String>,
    },
    /// Several namespaces have one.
    #[error("`{wanted}` is in {}; write `{wanted}.{}`, or give -n", .namespaces.join(" and "), .namespaces[0])]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// Where it is.
        namespaces: Vec<String>,
    },
    /// There is no gateway.
    #[error("there is no gateway workload{0}")]
    NoGateway(String),
}

fn in_namespace(namespace: &Option<String>) -> String {
    namespace
        .as_ref()
        .map_or_else(String::new, |namespace| format!(" in {namespace}"))
}

impl Mesh {
    /// A mesh of these parts. Nothing is compiled until a proxy is asked for.
    pub fn new(inputs: MeshInputs) -> Self {
        let own =
            |text: &str, default: &str| if text.is_empty() { default } else { text }.to_owned();
        let settings = &inputs.settings;
        let trust_domain = own(&inputs.mesh.trust_domain, &settings.trust_domain);
        let root_namespace = own(&inputs.mesh.root_namespace, &settings.root_namespace);
        let domain_suffix = settings.domain_suffix.clone();
        let places = Places::new(&inputs.resources);
        let unknown_keys = places
            .jwt_rules()
            .filter_map(|rule| Some((rule.issuer.clone(), JwksSource::of(rule)?)))
            .filter(|(_, source)| {
                inputs
                    .jwks
                    .get(source)
                    .is_none_or(|jwks| jwks.keys.is_none())
            })
            .collect();
        let (snapshot, diagnostics) = Snapshot::new(SnapshotInputs {
            mesh: inputs.mesh,
            settings: inputs.settings,
            resources: inputs.resources,
            pods: inputs.pods.clone(),
            cluster_ips: inputs.cluster_ips,
            jwks: Arc::new(inputs.jwks),
        });
        Self {
            snapshot,
            compiler: Compiler::new(),
            pods: inputs.pods,
            kinds: inputs.kinds,
            self_discovery: inputs.self_discovery,
            places,
            trust_domain,
            domain_suffix,
            root_namespace,
            diagnostics,
            unknown_keys,
            proxies: Mutex::default(),
        }
    }

    /// Where objects stand.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Everything known, indexed.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What does not fit together.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Where an issuer's keys are that are not known here. Keys in the policies themselves are; those behind a `jwksUri` only if they
    /// were given.
    pub fn unknown_keys(&self, issuer: &str) -> Option<&JwksSource> {
        self.unknown_keys.get(issuer)
    }

    /// The rule for tokens that a proxy knows by a provider's name.
    pub(crate) fn token_rule(&self, proxy: &Proxy, provider: &str) -> Option<Place> {
        let own = |pod: &&Pod| pod.name == proxy.name && pod.ips == proxy.ips;
        self.token_rule_of(self.pods.iter().find(own)?, provider)
    }

    /// The rule for tokens that a pod's proxy knows by a provider's name.
    pub fn token_rule_of(&self, pod: &Pod, provider: &str) -> Option<Place> {
        let number: usize = provider.strip_prefix("origins-")?.parse().ok()?;
        let rules = self.snapshot.token_rules(pod);
        let (object, index) = rules.get(number)?;
        let field = format!("spec.jwtRules[{index}]");
        Some(self.places.of(&object.to_string(), &field))
    }

    /// Puts a token with these claims into a request, where its issuer's rule looks for one. The mesh has to be made of inputs that
    /// [take described tokens](MeshInputs::taking_described_tokens). `now` is in seconds since 1970.
    ///
    /// # Errors
    /// It cannot be told whose token it is.
    pub fn carry(
        &self,
        asked: &mut Asked,
        claims: Map<String, Value>,
        now: u64,
    ) -> Result<(), TokenError> {
        crate::token::carry(asked, self.places.jwt_rules(), claims, now)
    }

    /// The pods.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The suffix of service names.
    pub fn domain_suffix(&self) -> &str {
        &self.domain_suffix
    }

    /// The namespace whose policies hold everywhere.
    pub fn root_namespace(&self) -> &str {
        &self.root_namespace
    }

    /// The identity of a service account.
    pub fn identity(&self, namespace: &str, service_account: &str) -> String {
        let account = if service_account.is_empty() {
            "default"
        } else {
            service_account
        };
        format!("spiffe://{}/ns/{namespace}/sa/{account}", self.trust_domain)
    }

    /// The kind of workload a pod belongs to: `Deployment`.
    pub fn kind(&self, pod: &Pod) -> &str {
        self.kinds
            .get(&(pod.namespace.clone(), pod.name.clone()))
            .map_or("Deployment", String::as_str)
    }

    /// How a workload is named: `deploy/reviews-v1`.
    pub fn workload(&self, pod: &Pod) -> String {
        let short = match self.kind(pod) {
            "Deployment" => "deploy",
            "StatefulSet" => "sts",
            "DaemonSet" => "ds",
            "ReplicaSet" => "rs",
            "Job" => "job",
            _ => return format!("pod/{}", pod.name),
        };
        let name = if pod.workload_name.is_empty() {
            &pod.name
        } else {
            &pod.workload_name
        };
        format!("{short}/{name}")
    }

    /// A pod that stands for a workload: `deploy/NAME`, `pod/NAME`, a pod's or workload's bare name, each with `.NAMESPACE` if
    /// there may be others.
    ///
    /// # Errors
    /// There is none, or there are some in several namespaces.
    pub fn find(&self, wanted: &str, namespace: Option<&str>) -> Result<&Pod, FindError> {
        let (kind, name) = wanted
            .split_once('/')
            .map_or((None, wanted), |(k, n)| (Some(k), n));
        let (name, namespace) = match name.rsplit_once('.') {
            Some((name, ns)) if self.pods.iter().any(|pod| pod.namespace == ns) => (name, Some(ns)),
            _ => (name, namespace),
        };
        let fits = |pod: &&Pod| {
            namespace.is_none_or(|namespace| pod.namespace == namespace)
                && kind.is_none_or(|kind| self.is_kind(pod, kind))
                && (pod.name == name
                    || (kind != Some("pod") && pod.workload_name == name)
                    // An app is what most people call their workload.
                    || (kind.is_none() && pod.labels.get("app").is_some_and(|app| app == name)))
        };
        let mut found: Vec<&Pod> = self.pods.iter().filter(fits).collect();
        found.sort_by_key(|pod| (&pod.namespace, &pod.name));
        let mut namespaces: Vec<String> = found.iter().map(|pod| pod.namespace.clone()).collect();
        namespaces.dedup();
        if namespaces.len() > 1 {
            let wanted = wanted.to_owned();
            return Err(FindError::Ambiguous { wanted, namespaces });
        }
        let Some(pod) = found.first() else {
            return Err(FindError::Unknown {
                wanted: wanted.to_owned(),
                namespace: namespace.map(str::to_owned),
                known: self.workloads(namespace),
            });
        };
        Ok(pod)
    }

    fn is_kind(&self, pod: &Pod, kind: &str) -> bool {
        let own = self.kind(pod);
        match kind.to_ascii_lowercase().as_str() {
            "pod" | "po" | "pods" => true,
            "deploy" | "deployment" | "deployments" => own == "Deployment",
            "sts" | "statefulset" | "statefulsets" => own == "StatefulSet",
            "ds" | "daemonset" | "daemonsets" => own == "DaemonSet",
            "rs" | "replicaset" | "replicasets" => own == "ReplicaSet",
            "job" | "jobs" => own == "Job",
            _ => false,
        }
    }

    /// Every workload, as `deploy/web.shop`.
    pub fn workloads(&self, namespace: Option<&str>) -> Vec<String> {
        let mut out: Vec<String> = self
            .pods
            .iter()
            .filter(|pod| namespace.is_none_or(|namespace| pod.namespace == namespace))
            .map(|pod| match namespace {
                Some(_) => self.workload(pod),
                None => format!("{}.{}", self.workload(pod), pod.namespace),
            })
            .collect();
        out.sort();
        out.dedup();
        out
    }

    /// The gateway's pod: the one named, or the first whose workload is a gateway for traffic from outside.
    ///
    /// # Errors
    /// There is none.
    pub fn gateway(
        &self,
        wanted: Option<&str>,
        namespace: Option<&str>,
    ) -> Result<&Pod, FindError> {
        if let Some(wanted) = wanted {
            return self.find(wanted, namespace);
        }
        let mut gateways: Vec<&Pod> = self
            .pods
            .iter()
            .filter(|pod| pod.role == PodRole::Gateway)
            .collect();
        // Of several, the one for traffic from outside.
        gateways.sort_by_key(|pod| {
            let egress = pod
                .labels
                .get("istio")
                .is_some_and(|name| name.contains("egress"));
            (egress, &pod.namespace, &pod.name)
        });
        gateways.first().copied().ok_or_else(|| {
            FindError::NoGateway("; say with --from which workload sends the request".to_owned())
        })
    }

    /// The proxy of a pod; `None` if it has none.
    pub fn proxy(&self, pod: &Pod) -> Option<Arc<Proxy>> {
        if pod.role == PodRole::Plain {
            return None;
        }
        let key = (pod.namespace.clone(), pod.name.clone());
        let mut proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let made = proxies
            .entry(key)
            .or_insert_with(|| Arc::new(self.compile(pod)));
        Some(Arc::clone(made))
    }

    /// What the control plane would send to a pod's proxy.
    pub fn resources(&self, pod: &Pod) -> ResourceSet {
        self.compiler
            .compile(&self.snapshot, &self.node(pod))
            .resources
    }

    fn compile(&self, pod: &Pod) -> Proxy {
        let mut proxy = Proxy::new(&pod.name, &self.resources(pod));
        proxy.ips.clone_from(&pod.ips);
        proxy.identity = Some(self.identity(&pod.namespace, &pod.service_account));
        proxy.search = self.search(&pod.namespace);
        let peers = proxy.program.endpoints(LOCAL_CLUSTER);
        proxy.vicinity = peers.map(|peers| {
            let at = lateen_traffic::endpoint::Locality {
                region: pod.locality.region.as_str().into(),
                zone: pod.locality.zone.as_str().into(),
                sub_zone: pod.locality.sub_zone.as_str().into(),
            };
            Vicinity::new(at, peers)
        });
        proxy
    }

    /// What a pod's resolver appends to names.
    pub(crate) fn search(&self, namespace: &str) -> Vec<String> {
        let suffix = &self.domain_suffix;
        vec![
            format!("{namespace}.svc.{suffix}"),
            format!("svc.{suffix}"),
            suffix.clone(),
        ]
    }

    /// A pod's proxy as its agent would describe it.
    fn node(&self, pod: &Pod) -> ProxyNode {
        let (kind, word) = match pod.role {
            PodRole::Gateway => (ProxyKind::Router, "router"),
            PodRole::Sidecar | PodRole::Plain => (ProxyKind::Sidecar, "sidecar"),
        };
        let domain = format!("{}.svc.{}", pod.namespace, self.domain_suffix);
        let ip = pod.ips.first().map_or_else(String::new, IpAddr::to_string);
        let interception = match pod.annotations.get("sidecar.istio.io/interceptionMode") {
            Some(mode) if mode == "NONE" => Interception::None,
            _ => Interception::Redirect,
        };
        ProxyNode {
            id: format!("{word}~{ip}~{}.{}~{domain}", pod.name, pod.namespace),
            kind,
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            labels: pod.labels.clone(),
            ips: pod.ips.clone(),
            service_account: pod.service_account.clone(),
            cluster_id: self.snapshot.settings().cluster_id.clone(),
            network: pod.network.clone(),
            dns_domain: domain,
            workload_name: pod.workload_name.clone(),
            locality: pod.locality.clone(),
            dns_capture: true,
            interception,
            self_discovery: self
                .self_discovery
                .contains(&(pod.namespace.clone(), pod.name.clone())),
            native: true,
            ..ProxyNode::default()
        }
    }
}

impl Proxy {
    /// A proxy that was told these resources.
    pub fn new(name: &str, resources: &ResourceSet) -> Self {
        let changes: Vec<Change> = resources
            .iter()
            .flat_map(|(ty, list)| {
                let upsert =
                    move |resource: &lateen_envoy::Resource| Change::Upsert(ty, resource.clone());
                list.values().map(upsert).collect::<Vec<_>>()
            })
            .collect();
        let (program, rejections) = Program::new().update(&changes);
        Self {
            name: name.to_owned(),
            program,
            rejections,
            names: names(resources),
            ips: Vec::new(),
            identity: None,
            search: Vec::new(),
            vicinity: None,
        }
    }

    /// The addresses of a name, as the proxy's DNS would answer a resolver with its search list.
    pub fn resolve(&self, host: &str) -> &[IpAddr] {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let complete = self.search.iter().map(|suffix| format!("{host}.{suffix}"));
        std::iter::once(host.clone())
            .chain(complete)
            .find_map(|name| self.names.get(&name))
            .map_or(&[], Vec::as_slice)
    }
}

fn names(resources: &ResourceSet) -> BTreeMap<String, Vec<IpAddr>> {
    let mut out = BTreeMap::new();
    for resource in resources.get(TypeUrl::NameTable).values() {
        let Ok(table) = unpack::<NameTable>(&resource.body) else {
            continue;
        };
        let entries = table.table.into_iter().map(|(name, info)| {
            let ips = info.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
            (name.to_ascii_lowercase(), ips)
        });
        out.extend(entries);
    }
    out
}
