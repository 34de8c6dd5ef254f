//! Decoders of scalars and of the small values in `value`.

use std::time::Duration;

use base64::Engine as _;

use super::decode::{Cx, Decode};
use super::suggest;
use crate::diagnostic::codes;
use crate::tree::{Node, Resolved, Tree};
use crate::value::{Bytes, Double, IntOrString, StringMatch, Value};

fn resolved(node: &Node) -> Option<Resolved<'_>> {
    match &node.tree {
        Tree::Scalar(scalar) => Some(scalar.resolve()),
        _ => None,
    }
}

impl Decode for String {
    /// Keeps the text of an unquoted number or truth value, but says that Kubernetes would not.
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Tree::Scalar(scalar) = &node.tree else {
            cx.wrong_type(node, "a string");
            return None;
        };
        let what = match scalar.resolve() {
            Resolved::Text(text) => return Some(text.to_owned()),
            Resolved::Null => return Some(String::new()),
            Resolved::Bool(value) => format!("the boolean {value}"),
            Resolved::Int(_) | Resolved::Float(_) => "a number".to_owned(),
        };
        let text = &scalar.text;
        cx.error(
            node.span,
            codes::UNQUOTED,
            format!("expected a string, but YAML reads `{text}` without quotes as {what}"),
            Some(format!("write \"{text}\" with quotes")),
        );
        Some(text.to_string())
    }
}

impl Decode for bool {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if let Some(Resolved::Bool(value)) = resolved(node) {
            return Some(value);
        }
        let fix = match resolved(node) {
            Some(Resolved::Text(text @ ("true" | "false"))) => {
                Some(format!("write {text} without quotes"))
            }
            _ => None,
        };
        let message = format!("expected true or false, found {}", node.describe());
        cx.error(node.span, codes::WRONG_TYPE, message, fix);
        None
    }
}

/// Reads a whole number within `min..=max`.
fn integer(node: &Node, cx: &mut Cx<'_>, min: i128, max: i128) -> Option<i128> {
    let value = match resolved(node) {
        Some(Resolved::Int(value)) => value,
        // JSON does not tell 1.0 from 1.
        Some(Resolved::Float(value)) if value.fract() == 0.0 && value.abs() < 9.0e15 => {
            value as i128
        }
        Some(Resolved::Text(text)) if text.parse::<i128>().is_ok() => {
            let message = "expected a number, found a string".to_owned();
            let fix = format!("write {text} without quotes");
            cx.error(node.span, codes::WRONG_TYPE, message, Some(fix));
            return None;
        }
        _ => {
            cx.wrong_type(node, "a whole number");
            return None;
        }
    };
    if value < min || value > max {
        let message = format!("{value} is out of range: it has to be between {min} and {max}");
        cx.error(node.span, codes::OUT_OF_RANGE, message, None);
        return None;
    }
    Some(value)
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Decode for $ty {
            fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
                let value = integer(node, cx, <$ty>::MIN.into(), <$ty>::MAX.into())?;
                <$ty>::try_from(value).ok()
            }
        }
    )*};
}

integers!(u16, u32, u64, i32, i64);

impl Decode for Double {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match resolved(node) {
            Some(Resolved::Int(value)) => Some(Double::new(value as f64)),
            Some(Resolved::Float(value)) if value.is_finite() => Some(Double::new(value)),
            Some(Resolved::Text(text)) if text.ends_with('%') => {
                let fix = format!(
                    "write {} without the percent sign",
                    text.trim_end_matches('%')
                );
                let message = "expected a number, found a string".to_owned();
                cx.error(node.span, codes::WRONG_TYPE, message, Some(fix));
                None
            }
            _ => {
                cx.wrong_type(node, "a number");
                None
            }
        }
    }
}

