//! Parser events to a tree, with anchors, aliases, merge keys and their limits.

use std::collections::{BTreeSet, HashMap};

use granit_parser::{Event, ScalarStyle, StructureStyle, Tag};

use super::{Chunk, Document, Problem, syntax};
use crate::diagnostic::{Severity, codes};
use crate::span::Span;
use crate::tree::{Entry, Node, Resolved, Scalar, Style, Tree};

/// Deeper nesting than this is refused. Kubernetes' own limit is 10,000, which nobody comes near; Envoy configurations
/// reach about 30.
pub(crate) const MAX_DEPTH: usize = 100;

/// How many nodes aliases and merge keys may add to one document: a few bytes can ask for billions.
const MAX_EXPANSION: usize = 100_000;

/// What is said of a missing `---`.
const SECOND_OBJECT: &str = "a second object begins here, in the same document";

/// Up to this many keys a map is searched for duplicates one by one.
const SMALL_MAP: usize = 32;

/// Builds one document.
pub(crate) struct Builder<'a> {
    chunk: &'a Chunk<'a>,
    stack: Vec<Frame>,
    root: Option<Node>,
    anchors: HashMap<usize, (Node, usize)>,
    expanded: usize,
    problems: Vec<Problem>,
}

/// A list or map whose end has not come yet.
struct Frame {
    span: Span,
    style: StructureStyle,
    anchor: usize,
    /// Nodes below, for the price of an alias to it.
    size: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map(MapFrame),
}

#[derive(Default)]
struct MapFrame {
    entries: Vec<Entry>,
    /// Keys, once there are many.
    keys: BTreeSet<Box<str>>,
    key: Option<Key>,
    merges: Vec<(Span, Node)>,
}

