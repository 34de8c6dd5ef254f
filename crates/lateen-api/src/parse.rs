//! Files to resources: documents, lists, kinds and versions.
//!
//! **The rule for what is refused** (`docs/decisions/0002-unknown-fields.md`): what a current API server would not
//! store, and what would say less than was written if part of it were dropped. A refused object is reported, and kept
//! apart so that its last good version can be told to stay.

mod kinds;

use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Severity, codes};
use crate::kind::{Body, Kind};
use crate::meta::{ObjectMeta, ResourceRef};
use crate::networking::needs_address;
use crate::resource::{Origin, OtherDoc, Resource};
use crate::schema::check::{self, ObjectCheck};
use crate::schema::decode::{Cx, Decode, UnknownFields};
use crate::span::{FileSpan, SourceFile, Span};
use crate::tree::{Entry, Node, Scalar, Style, Tree};
use crate::yaml::{self, Document, Problem};
use kinds::Lookup;

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// Objects that can be used, in the order written.
    pub resources: Vec<Resource>,
    /// Objects of known kinds that are refused, with whatever of them could be read. Never serve from them: they tell
    /// which objects keep their last good version, and let analysis go on.
    pub refused: Vec<Resource>,
    /// Objects of kinds this mesh does not read.
    pub others: Vec<OtherDoc>,
    /// Everything that was found, in the order written.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// Whether some document could not even be told to be an object, so that nobody knows which objects it held.
    pub fn has_unreadable_documents(&self) -> bool {
        self.diagnostics
            .iter()
            .any(|found| found.is_error() && found.resource.is_none())
    }
}

/// Reads every document of `file`. Namespaced objects without a namespace get `default_namespace`.
pub fn parse_file(file: &SourceFile, default_namespace: &str) -> Parsed {
    let mut reader = Reader {
        file,
        default_namespace,
        document: 0,
        parsed: Parsed::default(),
    };
    for (index, document) in yaml::documents(&file.text).into_iter().enumerate() {
        reader.document = index as u32;
        reader.document(document);
    }
    reader.parsed
}

/// Reads the first document of `file` as a bare `T`: the `mesh` key of Istio's ConfigMap, or the annotation
/// `proxy.istio.io/config`. Unknown fields are errors; what could be read is returned in any case.
pub fn parse_fragment<T: Decode + Default>(file: &SourceFile) -> (T, Vec<Diagnostic>) {
    let (value, _, diagnostics) = parse_document(file);
    (value, diagnostics)
}

/// As [`parse_fragment`], with the document's text as a tree, to look spans up in.
pub fn parse_document<T: Decode + Default>(file: &SourceFile) -> (T, Origin, Vec<Diagnostic>) {
    let document = yaml::documents(&file.text)
        .into_iter()
        .next()
        .unwrap_or_default();
    let mut cx = Cx::new(&file.path, None, UnknownFields::Refuse, "");
    let value = if document.root.is_null() {
        None
    } else {
        T::decode(&document.root, &mut cx)
    };
    let mut diagnostics: Vec<Diagnostic> = document
        .problems
        .into_iter()
        .map(|problem| of_problem(file, problem, None))
        .collect();
    diagnostics.extend(cx.into_diagnostics());
    let origin = Origin {
        path: Arc::clone(&file.path),
        root: document.root,
        ..Origin::default()
    };
    (value.unwrap_or_default(), origin, diagnostics)
}

/// The first document of a text as a tree, for whoever asks what is written rather than what it means.
pub fn fragment_tree(text: &str) -> Node {
    let first = yaml::documents(text).into_iter().next();
    first.unwrap_or_default().root
}

struct Reader<'a> {
    file: &'a SourceFile,
    default_namespace: &'a str,
    document: u32,
    parsed: Parsed,
}

/// What is known of an object before it is decoded.
#[derive(Clone, Copy)]
struct State {
    refused: bool,
    /// A syntax error has cut it short.
    truncated: bool,
}

