//! Reading Envoy's `/config_dump`, from a running proxy or a file, whoever made it.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A config dump as JSON.
#[derive(Clone, Debug)]
pub(crate) struct ConfigDump {
    sections: Vec<Value>,
}

impl ConfigDump {
    /// Parses the body of `/config_dump`.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let mut value: Value =
            serde_json::from_slice(text).context("the config dump is not JSON")?;
        match value.get_mut("configs").map(Value::take) {
            Some(Value::Array(sections)) => Ok(Self { sections }),
            _ => bail!(
                "the config dump has no `configs` list; is it the output of Envoy's /config_dump?"
            ),
        }
    }

    /// One section, by the last part of its type: `ListenersConfigDump`.
    pub(crate) fn section(&self, name: &str) -> Option<&Value> {
        self.sections.iter().find(|section| {
            section["@type"]
                .as_str()
                .is_some_and(|ty| ty.rsplit('.').next() == Some(name))
        })
    }

    /// Listeners that are active or static.
    pub(crate) fn listeners(&self) -> Vec<&Value> {
        let Some(section) = self.section("ListenersConfigDump") else {
            return Vec::new();
        };
        let active = list(section, "dynamic_listeners").map(|l| &l["active_state"]["listener"]);
        let fixed = list(section, "static_listeners").map(|l| &l["listener"]);
        active.chain(fixed).filter(|l| l.is_object()).collect()
    }

    /// Clusters that are active or static.
    pub(crate) fn clusters(&self) -> Vec<&Value> {
        let Some(section) = self.section("ClustersConfigDump") else {
            return Vec::new();
        };
        let active = list(section, "dynamic_active_clusters").map(|c| &c["cluster"]);
        let fixed = list(section, "static_clusters").map(|c| &c["cluster"]);
        active.chain(fixed).filter(|c| c.is_object()).collect()
    }

    /// Route configurations, dynamic and static.
    pub(crate) fn routes(&self) -> Vec<&Value> {
        let Some(section) = self.section("RoutesConfigDump") else {
            return Vec::new();
        };
        let dynamic = list(section, "dynamic_route_configs").map(|r| &r["route_config"]);
        let fixed = list(section, "static_route_configs").map(|r| &r["route_config"]);
        dynamic.chain(fixed).filter(|r| r.is_object()).collect()
    }

    /// Endpoint sets, dynamic and static; a dump holds them if it was asked for with `include_eds`.
    pub(crate) fn endpoints(&self) -> Vec<&Value> {
        let Some(section) = self.section("EndpointsConfigDump") else {
            return Vec::new();
        };
        let dynamic = list(section, "dynamic_endpoint_configs").map(|e| &e["endpoint_config"]);
        let fixed = list(section, "static_endpoint_configs").map(|e| &e["endpoint_config"]);
        dynamic.chain(fixed).filter(|e| e.is_object()).collect()
    }

    /// Secrets with their state: `ACTIVE`, `WARMING` or `STATIC`.
    pub(crate) fn secrets(&self) -> Vec<(&'static str, &Value)> {
        let Some(section) = self.section("SecretsConfigDump") else {
            return Vec::new();
        };
        let states = [
            ("ACTIVE", "dynamic_active_secrets"),
            ("WARMING", "dynamic_warming_secrets"),
            ("STATIC", "static_secrets"),
        ];
        states
            .into_iter()
            .flat_map(|(state, key)| list(section, key).map(move |s| (state, s)))
            .collect()
    }

    /// The bootstrap section's content.
    pub(crate) fn bootstrap(&self) -> Option<&Value> {
        Some(&self.section("BootstrapConfigDump")?["bootstrap"])
    }
}

/// The elements of a list field; none when it is absent.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
}

/// A string field, or nothing.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// An unsigned field. Protobuf's JSON writes 64-bit numbers as strings.
pub(crate) fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// The user's object behind an Envoy object, from Istio's filter metadata, as istioctl shows it: `name.namespace`.
pub(crate) fn origin(value: &Value) -> String {
    let path = value["metadata"]["filter_metadata"]["istio"]["config"]
        .as_str()
        .unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        [
            "",
            "apis",
            "networking.istio.io",
            _,
            "namespaces",
            namespace,
            _,
            name,
        ] => {
            format!("{name}.{namespace}")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_behind_a_route_is_named_as_istioctl_names_it() {
        let route = serde_json::json!({"metadata": {"filter_metadata": {"istio": {
            "config": "/apis/networking.istio.io/v1/namespaces/shop/virtual-service/reviews"}}}});
        assert_eq!(origin(&route), "reviews.shop");
        assert_eq!(origin(&serde_json::json!({})), "");
    }

    #[test]
    fn what_is_not_a_config_dump_is_refused_with_a_reason() {
        let error = ConfigDump::parse(b"{\"a\": 1}").expect_err("refused");
        assert!(error.to_string().contains("/config_dump"));
        assert!(ConfigDump::parse(b"nonsense").is_err());
    }
}
