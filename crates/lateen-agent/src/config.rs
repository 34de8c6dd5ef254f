//! What the agent is told: Istio's own environment variables, read once into plain settings.
//!
//! The variables come in as an argument; only the binary reads the process's environment. Names and defaults are those of
//! `pilot-agent` (`pilot/cmd/pilot-agent/options/options.go`, Istio 1.30), so that a pod template written for Istio works.

mod duration;
mod proxy_config;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lateen_identity::spiffe::SpiffeError;
use lateen_identity::{SpiffeId, TrustDomain};

pub use duration::parse_duration;
pub use proxy_config::{ProxyConfig, StatsInclusion};

/// The environment as the agent sees it.
pub type Environment = BTreeMap<String, String>;

/// What the proxy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeType {
    /// Beside a workload.
    Sidecar,
    /// A gateway.
    Router,
}

impl NodeType {
    /// As it is written in a node's id.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
        }
    }
}

/// Which proxy carries the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataPlaneKind {
    /// Our own, in this process.
    Lateen,
    /// A stock Envoy, as a child process.
    Envoy,
}

/// Why the settings cannot be used. Each names the variable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable that has no default is not set.
    #[error("environment variable `{0}` is not set; the injector sets it from the pod")]
    Missing(&'static str),
    /// A variable's value cannot be used.
    #[error("environment variable `{name}` has the unusable value `{value}`: expected {expected}")]
    Value {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// A variable does not hold the JSON or YAML it should.
    #[error("environment variable `{name}` holds neither JSON nor YAML: {problem}")]
    Yaml {
        /// The variable.
        name: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Namespace and service account make no identity.
    #[error("`POD_NAMESPACE`, `SERVICE_ACCOUNT` and `TRUST_DOMAIN` make no identity")]
    Identity(#[source] SpiffeError),
}

/// What the command line adds to the environment.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Sidecar or gateway.
    pub node_type: NodeType,
    /// Which proxy carries the traffic.
    pub data_plane: DataPlaneKind,
    /// The DNS domain of the pod; by default `NAMESPACE.svc.cluster.local`.
    pub domain: Option<String>,
    /// The mark of the proxy's own sockets, by which redirection leaves them alone.
    pub mark: Option<u32>,
    /// Envoy's binary, if it is not to be searched for.
    pub envoy: Option<PathBuf>,
    /// Where sockets and the bootstrap file go; by default the proxy configuration's `configPath`.
    pub run_dir: Option<PathBuf>,
}

impl AgentOptions {
    /// The defaults for a data plane.
    pub fn new(node_type: NodeType, data_plane: DataPlaneKind) -> Self {
        Self {
            node_type,
            data_plane,
            domain: None,
            mark: None,
            envoy: None,
            run_dir: None,
        }
    }
}

/// The agent's settings, with every default filled in.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Sidecar or gateway.
    pub node_type: NodeType,
    /// Which proxy carries the traffic.
    pub data_plane: DataPlaneKind,
    /// `POD_NAME`.
    pub pod_name: String,
    /// `POD_NAMESPACE`.
    pub namespace: String,
    /// `SERVICE_ACCOUNT`.
    pub service_account: String,
    /// `INSTANCE_IP` and `INSTANCE_IPS`: the pod's addresses, the main one first.
    pub instance_ips: Vec<IpAddr>,
    /// The pod's DNS domain.
    pub domain: String,
    /// Who the workload is.
    pub identity: SpiffeId,
    /// `PROXY_CONFIG`.
    pub proxy_config: ProxyConfig,
    /// `ISTIO_KUBE_APP_PROBERS`, as it stands.
    pub app_probers: Option<String>,
    /// `ISTIO_PROMETHEUS_ANNOTATIONS`, as it stands.
    pub prometheus_annotations: Option<String>,
    /// Where istiod serves xDS.
    pub discovery_address: String,
    /// `CA_ADDR`: where certificates come from.
    pub ca_address: String,
    /// The name that the authority's certificate must have: istiod's, unless `CA_ADDR` names another server.
    pub ca_name: String,
    /// `CA_ROOT_CA`: the roots that the authority's certificate is verified with, if they are not istiod's.
    pub ca_roots: CaRoots,
    /// `CA_HEADER_…`: headers of requests to the authority, by name.
    pub ca_headers: BTreeMap<String, String>,
    /// `ISTIOD_SAN`: the name istiod's certificate must have.
    pub istiod_name: String,
    /// The file of the workload's token.
    pub token_file: PathBuf,
    /// The file of the roots that istiod's certificate is verified with.
    pub root_file: PathBuf,
    /// `SECRET_TTL`: the lifetime to ask for.
    pub certificate_ttl: Duration,
    /// `SECRET_GRACE_PERIOD_RATIO`.
    pub grace_ratio: f64,
    /// `SECRET_GRACE_PERIOD_RATIO_JITTER`.
    pub grace_jitter: f64,
    /// Whether names are answered on 15053 (`ISTIO_META_DNS_CAPTURE`, `ISTIO_META_ENABLE_DNS_SERVER`).
    pub dns: DnsSettings,
    /// Whether the proxy is told where the other instances of its workload are, by which it keeps requests in its zone
    /// (`ISTIO_META_ENABLE_SELF_DISCOVERY`).
    pub self_discovery: bool,
    /// `ISTIO_DELTA_XDS`: whether Envoy is told only what changed, rather than everything each time.
    pub delta_xds: bool,
    /// `MINIMUM_DRAIN_DURATION`.
    pub minimum_drain: Duration,
    /// `EXIT_ON_ZERO_ACTIVE_CONNECTIONS`.
    pub exit_on_zero_connections: bool,
    /// `ENVOY_STATUS_PORT`: where Envoy answers kubelet's readiness probe.
    pub envoy_status_port: u16,
    /// `ENVOY_PROMETHEUS_PORT`.
    pub envoy_prometheus_port: u16,
    /// The mark of the proxy's own sockets.
    pub mark: Option<u32>,
    /// Envoy's binary, if it is not to be searched for.
    pub envoy: Option<PathBuf>,
    /// Where sockets and the bootstrap file go.
    pub run_dir: PathBuf,
    /// The rest of the environment, which the node's metadata is made of.
    pub environment: Environment,
}

/// What the authority's certificate is verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaRoots {
    /// The roots of the mesh, as istiod's.
    Mesh,
    /// The machine's (`SYSTEM`).
    System,
    /// Those of a file.
    File(PathBuf),
}

