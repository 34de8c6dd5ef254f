//! `ProxyConfig` as the injector passes it in `PROXY_CONFIG`: the fields that concern the agent, and all of it for the node's
//! metadata.
//!
//! The injector writes JSON; who starts the agent by hand may write YAML, as in the annotation `proxy.istio.io/config`.

use std::path::PathBuf;
use std::time::Duration;

use lateen_api::{SourceFile, parse_fragment, value};
use serde_json::{Map, Value};

use super::{ConfigError, parse_duration};

const NAME: &str = "PROXY_CONFIG";

/// The proxy's settings. Defaults: Istio's `meshConfig.defaultConfig` (`pkg/config/mesh/mesh.go`).
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyConfig {
    /// `discoveryAddress`.
    pub discovery_address: String,
    /// `configPath`: where the proxy keeps its files.
    pub config_path: PathBuf,
    /// `proxyAdminPort`.
    pub admin_port: u16,
    /// `statusPort`.
    pub status_port: u16,
    /// `drainDuration`: how long Envoy takes to drain listeners.
    pub drain_duration: Duration,
    /// `terminationDrainDuration`: how long the agent waits for connections to end after SIGTERM.
    pub termination_drain_duration: Duration,
    /// `concurrency`: worker threads; `None` or zero leaves it to the number of CPUs.
    pub concurrency: Option<u32>,
    /// `extraStatTags`.
    pub extra_stat_tags: Vec<String>,
    /// `proxyStatsMatcher`: prefixes, suffixes and regular expressions of statistics to keep.
    pub stats_inclusion: StatsInclusion,
    /// `runtimeValues`: Envoy's runtime flags; an empty value takes a default away.
    pub runtime_values: Vec<(String, String)>,
    /// `proxyMetadata`: more environment of the agent.
    pub proxy_metadata: Vec<(String, String)>,
    /// The whole message as JSON, with defaults for what the control plane reads from the node's metadata.
    pub raw: Map<String, Value>,
}

/// Which statistics Envoy keeps beside the required ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsInclusion {
    /// By prefix.
    pub prefixes: Vec<String>,
    /// By suffix.
    pub suffixes: Vec<String>,
    /// By regular expression.
    pub regexps: Vec<String>,
}

impl ProxyConfig {
    pub(super) fn from_env(text: Option<String>) -> Result<Self, ConfigError> {
        let text = text.unwrap_or_else(|| "{}".to_owned());
        Self::new(&object(&text)?).ok_or(ConfigError::Value {
            name: NAME,
            value: text,
            expected: "a ProxyConfig as JSON or YAML",
        })
    }

    /// Reads a message; `None` if a field has another type than it should.
    fn new(written: &Map<String, Value>) -> Option<Self> {
        let mut raw = defaults();
        raw.extend(written.clone());
        let matcher = raw.get("proxyStatsMatcher");
        let list = |name| {
            matcher
                .and_then(|m| m.get(name))
                .map_or(Some(Vec::new()), strings)
        };
        let stats_inclusion = StatsInclusion {
            prefixes: list("inclusionPrefixes")?,
            suffixes: list("inclusionSuffixes")?,
            regexps: list("inclusionRegexps")?,
        };
        Some(Self {
            discovery_address: raw.get("discoveryAddress")?.as_str()?.to_owned(),
            config_path: raw.get("configPath")?.as_str()?.into(),
            admin_port: port(raw.get("proxyAdminPort")?)?,
            status_port: port(raw.get("statusPort")?)?,
            drain_duration: parse_duration(raw.get("drainDuration")?.as_str()?)?,
            termination_drain_duration: parse_duration(
                raw.get("terminationDrainDuration")?.as_str()?,
            )?,
            concurrency: match raw.get("concurrency") {
                Some(value) => {
                    Some(u32::try_from(value.as_u64()?).ok()?).filter(|count| *count > 0)
                }
                None => None,
            },
            extra_stat_tags: raw.get("extraStatTags").map_or(Some(Vec::new()), strings)?,
            stats_inclusion,
            runtime_values: raw.get("runtimeValues").map_or(Some(Vec::new()), pairs)?,
            proxy_metadata: raw.get("proxyMetadata").map_or(Some(Vec::new()), pairs)?,
            raw,
        })
    }
}