/// An object before its kind is known.
struct Header {
    reference: ResourceRef,
    api_version_span: Span,
    kind_span: Span,
}

impl Reader<'_> {
    fn document(&mut self, document: Document) {
        let Document { root, problems } = document;
        if root.is_null() && problems.is_empty() {
            return;
        }
        if is_list(&root) {
            self.list(root, problems);
            return;
        }
        self.object(root, problems);
    }

    /// Each item of a `List` is an object of its own; a typed list's items may leave their kind and version to it.
    fn list(&mut self, root: Node, problems: Vec<Problem>) {
        let inherited = inherited(&root);
        let Tree::Map(entries) = root.tree else {
            return;
        };
        let items = entries.into_iter().find(|entry| &*entry.key == "items");
        let Some(Tree::List(items)) = items.map(|entry| entry.value.tree) else {
            return;
        };
        // What is wrong inside an item is that item's; what is wrong outside of all concerns every item.
        let inside =
            |span: Span, item: &Node| item.span.start <= span.start && span.end <= item.span.end;
        let (of_items, of_list): (Vec<Problem>, Vec<Problem>) = problems
            .into_iter()
            .partition(|p| items.iter().any(|item| inside(p.span, item)));
        let is_broken = of_list.iter().any(Problem::is_error);
        for problem in of_list {
            self.parsed
                .diagnostics
                .push(of_problem(self.file, problem, None));
        }
        let mut of_items: Vec<Option<Problem>> = of_items.into_iter().map(Some).collect();
        for mut item in items {
            let own = of_items
                .iter_mut()
                .filter(|slot| slot.as_ref().is_some_and(|p| inside(p.span, &item)))
                .filter_map(Option::take)
                .collect();
            inherit(&mut item, &inherited);
            let refused = self.parsed.resources.len();
            self.object(item, own);
            if is_broken {
                let moved = self.parsed.resources.split_off(refused);
                self.parsed.refused.extend(moved);
            }
        }
    }

    fn object(&mut self, root: Node, problems: Vec<Problem>) {
        let header = header(&root);
        let truncated = problems.iter().any(Problem::is_fatal);
        let refused = problems.iter().any(Problem::is_error);
        let reference = (!header.reference.kind.is_empty()).then(|| self.located(&header));
        for problem in problems {
            let found = of_problem(self.file, problem, reference.clone());
            self.parsed.diagnostics.push(found);
        }
        if header.reference.api_version.is_empty() || header.reference.kind.is_empty() {
            if !truncated {
                self.not_a_resource(&root, &header);
            }
            return;
        }
        match kinds::lookup(&header.reference.api_version, &header.reference.kind) {
            Lookup::Known { kind, finding } => {
                let is_error = finding
                    .as_ref()
                    .is_some_and(|f| f.severity == Severity::Error);
                self.finding(finding, &header, reference.clone());
                let state = State {
                    refused: refused || is_error,
                    truncated,
                };
                self.resource(kind, root, header, state);
            }
            Lookup::Other { finding } => {
                self.finding(Some(finding), &header, reference);
                let reference = self.located(&header);
                let origin = Arc::new(self.origin(root, &header, truncated));
                self.parsed.others.push(OtherDoc { reference, origin });
            }
            Lookup::Wrong { finding } => self.finding(Some(finding), &header, reference),
        }
    }

    /// The reference with the namespace the object will have.
    fn located(&self, header: &Header) -> ResourceRef {
        let mut reference = header.reference.clone();
        let namespaced = kinds::is_namespaced(&reference.api_version, &reference.kind);
        if reference.namespace.is_empty() && namespaced {
            reference.namespace = self.default_namespace.to_owned();
        }
        reference
    }

    fn origin(&self, root: Node, header: &Header, truncated: bool) -> Origin {
        Origin {
            path: Arc::clone(&self.file.path),
            document: self.document,
            api_version: header.reference.api_version.as_str().into(),
            truncated,
            root,
        }
    }

    fn finding(
        &mut self,
        finding: Option<kinds::Finding>,
        header: &Header,
        reference: Option<ResourceRef>,
    ) {
        let Some(finding) = finding else { return };
        let (field, span) = match finding.about {
            kinds::About::Kind => ("kind", header.kind_span),
            kinds::About::Version => ("apiVersion", header.api_version_span),
        };
        let mut diagnostic = Diagnostic::new(finding.code, finding.severity, finding.message)
            .at(field)
            .spanned(Some(FileSpan::new(Arc::clone(&self.file.path), span)))
            .effect(finding.effect);
        diagnostic.fix = finding.fix;
        diagnostic.resource = reference;
        self.parsed.diagnostics.push(diagnostic);
    }

    fn resource(&mut self, kind: Kind, root: Node, header: Header, state: State) {
        let reference = self.located(&header);
        let unknown = if kind.is_istio() {
            UnknownFields::Refuse
        } else {
            UnknownFields::Ignore
        };
        let mut cx = Cx::new(&self.file.path, Some(&reference), unknown, "");
        let mut meta = metadata(&root, &mut cx);
        let spec = body(kind, &root, &mut cx);
        let found = cx.into_diagnostics();
        let refused = state.refused || spec.is_none() || found.iter().any(Diagnostic::is_error);
        // Of half an object only the syntax error is worth a word.
        if !state.truncated {
            self.parsed.diagnostics.extend(found);
        }
        meta.namespace = if kind.is_namespaced() {
            reference.namespace
        } else {
            String::new()
        };
        let resource = Resource {
            kind,
            meta: Arc::new(meta),
            spec: Arc::new(spec.unwrap_or_else(|| kind.empty())),
            origin: Arc::new(self.origin(root, &header, state.truncated)),
        };
        if refused {
            self.parsed.refused.push(resource);
        } else {
            self.parsed.resources.push(resource);
        }
    }

    /// A document without `apiVersion` or `kind`: an error if it looks like an object at all.
    fn not_a_resource(&mut self, root: &Node, header: &Header) {
        let looks_like_one = !header.reference.kind.is_empty()
            || !header.reference.api_version.is_empty()
            || (root.get("metadata").is_some() && root.get("spec").is_some());
        let missing: Vec<&str> = [
            ("apiVersion", &header.reference.api_version),
            ("kind", &header.reference.kind),
        ]
        .iter()
        .filter(|(_, value)| value.is_empty())
        .map(|(name, _)| *name)
        .collect();
        let span = Span {
            end: root.span.start,
            ..root.span
        };
        let span = Some(FileSpan::new(Arc::clone(&self.file.path), span));
        let diagnostic = if looks_like_one {
            let message = format!("the object has no `{}`", missing.join("` and no `"));
            Diagnostic::new(codes::NOT_A_RESOURCE, Severity::Error, message)
                .effect(codes::EFFECT_REFUSED)
                .fix("start it with `apiVersion: …` and `kind: …`, without indentation")
        } else {
            let message = "this is not a Kubernetes object: it has no `apiVersion` and no `kind`";
            Diagnostic::new(codes::NOT_A_RESOURCE, Severity::Warning, message)
                .effect("the document is passed over")
        };
        self.parsed.diagnostics.push(diagnostic.spanned(span));
    }
}

