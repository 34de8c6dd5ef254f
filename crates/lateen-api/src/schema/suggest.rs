//! What was probably meant: by a table of well-known confusions, else by the letters.

mod confusions;

use super::decode::Cx;
use crate::diagnostic::codes;
use crate::tree::{Entry, Node, Resolved, Tree};

/// What to write instead of the field `key` of the type `object`.
pub(crate) fn field(key: &str, object: &str, known: &[&str]) -> Option<String> {
    if let Some(text) = confusions::find(object, key) {
        return Some(text);
    }
    if let Some(name) = nearest(key, known) {
        return Some(format!("did you mean `{name}`?"));
    }
    (known.len() <= 12 && !known.is_empty()).then(|| format!("known here are {}", list(known)))
}

/// The value to write instead of `text`, of an enum of these `names`.
pub(crate) fn value(text: &str, names: &[&str]) -> Option<String> {
    let meant = confusions::value(text).filter(|value| names.contains(value));
    let meant = meant.or_else(|| nearest(text, names));
    meant.map(|name| format!("did you mean `{name}`?"))
}

/// The name that `text` is most likely a slip of: the same letters in another case or with other separators, else the
/// fewest edits, at most a third of its length.
pub fn nearest<'a>(text: &str, names: &[&'a str]) -> Option<&'a str> {
    // Nobody misspells at this length, and the comparison is quadratic.
    if text.len() > 64 {
        return None;
    }
    let folded = fold(text);
    if let Some(name) = names.iter().find(|name| fold(name) == folded) {
        return Some(name);
    }
    let allowed = (folded.chars().count() / 3).max(1);
    let slip = names
        .iter()
        .map(|name| (distance(&folded, &fold(name)), *name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name);
    slip.or_else(|| longer(&folded, names))
}

/// The only name that begins or ends with `folded`: `path` for `pathPrefix`.
fn longer<'a>(folded: &str, names: &[&'a str]) -> Option<&'a str> {
    if folded.len() < 4 {
        return None;
    }
    let mut found = names.iter().filter(|name| {
        let name = fold(name);
        name.starts_with(folded) || name.ends_with(folded)
    });
    let only = found.next()?;
    found.next().is_none().then_some(*only)
}

fn fold(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// Edits from `a` to `b`: insertions, deletions, substitutions, and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substituted = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// `a, b and c`.
pub(crate) fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Reports a node that should have been an object of the type `name`.
pub(crate) fn not_an_object(node: &Node, cx: &mut Cx<'_>, name: &str) {
    let message = format!("expected an object, found {}", node.describe());
    let fix = match (&node.tree, name) {
        (Tree::Scalar(scalar), "PortSelector") if matches!(scalar.resolve(), Resolved::Int(_)) => {
            Some(format!(
                "write `number: {}` on a line of its own below",
                scalar.text
            ))
        }
        (Tree::Scalar(scalar), "Percent") => Some(format!(
            "write `value: {}` on a line of its own below",
            scalar.text.trim_end_matches('%')
        )),
        (Tree::Scalar(scalar), "MutualTls") => Some(format!(
            "write `mode: {}` on a line of its own below",
            scalar.text
        )),
        (Tree::List(items), _) if items.len() == 1 => {
            Some("this is a single object, not a list: drop the `-`".to_owned())
        }
        _ => None,
    };
    cx.error(node.span, codes::WRONG_TYPE, message, fix);
}

/// Reports a node that should have been a list.
pub(crate) fn not_a_list(node: &Node, cx: &mut Cx<'_>) {
    let message = format!("expected a list, found {}", node.describe());
    let fix = match &node.tree {
        Tree::Scalar(scalar) => format!(
            "write [{}], or `- {}` on a line of its own",
            scalar.text, scalar.text
        ),
        _ => "start each entry with `-`".to_owned(),
    };
    cx.error(node.span, codes::WRONG_TYPE, message, Some(fix));
}

/// Reports a node that should have been a string match.
pub(crate) fn not_a_string_match(node: &Node, cx: &mut Cx<'_>) {
    let message = format!("expected a string match, found {}", node.describe());
    let fix = match &node.tree {
        Tree::Scalar(scalar) => format!("write {{exact: \"{}\"}}, or prefix or regex", scalar.text),
        _ => "write {exact: …}, {prefix: …} or {regex: …}".to_owned(),
    };
    cx.error(node.span, codes::WRONG_TYPE, message, Some(fix));
}

/// Reports a key that none of the `known` members of `object` has.
pub(crate) fn unknown_member(entry: &Entry, object: &str, known: &[&str], cx: &mut Cx<'_>) {
    let fix = field(&entry.key, object, known);
    let message = format!("unknown field `{}`", entry.key);
    cx.in_key(&entry.key, |cx| {
        cx.error(entry.key_span, codes::UNKNOWN_FIELD, message, fix)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_separators_do_not_count() {
        assert_eq!(nearest("jwks_uri", &["jwks", "jwksUri"]), Some("jwksUri"));
        assert_eq!(nearest("mTLS", &["mtls", "selector"]), Some("mtls"));
    }

    #[test]
    fn a_third_of_the_letters_may_differ() {
        assert_eq!(
            nearest("VirtualServce", &["VirtualService", "Service"]),
            Some("VirtualService")
        );
        assert_eq!(nearest("hsots", &["hosts", "http"]), Some("hosts"));
        assert_eq!(nearest("banana", &["hosts", "http"]), None);
        assert_eq!(
            nearest("path", &["service", "pathPrefix"]),
            Some("pathPrefix")
        );
    }
}
