//! What every Kubernetes-style object has: its kind, its name and its metadata; and how objects are referred to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::schema::object;
use crate::value::Value;

pub use crate::kind::Kind;

object! {
    /// Kubernetes' `metav1.ObjectMeta`.
    pub struct ObjectMeta {
        name: String,
        generate_name: String,
        namespace: String,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        uid: String,
        resource_version: String,
        generation: i64,
        /// RFC 3339; empty in manifests. Istio orders some objects by it.
        creation_timestamp: String,
        deletion_timestamp: String,
        deletion_grace_period_seconds: Option<i64>,
        owner_references: Vec<OwnerReference>,
        finalizers: Vec<String>,
        managed_fields: Option<Value>,
        self_link: String,
    }
}

object! {
    /// Kubernetes' `metav1.OwnerReference`.
    pub struct OwnerReference {
        api_version: String,
        kind: String,
        name: String,
        uid: String,
        controller: Option<bool>,
        block_owner_deletion: Option<bool>,
    }
}

/// What identifies an object: its kind whatever the API version, its namespace (empty for cluster-wide kinds), its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The namespace, or empty.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Key {
    /// A key from its parts.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    /// `VirtualService default/reviews`, or `Namespace prod`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// An object as a diagnostic names it; unlike [`Key`] it can name kinds this crate does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceRef {
    /// `networking.istio.io/v1`; as written.
    pub api_version: String,
    /// `VirtualService`; as written.
    pub kind: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The name, or empty if it has none.
    pub name: String,
}

impl fmt::Display for ResourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}