fn of_problem(file: &SourceFile, problem: Problem, resource: Option<ResourceRef>) -> Diagnostic {
    let effect = if !problem.is_error() {
        "it is read so, as Kubernetes does"
    } else if resource.is_some() {
        codes::EFFECT_REFUSED
    } else {
        "the document is not read; what this file held before stays in force"
    };
    let mut diagnostic = Diagnostic::new(problem.code, problem.severity, problem.message)
        .spanned(Some(FileSpan::new(Arc::clone(&file.path), problem.span)))
        .effect(effect);
    diagnostic.fix = problem.fix;
    diagnostic.resource = resource;
    diagnostic
}

fn text<'a>(node: &'a Node, key: &str) -> &'a str {
    node.get(key).and_then(Node::text).unwrap_or_default()
}

fn span_of(root: &Node, key: &str) -> Span {
    root.get(key).map_or(root.span, |node| node.span)
}

fn header(root: &Node) -> Header {
    let metadata = root.get("metadata");
    // An object is known by what stands there, also if its name lacks quotes.
    let meta = |key| {
        let node = metadata.and_then(|node: &Node| node.get(key));
        node.and_then(Node::raw_text).unwrap_or_default().to_owned()
    };
    let mut name = meta("name");
    if name.is_empty() {
        name = meta("generateName");
    }
    Header {
        reference: ResourceRef {
            api_version: text(root, "apiVersion").to_owned(),
            kind: text(root, "kind").to_owned(),
            namespace: meta("namespace"),
            name,
        },
        api_version_span: span_of(root, "apiVersion"),
        kind_span: span_of(root, "kind"),
    }
}

