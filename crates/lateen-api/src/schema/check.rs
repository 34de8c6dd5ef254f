//! The rules that Istio's CustomResourceDefinitions state for fields: required, lengths, ranges, forms, exclusions.
//!
//! They stand in the field tables, behind the field they are about, and are checked while decoding, on the tree: many
//! of them ask whether something was written, which the typed value of a plain scalar no longer knows.
//!
//! Source: Istio 1.30 `manifests/charts/base/files/crd-all.gen.yaml` (OpenAPI schema and CEL rules).

use std::time::Duration;

use super::decode::Cx;
use super::parse_duration;
use crate::diagnostic::codes;
use crate::tree::{Node, Resolved, Tree};

/// A rule for one field.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// It has to be written.
    Required,
    /// Text has to have at least one character.
    NotEmpty,
    /// Text has at most so many characters.
    MaxLen(usize),
    /// A list has so many entries: at least, at most.
    Items(usize, usize),
    /// A map has so many entries: at least, at most.
    Properties(usize, usize),
    /// A number is within these, both included.
    Range(i64, i64),
    /// Text has a form; the function says what is wrong.
    Text(fn(&str) -> Option<&'static str>),
    /// Each key has a form; the function says what is wrong.
    Keys(fn(&str) -> Option<&'static str>),
    /// No two entries of a list have the same value of this field.
    UniqueBy(&'static str),
    /// A rule about an object that holds only here; as [`ObjectCheck::Custom`].
    Object(fn(&Node) -> Option<(&'static str, &'static str)>),
    /// A rule for every entry of a list or map.
    Each(&'static Check),
}

/// A rule for several fields of one object.
#[derive(Clone, Copy, Debug)]
pub enum ObjectCheck {
    /// At most one of these may be written.
    AtMostOne(&'static [&'static str]),
    /// Exactly one of these has to be written.
    ExactlyOne(&'static [&'static str]),
    /// Anything else: given the object, the field that is wrong and why.
    Custom(fn(&Node) -> Option<(&'static str, &'static str)>),
}

/// It has to be written.
pub const REQUIRED: Check = Check::Required;
/// Text that is not empty.
pub const NOT_EMPTY: Check = Check::NotEmpty;
/// Each text of a list or map is not empty.
pub const EACH_NOT_EMPTY: Check = Check::Each(&Check::NotEmpty);
/// A duration of at least a millisecond.
pub const MILLISECOND: Check = Check::Text(millisecond);
/// A TCP or UDP port.
pub const PORT: Check = Check::Range(1, 65535);
/// Each value of a list or map is a port.
pub const EACH_PORT: Check = Check::Each(&PORT);
/// A percentage.
pub const PERCENT: Check = Check::Range(0, 100);
/// At least zero.
pub const NOT_NEGATIVE: Check = Check::Range(0, i64::MAX);
/// Keys of a label selector.
pub const LABEL_KEYS: Check = Check::Keys(label_key);
/// Values of a label selector.
pub const LABEL_VALUES: Check = Check::Each(&Check::Text(label_value));
/// Values of a label selector: their length.
pub const LABEL_LENGTHS: Check = Check::Each(&Check::MaxLen(63));

/// Text of at most `len` characters.
pub const fn max_len(len: usize) -> Check {
    Check::MaxLen(len)
}

/// A list or map of at most `count` entries.
pub const fn max_items(count: usize) -> Check {
    Check::Items(0, count)
}

/// Applies the rules of a field whose value is `value`.
pub(crate) fn field(checks: &[Check], value: &Node, cx: &mut Cx<'_>) {
    for check in checks {
        if let Some((code, message)) = broken(check, value) {
            cx.error(value.span, code, message, None);
        }
        match check {
            Check::Each(each) => entries(each, value, cx),
            Check::Keys(form) => keys(*form, value, cx),
            Check::UniqueBy(name) => unique(name, value, cx),
            Check::Object(rule) => object(&[ObjectCheck::Custom(*rule)], value, cx),
            _ => {}
        }
    }
}

fn broken(check: &Check, value: &Node) -> Option<(&'static str, String)> {
    match check {
        Check::NotEmpty if value.text() == Some("") => {
            Some((codes::REQUIRED, "must not be empty".to_owned()))
        }
        Check::MaxLen(max) if value.text().is_some_and(|text| text.chars().count() > *max) => {
            Some((codes::BAD_FORM, format!("has more than {max} characters")))
        }
        Check::Text(form) => {
            let why = form(value.text()?)?;
            Some((codes::BAD_FORM, why.to_owned()))
        }
        Check::Items(min, max) | Check::Properties(min, max) => {
            let count = match &value.tree {
                Tree::List(items) => items.len(),
                Tree::Map(entries) => entries.len(),
                _ => return None,
            };
            if count < *min {
                Some((codes::REQUIRED, format!("needs at least {min} entries")))
            } else if count > *max {
                Some((
                    codes::BAD_FORM,
                    format!("has {count} entries; at most {max} are allowed"),
                ))
            } else {
                None
            }
        }
        Check::Range(min, max) => {
            let (min_f, max_f) = (*min as f64, *max as f64);
            let number = number(value)?;
            (number < min_f || number > max_f)
                .then(|| (codes::OUT_OF_RANGE, range_text(*min, *max)))
        }
        _ => None,
    }
}

fn range_text(min: i64, max: i64) -> String {
    match (min, max) {
        (1, 65535) => "a port has to be between 1 and 65535".to_owned(),
        (min, i64::MAX) => format!("has to be at least {min}"),
        (min, max) => format!("has to be between {min} and {max}"),
    }
}

fn number(value: &Node) -> Option<f64> {
    match &value.tree {
        Tree::Scalar(scalar) => match scalar.resolve() {
            Resolved::Int(number) => Some(number as f64),
            Resolved::Float(number) => Some(number),
            _ => None,
        },
        _ => None,
    }
}

fn entries(check: &Check, value: &Node, cx: &mut Cx<'_>) {
    match &value.tree {
        Tree::List(items) => {
            for (index, item) in items.iter().enumerate() {
                cx.in_index(index, |cx| field(&[*check], item, cx));
            }
        }
        Tree::Map(entries) => {
            for entry in entries {
                cx.in_key(&entry.key, |cx| field(&[*check], &entry.value, cx));
            }
        }
        Tree::Empty | Tree::Scalar(_) => {}
    }
}

fn keys(form: fn(&str) -> Option<&'static str>, value: &Node, cx: &mut Cx<'_>) {
    for entry in value.entries() {
        if let Some(why) = form(&entry.key) {
            cx.in_key(&entry.key, |cx| {
                cx.error(entry.key_span, codes::BAD_FORM, why.to_owned(), None);
            });
        }
    }
}

fn unique(name: &str, value: &Node, cx: &mut Cx<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, item) in value.items().iter().enumerate() {
        let Some(node) = item.get(name) else { continue };
        let Tree::Scalar(scalar) = &node.tree else {
            continue;
        };
        if seen.contains(&&*scalar.text) {
            let message = format!("the {name} `{}` is used twice", scalar.text);
            cx.in_index(index, |cx| {
                cx.in_key(name, |cx| {
                    cx.error(node.span, codes::DUPLICATE, message, None)
                });
            });
        }
        seen.push(&scalar.text);
    }
}

