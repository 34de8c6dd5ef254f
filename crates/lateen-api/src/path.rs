//! Field paths: `spec.http[0].match[1].uri`, `metadata.labels["app.kubernetes.io/name"]`.

use std::fmt::Write as _;

use crate::span::Span;
use crate::tree::{Node, Tree};

/// One step of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// Splits `path` into steps; stops at the first thing that is not one.
pub(crate) fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    let mut rest = path;
    std::iter::from_fn(move || {
        let (step, after) = next_step(rest)?;
        rest = after;
        Some(step)
    })
}

fn next_step(rest: &str) -> Option<(Step<'_>, &str)> {
    let rest = rest.strip_prefix('.').unwrap_or(rest);
    if let Some(quoted) = rest.strip_prefix("[\"") {
        let end = quoted.find("\"]")?;
        return Some((Step::Key(&quoted[..end]), &quoted[end + 2..]));
    }
    if let Some(index) = rest.strip_prefix('[') {
        let end = index.find(']')?;
        return Some((Step::Index(index[..end].parse().ok()?), &index[end + 1..]));
    }
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    (end > 0).then(|| (Step::Key(&rest[..end]), &rest[end..]))
}

fn step_into<'a>(node: &'a Node, step: Step<'_>) -> Option<(Span, &'a Node)> {
    match (&node.tree, step) {
        (Tree::Map(_), Step::Key(key)) => {
            let entry = node.entry(key)?;
            let whole = Span {
                end: entry.value.span.end.max(entry.key_span.end),
                ..entry.key_span
            };
            Some((whole, &entry.value))
        }
        (Tree::List(items), Step::Index(index)) => items.get(index).map(|item| (item.span, item)),
        _ => None,
    }
}

/// The node at `path`.
pub(crate) fn node<'a>(root: &'a Node, path: &str) -> Option<&'a Node> {
    steps(path).try_fold(root, |node, step| {
        step_into(node, step).map(|(_, node)| node)
    })
}

/// The span of what is written at `path`: the value, or the key where the value is nothing or spans lines.
pub(crate) fn find(root: &Node, path: &str) -> Option<Span> {
    let (mut at, mut span) = (root, root.span);
    for step in steps(path) {
        let (whole, node) = step_into(at, step)?;
        span = best(step, whole, node);
        at = node;
    }
    Some(span)
}

/// Like [`find`], or the nearest ancestor that is written.
pub(crate) fn nearest(root: &Node, path: &str) -> Span {
    let (mut at, mut span) = (root, root.span);
    for step in steps(path) {
        let Some((whole, node)) = step_into(at, step) else {
            break;
        };
        span = best(step, whole, node);
        at = node;
    }
    span
}

/// A scalar is best pointed at itself; a block by its key.
fn best(step: Step<'_>, whole: Span, node: &Node) -> Span {
    match (step, &node.tree) {
        (Step::Index(_), _) => node.span,
        (Step::Key(_), Tree::Scalar(_)) if !node.span.is_empty() => node.span,
        (Step::Key(key), _) => Span {
            end: whole.end.min(whole.start + key.len() as u32),
            ..whole
        },
    }
}

/// Appends `.key` to `path`, quoted where it has to be.
pub(crate) fn push_key(path: &mut String, key: &str) {
    if key.is_empty() || key.contains(['.', '[', ']', '/']) {
        let _ = write!(path, "[\"{key}\"]");
        return;
    }
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// Appends `[index]` to `path`.
pub(crate) fn push_index(path: &mut String, index: usize) {
    let _ = write!(path, "[{index}]");
}