impl Decode for Duration {
    /// Go's form (`1h30m`, `250ms`), which Istio's parser accepts.
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Some(text) = node.text() else {
            let fix = match resolved(node) {
                Some(Resolved::Int(value)) => Some(format!("write {value}s (or {value}ms)")),
                _ => None,
            };
            let message = format!("expected a duration such as 5s, found {}", node.describe());
            cx.error(node.span, codes::BAD_DURATION, message, fix);
            return None;
        };
        match parse_duration(text) {
            Ok(duration) => Some(duration),
            Err(reason) => {
                let fix = "write a number and a unit: 250ms, 5s, 1m, 1h30m".to_owned();
                let message = format!("`{text}` is not a duration: {reason}");
                cx.error(node.span, codes::BAD_DURATION, message, Some(fix));
                None
            }
        }
    }
}

/// Parses Go's duration text; nothing negative, at most about 292 years as in Go.
///
/// # Errors
/// Says in a few words what is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if unsigned.starts_with('-') {
        return Err("it is negative");
    }
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return Err("it is empty");
    }
    let mut rest = unsigned;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (nanos, after) = duration_part(rest)?;
        total = total
            .checked_add(nanos)
            .filter(|t| *t <= i64::MAX as u128)
            .ok_or("it is too long")?;
        rest = after;
    }
    u64::try_from(total)
        .map(Duration::from_nanos)
        .map_err(|_| "it is too long")
}

/// One `12.5s`: its nanoseconds, and what follows.
fn duration_part(text: &str) -> Result<(u128, &str), &'static str> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or("the unit is missing")?;
    let (number, rest) = text.split_at(end);
    let unit_end = rest
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit_end);
    let unit: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err("its unit is none of ns, us, ms, s, m, h"),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err("its number is malformed");
    }
    // 18 digits hold every duration Go accepts, and keep the products below within u128.
    if whole.len() > 18 {
        return Err("it is too long");
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| "its number is malformed")?
    };
    let fraction = &fraction[..fraction.len().min(18)];
    let scale = 10u128.pow(fraction.len() as u32);
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().map_err(|_| "its number is malformed")?
    };
    Ok((whole * unit + part * unit / scale, after))
}

impl Decode for Bytes {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = String::decode(node, cx)?;
        let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        match base64::engine::general_purpose::STANDARD.decode(compact) {
            Ok(bytes) => Some(Bytes(bytes)),
            Err(_) => {
                let fix =
                    "encode it with base64; a Secret can also hold plain text in `stringData`";
                let message = "expected base64".to_owned();
                cx.error(node.span, codes::WRONG_TYPE, message, Some(fix.to_owned()));
                None
            }
        }
    }
}

impl Decode for Value {
    fn decode(node: &Node, _: &mut Cx<'_>) -> Option<Self> {
        Some(node.to_value())
    }
}

impl Decode for IntOrString {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match resolved(node) {
            Some(Resolved::Text(text)) => Some(IntOrString::String(text.to_owned())),
            Some(Resolved::Int(_)) => i32::decode(node, cx).map(IntOrString::Int),
            _ => {
                cx.wrong_type(node, "a number or a string");
                None
            }
        }
    }
}

const STRING_MATCH_FIELDS: &[&str] = &["exact", "prefix", "regex"];

impl Decode for StringMatch {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Tree::Map(entries) = &node.tree else {
            suggest::not_a_string_match(node, cx);
            return None;
        };
        let mut found = None;
        for entry in entries {
            let make: fn(String) -> StringMatch = match &*entry.key {
                "exact" => StringMatch::Exact,
                "prefix" => StringMatch::Prefix,
                "regex" => StringMatch::Regex,
                _ => {
                    suggest::unknown_member(entry, "StringMatch", STRING_MATCH_FIELDS, cx);
                    continue;
                }
            };
            let value = cx.in_key(&entry.key, |cx| {
                if entry.value.is_null() {
                    None
                } else {
                    String::decode(&entry.value, cx)
                }
            });
            if let Some(value) = value
                && found.replace(make(value)).is_some()
            {
                let message = "only one of exact, prefix and regex may be set".to_owned();
                cx.error(entry.key_span, codes::ONE_OF, message, None);
            }
        }
        Some(found.unwrap_or_default())
    }
}