/// Applies the rules of an object.
pub(crate) fn object(checks: &[ObjectCheck], node: &Node, cx: &mut Cx<'_>) {
    for check in checks {
        match check {
            ObjectCheck::AtMostOne(names) => at_most_one(names, node, cx),
            ObjectCheck::ExactlyOne(names) => {
                at_most_one(names, node, cx);
                if !names.iter().any(|name| is_set(node, name)) {
                    let message = format!("one of {} has to be set", names.join(", "));
                    cx.error(node.span, codes::REQUIRED, message, None);
                }
            }
            ObjectCheck::Custom(rule) => {
                if let Some((name, why)) = rule(node) {
                    conflict(node, name, why.to_owned(), cx);
                }
            }
        }
    }
}

fn at_most_one(names: &[&str], node: &Node, cx: &mut Cx<'_>) {
    let set: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| is_set(node, name))
        .collect();
    if let [_, second, ..] = set[..] {
        let message = format!("only one of {} may be set", super::suggest::list(&set));
        conflict(node, second, message, cx);
    }
}

fn conflict(node: &Node, name: &str, message: String, cx: &mut Cx<'_>) {
    match node.entry(name) {
        Some(entry) => cx.in_key(name, |cx| {
            cx.error(entry.key_span, codes::CONFLICT, message, None)
        }),
        None => cx.error(node.span, codes::CONFLICT, message, None),
    }
}

