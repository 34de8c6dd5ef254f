//! A YAML document as a tree with spans: what is decoded into types, kept as [`crate::resource::Origin`], and printed.
//!
//! Scalars keep their text; what a plain scalar *is* (a number, a truth value, null) is [`Scalar::resolve`], which
//! follows the YAML 1.1 rules of the library Kubernetes reads manifests with (`sigs.k8s.io/yaml`), not YAML 1.2.

use std::collections::BTreeMap;

use crate::span::Span;
use crate::value::{Double, Value};

/// A node and where it stands.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// From its first to its last byte.
    pub span: Span,
    /// What it holds.
    pub tree: Tree,
}

/// What a node holds.
#[derive(Clone, Debug, Default)]
pub enum Tree {
    /// Nothing was written.
    #[default]
    Empty,
    /// A scalar.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order written; its keys are unique.
    Map(Vec<Entry>),
}

/// One `key: value`.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key, as JSON would have it.
    pub key: Box<str>,
    /// Where the key stands.
    pub key_span: Span,
    /// The value.
    pub value: Node,
}

/// A scalar as written.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// The text, without quotes and escapes.
    pub text: Box<str>,
    /// Whether it may be something else than text.
    pub style: Style,
}

/// Whether a scalar's text alone decides what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Unquoted: may be a number, a truth value or null.
    Plain,
    /// Quoted, a block, or tagged `!!str`: always text.
    Text,
}

/// What a scalar is once YAML's rules are applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resolved<'a> {
    /// `null`, `~` or nothing.
    Null,
    /// `true`, `yes`, `on`, `y` and their opposites.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Another number.
    Float(f64),
    /// Text.
    Text(&'a str),
}

impl Scalar {
    /// Applies YAML's rules.
    pub fn resolve(&self) -> Resolved<'_> {
        match self.style {
            Style::Text => Resolved::Text(&self.text),
            Style::Plain => resolve_plain(&self.text),
        }
    }
}

impl Node {
    /// The value under `key`, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entry of `key`, if this is a map that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.tree {
            Tree::Map(entries) => entries.iter().find(|entry| &*entry.key == key),
            _ => None,
        }
    }

    /// The entries, empty unless this is a map.
    pub fn entries(&self) -> &[Entry] {
        match &self.tree {
            Tree::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The elements, empty unless this is a list.
    pub fn items(&self) -> &[Node] {
        match &self.tree {
            Tree::List(items) => items,
            _ => &[],
        }
    }

    /// The scalar's text, if it is text after YAML's rules.
    pub fn text(&self) -> Option<&str> {
        match &self.tree {
            Tree::Scalar(scalar) => match scalar.resolve() {
                Resolved::Text(text) => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// The scalar's text as written, whatever YAML's rules make of it; nothing if it is null.
    pub fn raw_text(&self) -> Option<&str> {
        match &self.tree {
            Tree::Scalar(scalar) if scalar.resolve() != Resolved::Null => Some(&scalar.text),
            _ => None,
        }
    }

    /// Whether it is null or nothing.
    pub fn is_null(&self) -> bool {
        match &self.tree {
            Tree::Empty => true,
            Tree::Scalar(scalar) => matches!(scalar.resolve(), Resolved::Null),
            _ => false,
        }
    }

    /// What kind of value it is, for messages: `a list`, `the number 5`.
    pub fn describe(&self) -> String {
        match &self.tree {
            Tree::Empty => "nothing".to_owned(),
            Tree::List(_) => "a list".to_owned(),
            Tree::Map(_) => "an object".to_owned(),
            Tree::Scalar(scalar) => match scalar.resolve() {
                Resolved::Null => "null".to_owned(),
                Resolved::Bool(value) => format!("the boolean {value}"),
                Resolved::Int(value) => format!("the number {value}"),
                Resolved::Float(value) => format!("the number {value}"),
                Resolved::Text(_) => "a string".to_owned(),
            },
        }
    }

    /// The same tree without spans.
    pub fn to_value(&self) -> Value {
        match &self.tree {
            Tree::Empty => Value::Null,
            Tree::Scalar(scalar) => match scalar.resolve() {
                Resolved::Null => Value::Null,
                Resolved::Bool(value) => Value::Bool(value),
                Resolved::Int(value) => i64::try_from(value)
                    .map_or(Value::Double(Double::new(value as f64)), Value::Int),
                Resolved::Float(value) => Value::Double(Double::new(value)),
                Resolved::Text(text) => Value::String(text.to_owned()),
            },
            Tree::List(items) => Value::List(items.iter().map(Node::to_value).collect()),
            Tree::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.to_string(), entry.value.to_value()))
                    .collect::<BTreeMap<_, _>>(),
            ),
        }
    }
}

fn resolve_plain(text: &str) -> Resolved<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Resolved::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Resolved::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Resolved::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Resolved::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Resolved::Float(f64::INFINITY);
        }
        "-.inf" | "-.Inf" | "-.INF" => return Resolved::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if !text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '.')) {
        return Resolved::Text(text);
    }
    number(text).unwrap_or(Resolved::Text(text))
}

/// Go's `strconv.ParseInt(text, 0, 64)` after underscores are dropped, then YAML 1.1's floats.
fn number(text: &str) -> Option<Resolved<'static>> {
    let compact: String = text.chars().filter(|c| *c != '_').collect();
    let (negative, digits) = match compact.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, compact.strip_prefix('+').unwrap_or(&compact)),
    };
    if let Some(magnitude) = integer(digits) {
        return Some(Resolved::Int(if negative { -magnitude } else { magnitude }));
    }
    if !is_yaml_float(digits) {
        return None;
    }
    compact
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
        .map(Resolved::Float)
}

/// The value of an unsigned literal that fits 64 bits: decimal, `0x`, `0o`, `0b`, or octal by a leading zero.
fn integer(digits: &str) -> Option<i128> {
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok().map(i128::from)
}

/// `[0-9]+(\.[0-9]*)?` or `\.[0-9]+`, then an optional exponent.
fn is_yaml_float(digits: &str) -> bool {
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], Some(&digits[at + 1..])),
        None => (digits, None),
    };
    let exponent_holds = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && exponent.bytes().all(|b| b.is_ascii_digit())
    });
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    exponent_holds
        && all_digits(whole)
        && all_digits(fraction)
        && (!whole.is_empty() || !fraction.is_empty())
}
