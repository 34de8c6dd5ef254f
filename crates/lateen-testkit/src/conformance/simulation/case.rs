//! The format of a case, as its README gives it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer};

/// A mesh in miniature, one proxy and what reaches it.
#[derive(Debug, Deserialize)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) proxy: ProxySpec,
    #[serde(default)]
    pub(super) mesh_config: Option<String>,
    #[serde(default)]
    pub(super) istio_config: Option<String>,
    #[serde(default)]
    pub(super) kubernetes_config: Option<String>,
    /// The generated configuration is known not to be valid: only the calls count.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) skip_validation: bool,
    /// Environment variables of istiod.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) feature_flags: BTreeMap<String, serde_json::Value>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) calls: Vec<NamedCall>,
    #[serde(default)]
    pub(super) route_table: Option<RouteTable>,
    #[serde(default)]
    pub(super) inbound_clusters: Option<BTreeMap<String, InboundCluster>>,
    #[serde(default)]
    pub(super) endpoint_priorities: Option<EndpointPriorities>,
    /// What Envoy's listeners look like: `listeners_on_port_N` to how many there are, and other things.
    #[serde(default)]
    pub(super) envoy_listener_shape: Option<BTreeMap<String, serde_json::Value>>,
}

/// What is null is as what is absent.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The proxy.
#[derive(Debug, Deserialize)]
pub(super) struct ProxySpec {
    pub(super) r#type: ProxyType,
    pub(super) id: String,
    pub(super) namespace: String,
    pub(super) ip_addresses: Vec<IpAddr>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) dns_domain: String,
    #[serde(default)]
    pub(super) locality: Option<LocalityText>,
    #[serde(default)]
    pub(super) service_account: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) metadata: Metadata,
}

/// `sidecar` or `router`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ProxyType {
    Sidecar,
    Router,
}

/// A locality, as a text with slashes or as its parts.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum LocalityText {
    Text(String),
    Parts {
        #[serde(default)]
        region: String,
        #[serde(default)]
        zone: String,
        #[serde(default, alias = "subZone", alias = "subzone")]
        sub_zone: String,
    },
}

/// What the proxy reports about itself.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) istio_version: Option<String>,
    #[serde(default)]
    pub(super) cluster_id: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) dns_capture: bool,
}

/// A call with what is expected of it.
#[derive(Debug, Deserialize)]
pub(super) struct NamedCall {
    pub(super) name: String,
    pub(super) call: Call,
    pub(super) expect: Expect,
}

/// One connection and, for HTTP, one request.
#[derive(Debug, Deserialize)]
pub(super) struct Call {
    pub(super) mode: Mode,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: CallProtocol,
    pub(super) tls: CallTls,
    #[serde(default)]
    pub(super) alpn: Option<String>,
    #[serde(default)]
    pub(super) sni: Option<String>,
    #[serde(default)]
    pub(super) host: Option<String>,
    #[serde(default = "root_path")]
    pub(super) path: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) headers: BTreeMap<String, HeaderValues>,
    /// The certificate by which the server is expected to ask for the client's; `default` if absent.
    #[serde(default)]
    pub(super) mtls_identity: Option<String>,
}

fn root_path() -> String {
    "/".to_owned()
}

/// A header's value, or its values.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum HeaderValues {
    One(String),
    Many(Vec<String>),
}

impl HeaderValues {
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

/// How the connection reaches the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    Outbound,
    Inbound,
    Gateway,
}

/// What is spoken inside any TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CallProtocol {
    Http,
    Http2,
    Tcp,
}

/// How the connection is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CallTls {
    Plaintext,
    Tls,
    Mtls,
}

/// What is expected of a call; what is absent is not checked.
#[derive(Debug, Deserialize)]
pub(super) struct Expect {
    #[serde(default)]
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) cluster: Option<String>,
    #[serde(default)]
    pub(super) virtual_host: Option<String>,
    #[serde(default)]
    pub(super) route: Option<String>,
    #[serde(default)]
    pub(super) route_config: Option<String>,
    #[serde(default)]
    pub(super) listener: Option<String>,
    #[serde(default)]
    pub(super) filter_chain: Option<String>,
    #[serde(default)]
    pub(super) server_tls: Option<ServerTls>,
    /// What is not named is empty.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) strict: bool,
}

/// What the server side presents and asks for.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ServerTls {
    #[serde(default)]
    pub(super) certificate_source: Option<String>,
    #[serde(default)]
    pub(super) require_client_certificate: Option<bool>,
    #[serde(default)]
    pub(super) sds_secret_name: Option<String>,
    /// The cluster of the server that delivers the secret.
    #[serde(default)]
    pub(super) sds_server_cluster: Option<String>,
}

/// A table of HTTP routes: hosts to the sorted clusters of their routes. `None`: no virtual host has exactly this host, or none
/// of its routes a cluster.
#[derive(Debug, Deserialize)]
pub(super) struct RouteTable {
    pub(super) name: String,
    pub(super) hosts: BTreeMap<String, Option<Vec<String>>>,
}

/// An inbound cluster.
#[derive(Debug, Deserialize)]
pub(super) struct InboundCluster {
    /// `None`: the original destination.
    #[serde(default)]
    pub(super) endpoints: Option<Vec<String>>,
    /// The hosts of the services in its metadata; not checked if absent.
    #[serde(default)]
    pub(super) services: Option<Vec<String>>,
}

/// The priorities of a cluster's endpoints.
#[derive(Debug, Deserialize)]
pub(super) struct EndpointPriorities {
    pub(super) cluster: String,
    #[serde(default)]
    pub(super) discovery: Option<String>,
    /// There if outlier detection, which failover needs, is to be taken as switched on.
    #[serde(default)]
    pub(super) outlier_detection: Option<String>,
    pub(super) endpoints: BTreeMap<String, u32>,
}

/// How many there are of something.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shape {
    #[serde(default)]
    pub(super) at_least: Option<usize>,
    #[serde(default)]
    pub(super) at_most: Option<usize>,
    #[serde(default)]
    pub(super) exactly: Option<usize>,
}