/// Whether `name` is written, and not as null.
pub(crate) fn is_set(node: &Node, name: &str) -> bool {
    node.get(name).is_some_and(|value| !value.is_null())
}

fn millisecond(text: &str) -> Option<&'static str> {
    // What is no duration at all is reported by its decoder.
    let duration = parse_duration(text).ok()?;
    (duration < Duration::from_millis(1)).then_some("must be at least 1ms")
}

fn label_key(key: &str) -> Option<&'static str> {
    match key {
        "" => Some("a label's key must not be empty"),
        key if key.contains('*') => Some("a selector cannot match by wildcard"),
        _ => None,
    }
}

fn label_value(value: &str) -> Option<&'static str> {
    value
        .contains('*')
        .then_some("a selector cannot match by wildcard")
}

/// `pattern` of a target's group.
pub(crate) fn group(text: &str) -> Option<&'static str> {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    (!text.is_empty() && !text.split('.').all(label)).then_some("is not the name of an API group")
}

/// `pattern` of a target's kind.
pub(crate) fn kind(text: &str) -> Option<&'static str> {
    let holds = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (!text.is_empty() && !holds).then_some("is not the name of a kind")
}

/// A target in another namespace.
pub(crate) fn no_namespace(text: &str) -> Option<&'static str> {
    (!text.is_empty()).then_some("a target has to be in the policy's own namespace; leave this out")
}

/// `pattern` of a header's name.
pub(crate) fn header_name(text: &str) -> Option<&'static str> {
    let holds = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    (!holds || text.is_empty()).then_some("is not a header name: letters, digits, `-` and `_`")
}

/// An empty string or 64 hexadecimal digits.
pub(crate) fn sha256(text: &str) -> Option<&'static str> {
    let hex = text
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (!text.is_empty() && (text.len() != 64 || !hex))
        .then_some("is not a SHA-256 in 64 lower-case hexadecimal digits")
}

/// The scheme of a URL, and whether what follows can be one.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once("://")?;
    let scheme_holds = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let rest_holds =
        !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || c.is_control());
    (scheme_holds && rest_holds).then_some(scheme)
}

/// `http://` or `https://`.
pub(crate) fn http_url(text: &str) -> Option<&'static str> {
    let holds = matches!(scheme(text), Some("http" | "https"));
    (!holds).then_some("the URL must start with http:// or https://")
}

/// A Wasm module's URL; without a scheme it is an OCI image.
pub(crate) fn wasm_url(text: &str) -> Option<&'static str> {
    let holds = match text.split_once("://") {
        Some(_) => matches!(scheme(text), Some("http" | "https" | "file" | "oci")),
        None => is_image(text),
    };
    (!holds).then_some("the URL must start with oci://, https://, http:// or file://")
}

/// Whether `text` can follow `http://`: a host, perhaps a port, a path.
fn is_image(text: &str) -> bool {
    let host = text.split('/').next().unwrap_or_default();
    let host_holds = !host.is_empty()
        && !host.starts_with(':')
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".-_:[]@".contains(&b));
    host_holds && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#')
}

/// A workload's address that is a Unix domain socket.
pub(crate) fn uds_address(text: &str) -> Option<&'static str> {
    let path = text.strip_prefix("unix://")?;
    if !path.starts_with(['/', '@']) {
        return Some(
            "a Unix domain socket needs an absolute path, or an abstract name that starts with @",
        );
    }
    path.ends_with('/')
        .then_some("a Unix domain socket cannot be a directory")
}

/// The name of a workload's port.
pub(crate) fn port_name(text: &str) -> Option<&'static str> {
    let holds = text.len() < 63
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (!holds).then_some("is not a port name: letters, digits and `-`, fewer than 63")
}

/// The scheme of a probe.
pub(crate) fn probe_scheme(text: &str) -> Option<&'static str> {
    (!matches!(text, "" | "HTTP" | "HTTPS")).then_some("has to be HTTP or HTTPS")
}

/// A ServiceEntry's host.
pub(crate) fn not_bare_wildcard(text: &str) -> Option<&'static str> {
    (text == "*").then_some("a host cannot be a bare wildcard")
}
