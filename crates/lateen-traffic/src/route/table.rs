//! The first route whose conditions hold, found without a walk over all routes.
//!
//! Paths, prefixes and the literal beginnings of regular expressions and templates stand in a radix tree. One walk down the
//! request's path meets every route whose path condition can hold; among them the lowest index whose other conditions hold is
//! the answer, so the order of routes means what it means in a linear scan.

use std::sync::Arc;

use super::types::{PathMatch, Route};
use crate::request::RequestView;

/// Finds the first matching route of a virtual host.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    exact_case: Tree,
    any_case: Tree,
    /// Routes that need no path: CONNECT.
    pathless: Vec<u32>,
}

/// A radix tree over bytes.
#[derive(Clone, Debug)]
struct Tree {
    nodes: Vec<Node>,
    fold: bool,
    has_partial: bool,
}

#[derive(Clone, Debug, Default)]
struct Node {
    label: Box<[u8]>,
    children: Vec<(u8, u32)>,
    /// Routes whose path ends here. Every list is in ascending order.
    exact: Vec<u32>,
    /// Routes whose prefix ends here.
    prefix: Vec<u32>,
    /// Routes whose prefix of whole segments ends here.
    segment: Vec<u32>,
    /// Routes whose regular expression or template begins like this; their path condition is still to be checked.
    partial: Vec<u32>,
}

#[derive(Clone, Copy)]
enum Slot {
    Exact,
    Prefix,
    Segment,
    Partial,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            fold: false,
            has_partial: false,
        }
    }
}

impl RouteTable {
    /// Indexes the routes of a virtual host.
    pub fn new(routes: &[Arc<Route>]) -> Self {
        let mut table = Self {
            any_case: Tree {
                fold: true,
                ..Tree::default()
            },
            ..Self::default()
        };
        for (index, route) in (0_u32..).zip(routes) {
            table.insert(&route.matcher.path, index);
        }
        table
    }

    fn insert(&mut self, path: &PathMatch, index: u32) {
        let (key, slot, fold) = match path {
            PathMatch::Exact { path, ignore_case } => (&**path, Slot::Exact, *ignore_case),
            PathMatch::Prefix {
                prefix,
                ignore_case,
            } => (&**prefix, Slot::Prefix, *ignore_case),
            PathMatch::SegmentPrefix {
                prefix,
                ignore_case,
            } => (&**prefix, Slot::Segment, *ignore_case),
            PathMatch::Template(template) => (template.literal_prefix(), Slot::Partial, false),
            PathMatch::Regex(regex) => {
                return self.exact_case.insert(
                    &literal_prefix(regex.as_str()),
                    Slot::Partial,
                    index,
                );
            }
            PathMatch::Connect => return self.pathless.push(index),
        };
        let tree = if fold {
            &mut self.any_case
        } else {
            &mut self.exact_case
        };
        tree.insert(key.as_bytes(), slot, index);
    }

    /// The index of the first route whose conditions hold.
    pub fn find(
        &self,
        routes: &[Arc<Route>],
        request: &RequestView<'_>,
        random: u64,
    ) -> Option<usize> {
        let mut search = Search {
            routes,
            request,
            random,
            best: u32::MAX,
        };
        let path = request.path_only().as_bytes();
        if !path.is_empty() {
            self.exact_case.visit_certain(path, &mut search);
            self.any_case.visit_certain(path, &mut search);
            // Last, as regular expressions are dear and a route found already spares those after it.
            self.exact_case.visit_partial(path, &mut search);
        }
        search.consider(&self.pathless, PathKnown::No);
        (search.best != u32::MAX).then_some(search.best as usize)
    }
}

/// Whether a route's path condition is known to hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PathKnown {
    Yes,
    No,
}

struct Search<'s> {
    routes: &'s [Arc<Route>],
    request: &'s RequestView<'s>,
    random: u64,
    best: u32,
}

impl Search<'_> {
    fn consider(&mut self, candidates: &[u32], known: PathKnown) {
        for &index in candidates {
            if index >= self.best {
                return;
            }
            let matcher = &self.routes[index as usize].matcher;
            if matcher
                .first_mismatch(self.request, self.random, known)
                .is_none()
            {
                self.best = index;
                return;
            }
        }
    }
}

impl Tree {
    fn insert(&mut self, key: &[u8], slot: Slot, index: u32) {
        let key = if self.fold {
            key.to_ascii_lowercase()
        } else {
            key.to_vec()
        };
        let node = self.node_of(&key);
        self.has_partial |= matches!(slot, Slot::Partial);
        let node = &mut self.nodes[node];
        match slot {
            Slot::Exact => node.exact.push(index),
            Slot::Prefix => node.prefix.push(index),
            Slot::Segment => node.segment.push(index),
            Slot::Partial => node.partial.push(index),
        }
    }

