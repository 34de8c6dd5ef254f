//! Parts of a dump: `resource`, `mask` and `name_regex`, as Envoy's admin interface has them.

use http::StatusCode;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::super::{Page, Query};

/// Longest expression and list of masked fields.
const MAX_TEXT: usize = 4096;

/// The lists of a dump that can be asked for alone, with the type of what is in them.
const RESOURCES: [(&str, &str); 13] = [
    ("static_clusters", "ClustersConfigDump.StaticCluster"),
    (
        "dynamic_active_clusters",
        "ClustersConfigDump.DynamicCluster",
    ),
    (
        "dynamic_warming_clusters",
        "ClustersConfigDump.DynamicCluster",
    ),
    ("static_listeners", "ListenersConfigDump.StaticListener"),
    ("dynamic_listeners", "ListenersConfigDump.DynamicListener"),
    ("static_route_configs", "RoutesConfigDump.StaticRouteConfig"),
    (
        "dynamic_route_configs",
        "RoutesConfigDump.DynamicRouteConfig",
    ),
    (
        "static_endpoint_configs",
        "EndpointsConfigDump.StaticEndpointConfig",
    ),
    (
        "dynamic_endpoint_configs",
        "EndpointsConfigDump.DynamicEndpointConfig",
    ),
    ("static_secrets", "SecretsConfigDump.StaticSecret"),
    ("dynamic_active_secrets", "SecretsConfigDump.DynamicSecret"),
    ("dynamic_warming_secrets", "SecretsConfigDump.DynamicSecret"),
    ("bootstrap", "BootstrapConfigDump"),
];

/// What of a dump is wanted.
#[derive(Debug, Default)]
pub(super) struct Selection {
    resource: Option<(&'static str, &'static str)>,
    mask: Vec<Vec<String>>,
    name: Option<Regex>,
}

impl Selection {
    /// What a query asks for.
    ///
    /// # Errors
    /// The answer to one that asks for nothing there is.
    pub(super) fn of(query: &Query) -> Result<Self, Page> {
        let wanted = query.get("resource").filter(|text| !text.is_empty());
        let resource = match wanted {
            None => None,
            Some(wanted) => {
                let known = RESOURCES.iter().find(|(name, _)| *name == wanted);
                Some(*known.ok_or_else(|| not_found(wanted))?)
            }
        };
        let mask = query.get("mask").unwrap_or_default();
        let pattern = query.get("name_regex").unwrap_or_default();
        if mask.len() > MAX_TEXT || pattern.len() > MAX_TEXT {
            return Err(Page::refused(
                StatusCode::BAD_REQUEST,
                "the query is too long\n",
            ));
        }
        let paths = mask.split(',').filter(|path| !path.is_empty());
        let mask = paths.map(|path| path.split('.').map(str::to_owned).collect());
        let name = (!pattern.is_empty()).then(|| {
            let whole = format!("^(?:{pattern})$");
            regex::RegexBuilder::new(&whole).size_limit(1 << 20).build()
        });
        let name = name.transpose().map_err(|error| {
            let text = format!("Error while parsing name_regex from {pattern}: {error}\n");
            Page::refused(StatusCode::BAD_REQUEST, text)
        })?;
        Ok(Self {
            resource,
            mask: mask.collect(),
            name,
        })
    }

    /// Reduces a dump.
    ///
    /// # Errors
    /// What was asked for is not in it.
    pub(super) fn apply(&self, mut dump: Value) -> Result<Value, Page> {
        let Some(Value::Array(configs)) = dump.get_mut("configs").map(Value::take) else {
            return Ok(dump);
        };
        let configs = match self.resource {
            Some((field, kind)) => self.resources(configs, field, kind)?,
            None => configs
                .into_iter()
                .map(|config| self.reduced(config))
                .collect(),
        };
        Ok(json!({ "configs": configs }))
    }

    fn resources(&self, configs: Vec<Value>, field: &str, kind: &str) -> Result<Vec<Value>, Page> {
        let owner = kind.split('.').next().unwrap_or_default();
        let mut of_type = configs.into_iter().filter(|config| {
            let held = config.get("@type").and_then(Value::as_str);
            held.is_some_and(|held| held.ends_with(owner))
        });
        // Endpoints are only there with `include_eds`.
        let mut config = of_type.next().ok_or_else(|| not_found(field))?;
        let list = match config.get_mut(field).map(Value::take) {
            None => Vec::new(),
            Some(Value::Array(list)) => list,
            Some(one) => vec![one],
        };
        let typed = |value: Value| match self.masked(value, &self.mask) {
            Value::Object(fields) => {
                let mut out = Map::new();
                out.insert(
                    "@type".into(),
                    format!("type.googleapis.com/envoy.admin.v3.{kind}").into(),
                );
                out.extend(fields);
                Value::Object(out)
            }
            other => other,
        };
        let list = list.into_iter().filter(|one| self.is_named(one));
        Ok(list.map(typed).collect())
    }

