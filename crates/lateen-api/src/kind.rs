//! The kinds this mesh reads, their API groups and versions, and [`Spec`], which holds the body of any of them.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::schema::decode::{Cx, Decode};
use crate::tree::Node;
use crate::{extensions, kube, mesh, networking, security, telemetry};

/// What the typed body of a kind covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The object's `spec`.
    Spec,
    /// The object without `apiVersion`, `kind` and `metadata`.
    Object,
}

/// Whether objects of a kind live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// They do.
    Namespaced,
    /// They belong to the cluster.
    Cluster,
}

/// What is known of a kind besides its fields.
#[derive(Clone, Copy, Debug)]
pub struct KindInfo {
    /// As in `kind:`.
    pub name: &'static str,
    /// API group; empty for Kubernetes' core.
    pub group: &'static str,
    /// Versions that are read, the preferred one first. All mean the same.
    pub versions: &'static [&'static str],
    /// As in the API's paths and in `get PLURAL`.
    pub plural: &'static str,
    /// Other names the command line knows.
    pub short_names: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub scope: Scope,
    /// What the typed body covers.
    pub body: Body,
}

/// A kind whose body is a type of this crate.
pub trait KindSpec: Decode + Default + 'static {
    /// Which kind.
    const KIND: Kind;
    /// The body, if `spec` is of this kind.
    fn from_spec(spec: &Spec) -> Option<&Self>;
}

macro_rules! kinds {
    ($(
        $kind:ident($ty:ty) {
            $group:literal, $versions:expr, $plural:literal, $short:expr, $scope:ident, $body:ident
        }
    )*) => {
        /// A kind, whatever its API version. Ordered as declared, which is the order of listings.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $(
                #[doc = concat!("`", stringify!($kind), "` of the group `", $group, "`.")]
                $kind,
            )*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),*];

            /// What is known of it.
            pub const fn info(self) -> KindInfo {
                match self {
                    $(
                        Kind::$kind => KindInfo {
                            name: kind_name(stringify!($kind)),
                            group: $group,
                            versions: &$versions,
                            plural: $plural,
                            short_names: &$short,
                            scope: Scope::$scope,
                            body: Body::$body,
                        },
                    )*
                }
            }

            /// Reads a body of this kind.
            pub(crate) fn decode(self, node: &Node, cx: &mut Cx<'_>) -> Option<Spec> {
                match self {
                    $( Kind::$kind => <$ty>::decode(node, cx).map(Spec::$kind), )*
                }
            }

            /// A body with nothing set.
            pub(crate) fn empty(self) -> Spec {
                match self {
                    $( Kind::$kind => Spec::$kind(<$ty>::default()), )*
                }
            }
        }

        /// The body of a resource.
        #[expect(clippy::large_enum_variant, reason = "always behind an Arc; one allocation either way")]
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Spec {
            $(
                #[doc = concat!("Of a `", stringify!($kind), "`.")]
                $kind($ty),
            )*
        }

        impl Spec {
            /// Which kind it is of.
            pub const fn kind(&self) -> Kind {
                match self {
                    $( Spec::$kind(_) => Kind::$kind, )*
                }
            }
        }

        $(
            impl KindSpec for $ty {
                const KIND: Kind = Kind::$kind;

                fn from_spec(spec: &Spec) -> Option<&Self> {
                    match spec {
                        Spec::$kind(body) => Some(body),
                        _ => None,
                    }
                }
            }

            impl From<$ty> for Spec {
                fn from(body: $ty) -> Self {
                    Spec::$kind(body)
                }
            }
        )*
    };
}

const NETWORKING: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];
const SECURITY: [&str; 2] = ["v1", "v1beta1"];

