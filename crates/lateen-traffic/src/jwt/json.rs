//! JSON as tokens and key sets may hold it: an object, no name twice, no deeper than anything needs to be.
//!
//! A name that occurs twice means one thing to who reads the first and another to who reads the last, and a token is read by
//! the proxy and by the workload; such a token is refused (RFC 7519 section 4, RFC 8725 section 2.4).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::value::Value;

/// Levels of objects and lists. Claims nest two or three; Envoy stops at 100.
const MAX_DEPTH: usize = 64;

/// The object in a text.
pub(super) fn object(text: &[u8]) -> Option<Value> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Strict { depth: 0 }.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    matches!(value, Value::Struct(_)).then_some(value)
}

/// A value as JSON, with names in their order.
pub(super) fn print(value: &Value) -> String {
    to_json(value).to_string()
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => json_number(*number),
        Value::String(text) => (**text).into(),
        Value::List(list) => list.iter().map(to_json).collect(),
        Value::Struct(fields) => fields
            .iter()
            .map(|(name, value)| (name.to_string(), to_json(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

/// Whole numbers without a fraction, as protobuf's JSON prints them.
#[expect(
    clippy::cast_possible_truncation,
    reason = "only whole numbers well within the range are cast"
)]
fn json_number(number: f64) -> serde_json::Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        return (number as i64).into();
    }
    number.into()
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom("too deep"));
        }
        Ok(Self {
            depth: self.depth + 1,
        })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "claims are doubles, as in Envoy"
    )]
    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "claims are doubles, as in Envoy"
    )]
    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut out = Vec::new();
        while let Some(value) = list.next_element_seed(inner)? {
            out.push(value);
        }
        Ok(Value::List(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut out = BTreeMap::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(inner)?;
            if out.insert(Arc::from(name.as_str()), value).is_some() {
                return Err(A::Error::custom(format_args!("`{name}` twice")));
            }
        }
        Ok(Value::Struct(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_occurs_twice_is_refused_at_any_depth() {
        assert!(object(br#"{"a": 1, "b": 2}"#).is_some());
        assert!(object(br#"{"a": 1, "a": 1}"#).is_none());
        assert!(object(br#"{"a": 1, "\u0061": 2}"#).is_none());
        assert!(object(br#"{"a": [{"b": {"c": 1, "c": 2}}]}"#).is_none());
    }

    #[test]
    fn only_one_whole_object_is_one() {
        for text in [
            "",
            "[]",
            "1",
            "null",
            "{",
            "{} {}",
            "{}x",
            "{'a': 1}",
            "{\"a\": 1,}",
            "{\"a\": NaN}",
        ] {
            assert!(object(text.as_bytes()).is_none(), "{text}");
        }
        assert!(object(b" {} \n").is_some());
        assert!(object(b"{\"a\": \"\xff\"}").is_none());
    }

    #[test]
    fn what_nests_too_deep_is_refused() {
        let nested = |levels: usize| {
            let text = format!("{{\"a\": {}{}}}", "[".repeat(levels), "]".repeat(levels));
            object(text.as_bytes()).is_some()
        };
        assert!(nested(MAX_DEPTH - 1));
        assert!(!nested(MAX_DEPTH));
        assert!(!nested(100_000));
    }

    #[test]
    fn values_print_as_protobuf_prints_them() {
        let value = object(br#"{"b": [1, 1.5, -2, "x", null, true], "a": {"c": {}}}"#).unwrap();
        assert_eq!(
            print(&value),
            r#"{"a":{"c":{}},"b":[1,1.5,-2,"x",null,true]}"#
        );
    }
}
