//! Who is asking: the facts about a proxy that its configuration depends on, read from Envoy's `Node`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lateen_api::mesh::Tracing;
use lateen_api::{SourceFile, parse_fragment};
use lateen_envoy::pb::google::protobuf::{Struct, Value, value::Kind};

use crate::pod::Locality;
use crate::proto::core::Node;

/// What a proxy is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyKind {
    /// Beside a workload.
    #[default]
    Sidecar,
    /// A gateway.
    Router,
}

/// How connections reach a sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Interception {
    /// `iptables … REDIRECT`.
    #[default]
    Redirect,
    /// `iptables … TPROXY`: the source address is kept.
    Tproxy,
    /// Not at all: the application addresses the proxy.
    None,
}

/// The address families of a proxy's own addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpMode {
    /// IPv4 only, or unknown.
    #[default]
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

/// Why a node cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeError {
    /// The id is not `type~address~name.namespace~domain`.
    Id(String),
    /// The type is neither `sidecar` nor `router`.
    Kind(String),
}

impl std::fmt::Display for NodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(
                f,
                "node id `{id}` is not `type~address~name.namespace~domain`"
            ),
            Self::Kind(kind) => write!(f, "node type `{kind}` is neither `sidecar` nor `router`"),
        }
    }
}

impl std::error::Error for NodeError {}

/// A proxy, as it described itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProxyNode {
    /// Envoy's node id.
    pub id: String,
    /// Sidecar or gateway.
    pub kind: ProxyKind,
    /// The workload's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The workload's labels.
    pub labels: BTreeMap<String, String>,
    /// Its own addresses, the first one its main address.
    pub ips: Vec<IpAddr>,
    /// Its service account.
    pub service_account: String,
    /// The cluster it runs in.
    pub cluster_id: String,
    /// The network it runs in; empty if there is only one.
    pub network: String,
    /// `default.svc.cluster.local`: what its resolver appends to short names.
    pub dns_domain: String,
    /// Its workload's name.
    pub workload_name: String,
    /// Where it runs.
    pub locality: Locality,
    /// Whether its agent answers DNS, so that service addresses are known without a cluster DNS.
    pub dns_capture: bool,
    /// How it intercepts.
    pub interception: Interception,
    /// Idle timeout of TCP connections and HTTP connections, as Go writes durations; empty for the default.
    pub idle_timeout: String,
    /// Whether it cannot bind ports below 1024.
    pub unprivileged: bool,
    /// Whether there is a server of secrets on a socket in its pod.
    pub credential_socket: bool,
    /// The WorkloadGroup it registers itself for; empty if it does not.
    pub auto_register_group: String,
    /// The WorkloadEntry it stands for; empty if for none.
    pub workload_entry: String,
    /// Whether its agent says how its workload is.
    pub readiness_probe: bool,
    /// Whether it keeps requests in its zone by where its peers are, and so is told of them.
    pub self_discovery: bool,
    /// What its own settings say of tracing, in place of the mesh's (`tracing` of `proxy.istio.io/config`).
    pub tracing: Option<Tracing>,
    /// Which generator it asked for; empty for the default.
    pub generator: String,
    /// The version of Istio it was made for.
    pub istio_version: String,
    /// Whether it is our own proxy, which has Istio's private extensions built in. A stock Envoy refuses them.
    pub native: bool,
}

impl ProxyNode {
    /// Reads what a proxy said about itself.
    ///
    /// # Errors
    /// The node id is not in Istio's form, or names a kind of proxy this control plane does not serve.
    pub fn from_node(node: &Node) -> Result<Self, NodeError> {
        let parts: Vec<&str> = node.id.split('~').collect();
        let [kind, address, name, domain] = parts[..] else {
            return Err(NodeError::Id(node.id.clone()));
        };
        let kind = match kind {
            "sidecar" => ProxyKind::Sidecar,
            "router" => ProxyKind::Router,
            other => return Err(NodeError::Kind(other.to_owned())),
        };
        let meta = Metadata(node.metadata.as_ref());
        let (pod, pod_namespace) = split_name(name);
        let mut ips: Vec<IpAddr> = meta
            .text("INSTANCE_IPS")
            .split(',')
            .filter_map(|ip| ip.trim().parse().ok())
            .collect();
        if ips.is_empty() {
            ips.extend(address.parse::<IpAddr>().ok());
        }
        Ok(Self {
            id: node.id.clone(),
            kind,
            namespace: meta.text_or("NAMESPACE", pod_namespace),
            name: meta.text_or("NAME", pod),
            labels: meta.map("LABELS"),
            ips,
            service_account: meta.text("SERVICE_ACCOUNT"),
            cluster_id: meta.text_or("CLUSTER_ID", "Kubernetes"),
            network: meta.text("NETWORK"),
            dns_domain: domain.to_owned(),
            workload_name: meta.text("WORKLOAD_NAME"),
            locality: locality(node),
            dns_capture: meta.flag("DNS_CAPTURE"),
            interception: interception(&meta.text("INTERCEPTION_MODE")),
            idle_timeout: meta.text("IDLE_TIMEOUT"),
            unprivileged: meta.flag("UNPRIVILEGED_POD"),
            auto_register_group: meta.text("AUTO_REGISTER_GROUP"),
            workload_entry: meta.text("WORKLOAD_ENTRY"),
            readiness_probe: meta.has_field("PROXY_CONFIG", "readinessProbe"),
            credential_socket: meta.flag("credential"),
            self_discovery: meta.flag("ENABLE_SELF_DISCOVERY"),
            tracing: meta.tracing(),
            generator: meta.text("GENERATOR"),
            istio_version: meta.text("ISTIO_VERSION"),
            native: meta.flag("LATEEN_NATIVE"),
        })
    }

