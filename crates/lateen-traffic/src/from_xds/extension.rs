//! Typed configuration: what is inside an `Any`, be it the message itself or a `TypedStruct` with its JSON.

use lateen_envoy::istio::{udpa, xds};
use lateen_envoy::pb::google::protobuf::Any;
use lateen_envoy::{json, unpack};
use prost::{Message, Name};

use super::XdsError;
use crate::filter::RawConfig;

/// The full name of the message inside.
pub(super) fn type_name(any: &Any) -> Result<String, XdsError> {
    let bare = |url: &str| url.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(match typed_struct(any)? {
        Some((inner, _)) => bare(&inner),
        None => bare(&any.type_url),
    })
}

/// The message inside.
pub(super) fn message<M: Message + Name + Default>(any: &Any) -> Result<M, XdsError> {
    let Some((type_url, fields)) = typed_struct(any)? else {
        return unpack(any).map_err(|error| XdsError::from_error(&error));
    };
    if type_url.rsplit('/').next() != Some(M::full_name().as_str()) {
        return Err(XdsError::new(format!(
            "expected {}, found {type_url}",
            M::full_name()
        )));
    }
    json::from_value(fields).map_err(|error| XdsError::from_error(&error))
}

/// The message as it is, for who reads it later.
pub(super) fn raw(any: &Any) -> RawConfig {
    RawConfig {
        type_url: any.type_url.as_str().into(),
        value: any.value.clone().into(),
    }
}

/// The type URL and the JSON in a `TypedStruct`, if it is one.
fn typed_struct(any: &Any) -> Result<Option<(String, serde_json::Value)>, XdsError> {
    // Asked of every message, and nearly all say no: without putting a name together.
    if !any.type_url.ends_with(udpa::TypedStruct::NAME) {
        return Ok(None);
    }
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    let failed = |error: &dyn std::error::Error| XdsError::from_error(error);
    if name == udpa::TypedStruct::full_name() {
        let inner: udpa::TypedStruct = unpack(any).map_err(|error| failed(&error))?;
        return Ok(Some((
            inner.type_url,
            inner
                .value
                .map_or_else(empty, |value| json::to_value(&value)),
        )));
    }
    if name == xds::TypedStruct::full_name() {
        let inner: xds::TypedStruct = unpack(any).map_err(|error| failed(&error))?;
        return Ok(Some((
            inner.type_url,
            inner
                .value
                .map_or_else(empty, |value| json::to_value(&value)),
        )));
    }
    Ok(None)
}

fn empty() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}
