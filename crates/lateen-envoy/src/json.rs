//! Canonical protobuf JSON of any message, with the field names of the `.proto` files, as Envoy's `/config_dump` prints it.
//!
//! Printing never fails: an [`Any`] whose type is unknown, or whose bytes do not decode, is printed as its type URL and its bytes in
//! base64. Parsing is strict: an unknown field, type or enum name is an error, because a typo must not become a default.
//!
//! Source: <https://protobuf.dev/programming-guides/json/>. Output is deterministic: fields by number, map keys sorted.

use prost::{Message, Name};
use prost_reflect::{DeserializeOptions, DynamicMessage};
use serde_json::Value;

use crate::pb::google::protobuf::Any;
use crate::{canonical, descriptor};

mod print;

/// Prints a message. Fields with default values are left out.
pub fn to_value<M: Message + Name>(message: &M) -> Value {
    print::message_bytes(&M::full_name(), &message.encode_to_vec())
}

/// Prints what an [`Any`] holds, with its `@type`.
pub fn any_to_value(any: &Any) -> Value {
    print::any(&any.type_url, &any.value)
}

/// Reads a message. Both the names of the `.proto` file and their lowerCamelCase forms are accepted.
///
/// # Errors
/// The JSON does not fit the message: an unknown field, a wrong type, an unknown enum name, an `Any` of an unknown type.
pub fn from_value<M: Message + Name + Default>(value: Value) -> Result<M, JsonError> {
    let bytes = encode(&M::full_name(), value)?;
    M::decode(bytes.as_slice()).map_err(|source| JsonError::Decode {
        message: M::full_name(),
        source,
    })
}

/// Reads an object with an `@type` into an [`Any`].
///
/// # Errors
/// As for [`from_value`], and if `@type` is missing or names an unknown type.
pub fn any_from_value(value: Value) -> Result<Any, JsonError> {
    let type_url = value
        .get("@type")
        .and_then(Value::as_str)
        .ok_or(JsonError::NoType)?
        .to_owned();
    find(&type_url)?;
    let any = encode(&Any::full_name(), value)?;
    let any = Any::decode(any.as_slice()).map_err(|source| JsonError::Decode {
        message: type_url,
        source,
    })?;
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    Ok(Any {
        value: canonical::canonical(name, any.value),
        type_url: any.type_url,
    })
}

fn encode(full_name: &str, value: Value) -> Result<Vec<u8>, JsonError> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(find(full_name)?, value, &options)
        .map(|message| message.encode_to_vec())
        .map_err(|source| JsonError::Shape {
            message: full_name.to_owned(),
            source,
        })
}

fn find(name_or_url: &str) -> Result<prost_reflect::MessageDescriptor, JsonError> {
    descriptor::find(name_or_url).ok_or_else(|| JsonError::UnknownType {
        type_url: name_or_url.to_owned(),
    })
}

/// Why JSON could not be read as a message.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The object has no `@type` although one is needed to know the message.
    #[error("the object has no `@type`")]
    NoType,
    /// No descriptor is known for the type.
    #[error("unknown message type `{type_url}`")]
    UnknownType {
        /// The type, as written.
        type_url: String,
    },
    /// A field is unknown or has the wrong form.
    #[error("the JSON does not fit {message}")]
    Shape {
        /// The message it was read as.
        message: String,
        /// Which field, and what is wrong with it.
        source: serde_json::Error,
    },
    /// The generated type and the descriptor disagree.
    #[error("cannot decode {message}")]
    Decode {
        /// The message it was read as.
        message: String,
        /// What is wrong with the bytes.
        source: prost::DecodeError,
    },
}

#[cfg(test)]
mod tests;
