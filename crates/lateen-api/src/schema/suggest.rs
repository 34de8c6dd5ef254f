//! What was probably meant.
use super::decode::Cx;
use crate::tree::{Entry, Node};

pub(crate) fn not_an_object(node: &Node, cx: &mut Cx<'_>, _name: &str) {
    cx.wrong_type(node, "an object");
}
pub(crate) fn not_a_list(node: &Node, cx: &mut Cx<'_>) {
    cx.wrong_type(node, "a list");
}
pub(crate) fn not_a_string_match(node: &Node, cx: &mut Cx<'_>) {
    cx.wrong_type(node, "an object");
}
pub(crate) fn unknown_member(
    entry: &Entry,
    _other: &str,
    _name: &str,
    _known: &[&str],
    cx: &mut Cx<'_>,
) {
    cx.wrong_type(&entry.value, "a known field");
}
pub(crate) fn field(_key: &str, _object: &str, _known: &[&str], _path: &str) -> Option<String> {
    None
}
pub(crate) fn nearest<'a>(_text: &str, _names: &[&'a str]) -> Option<&'a str> {
    None
}
pub(crate) fn list(names: &[&str]) -> String {
    names.join(", ")
}
