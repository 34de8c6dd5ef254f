//! From trees to types: every problem becomes a diagnostic with a path and a span, and the rest is still decoded.
//!
//! A decoder returns `None` when it could not make a value; it has then reported why. What the caller does with the
//! object is decided by the severity of what was reported, not here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::check::{self, Check, ObjectCheck};
use super::suggest;
use crate::diagnostic::{Diagnostic, Severity, codes};
use crate::meta::ResourceRef;
use crate::path;
use crate::span::{FileSpan, Span};
use crate::tree::{Entry, Node, Tree};

/// More findings than this in one object help nobody; the rest is dropped.
const MAX_DIAGNOSTICS: usize = 100;

/// What every object has at its root beside its body; read elsewhere.
const ENVELOPE: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Something that can be read from a tree.
pub trait Decode: Sized {
    /// Reads `node`, or reports to `cx` why it cannot be read.
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self>;
}

/// A struct declared by `object!`.
pub trait Object: Default + 'static {
    /// Its Rust name.
    const NAME: &'static str;
    /// Its fields.
    const FIELDS: &'static [Field<Self>];
    /// Rules about several fields.
    const CHECKS: &'static [ObjectCheck];
}

/// One field of an [`Object`].
#[derive(Clone, Copy)]
pub struct Field<T: 'static> {
    /// The JSON name.
    pub name: &'static str,
    /// Rules about its value.
    pub checks: &'static [Check],
    /// Reads the field into the object.
    pub decode: fn(&Node, &mut Cx<'_>, &mut T),
}