/// How names are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// Whether they are at all.
    pub enabled: bool,
    /// `DNS_PROXY_ADDR`: where, `127.0.0.1:15053` and `[::1]:15053` by default.
    pub listen: Vec<SocketAddr>,
    /// `DNS_FORWARD_TIMEOUT`.
    pub forward_timeout: Duration,
}

impl AgentConfig {
    /// Reads the settings.
    ///
    /// # Errors
    /// A variable is missing or has an unusable value; the error names it.
    pub fn from_env(
        mut environment: Environment,
        options: AgentOptions,
    ) -> Result<Self, ConfigError> {
        let proxy_config = ProxyConfig::from_env(Reader(&environment).text("PROXY_CONFIG"))?;
        // Injection makes variables of `proxyMetadata`; what is set already wins.
        for (name, value) in &proxy_config.proxy_metadata {
            environment
                .entry(name.clone())
                .or_insert_with(|| value.clone());
        }
        let env = Reader(&environment);
        let namespace = env.required("POD_NAMESPACE")?;
        let service_account = env
            .text("SERVICE_ACCOUNT")
            .unwrap_or_else(|| "default".to_owned());
        let trust_domain = env.text("TRUST_DOMAIN").map_or_else(
            || Ok(TrustDomain::cluster_local()),
            |text| text.parse().map_err(ConfigError::Identity),
        )?;
        let identity = SpiffeId::new(trust_domain, &namespace, &service_account)
            .map_err(ConfigError::Identity)?;
        let discovery_address = proxy_config.discovery_address.clone();
        let istiod_name = env
            .text("ISTIOD_SAN")
            .unwrap_or_else(|| host_of(&discovery_address));
        let ca_address = env
            .text("CA_ADDR")
            .unwrap_or_else(|| discovery_address.clone());
        Ok(Self {
            ca_name: env.ca_name(&ca_address, &discovery_address, &istiod_name),
            ca_roots: env.ca_roots(),
            ca_headers: env.ca_headers(),
            ca_address,
            node_type: options.node_type,
            data_plane: options.data_plane,
            pod_name: env.required("POD_NAME")?,
            domain: options
                .domain
                .unwrap_or_else(|| format!("{namespace}.svc.cluster.local")),
            instance_ips: env.instance_ips()?,
            app_probers: env.text("ISTIO_KUBE_APP_PROBERS"),
            prometheus_annotations: env.text("ISTIO_PROMETHEUS_ANNOTATIONS"),
            token_file: env.path("LATEEN_TOKEN_FILE", "/var/run/secrets/tokens/istio-token"),
            root_file: env.path("LATEEN_ROOT_FILE", "/var/run/secrets/istio/root-cert.pem"),
            certificate_ttl: env.duration("SECRET_TTL", Duration::from_secs(24 * 3600))?,
            grace_ratio: env.ratio("SECRET_GRACE_PERIOD_RATIO", 0.5)?,
            grace_jitter: env.ratio("SECRET_GRACE_PERIOD_RATIO_JITTER", 0.01)?,
            dns: env.dns()?,
            self_discovery: env.flag("ISTIO_META_ENABLE_SELF_DISCOVERY", false)?,
            delta_xds: env.flag("ISTIO_DELTA_XDS", true)?,
            minimum_drain: env.duration("MINIMUM_DRAIN_DURATION", Duration::from_secs(5))?,
            exit_on_zero_connections: env.flag("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", false)?,
            envoy_status_port: env.port("ENVOY_STATUS_PORT", 15021)?,
            envoy_prometheus_port: env.port("ENVOY_PROMETHEUS_PORT", 15090)?,
            mark: options.mark,
            envoy: options
                .envoy
                .or_else(|| env.text("LATEEN_ENVOY").map(PathBuf::from)),
            run_dir: options
                .run_dir
                .unwrap_or_else(|| proxy_config.config_path.clone()),
            identity,
            namespace,
            service_account,
            proxy_config,
            discovery_address,
            istiod_name,
            environment,
        })
    }