    /// The node at which a key ends, made if need be.
    fn node_of(&mut self, mut key: &[u8]) -> usize {
        let mut at = 0;
        while let Some(&first) = key.first() {
            let Ok(position) = self.nodes[at]
                .children
                .binary_search_by_key(&first, |child| child.0)
            else {
                return self.add_leaf(at, key);
            };
            let child = self.nodes[at].children[position].1 as usize;
            let common = common_length(&self.nodes[child].label, key);
            if common < self.nodes[child].label.len() {
                self.split(child, common);
            }
            key = &key[common..];
            at = child;
        }
        at
    }

    fn add_leaf(&mut self, parent: usize, label: &[u8]) -> usize {
        let leaf = self.push(Node {
            label: label.into(),
            ..Node::default()
        });
        self.adopt(parent, label[0], leaf);
        leaf
    }

    /// Cuts a node's label: the node keeps the first part, and a new child takes the rest and everything below.
    fn split(&mut self, node: usize, at: usize) {
        let mut lower = std::mem::take(&mut self.nodes[node]);
        let (upper_label, lower_label) = lower.label.split_at(at);
        let (upper_label, lower_label): (Box<[u8]>, Box<[u8]>) =
            (upper_label.into(), lower_label.into());
        let first = lower_label[0];
        lower.label = lower_label;
        self.nodes[node].label = upper_label;
        let lower = self.push(lower);
        self.adopt(node, first, lower);
    }

    fn push(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn adopt(&mut self, parent: usize, first: u8, child: usize) {
        let children = &mut self.nodes[parent].children;
        let position = children.partition_point(|entry| entry.0 < first);
        let child = u32::try_from(child).expect("a table holds fewer than 2^32 bytes of paths");
        children.insert(position, (first, child));
    }

    fn visit_certain(&self, path: &[u8], search: &mut Search<'_>) {
        self.walk(path, |node, rest| {
            search.consider(&node.prefix, PathKnown::Yes);
            if matches!(rest.first(), None | Some(b'/')) {
                search.consider(&node.segment, PathKnown::Yes);
            }
            if rest.is_empty() {
                search.consider(&node.exact, PathKnown::Yes);
            }
        });
    }

    fn visit_partial(&self, path: &[u8], search: &mut Search<'_>) {
        if self.has_partial {
            self.walk(path, |node, _| {
                search.consider(&node.partial, PathKnown::No)
            });
        }
    }

    /// Calls `visit` for every node whose key the path begins with, with the rest of the path.
    fn walk<'p>(&self, path: &'p [u8], mut visit: impl FnMut(&Node, &'p [u8])) {
        let mut node = &self.nodes[0];
        let mut rest = path;
        loop {
            visit(node, rest);
            let Some(first) = rest.first().map(|byte| {
                if self.fold {
                    byte.to_ascii_lowercase()
                } else {
                    *byte
                }
            }) else {
                return;
            };
            let Ok(position) = node.children.binary_search_by_key(&first, |child| child.0) else {
                return;
            };
            node = &self.nodes[node.children[position].1 as usize];
            let Some((head, tail)) = rest.split_at_checked(node.label.len()) else {
                return;
            };
            let same = if self.fold {
                head.eq_ignore_ascii_case(&node.label)
            } else {
                *head == *node.label
            };
            if !same {
                return;
            }
            rest = tail;
        }
    }
}

fn common_length(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// What every text that matches an expression begins with; empty if that cannot be told.
fn literal_prefix(expression: &str) -> Vec<u8> {
    let mut prefix = Vec::new();
    if let Ok(hir) = regex_syntax::parse(expression) {
        collect_literal(&hir, &mut prefix);
    }
    prefix
}

/// Appends the literal beginning; `false` if what follows is not literal.
fn collect_literal(hir: &regex_syntax::hir::Hir, prefix: &mut Vec<u8>) -> bool {
    use regex_syntax::hir::{HirKind, Look};
    match hir.kind() {
        HirKind::Empty | HirKind::Look(Look::Start) => true,
        HirKind::Literal(literal) => {
            prefix.extend_from_slice(&literal.0);
            true
        }
        HirKind::Capture(capture) => collect_literal(&capture.sub, prefix),
        HirKind::Concat(parts) => parts.iter().all(|part| collect_literal(part, prefix)),
        HirKind::Class(_) | HirKind::Look(_) | HirKind::Repetition(_) | HirKind::Alternation(_) => {
            false
        }
    }
}

#[cfg(test)]
mod tests;
