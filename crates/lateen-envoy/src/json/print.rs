//! The printer. It walks descriptors itself, rather than through `prost-reflect`'s serializer, for two reasons: that one fails on
//! an unknown `Any`, and it prints maps in the order of a hash table.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, SerializeOptions,
    Value as Reflected,
};
use serde_json::{Map, Number, Value, json};

use crate::descriptor;

/// Prints the encoding of a message; in base64 if it does not decode or is unknown.
pub(super) fn message_bytes(full_name: &str, bytes: &[u8]) -> Value {
    decode(full_name, bytes).map_or_else(|| Value::String(BASE64.encode(bytes)), |m| message(&m))
}

/// Prints an `Any`. A message that has a JSON form of its own, or that is not known, stands under `value`.
pub(super) fn any(type_url: &str, bytes: &[u8]) -> Value {
    if type_url.is_empty() && bytes.is_empty() {
        return json!({});
    }
    let Some(inner) = decode(type_url, bytes) else {
        return json!({ "@type": type_url, "value": BASE64.encode(bytes) });
    };
    let mut object = Map::new();
    object.insert("@type".to_owned(), type_url.into());
    if is_well_known(inner.descriptor().full_name()) {
        object.insert("value".to_owned(), message(&inner));
    } else {
        fields(&inner, &mut object);
    }
    Value::Object(object)
}

fn decode(name_or_url: &str, bytes: &[u8]) -> Option<DynamicMessage> {
    DynamicMessage::decode(descriptor::find(name_or_url)?, bytes).ok()
}

fn message(message: &DynamicMessage) -> Value {
    let descriptor = message.descriptor();
    match descriptor.full_name() {
        "google.protobuf.Any" => {
            let url = message.get_field_by_name("type_url");
            let bytes = message.get_field_by_name("value");
            let url = url
                .as_deref()
                .and_then(Reflected::as_str)
                .unwrap_or_default();
            any(
                url,
                bytes
                    .as_deref()
                    .and_then(Reflected::as_bytes)
                    .map_or(&[], |b| b),
            )
        }
        "google.protobuf.Struct" | "google.protobuf.ListValue" => match message.fields().next() {
            Some((field, inner)) => field_value(&field, inner),
            None if descriptor.name() == "Struct" => json!({}),
            None => json!([]),
        },
        "google.protobuf.Value" => match message.fields().next() {
            Some((field, inner)) => field_value(&field, inner),
            None => Value::Null,
        },
        name if is_well_known(name) => well_known(message),
        _ => {
            let mut object = Map::new();
            fields(message, &mut object);
            Value::Object(object)
        }
    }
}

/// Whether the JSON form is something else than an object of the message's fields.
fn is_well_known(full_name: &str) -> bool {
    let Some(name) = full_name.strip_prefix("google.protobuf.") else {
        return false;
    };
    matches!(
        name,
        "Any" | "Duration" | "Timestamp" | "FieldMask" | "Struct" | "Value" | "ListValue" | "Empty"
    ) || is_wrapper(name)
}

fn is_wrapper(name: &str) -> bool {
    matches!(
        name,
        "BoolValue"
            | "BytesValue"
            | "DoubleValue"
            | "FloatValue"
            | "Int32Value"
            | "Int64Value"
            | "StringValue"
            | "UInt32Value"
            | "UInt64Value"
    )
}

/// Those whose form neither nests messages nor maps; `prost-reflect` knows their texts.
fn well_known(message: &DynamicMessage) -> Value {
    let options = SerializeOptions::new().use_proto_field_name(true);
    // A time or a duration out of protobuf's range has no JSON form; show its fields.
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .unwrap_or_else(|_| {
            let mut object = Map::new();
            fields(message, &mut object);
            Value::Object(object)
        })
}

fn fields(message: &DynamicMessage, object: &mut Map<String, Value>) {
    for (field, value) in message.fields() {
        object.insert(field.name().to_owned(), field_value(&field, value));
    }
}

fn field_value(field: &FieldDescriptor, value: &Reflected) -> Value {
    match value {
        Reflected::List(items) => items
            .iter()
            .map(|item| scalar(&field.kind(), item))
            .collect(),
        Reflected::Map(entries) => {
            let Kind::Message(entry) = field.kind() else {
                return Value::Null;
            };
            let kind = entry.map_entry_value_field().kind();
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(b.0));
            sorted
                .into_iter()
                .map(|(key, value)| (map_key(key), scalar(&kind, value)))
                .collect()
        }
        single => scalar(&field.kind(), single),
    }
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(v) => v.to_string(),
        MapKey::I32(v) => v.to_string(),
        MapKey::I64(v) => v.to_string(),
        MapKey::U32(v) => v.to_string(),
        MapKey::U64(v) => v.to_string(),
        MapKey::String(v) => v.clone(),
    }
}

fn scalar(kind: &Kind, value: &Reflected) -> Value {
    match value {
        Reflected::Bool(v) => Value::Bool(*v),
        Reflected::I32(v) => Value::from(*v),
        Reflected::U32(v) => Value::from(*v),
        // 64-bit integers are strings, since a double cannot hold them.
        Reflected::I64(v) => Value::String(v.to_string()),
        Reflected::U64(v) => Value::String(v.to_string()),
        // By way of the shortest decimal, so that a float's 0.1 does not print as 0.10000000149011612.
        Reflected::F32(v) => float(v.to_string().parse().unwrap_or(f64::from(*v))),
        Reflected::F64(v) => float(*v),
        Reflected::String(v) => Value::String(v.clone()),
        Reflected::Bytes(v) => Value::String(BASE64.encode(v)),
        Reflected::EnumNumber(number) => enumerator(kind, *number),
        Reflected::Message(inner) => message(inner),
        // A list or a map is not an item of either.
        Reflected::List(_) | Reflected::Map(_) => Value::Null,
    }
}

fn float(value: f64) -> Value {
    match Number::from_f64(value) {
        // Whole numbers print without a fraction, as protobuf's printers do.
        Some(_) if value.fract() == 0.0 && value.abs() < 9e15 => Value::from(value as i64),
        Some(number) => Value::Number(number),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

fn enumerator(kind: &Kind, number: i32) -> Value {
    let Kind::Enum(of) = kind else {
        return Value::from(number);
    };
    if of.full_name() == "google.protobuf.NullValue" {
        return Value::Null;
    }
    of.get_value(number).map_or_else(
        || Value::from(number),
        |v| Value::String(v.name().to_owned()),
    )
}