    /// The families of its addresses.
    pub fn ip_mode(&self) -> IpMode {
        let v4 = self.ips.iter().any(IpAddr::is_ipv4);
        let v6 = self.ips.iter().any(IpAddr::is_ipv6);
        match (v4, v6) {
            (true, true) => IpMode::Dual,
            (false, true) => IpMode::V6,
            _ => IpMode::V4,
        }
    }

    /// Its main address.
    pub fn main_ip(&self) -> Option<IpAddr> {
        self.ips.first().copied()
    }
}

impl IpMode {
    /// The addresses that mean "every address".
    pub(crate) fn wildcards(self) -> &'static [&'static str] {
        match self {
            Self::V4 => &["0.0.0.0"],
            Self::V6 => &["::"],
            Self::Dual => &["0.0.0.0", "::"],
        }
    }

    /// The loopback addresses.
    pub(crate) fn localhosts(self) -> &'static [&'static str] {
        match self {
            Self::V4 => &["127.0.0.1"],
            Self::V6 => &["::1"],
            Self::Dual => &["127.0.0.1", "::1"],
        }
    }

    /// The source addresses of a sidecar's connections to its own workload, which redirection leaves alone. Source: Istio.
    pub(crate) fn inbound_sources(self) -> &'static [&'static str] {
        match self {
            Self::V4 => &["127.0.0.6"],
            Self::V6 => &["::6"],
            Self::Dual => &["127.0.0.6", "::6"],
        }
    }

    /// Whether addresses of IPv4 are among them.
    pub(crate) fn has_v4(self) -> bool {
        self != Self::V6
    }

    /// Whether addresses of IPv6 are among them.
    pub(crate) fn has_v6(self) -> bool {
        self != Self::V4
    }
}

fn interception(mode: &str) -> Interception {
    match mode {
        "TPROXY" => Interception::Tproxy,
        "NONE" => Interception::None,
        _ => Interception::Redirect,
    }
}

fn locality(node: &Node) -> Locality {
    node.locality
        .as_ref()
        .map_or_else(Locality::default, |l| Locality {
            region: l.region.clone(),
            zone: l.zone.clone(),
            sub_zone: l.sub_zone.clone(),
        })
}

/// `pod.namespace`; a pod's name may itself hold dots, a namespace may not.
fn split_name(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or((name, ""))
}

/// Node metadata. Istio writes truth values as JSON booleans or as the strings `true` and `1`.
struct Metadata<'a>(Option<&'a Struct>);