    /// An annotation of the pod, which the injector passes on.
    pub fn annotation(&self, name: &str) -> Option<String> {
        let text = self.environment.get("ISTIO_METAJSON_ANNOTATIONS")?;
        let annotations: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).ok()?;
        annotations.get(name)?.as_str().map(str::to_owned)
    }

    /// The level of the proxy's log, and of some of its loggers (`NAME:LEVEL,…`), as annotations want them; Istio's defaults where they do
    /// not.
    pub fn log_levels(&self) -> (String, Option<String>) {
        let written = |name: &str| {
            let value = self.annotation(&format!("sidecar.istio.io/{name}"));
            value
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let level = written("logLevel").unwrap_or_else(|| "warning".to_owned());
        (level, written("componentLogLevel"))
    }

    /// The pod's main address, or the loopback address where it has none.
    pub fn pod_ip(&self) -> IpAddr {
        self.instance_ips
            .first()
            .copied()
            .unwrap_or(IpAddr::from([127, 0, 0, 1]))
    }
}

/// The host of `HOST:PORT`.
fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned()
}

struct Reader<'a>(&'a Environment);

impl Reader<'_> {
    /// A variable's value; one that is set to nothing counts as not set, as in Istio.
    fn text(&self, name: &'static str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned()
    }

    fn required(&self, name: &'static str) -> Result<String, ConfigError> {
        self.text(name).ok_or(ConfigError::Missing(name))
    }

    /// istiod goes by its own name wherever it is reached; another authority is who its address says.
    fn ca_name(&self, address: &str, discovery_address: &str, istiod: &str) -> String {
        let host = host_of(address);
        let named = host.parse::<IpAddr>().is_err() && host == host_of(discovery_address);
        if named || address == discovery_address {
            istiod.to_owned()
        } else {
            host
        }
    }

    fn ca_roots(&self) -> CaRoots {
        match self.text("CA_ROOT_CA").as_deref() {
            None => CaRoots::Mesh,
            Some("SYSTEM") => CaRoots::System,
            Some(path) => CaRoots::File(PathBuf::from(path)),
        }
    }

    fn ca_headers(&self) -> BTreeMap<String, String> {
        let named = |(name, value): (&String, &String)| {
            Some((name.strip_prefix("CA_HEADER_")?.to_owned(), value.clone()))
        };
        self.0.iter().filter_map(named).collect()
    }

    fn path(&self, name: &'static str, default: &str) -> PathBuf {
        PathBuf::from(self.text(name).unwrap_or_else(|| default.to_owned()))
    }

    fn parsed<T>(
        &self,
        name: &'static str,
        default: T,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let Some(value) = self.text(name) else {
            return Ok(default);
        };
        parse(&value).ok_or(ConfigError::Value {
            name,
            value,
            expected,
        })
    }

    fn duration(&self, name: &'static str, default: Duration) -> Result<Duration, ConfigError> {
        self.parsed(
            name,
            default,
            "a duration such as `5s` or `1h30m`",
            parse_duration,
        )
    }

    fn flag(&self, name: &'static str, default: bool) -> Result<bool, ConfigError> {
        self.parsed(name, default, "`true` or `false`", |text| match text {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Some(true),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Some(false),
            _ => None,
        })
    }

    fn port(&self, name: &'static str, default: u16) -> Result<u16, ConfigError> {
        self.parsed(name, default, "a port", |text| text.parse().ok())
    }

    fn ratio(&self, name: &'static str, default: f64) -> Result<f64, ConfigError> {
        self.parsed(name, default, "a number from 0 to 1", |text| {
            text.parse()
                .ok()
                .filter(|ratio| (0.0..=1.0).contains(ratio))
        })
    }

    fn instance_ips(&self) -> Result<Vec<IpAddr>, ConfigError> {
        let mut ips = Vec::new();
        for name in ["INSTANCE_IP", "INSTANCE_IPS"] {
            let text = self.text(name).unwrap_or_default();
            for part in text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
            {
                let ip = part.parse().map_err(|_| ConfigError::Value {
                    name,
                    value: text.clone(),
                    expected: "addresses separated by commas",
                })?;
                if !ips.contains(&ip) {
                    ips.push(ip);
                }
            }
        }
        Ok(ips)
    }

    fn dns(&self) -> Result<DnsSettings, ConfigError> {
        const PORT: u16 = 15053;
        let both = vec![
            SocketAddr::from(([127, 0, 0, 1], PORT)),
            SocketAddr::from((LOOPBACK6, PORT)),
        ];
        let listen = self.parsed(
            "DNS_PROXY_ADDR",
            both,
            "an address such as `localhost:15053`",
            |text| {
                let (host, port) = text.rsplit_once(':')?;
                let port = port.parse().ok()?;
                Some(match host {
                    "localhost" => vec![
                        SocketAddr::from(([127, 0, 0, 1], port)),
                        SocketAddr::from((LOOPBACK6, port)),
                    ],
                    _ => vec![text.parse().ok()?],
                })
            },
        )?;
        Ok(DnsSettings {
            enabled: self.flag("ISTIO_META_DNS_CAPTURE", false)?
                || self.flag("ISTIO_META_ENABLE_DNS_SERVER", false)?,
            listen,
            forward_timeout: self.duration("DNS_FORWARD_TIMEOUT", Duration::from_secs(5))?,
        })
    }
}

