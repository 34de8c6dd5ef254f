//! A parsed object: its kind, metadata and typed body, and where it was written.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::kind::{Kind, KindSpec, Spec};
use crate::meta::{Key, ObjectMeta, ResourceRef};
use crate::path;
use crate::span::{FileSpan, Span};
use crate::tree::Node;

/// One object. Equality and hash cover what was written, never where.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its kind, whatever the API version.
    pub kind: Kind,
    /// Its metadata; `namespace` is filled in for namespaced kinds.
    pub meta: Arc<ObjectMeta>,
    /// Its body.
    pub spec: Arc<Spec>,
    /// Where it was written.
    pub origin: Arc<Origin>,
}

impl Resource {
    /// The name.
    pub fn name(&self) -> &str {
        &self.meta.name
    }

    /// The namespace; empty for cluster-wide kinds.
    pub fn namespace(&self) -> &str {
        &self.meta.namespace
    }

    /// What identifies it.
    pub fn key(&self) -> Key {
        Key::new(self.kind, &self.meta.namespace, &self.meta.name)
    }

    /// How diagnostics name it.
    pub fn reference(&self) -> ResourceRef {
        ResourceRef {
            api_version: self.origin.api_version.to_string(),
            kind: self.kind.as_str().to_owned(),
            namespace: self.meta.namespace.clone(),
            name: self.meta.name.clone(),
        }
    }

    /// The body as `T`, if it is of that kind: `resource.spec_as::<networking::VirtualService>()`.
    pub fn spec_as<T: KindSpec>(&self) -> Option<&T> {
        T::from_spec(&self.spec)
    }

    /// Where a field stands in its file; see [`Origin::nearest_span`].
    pub fn file_span(&self, field: &str) -> FileSpan {
        FileSpan::new(
            Arc::clone(&self.origin.path),
            self.origin.nearest_span(field),
        )
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.meta == other.meta && self.spec == other.spec
    }
}

impl Eq for Resource {}

impl Hash for Resource {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
        self.meta.hash(state);
        self.spec.hash(state);
    }
}

/// Where an object was written, and its whole text as a tree.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The file, as the user gave it.
    pub path: Arc<str>,
    /// The document within the file, from 0. Items of a list share their list's.
    pub document: u32,
    /// `apiVersion` as written.
    pub api_version: Arc<str>,
    /// Whether a syntax error cut it short, so that nothing can be said of what is missing.
    pub truncated: bool,
    /// The object's root.
    pub root: Node,
}

impl Origin {
    /// An origin for objects that no file holds, such as those a platform adds by itself.
    pub fn synthetic(path: &str) -> Self {
        Self {
            path: path.into(),
            ..Self::default()
        }
    }

    /// Where the field at `field` stands: `spec.http[0].match[1].uri`. Keys that hold dots or brackets are quoted:
    /// `metadata.labels["app.kubernetes.io/name"]`.
    pub fn span(&self, field: &str) -> Option<Span> {
        path::find(&self.root, field)
    }

    /// Like [`Origin::span`]; where the field is not written, its nearest ancestor that is.
    pub fn nearest_span(&self, field: &str) -> Span {
        path::nearest(&self.root, field)
    }
}

/// A document of a kind this crate does not know: kept, passed over.
#[derive(Clone, Debug)]
pub struct OtherDoc {
    /// How diagnostics name it.
    pub reference: ResourceRef,
    /// Its text.
    pub origin: Arc<Origin>,
}
