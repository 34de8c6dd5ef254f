//! Filters as data: which of them are a policy's, and what of them counts.

use lateen_envoy::json;
use lateen_envoy::pb::envoy::config::listener::v3::{Filter, filter};
use lateen_envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use lateen_envoy::pb::google::protobuf::Any;
use serde_json::Value;

use super::super::Finding;

const RBAC: [&str; 2] = [
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.network.rbac.v3.RBAC",
];
const EXT_AUTHZ: [&str; 2] = [
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
];

/// The filters of policies, in order.
#[derive(Clone, Debug)]
pub(super) enum Filters {
    /// Of an HTTP connection manager.
    Http(Vec<HttpFilter>),
    /// Of a filter chain.
    Tcp(Vec<Filter>),
}

impl Filters {
    /// The filters as JSON.
    pub(super) fn as_data(&self) -> Vec<Value> {
        match self {
            Self::Http(filters) => filters.iter().map(json::to_value).collect(),
            Self::Tcp(filters) => filters.iter().map(json::to_value).collect(),
        }
    }

    /// The configurations of external authorization, without what does not count.
    fn authorizers(&self) -> Vec<Value> {
        self.as_data()
            .into_iter()
            .filter_map(|filter| filter.get("typed_config").cloned())
            .filter(|config| is_one_of(config, &EXT_AUTHZ))
            .map(without_names)
            .collect()
    }

    /// Those without external authorization, which the engine judges by other means.
    pub(super) fn rules_only(&self) -> Self {
        let is_rbac = |any: Option<&Any>| any.is_some_and(|any| names_one_of(any, &RBAC));
        match self {
            Self::Http(filters) => Self::Http(
                filters
                    .iter()
                    .filter(|filter| is_rbac(http_config(filter)))
                    .cloned()
                    .collect(),
            ),
            Self::Tcp(filters) => Self::Tcp(
                filters
                    .iter()
                    .filter(|filter| is_rbac(network_config(filter)))
                    .cloned()
                    .collect(),
            ),
        }
    }
}

fn http_config(filter: &HttpFilter) -> Option<&Any> {
    match &filter.config_type {
        Some(http_filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    }
}

fn network_config(filter: &Filter) -> Option<&Any> {
    match &filter.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    }
}

fn names_one_of(any: &Any, names: &[&str]) -> bool {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    names.contains(&name)
}

fn is_one_of(config: &Value, names: &[&str]) -> bool {
    let url = config.get("@type").and_then(Value::as_str);
    let name = url.and_then(|url| url.rsplit('/').next());
    name.is_some_and(|name| names.contains(&name))
}

/// Whether an HTTP filter is there because of a policy.
pub(super) fn is_policy_http(filter: &HttpFilter) -> bool {
    http_config(filter).is_some_and(|any| names_one_of(any, &RBAC) || names_one_of(any, &EXT_AUTHZ))
}

/// Whether a network filter is there because of a policy.
pub(super) fn is_policy_network(filter: &Filter) -> bool {
    network_config(filter)
        .is_some_and(|any| names_one_of(any, &RBAC) || names_one_of(any, &EXT_AUTHZ))
}

/// Without the names of statistics, and with no more of the condition on the rules' verdict than that there is one.
fn without_names(mut config: Value) -> Value {
    if let Some(fields) = config.as_object_mut() {
        fields.remove("stat_prefix");
        if let Some(condition) = fields.get_mut("filter_enabled_metadata") {
            *condition = Value::Bool(true);
        }
    }
    config
}

/// Whether the same authorizers are asked in the same way.
pub(super) fn compare_authorizers(expected: &Filters, built: &Filters) -> Vec<Finding> {
    let (expected, built) = (expected.authorizers(), built.authorizers());
    if expected == built {
        return Vec::new();
    }
    let text = |list: &[Value]| match list {
        [] => "none".to_owned(),
        list => Value::Array(list.to_vec()).to_string(),
    };
    vec![Finding::new(
        "external authorization",
        text(&expected),
        text(&built),
    )]
}
