//! Resources from JSON, for a proxy without a control plane: tests, benchmarks, files.
//!
//! The form is that of Envoy's file-based xDS: a list of messages, each with its `@type`.

use lateen_envoy::json::{self, JsonError};
use lateen_envoy::{Resource, ResourceSet, TypeUrl};
use serde_json::Value;

/// Why resources cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StaticError {
    /// A message is not of its type.
    #[error("resource {index} is not valid")]
    Message {
        /// Its place in the list.
        index: usize,
        /// What is wrong.
        source: JsonError,
    },
    /// A message is of a type that is not a resource, or has no name.
    #[error("resource {index} has no known type or no name")]
    Nameless {
        /// Its place in the list.
        index: usize,
    },
}

/// Reads resources; each is an object with `@type`.
///
/// # Errors
/// One of them is no resource.
pub fn resources_from_json(list: &[Value]) -> Result<ResourceSet, StaticError> {
    let mut set = ResourceSet::default();
    for (index, value) in list.iter().enumerate() {
        let named = |key: &str| value.get(key).and_then(Value::as_str);
        let ty = named("@type").and_then(TypeUrl::parse);
        let name = named("name")
            .or_else(|| named("cluster_name"))
            .or_else(|| named("clusterName"));
        let (Some(ty), Some(name)) = (ty, name) else {
            return Err(StaticError::Nameless { index });
        };
        let any = json::any_from_value(value.clone())
            .map_err(|source| StaticError::Message { index, source })?;
        set.insert(ty, Resource::from_any(name, any));
    }
    Ok(set)
}