impl<T> std::fmt::Debug for Field<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What happens to a field that its object does not know; see `docs/decisions/0002-unknown-fields.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownFields {
    /// An error: the object carries policy, and a policy with a lost field is not the policy that was written.
    Refuse,
    /// A warning: the field is ignored.
    Ignore,
}

/// Where decoding is, and what it has found.
#[derive(Debug)]
pub struct Cx<'a> {
    file: &'a Arc<str>,
    resource: Option<&'a ResourceRef>,
    unknown: UnknownFields,
    path: String,
    found: Vec<Diagnostic>,
}

impl<'a> Cx<'a> {
    /// Starts at the path `at` of an object in `file`.
    pub fn new(
        file: &'a Arc<str>,
        resource: Option<&'a ResourceRef>,
        unknown: UnknownFields,
        at: &str,
    ) -> Self {
        Self {
            file,
            resource,
            unknown,
            path: at.to_owned(),
            found: Vec::new(),
        }
    }

    /// What was found.
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.found
    }

    /// The path of the node being decoded.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Runs `inner` with `.key` appended to the path.
    pub fn in_key<R>(&mut self, key: &str, inner: impl FnOnce(&mut Self) -> R) -> R {
        let len = self.path.len();
        path::push_key(&mut self.path, key);
        let result = inner(self);
        self.path.truncate(len);
        result
    }

    /// Runs `inner` with `[index]` appended to the path.
    pub fn in_index<R>(&mut self, index: usize, inner: impl FnOnce(&mut Self) -> R) -> R {
        let len = self.path.len();
        path::push_index(&mut self.path, index);
        let result = inner(self);
        self.path.truncate(len);
        result
    }

    /// A number that both its type and a rule refuse is told in the words of the rule, which are narrower. Looks at what was found since
    /// there were `before`.
    fn say_ranges_once(&mut self, before: usize) {
        let mut at = before;
        while let Some((first, later)) = self.found.get(at..).and_then(<[_]>::split_first) {
            let again =
                |other: &Diagnostic| other.code == codes::OUT_OF_RANGE && other.span == first.span;
            if first.code == codes::OUT_OF_RANGE && later.iter().any(again) {
                self.found.remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Reports at the current path. There is always room for an error: it is what an object is refused for, and must not be lost among
    /// warnings.
    pub fn report(&mut self, span: Span, diagnostic: Diagnostic) {
        if self.found.len() >= MAX_DIAGNOSTICS {
            let warning = self.found.iter().rposition(|found| !found.is_error());
            match warning {
                Some(warning) if diagnostic.is_error() => drop(self.found.remove(warning)),
                _ => return,
            }
        }
        let mut diagnostic = diagnostic
            .at(&*self.path)
            .spanned(Some(FileSpan::new(Arc::clone(self.file), span)));
        diagnostic.resource = self.resource.cloned();
        self.found.push(diagnostic);
    }

    /// Reports an error that makes the object unusable.
    pub fn error(&mut self, span: Span, code: &'static str, message: String, fix: Option<String>) {
        let mut diagnostic =
            Diagnostic::new(code, Severity::Error, message).effect(codes::EFFECT_REFUSED);
        diagnostic.fix = fix;
        self.report(span, diagnostic);
    }

    /// Reports that `node` is not what `expected` says.
    pub fn wrong_type(&mut self, node: &Node, expected: &str) {
        let message = format!("expected {expected}, found {}", node.describe());
        self.error(node.span, codes::WRONG_TYPE, message, None);
    }
}

/// Reads a declared object: each field by its decoder, the unknown ones reported.
pub fn object<T: Object>(node: &Node, cx: &mut Cx<'_>) -> Option<T> {
    let Tree::Map(entries) = &node.tree else {
        if node.is_null() {
            return Some(T::default());
        }
        suggest::not_an_object(node, cx, T::NAME);
        return None;
    };
    let mut object = T::default();
    for entry in entries {
        match T::FIELDS.iter().find(|field| field.name == &*entry.key) {
            // Null is as if the field were absent, as in Kubernetes.
            Some(_) if entry.value.is_null() => {}
            Some(field) => {
                cx.in_key(field.name, |cx| {
                    let before = cx.found.len();
                    (field.decode)(&entry.value, cx, &mut object);
                    check::field(field.checks, &entry.value, cx);
                    cx.say_ranges_once(before);
                });
            }
            None if cx.path.is_empty() && ENVELOPE.contains(&&*entry.key) => {}
            None => unknown_field::<T>(entry, cx),
        }
    }
    for field in T::FIELDS.iter().filter(|field| is_required(field.checks)) {
        if !check::is_set(node, field.name) {
            let message = format!("`{}` is required", field.name);
            cx.in_key(field.name, |cx| {
                cx.error(node.span, codes::REQUIRED, message, None)
            });
        }
    }
    check::object(T::CHECKS, node, cx);
    Some(object)
}

fn is_required(checks: &[Check]) -> bool {
    checks.iter().any(|check| matches!(check, Check::Required))
}

fn unknown_field<T: Object>(entry: &Entry, cx: &mut Cx<'_>) {
    let known: Vec<&str> = T::FIELDS.iter().map(|field| field.name).collect();
    let unknown = cx.unknown;
    let fix = suggest::field(&entry.key, T::NAME, &known);
    let message = format!("unknown field `{}`", entry.key);
    cx.in_key(&entry.key, |cx| {
        let mut diagnostic = match unknown {
            UnknownFields::Refuse => {
                Diagnostic::new(codes::UNKNOWN_FIELD, Severity::Error, message)
                    .effect(codes::EFFECT_REFUSED)
            }
            UnknownFields::Ignore => {
                Diagnostic::new(codes::UNKNOWN_FIELD, Severity::Warning, message)
                    .effect("the field is ignored; `kubectl apply` refuses it")
            }
        };
        diagnostic.fix = fix;
        cx.report(entry.key_span, diagnostic);
    });
}

/// Reads one of `names` and returns its index.
pub fn name(node: &Node, cx: &mut Cx<'_>, names: &'static [&'static str]) -> Option<usize> {
    let Some(text) = node.text() else {
        cx.wrong_type(node, &format!("one of {}", names.join(", ")));
        return None;
    };
    let found = names.iter().position(|name| *name == text);
    if found.is_none() {
        let fix = suggest::value(text, names);
        let message = format!(
            "unsupported value `{text}`; known are {}",
            suggest::list(names)
        );
        cx.error(node.span, codes::UNKNOWN_VALUE, message, fix);
    }
    found
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        T::decode(node, cx).map(Some)
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Tree::List(items) = &node.tree else {
            suggest::not_a_list(node, cx);
            return None;
        };
        let mut out = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            if let Some(value) = cx.in_index(index, |cx| element(item, cx)) {
                out.push(value);
            }
        }
        Some(out)
    }
}

/// A list's element or a map's value: unlike a field it cannot be absent, so null is refused.
fn element<T: Decode>(node: &Node, cx: &mut Cx<'_>) -> Option<T> {
    if node.is_null() {
        cx.error(
            node.span,
            codes::WRONG_TYPE,
            "null is not allowed here".to_owned(),
            Some("remove the entry, or give it a value".to_owned()),
        );
        return None;
    }
    T::decode(node, cx)
}

/// What may be the key of a map.
pub trait DecodeKey: Ord + Sized {
    /// Reads a key.
    fn decode_key(entry: &Entry, cx: &mut Cx<'_>) -> Option<Self>;
}

impl DecodeKey for String {
    fn decode_key(entry: &Entry, _: &mut Cx<'_>) -> Option<Self> {
        Some(entry.key.to_string())
    }
}

impl DecodeKey for u32 {
    fn decode_key(entry: &Entry, cx: &mut Cx<'_>) -> Option<Self> {
        let parsed = entry.key.parse().ok();
        if parsed.is_none() {
            let message = format!("the key `{}` has to be a number", entry.key);
            cx.error(entry.key_span, codes::WRONG_TYPE, message, None);
        }
        parsed
    }
}

impl<K: DecodeKey, T: Decode> Decode for BTreeMap<K, T> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Tree::Map(entries) = &node.tree else {
            cx.wrong_type(node, "an object of names and values");
            return None;
        };
        let mut out = BTreeMap::new();
        for entry in entries {
            let value = cx.in_key(&entry.key, |cx| {
                let key = K::decode_key(entry, cx)?;
                Some((key, element(&entry.value, cx)?))
            });
            out.extend(value);
        }
        Some(out)
    }
}

impl<T: Decode> Decode for Box<T> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        T::decode(node, cx).map(Box::new)
    }
}
