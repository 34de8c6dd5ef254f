//! Where a piece of configuration came from: the user's object, the field in it, and the place in a file.
//!
//! Istio writes the object into `metadata.filter_metadata["istio"]["config"]` of clusters, routes and filter chains. Lateen adds
//! `filter_metadata["lateen"]` with `object`, `field` and `source`. Both are optional: any xDS server may be on the other side.

use std::fmt;
use std::sync::Arc;

use crate::value::{Metadata, Value};

/// The metadata namespace of Lateen's own provenance.
pub const LATEEN_NAMESPACE: &str = "lateen";
/// The metadata namespace of Istio's provenance.
pub const ISTIO_NAMESPACE: &str = "istio";

/// The object that decided, if the control plane told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance(Option<Arc<Origin>>);

/// What is known about the origin of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Istio's path of the object, as `/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews`.
    pub istio_config: Option<Arc<str>>,
    /// Lateen's reference of the object, as `VirtualService/default/reviews`.
    pub object: Option<Arc<str>>,
    /// The field path within the object, as `spec.http[1].route[0]`.
    pub field: Option<Arc<str>>,
    /// The place in the user's file, as `routes.yaml:14:7`.
    pub source: Option<Arc<str>>,
}

impl Provenance {
    /// Reads the provenance out of a resource's filter metadata.
    pub fn from_metadata(metadata: &Metadata) -> Self {
        let text = |namespace: &str, key: &str| match metadata.get(namespace, &[key]) {
            Some(Value::String(text)) => Some(text.clone()),
            _ => None,
        };
        let origin = Origin {
            istio_config: text(ISTIO_NAMESPACE, "config"),
            object: text(LATEEN_NAMESPACE, "object"),
            field: text(LATEEN_NAMESPACE, "field"),
            source: text(LATEEN_NAMESPACE, "source"),
        };
        if origin == Origin::default() {
            Self(None)
        } else {
            Self(Some(Arc::new(origin)))
        }
    }

    /// The origin, if known.
    pub fn origin(&self) -> Option<&Origin> {
        self.0.as_deref()
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(origin) = self.origin() else {
            return f.write_str("(unknown origin)");
        };
        let object = origin
            .object
            .as_deref()
            .or(origin.istio_config.as_deref())
            .unwrap_or("(unknown object)");
        f.write_str(object)?;
        if let Some(field) = &origin.field {
            write!(f, " {field}")?;
        }
        if let Some(source) = &origin.source {
            write!(f, " ({source})")?;
        }
        Ok(())
    }
}