kinds! {
    Namespace(kube::Namespace) { "", ["v1"], "namespaces", ["ns"], Cluster, Object }
    ServiceAccount(kube::ServiceAccount) { "", ["v1"], "serviceaccounts", ["sa"], Namespaced, Object }
    Secret(kube::Secret) { "", ["v1"], "secrets", [], Namespaced, Object }
    ConfigMap(kube::ConfigMap) { "", ["v1"], "configmaps", ["cm"], Namespaced, Object }
    Service(kube::Service) { "", ["v1"], "services", ["svc"], Namespaced, Object }
    Endpoints(kube::Endpoints) { "", ["v1"], "endpoints", ["ep"], Namespaced, Object }
    EndpointSlice(kube::EndpointSlice) {
        "discovery.k8s.io", ["v1", "v1beta1"], "endpointslices", [], Namespaced, Object
    }
    Pod(kube::Pod) { "", ["v1"], "pods", ["po"], Namespaced, Object }
    Deployment(kube::Deployment) { "apps", ["v1"], "deployments", ["deploy"], Namespaced, Object }
    StatefulSet(kube::StatefulSet) { "apps", ["v1"], "statefulsets", ["sts"], Namespaced, Object }
    DaemonSet(kube::DaemonSet) { "apps", ["v1"], "daemonsets", ["ds"], Namespaced, Object }
    ReplicaSet(kube::ReplicaSet) { "apps", ["v1"], "replicasets", ["rs"], Namespaced, Object }
    Job(kube::Job) { "batch", ["v1"], "jobs", [], Namespaced, Object }
    CronJob(kube::CronJob) { "batch", ["v1"], "cronjobs", ["cj"], Namespaced, Object }
    Ingress(kube::Ingress) { "networking.k8s.io", ["v1"], "ingresses", ["ing"], Namespaced, Object }
    IngressClass(kube::IngressClass) {
        "networking.k8s.io", ["v1"], "ingressclasses", [], Cluster, Object
    }
    HTTPRoute(kube::HttpRoute) {
        "gateway.networking.k8s.io", ["v1", "v1beta1"], "httproutes", [], Namespaced, Object
    }
    VirtualService(networking::VirtualService) {
        "networking.istio.io", NETWORKING, "virtualservices", ["vs"], Namespaced, Spec
    }
    DestinationRule(networking::DestinationRule) {
        "networking.istio.io", NETWORKING, "destinationrules", ["dr"], Namespaced, Spec
    }
    Gateway(networking::Gateway) {
        "networking.istio.io", NETWORKING, "gateways", ["gw"], Namespaced, Spec
    }
    ServiceEntry(networking::ServiceEntry) {
        "networking.istio.io", NETWORKING, "serviceentries", ["se"], Namespaced, Spec
    }
    WorkloadEntry(networking::WorkloadEntry) {
        "networking.istio.io", NETWORKING, "workloadentries", ["we"], Namespaced, Spec
    }
    WorkloadGroup(networking::WorkloadGroup) {
        "networking.istio.io", NETWORKING, "workloadgroups", ["wg"], Namespaced, Spec
    }
    Sidecar(networking::Sidecar) {
        "networking.istio.io", NETWORKING, "sidecars", [], Namespaced, Spec
    }
    EnvoyFilter(networking::EnvoyFilter) {
        "networking.istio.io", ["v1alpha3"], "envoyfilters", [], Namespaced, Spec
    }
    ProxyConfig(networking::ProxyConfig) {
        "networking.istio.io", ["v1beta1"], "proxyconfigs", [], Namespaced, Spec
    }
    PeerAuthentication(security::PeerAuthentication) {
        "security.istio.io", SECURITY, "peerauthentications", ["pa"], Namespaced, Spec
    }
    RequestAuthentication(security::RequestAuthentication) {
        "security.istio.io", SECURITY, "requestauthentications", ["ra"], Namespaced, Spec
    }
    AuthorizationPolicy(security::AuthorizationPolicy) {
        "security.istio.io", SECURITY, "authorizationpolicies", ["ap"], Namespaced, Spec
    }
    Telemetry(telemetry::Telemetry) {
        "telemetry.istio.io", ["v1", "v1alpha1"], "telemetries", ["telemetry"], Namespaced, Spec
    }
    WasmPlugin(extensions::WasmPlugin) {
        "extensions.istio.io", ["v1alpha1"], "wasmplugins", [], Namespaced, Spec
    }
    TrafficExtension(extensions::TrafficExtension) {
        "extensions.istio.io", ["v1alpha1"], "trafficextensions", [], Namespaced, Spec
    }
    IstioOperator(mesh::IstioOperator) {
        "install.istio.io", ["v1alpha1"], "istiooperators", ["iop"], Namespaced, Spec
    }
}

/// Names are the variants' own.
const fn kind_name(name: &'static str) -> &'static str {
    name
}

impl Kind {
    /// The name, as in `kind:`.
    pub const fn as_str(self) -> &'static str {
        self.info().name
    }

    /// Whether its objects live in namespaces.
    pub const fn is_namespaced(self) -> bool {
        matches!(self.info().scope, Scope::Namespaced)
    }

    /// Whether it is one of Istio's.
    pub fn is_istio(self) -> bool {
        self.info().group.ends_with(".istio.io")
    }

    /// `networking.istio.io/v1`: the version to write.
    pub fn api_version(self) -> String {
        let info = self.info();
        match info.group {
            "" => info.versions[0].to_owned(),
            group => format!("{group}/{}", info.versions[0]),
        }
    }

    /// The kind that `kind` of the API group `group` is.
    pub fn find(group: &str, kind: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|candidate| {
            let info = candidate.info();
            info.group == group && info.name == kind
        })
    }

    /// The kind a user means on the command line: `vs`, `virtualservice`, `VirtualServices`,
    /// `virtualservices.networking.istio.io`.
    pub fn from_user(text: &str) -> Option<Kind> {
        let text = text.to_ascii_lowercase();
        let (name, group) = text
            .split_once('.')
            .map_or((&*text, None), |(n, g)| (n, Some(g)));
        Kind::ALL.iter().copied().find(|kind| {
            let info = kind.info();
            let group_fits = group.is_none_or(|group| group == info.group);
            group_fits
                && (info.plural == name
                    || info.name.eq_ignore_ascii_case(name)
                    || info.short_names.contains(&name))
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