impl Metadata<'_> {
    fn kind(&self, key: &str) -> Option<&Kind> {
        self.0?.fields.get(key)?.kind.as_ref()
    }

    fn text(&self, key: &str) -> String {
        match self.kind(key) {
            Some(Kind::StringValue(text)) => text.clone(),
            _ => String::new(),
        }
    }

    fn text_or(&self, key: &str, default: &str) -> String {
        let text = self.text(key);
        if text.is_empty() {
            default.to_owned()
        } else {
            text
        }
    }

    fn flag(&self, key: &str) -> bool {
        match self.kind(key) {
            Some(Kind::BoolValue(value)) => *value,
            Some(Kind::StringValue(text)) => matches!(text.as_str(), "true" | "1"),
            Some(Kind::NumberValue(number)) => *number != 0.0,
            _ => false,
        }
    }

    /// Whether a field that holds an object has something under a name.
    fn has_field(&self, key: &str, name: &str) -> bool {
        matches!(self.kind(key), Some(Kind::StructValue(fields)) if fields.fields.contains_key(name))
    }

    /// `tracing` of the proxy's settings, as far as it can be read.
    fn tracing(&self) -> Option<Tracing> {
        let Some(Kind::StructValue(settings)) = self.kind("PROXY_CONFIG") else {
            return None;
        };
        let Some(Kind::StructValue(written)) = settings.fields.get("tracing")?.kind.as_ref() else {
            return None;
        };
        let text = as_json(&Kind::StructValue(written.clone())).to_string();
        let (read, problems) = parse_fragment::<Tracing>(&SourceFile::new("PROXY_CONFIG", &text));
        problems
            .iter()
            .all(|found| !found.is_error())
            .then_some(read)
    }

    fn map(&self, key: &str) -> BTreeMap<String, String> {
        let Some(Kind::StructValue(fields)) = self.kind(key) else {
            return BTreeMap::new();
        };
        let mut out = BTreeMap::new();
        out.extend(fields.fields.iter().filter_map(|(key, value)| match value {
            Value {
                kind: Some(Kind::StringValue(text)),
            } => Some((key.clone(), text.clone())),
            _ => None,
        }));
        out
    }
}

/// A value as JSON. Numbers of protobuf are floats; whole ones are written as such, since they may stand for counts.
fn as_json(kind: &Kind) -> serde_json::Value {
    let of = |value: &Value| value.kind.as_ref().map_or(serde_json::Value::Null, as_json);
    match kind {
        Kind::NullValue(_) => serde_json::Value::Null,
        Kind::BoolValue(value) => (*value).into(),
        Kind::StringValue(text) => text.as_str().into(),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it is whole, and far below 2^53"
        )]
        Kind::NumberValue(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
            (*number as i64).into()
        }
        Kind::NumberValue(number) => (*number).into(),
        Kind::ListValue(list) => list.values.iter().map(of).collect(),
        Kind::StructValue(object) => {
            let mut fields: Vec<_> = object.fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            let fields = fields
                .into_iter()
                .map(|(key, value)| (key.clone(), of(value)));
            serde_json::Value::Object(fields.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{boolean, fields_to_struct, object, string};

    fn node(id: &str) -> Node {
        Node {
            id: id.to_owned(),
            metadata: Some(fields_to_struct([
                (
                    "LABELS",
                    object([("app", string("reviews")), ("version", string("v1"))]),
                ),
                ("INSTANCE_IPS", string("10.0.0.1,fd00::1")),
                ("DNS_CAPTURE", string("true")),
                ("LATEEN_NATIVE", boolean(true)),
            ])),
            ..Default::default()
        }
    }

    #[test]
    fn a_sidecar_is_read_from_its_node() {
        let read = ProxyNode::from_node(&node(
            "sidecar~10.0.0.1~reviews-v1-abc.default~default.svc.cluster.local",
        ))
        .unwrap();
        assert_eq!(
            (read.name.as_str(), read.namespace.as_str()),
            ("reviews-v1-abc", "default")
        );
        assert_eq!(read.labels["version"], "v1");
        assert_eq!(read.ip_mode(), IpMode::Dual);
        assert!(read.dns_capture && read.native);
    }

    #[test]
    fn a_proxys_own_tracing_is_read_from_its_settings() {
        let number = |value| Value {
            kind: Some(Kind::NumberValue(value)),
        };
        let tracing = object([
            ("sampling", number(12.5)),
            ("maxPathTagLength", number(99.0)),
            ("zipkin", object([("address", string("zipkin.obs:9411"))])),
        ]);
        let mut node = node("sidecar~10.0.0.1~a.b~b.svc.cluster.local");
        let metadata = node.metadata.as_mut().unwrap();
        let settings = object([("tracing", tracing)]);
        metadata.fields.insert("PROXY_CONFIG".to_owned(), settings);
        let read = ProxyNode::from_node(&node).unwrap().tracing.unwrap();
        assert_eq!((read.sampling.get(), read.max_path_tag_length), (12.5, 99));
        assert_eq!(read.zipkin.unwrap().address, "zipkin.obs:9411");
    }

    #[test]
    fn a_foreign_node_is_refused_with_what_was_expected() {
        let error = ProxyNode::from_node(&node("my-envoy")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "node id `my-envoy` is not `type~address~name.namespace~domain`"
        );
        assert!(matches!(
            ProxyNode::from_node(&node("ztunnel~1.1.1.1~a.b~c")),
            Err(NodeError::Kind(_))
        ));
    }
}
