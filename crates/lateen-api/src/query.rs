//! Every place of a tree that a pattern fits: `spec.http[].mirror`, `spec.**.tls{mode=SIMPLE,!credentialName}`.
//!
//! | step | fits |
//! |---|---|
//! | `key`, `["a.key/with.dots"]` | that key of a map |
//! | `*` | every key of a map |
//! | `[]` | every element of a list |
//! | `**` | any number of steps, none as well |
//! | `{a,!b,c=x,d^=x}` | the node itself, if `a` is set, `b` is not, `c` is `x` and `d` begins with `x` |
//!
//! What is written as null, `false`, or an empty text, list or map counts as not set: that is what a reader who asks "is this
//! used?" means.

use crate::path;
use crate::tree::{Node, Resolved, Tree};

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    AnyKey,
    Items,
    Anywhere,
    Only(Vec<Guard>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Guard {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Set,
    NotSet,
    Is(String),
    Begins(String),
}

impl Query {
    /// Reads a pattern; `None` if it is not one.
    pub fn parse(pattern: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = pattern;
        while !rest.is_empty() {
            let (step, after) = step(rest)?;
            steps.push(step);
            rest = after.strip_prefix('.').unwrap_or(after);
        }
        Some(Self { steps })
    }

    /// The field paths of all places under `root` that fit and are set, in the order in which they are written.
    pub fn find(&self, root: &Node) -> Vec<String> {
        let mut found = Vec::new();
        walk(root, &self.steps, &mut String::new(), &mut found);
        found
    }
}

fn step(rest: &str) -> Option<(Step, &str)> {
    if let Some(quoted) = rest.strip_prefix("[\"") {
        let (key, after) = quoted.split_once("\"]")?;
        return Some((Step::Key(key.to_owned()), after));
    }
    if let Some(after) = rest.strip_prefix("[]") {
        return Some((Step::Items, after));
    }
    if let Some(guards) = rest.strip_prefix('{') {
        let (guards, after) = guards.split_once('}')?;
        return Some((Step::Only(guards.split(',').map(guard).collect()), after));
    }
    let end = rest.find(['.', '[', '{']).unwrap_or(rest.len());
    let (key, after) = rest.split_at(end);
    let step = match key {
        "" => return None,
        "*" => Step::AnyKey,
        "**" => Step::Anywhere,
        _ => Step::Key(key.to_owned()),
    };
    Some((step, after))
}

fn guard(text: &str) -> Guard {
    let (key, test) = if let Some(key) = text.strip_prefix('!') {
        (key, Test::NotSet)
    } else if let Some((key, value)) = text.split_once("^=") {
        (key, Test::Begins(value.to_owned()))
    } else if let Some((key, value)) = text.split_once('=') {
        (key, Test::Is(value.to_owned()))
    } else {
        (text, Test::Set)
    };
    Guard {
        key: key.to_owned(),
        test,
    }
}

impl Guard {
    fn holds(&self, node: &Node) -> bool {
        let value = node.get(&self.key).filter(|value| is_set(value));
        let text = value.and_then(Node::raw_text);
        match &self.test {
            Test::Set => value.is_some(),
            Test::NotSet => value.is_none(),
            Test::Is(wanted) => text == Some(wanted),
            Test::Begins(start) => text.is_some_and(|text| text.starts_with(start.as_str())),
        }
    }
}

fn is_set(node: &Node) -> bool {
    match &node.tree {
        Tree::Empty => false,
        Tree::Scalar(scalar) => !matches!(
            scalar.resolve(),
            Resolved::Null | Resolved::Bool(false) | Resolved::Text("")
        ),
        Tree::List(items) => !items.is_empty(),
        Tree::Map(entries) => !entries.is_empty(),
    }
}

fn walk(node: &Node, steps: &[Step], at: &mut String, found: &mut Vec<String>) {
    let Some((step, rest)) = steps.split_first() else {
        if is_set(node) && !found.contains(at) {
            found.push(at.clone());
        }
        return;
    };
    match step {
        Step::Key(key) => {
            if let Some(child) = node.get(key) {
                within(
                    at,
                    |at| path::push_key(at, key),
                    |at| walk(child, rest, at, found),
                );
            }
        }
        Step::AnyKey => each_entry(node, at, &mut |child, at| walk(child, rest, at, found)),
        Step::Items => each_item(node, at, &mut |child, at| walk(child, rest, at, found)),
        Step::Anywhere => {
            walk(node, rest, at, found);
            each_entry(node, at, &mut |child, at| walk(child, steps, at, found));
            each_item(node, at, &mut |child, at| walk(child, steps, at, found));
        }
        Step::Only(guards) => {
            if guards.iter().all(|guard| guard.holds(node)) {
                walk(node, rest, at, found);
            }
        }
    }
}

fn each_entry(node: &Node, at: &mut String, act: &mut dyn FnMut(&Node, &mut String)) {
    for entry in node.entries() {
        within(
            at,
            |at| path::push_key(at, &entry.key),
            |at| act(&entry.value, at),
        );
    }
}

fn each_item(node: &Node, at: &mut String, act: &mut dyn FnMut(&Node, &mut String)) {
    for (index, item) in node.items().iter().enumerate() {
        within(at, |at| path::push_index(at, index), |at| act(item, at));
    }
}

/// Makes the path longer for as long as `act` takes.
fn within(at: &mut String, push: impl FnOnce(&mut String), act: impl FnOnce(&mut String)) {
    let length = at.len();
    push(at);
    act(at);
    at.truncate(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(pattern: &str, yaml: &str) -> Vec<String> {
        let root = crate::parse::fragment_tree(yaml);
        Query::parse(pattern).unwrap().find(&root)
    }

    const RULE: &str = "
spec:
  trafficPolicy: {tls: {mode: SIMPLE}}
  subsets:
  - {name: a, trafficPolicy: {tls: {mode: SIMPLE, credentialName: c}}}
  - {name: b, trafficPolicy: {tls: {mode: SIMPLE, sni: x}}}
";

    #[test]
    fn lists_and_depths_are_searched() {
        assert_eq!(
            find("spec.subsets[].trafficPolicy.tls.sni", RULE),
            ["spec.subsets[1].trafficPolicy.tls.sni"]
        );
        assert_eq!(find("spec.**.tls", RULE).len(), 3);
    }

    #[test]
    fn guards_choose_among_what_fits() {
        assert_eq!(
            find("spec.**.tls{mode=SIMPLE,!credentialName}", RULE),
            [
                "spec.trafficPolicy.tls",
                "spec.subsets[1].trafficPolicy.tls"
            ]
        );
        assert_eq!(
            find("**{sni^=x}.sni", RULE),
            ["spec.subsets[1].trafficPolicy.tls.sni"]
        );
    }

    #[test]
    fn keys_with_dots_are_quoted_in_patterns_and_in_what_is_found() {
        let yaml = "metadata: {annotations: {sidecar.istio.io/proxyCPU: 100m}}";
        let field = r#"metadata.annotations["sidecar.istio.io/proxyCPU"]"#;
        assert_eq!(find(field, yaml), [field]);
        assert_eq!(find("metadata.annotations.*", yaml), [field]);
    }

    #[test]
    fn what_says_nothing_counts_as_not_set() {
        for yaml in ["a: null", "a: false", "a: ''", "a: []", "a: {}", "b: 1"] {
            assert_eq!(find("a", yaml), Vec::<String>::new(), "{yaml}");
        }
        assert_eq!(find("a", "a: 0"), ["a"]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        assert_eq!(Query::parse("a..b"), None);
        assert_eq!(Query::parse("a{b"), None);
        assert_eq!(Query::parse("a[0]"), None);
    }
}