    /// A whole dump of one type, with the names and fields that are wanted.
    fn reduced(&self, config: Value) -> Value {
        let Value::Object(mut fields) = config else {
            return config;
        };
        if self.name.is_some() {
            for value in fields.values_mut() {
                if let Value::Array(list) = value {
                    list.retain(|one| self.is_named(one));
                }
            }
        }
        self.masked(Value::Object(fields), &self.mask)
    }

    /// Whether a resource has one of the names that are wanted. The name is its own, or that of what it wraps.
    fn is_named(&self, value: &Value) -> bool {
        let Some(wanted) = &self.name else {
            return true;
        };
        let own = |value: &Value| {
            let name = value.get("name").or_else(|| value.get("cluster_name"))?;
            Some(wanted.is_match(name.as_str()?))
        };
        let inner = || value.as_object()?.values().find_map(own);
        own(value).or_else(inner).unwrap_or(false)
    }

    /// The fields of a mask, by path. `@type` always stays; lists are left whole where a path ends at them.
    fn masked<S: AsRef<str>>(&self, value: Value, paths: &[Vec<S>]) -> Value {
        let paths: Vec<Vec<&str>> = paths
            .iter()
            .map(|path| path.iter().map(AsRef::as_ref).collect())
            .collect();
        if paths.is_empty() {
            return value;
        }
        trimmed(value, &paths)
    }
}

fn trimmed(value: Value, paths: &[Vec<&str>]) -> Value {
    if paths.iter().any(Vec::is_empty) {
        return value;
    }
    let Value::Object(fields) = value else {
        return value;
    };
    let kept = fields.into_iter().filter_map(|(key, inner)| {
        if key == "@type" {
            return Some((key, inner));
        }
        let below: Vec<Vec<&str>> = paths
            .iter()
            .filter_map(|path| match path.split_first() {
                Some((first, rest)) if *first == key => Some(rest.to_vec()),
                _ => None,
            })
            .collect();
        (!below.is_empty()).then(|| (key, trimmed(inner, &below)))
    });
    Value::Object(kept.collect())
}

fn not_found(resource: &str) -> Page {
    let text = format!("{resource} not found in config dump\n");
    Page::refused(StatusCode::NOT_FOUND, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump() -> Value {
        json!({"configs": [
            {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "version_info": "1", "dynamic_active_clusters": [
                {"version_info": "a", "cluster": {"@type": "t", "name": "one", "type": "EDS"}},
                {"version_info": "b", "cluster": {"@type": "t", "name": "two", "type": "EDS"}},
            ]},
            {"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": [{"name": "l"}]},
        ]})
    }

    fn asked(query: &str) -> Value {
        let selection = Selection::of(&Query::of(query))
            .map_err(|page| page.body)
            .unwrap();
        selection.apply(dump()).map_err(|page| page.body).unwrap()
    }

    #[test]
    fn a_resource_is_a_list_of_its_own_type() {
        assert_eq!(asked(""), dump());
        assert_eq!(
            asked("resource=dynamic_active_clusters&mask=cluster.name"),
            json!({"configs": [
                {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.DynamicCluster", "cluster": {"@type": "t", "name": "one"}},
                {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.DynamicCluster", "cluster": {"@type": "t", "name": "two"}},
            ]})
        );
    }

    #[test]
    fn names_are_matched_whole() {
        let named = asked("resource=dynamic_active_clusters&name_regex=t.o");
        assert_eq!(named["configs"].as_array().unwrap().len(), 1);
        let named = asked("name_regex=w");
        assert_eq!(named["configs"][0]["dynamic_active_clusters"], json!([]));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let refused = Selection::of(&Query::of("resource=bogus")).err().unwrap();
        assert_eq!(refused.status, StatusCode::NOT_FOUND);
        let eds = Selection::of(&Query::of("resource=dynamic_endpoint_configs"))
            .ok()
            .unwrap();
        assert_eq!(
            eds.apply(dump()).err().unwrap().status,
            StatusCode::NOT_FOUND
        );
        assert!(Selection::of(&Query::of("name_regex=(")).is_err());
    }
}