fn is_list(root: &Node) -> bool {
    text(root, "kind").ends_with("List")
        && root
            .get("items")
            .is_some_and(|items| matches!(items.tree, Tree::List(_)))
}

/// What the items of a typed list need not say: its `apiVersion`, and its kind without `List`.
fn inherited(root: &Node) -> Vec<Entry> {
    let of = text(root, "kind").strip_suffix("List").unwrap_or_default();
    let Some(mut kind) = root.entry("kind").filter(|_| !of.is_empty()).cloned() else {
        return Vec::new();
    };
    kind.value.tree = Tree::Scalar(Scalar {
        text: of.into(),
        style: Style::Text,
    });
    root.entry("apiVersion")
        .cloned()
        .into_iter()
        .chain([kind])
        .collect()
}

/// Adds what `item` does not say itself.
fn inherit(item: &mut Node, inherited: &[Entry]) {
    let Tree::Map(entries) = &mut item.tree else {
        return;
    };
    for entry in inherited {
        if !entries.iter().any(|own| own.key == entry.key) {
            entries.push(entry.clone());
        }
    }
}

fn metadata(root: &Node, cx: &mut Cx<'_>) -> ObjectMeta {
    let Some(node) = root.get("metadata") else {
        return ObjectMeta::default();
    };
    cx.in_key("metadata", |cx| ObjectMeta::decode(node, cx))
        .unwrap_or_default()
}

/// Kinds whose schema requires a `spec`; the others mean something without one.
const NEEDS_SPEC: [Kind; 5] = [
    Kind::TrafficExtension,
    Kind::WasmPlugin,
    Kind::ServiceEntry,
    Kind::WorkloadEntry,
    Kind::WorkloadGroup,
];

/// The typed body; `None` if it could not be read.
fn body(kind: Kind, root: &Node, cx: &mut Cx<'_>) -> Option<crate::Spec> {
    if kind.info().body == Body::Object {
        return kind.decode(root, cx);
    }
    for entry in root.entries() {
        if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&&*entry.key) {
            misplaced(entry, cx);
        }
    }
    match root.get("spec") {
        Some(spec) if !spec.is_null() => cx.in_key("spec", |cx| {
            if kind == Kind::WorkloadEntry {
                check::object(&[ObjectCheck::Custom(needs_address)], spec, cx);
            }
            kind.decode(spec, cx)
        }),
        _ => {
            if NEEDS_SPEC.contains(&kind) {
                let message = "`spec` is required".to_owned();
                cx.in_key("spec", |cx| {
                    cx.error(root.span, codes::REQUIRED, message, None)
                });
            }
            Some(kind.empty())
        }
    }
}

fn misplaced(entry: &Entry, cx: &mut Cx<'_>) {
    let message = format!("unknown field `{}`", entry.key);
    let fix = format!(
        "if `{}` belongs to the spec, indent it under `spec:`",
        entry.key
    );
    cx.in_key(&entry.key, |cx| {
        cx.error(entry.key_span, codes::UNKNOWN_FIELD, message, Some(fix));
    });
}

#[cfg(test)]
mod tests;