enum Key {
    Name(Box<str>, Span),
    Merge(Span),
    /// Its value is dropped: the key was refused.
    Refused,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(chunk: &'a Chunk<'a>) -> Self {
        Self {
            chunk,
            stack: Vec::new(),
            root: None,
            anchors: HashMap::new(),
            expanded: 0,
            problems: Vec::new(),
        }
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// If the rest of the document is not worth reading.
    pub(crate) fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = scalar(&text, style, tag.as_deref(), span);
                self.anchor(anchor, &node, 1);
                self.node(node, 1);
            }
            Event::SequenceStart(style, anchor, _) => {
                self.open(span, style, anchor, Content::List(Vec::new()))?
            }
            Event::MappingStart(style, anchor, _) => {
                self.open(span, style, anchor, Content::Map(MapFrame::default()))?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span)?,
            Event::Alias(anchor) => self.alias(anchor, span)?,
            // Events of the stream, and those that are not asked for.
            _ => {}
        }
        Ok(())
    }

    /// The document; after a fatal `problem`, with what was read before it.
    pub(crate) fn finish(mut self, problem: Option<Problem>) -> Document {
        self.only_first_of_second_object();
        while let Some(frame) = self.stack.pop() {
            let (node, size) = complete(frame, None);
            self.node(node, size);
        }
        if !self
            .problems
            .iter()
            .any(|known| known.code == codes::TEMPLATE)
        {
            self.problems.extend(problem);
        }
        Document {
            root: self.root.unwrap_or_default(),
            problems: self.problems,
        }
    }

    /// Once a second object has begun, all its keys are there twice: one finding says it.
    fn only_first_of_second_object(&mut self) {
        let begins = |problem: &Problem| problem.message == SECOND_OBJECT;
        if let Some(first) = self.problems.iter().position(begins) {
            let rest = self.problems.split_off(first + 1);
            let kept = rest
                .into_iter()
                .filter(|problem| problem.code != codes::DUPLICATE_KEY);
            self.problems.extend(kept);
        }
    }

    fn open(
        &mut self,
        span: Span,
        style: StructureStyle,
        anchor: usize,
        content: Content,
    ) -> Result<(), Problem> {
        if self.stack.len() >= MAX_DEPTH {
            let message = format!("nested more than {MAX_DEPTH} levels deep");
            return Err(Problem::new(codes::LIMIT, span, message));
        }
        self.stack.push(Frame {
            style,
            span,
            anchor,
            size: 1,
            content,
        });
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Problem> {
        let Some(mut frame) = self.stack.pop() else {
            return Ok(());
        };
        if let Content::Map(map) = &mut frame.content {
            let merges = std::mem::take(&mut map.merges);
            for (span, node) in merges {
                frame.size += self.merge(map, span, node)?;
            }
        }
        let is_flow = frame.style == StructureStyle::Flow;
        let anchor = frame.anchor;
        let (mut node, size) = complete(frame, is_flow.then_some(end.end));
        if is_flow && let Some(scalar) = ends_with_colon(self.chunk, &node) {
            node = scalar;
        }
        self.anchor(anchor, &node, size);
        self.node(node, size);
        Ok(())
    }

    fn anchor(&mut self, anchor: usize, node: &Node, size: usize) {
        if anchor == 0 {
            return;
        }
        // A copy per anchor is work that aliases have not paid for, so it counts as expansion.
        self.expanded += size;
        if self.expanded <= MAX_EXPANSION {
            self.anchors.insert(anchor, (node.clone(), size));
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Problem> {
        if self.expanded > MAX_EXPANSION {
            return Err(too_much(span));
        }
        let Some((node, size)) = self.anchors.get(&anchor) else {
            let message = "this alias stands inside what it refers to";
            return Err(Problem::new(codes::ALIAS, span, message));
        };
        let size = *size;
        self.expanded += size;
        if self.expanded > MAX_EXPANSION {
            return Err(too_much(span));
        }
        let mut node = node.clone();
        // What is inside keeps the place where it was written; the alias itself is where the user looks first.
        node.span = span;
        self.node(node, size);
        Ok(())
    }

    /// Adds the entries of `node` that `map` does not have. Returns how many nodes that were.
    fn merge(&mut self, map: &mut MapFrame, span: Span, node: Node) -> Result<usize, Problem> {
        let sources = match node.tree {
            Tree::List(items) => items,
            _ => vec![node],
        };
        let mut added = 0;
        for source in sources {
            let Tree::Map(entries) = source.tree else {
                let message = "a merge key `<<` needs a map, or a list of maps";
                self.problems
                    .push(Problem::new(codes::ALIAS, span, message));
                continue;
            };
            for entry in entries {
                if map.has(&entry.key) {
                    continue;
                }
                added += count(&entry.value);
                map.add(entry);
            }
            if self.expanded + added > MAX_EXPANSION {
                return Err(too_much(span));
            }
        }
        self.expanded += added;
        Ok(added)
    }

    /// Puts a finished node where it belongs.
    fn node(&mut self, node: Node, size: usize) {
        let is_root = self.stack.len() == 1;
        let Some(frame) = self.stack.last_mut() else {
            self.root.get_or_insert(node);
            return;
        };
        frame.size += size;
        match &mut frame.content {
            Content::List(items) => items.push(node),
            Content::Map(map) => match map.key.take() {
                None => map.key = Some(key(self.chunk, node, &mut self.problems)),
                Some(Key::Refused) => {}
                Some(Key::Merge(span)) => map.merges.push((span, node)),
                Some(Key::Name(name, span)) => {
                    let entry = Entry {
                        key: name,
                        key_span: span,
                        value: placed(node, span),
                    };
                    if map.has(&entry.key) {
                        self.problems.push(duplicate(&entry, is_root));
                    } else {
                        map.add(entry);
                    }
                }
            },
        }
    }
}

impl MapFrame {
    fn has(&self, key: &str) -> bool {
        if self.entries.len() <= SMALL_MAP {
            self.entries.iter().any(|entry| &*entry.key == key)
        } else {
            self.keys.contains(key)
        }
    }

    fn add(&mut self, entry: Entry) {
        if self.entries.len() == SMALL_MAP {
            self.keys = self.entries.iter().map(|entry| entry.key.clone()).collect();
        }
        if self.entries.len() >= SMALL_MAP {
            self.keys.insert(entry.key.clone());
        }
        self.entries.push(entry);
    }
}

/// The node of a finished frame, and its size. Block collections end with their last child: the parser only notices
/// their end at the next token, which may be lines below.
fn complete(frame: Frame, flow_end: Option<u32>) -> (Node, usize) {
    let (tree, last) = match frame.content {
        Content::List(items) => {
            let last = items.last().map(|item| item.span.end);
            (Tree::List(items), last)
        }
        Content::Map(map) => {
            let last = map
                .entries
                .iter()
                .map(|e| e.value.span.end.max(e.key_span.end))
                .max();
            (Tree::Map(map.entries), last)
        }
    };
    let end = flow_end
        .or(last)
        .unwrap_or(frame.span.end)
        .max(frame.span.end);
    (
        Node {
            span: Span { end, ..frame.span },
            tree,
        },
        frame.size,
    )
}

/// `[2001:db8::]`: to YAML 1.2 the last colon makes a map of one key, to the library that Kubernetes reads manifests with it is
/// part of the text, because no blank follows.
fn ends_with_colon(chunk: &Chunk<'_>, node: &Node) -> Option<Node> {
    let Tree::Map(entries) = &node.tree else {
        return None;
    };
    let [entry] = entries.as_slice() else {
        return None;
    };
    let text = chunk.text_from(entry.key_span);
    let length = entry.key_span.len() as usize;
    let implicit = !chunk.text_from(node.span).starts_with('{');
    let plain = !text.starts_with(['"', '\'', '?']) && matches!(entry.value.tree, Tree::Empty);
    let ends = text
        .get(length..)?
        .strip_prefix(':')?
        .starts_with([']', ',', '}']);
    let span = Span {
        end: entry.key_span.end + 1,
        ..entry.key_span
    };
    let scalar = Scalar {
        text: text.get(..=length)?.into(),
        style: Style::Plain,
    };
    (implicit && plain && ends).then_some(Node {
        span,
        tree: Tree::Scalar(scalar),
    })
}

/// A value that is not written stands where its key does.
fn placed(mut node: Node, key: Span) -> Node {
    if matches!(node.tree, Tree::Empty) {
        node.span = key;
    }
    node
}

/// What to say of a document that is nested too deep.
pub(crate) fn too_deep(span: Span) -> Problem {
    Problem::new(
        codes::LIMIT,
        span,
        format!("nested more than {MAX_DEPTH} levels deep"),
    )
}

fn too_much(span: Span) -> Problem {
    let message =
        format!("aliases expand this document by more than {MAX_EXPANSION} values; it is not read");
    Problem::new(codes::LIMIT, span, message)
}

/// A key for the second time. At the root, the keys that every object starts with mean a missing separator.
fn duplicate(entry: &Entry, is_root: bool) -> Problem {
    if is_root && matches!(&*entry.key, "apiVersion" | "kind") {
        return Problem::new(codes::DUPLICATE_KEY, entry.key_span, SECOND_OBJECT)
            .with_fix("put a line `---` before it");
    }
    let message = format!(
        "the key `{}` is already set above in the same map",
        entry.key
    );
    Problem::new(codes::DUPLICATE_KEY, entry.key_span, message)
        .with_fix("keep one of them; for several entries of a list, start each with `-`")
}

fn count(node: &Node) -> usize {
    1 + match &node.tree {
        Tree::List(items) => items.iter().map(count).sum(),
        Tree::Map(entries) => entries
            .iter()
            .map(|entry| count(&entry.value))
            .sum::<usize>(),
        Tree::Empty | Tree::Scalar(_) => 0,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Node {
    let core = tag
        .filter(|tag| tag.is_yaml_core_schema())
        .map(|tag| tag.suffix());
    let is_plain = matches!(style, ScalarStyle::Plain);
    if is_plain && span.is_empty() && tag.is_none() {
        return Node {
            span,
            tree: Tree::Empty,
        };
    }
    let style = match core {
        Some("int" | "float" | "bool" | "null") => Style::Plain,
        Some(_) => Style::Text,
        None if is_plain && tag.is_none_or(|tag| !tag.suffix().is_empty()) => Style::Plain,
        None => Style::Text,
    };
    Node {
        span,
        tree: Tree::Scalar(Scalar {
            text: text.into(),
            style,
        }),
    }
}

/// `{{ .Values.name }}` is a map within a map to YAML, whose key is a map.
fn bad_key(chunk: &Chunk<'_>, node: &Node) -> Problem {
    if chunk.text_from(node.span).starts_with('{') && chunk.text_before(node.span).ends_with('{') {
        return syntax::unfilled_template(node.span);
    }
    Problem::new(codes::BAD_KEY, node.span, "a key has to be a plain name")
        .with_fix("quote it if it starts with `{`, `[` or `*`")
}

/// `on:` and `y:`, which few expect to be "true".
fn read_as(name: &str, text: &str, span: Span) -> Problem {
    let message = format!("YAML reads the key `{text}` without quotes as `{name}`");
    Problem {
        severity: Severity::Warning,
        ..Problem::new(codes::UNQUOTED, span, message)
    }
    .with_fix(format!("write \"{text}\" with quotes"))
}

/// A key as JSON has it: Kubernetes turns manifests into JSON, so `8080:` is "8080" and `on:` is "true".
fn key(chunk: &Chunk<'_>, node: Node, problems: &mut Vec<Problem>) -> Key {
    let Tree::Scalar(scalar) = node.tree else {
        problems.push(bad_key(chunk, &node));
        return Key::Refused;
    };
    if scalar.style == Style::Plain && &*scalar.text == "<<" {
        return Key::Merge(node.span);
    }
    let text = match scalar.resolve() {
        Resolved::Text(_) => scalar.text,
        Resolved::Bool(value) => {
            let name = if value { "true" } else { "false" };
            if &*scalar.text != name {
                problems.push(read_as(name, &scalar.text, node.span));
            }
            name.into()
        }
        Resolved::Int(value) => value.to_string().into(),
        Resolved::Float(value) => value.to_string().into(),
        Resolved::Null => {
            problems.push(Problem::new(
                codes::BAD_KEY,
                node.span,
                "null cannot be a key",
            ));
            return Key::Refused;
        }
    };
    Key::Name(text, node.span)
}