/// JSON, or the first document of a YAML text; an empty one is an empty message.
fn object(text: &str) -> Result<Map<String, Value>, ConfigError> {
    let (written, problems) = parse_fragment::<value::Value>(&SourceFile::new(NAME, text));
    if let Some(problem) = problems.into_iter().find(lateen_api::Diagnostic::is_error) {
        return Err(ConfigError::Yaml {
            name: NAME,
            problem: problem.message,
        });
    }
    match serde_json::to_value(written) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(Value::Null) => Ok(Map::new()),
        _ => Err(ConfigError::Yaml {
            name: NAME,
            problem: "it is no object".to_owned(),
        }),
    }
}

fn defaults() -> Map<String, Value> {
    let Value::Object(defaults) = serde_json::json!({
        "configPath": "./etc/istio/proxy",
        "binaryPath": "/usr/local/bin/envoy",
        "serviceCluster": "istio-proxy",
        "drainDuration": "45s",
        "terminationDrainDuration": "5s",
        "discoveryAddress": "istiod.istio-system.svc:15012",
        "proxyAdminPort": 15000,
        "controlPlaneAuthPolicy": "MUTUAL_TLS",
        "statNameLength": 189,
        "statusPort": 15020,
    }) else {
        unreachable!("the literal is an object")
    };
    defaults
}

fn port(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok()
}

fn strings(value: &Value) -> Option<Vec<String>> {
    value
        .as_array()?
        .iter()
        .map(|item| item.as_str().map(ToOwned::to_owned))
        .collect()
}

fn pairs(value: &Value) -> Option<Vec<(String, String)>> {
    let pair = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    value.as_object()?.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_has_istios_default() {
        let config = ProxyConfig::from_env(None).unwrap();
        assert_eq!(config.admin_port, 15000);
        assert_eq!(config.status_port, 15020);
        assert_eq!(config.drain_duration, Duration::from_secs(45));
        assert_eq!(config.termination_drain_duration, Duration::from_secs(5));
        assert_eq!(config.concurrency, None);
    }

    #[test]
    fn what_is_written_is_kept_also_where_the_agent_does_not_read_it() {
        let json = r#"{"concurrency":2,"drainDuration":"1m","proxyMetadata":{"A":"b"},
            "proxyStatsMatcher":{"inclusionPrefixes":["x"]},"tracing":{"sampling":5}}"#;
        let config = ProxyConfig::from_env(Some(json.to_owned())).unwrap();
        assert_eq!(config.concurrency, Some(2));
        assert_eq!(config.drain_duration, Duration::from_secs(60));
        assert_eq!(config.stats_inclusion.prefixes, ["x"]);
        assert_eq!(config.raw["tracing"]["sampling"], 5);
        assert_eq!(config.proxy_metadata, [("A".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn yaml_is_read_as_well() {
        let yaml = "concurrency: 3\ndrainDuration: 10s\nproxyMetadata:\n  A: b\n";
        let config = ProxyConfig::from_env(Some(yaml.to_owned())).unwrap();
        assert_eq!(config.concurrency, Some(3));
        assert_eq!(config.drain_duration, Duration::from_secs(10));
        assert!(ProxyConfig::from_env(Some("- a\n- b\n".to_owned())).is_err());
    }

    #[test]
    fn a_field_of_the_wrong_type_is_an_error() {
        for json in [
            r#"{"statusPort":"x"}"#,
            r#"{"drainDuration":5}"#,
            r#"{"concurrency":-1}"#,
        ] {
            assert!(
                ProxyConfig::from_env(Some(json.to_owned())).is_err(),
                "{json}"
            );
        }
    }
}