/// `::1`.
const LOOPBACK6: [u16; 8] = [0, 0, 0, 0, 0, 0, 0, 1];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pod's environment as the injector makes it.
    pub(crate) fn environment() -> Environment {
        let pairs = [
            ("POD_NAME", "reviews-v1-0"),
            ("POD_NAMESPACE", "default"),
            ("SERVICE_ACCOUNT", "bookinfo-reviews"),
            ("INSTANCE_IP", "10.244.0.7"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_META_WORKLOAD_NAME", "reviews-v1"),
            ("ISTIO_META_DNS_CAPTURE", "true"),
            (
                "ISTIO_METAJSON_LABELS",
                r#"{"app":"reviews","version":"v1"}"#,
            ),
        ];
        pairs
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    pub(crate) fn config(extra: &[(&str, &str)]) -> Result<AgentConfig, ConfigError> {
        let mut all = environment();
        all.extend(
            extra
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
        );
        AgentConfig::from_env(
            all,
            AgentOptions::new(NodeType::Sidecar, DataPlaneKind::Envoy),
        )
    }

    #[test]
    fn istios_environment_is_enough() {
        let config = config(&[]).unwrap();
        assert_eq!(
            config.identity.to_string(),
            "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
        );
        assert_eq!(config.discovery_address, "istiod.istio-system.svc:15012");
        assert_eq!(config.ca_address, "istiod.istio-system.svc:15012");
        assert_eq!(config.istiod_name, "istiod.istio-system.svc");
        assert_eq!(config.domain, "default.svc.cluster.local");
        assert_eq!(config.pod_ip().to_string(), "10.244.0.7");
        assert!(config.dns.enabled);
        assert_eq!(config.dns.listen.len(), 2);
        assert_eq!(config.envoy_prometheus_port, 15090);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let wrong = [
            ("INSTANCE_IP", "here"),
            ("SECRET_TTL", "one day"),
            ("ENVOY_STATUS_PORT", "99999"),
            ("SECRET_GRACE_PERIOD_RATIO", "2"),
            ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "maybe"),
        ];
        for (name, value) in wrong {
            let error = config(&[(name, value)]).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        assert!(matches!(
            config(&[("POD_NAME", "")]),
            Err(ConfigError::Missing("POD_NAME"))
        ));
        assert!(matches!(
            config(&[("TRUST_DOMAIN", "Not A Domain")]),
            Err(ConfigError::Identity(_))
        ));
        assert!(matches!(
            config(&[("PROXY_CONFIG", "{")]),
            Err(ConfigError::Yaml { .. })
        ));
    }

    #[test]
    fn an_address_without_a_name_takes_the_name_from_its_own_variable() {
        let config = config(&[
            ("PROXY_CONFIG", r#"{"discoveryAddress":"10.96.0.2:15012"}"#),
            ("ISTIOD_SAN", "istiod.istio-system.svc"),
            ("INSTANCE_IPS", "10.244.0.7,fd00:10:244::7"),
        ])
        .unwrap();
        assert_eq!(config.discovery_address, "10.96.0.2:15012");
        assert_eq!(config.istiod_name, "istiod.istio-system.svc");
        assert_eq!(config.instance_ips.len(), 2);
    }
}
