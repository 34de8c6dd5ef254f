//! Places in the user's files: an object, the field in it that decided, and where that stands.

use std::collections::BTreeMap;
use std::fmt;

use lateen_api::security::{JwtRule, RequestAuthentication};
use lateen_api::{FileSpan, Resource};
use lateen_traffic::Provenance;
use serde::Serialize;

/// What decided, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// The object, as `VirtualService/default/reviews`.
    pub object: String,
    /// The field in it, as `spec.http[1].route[0]`; empty for the whole object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Source {
    /// The file as the user gave it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl From<FileSpan> for Source {
    fn from(span: FileSpan) -> Self {
        Self {
            file: span.path.to_string(),
            line: span.line,
            column: span.column,
        }
    }
}

/// Finds where objects and their fields stand.
#[derive(Clone, Debug, Default)]
pub struct Places {
    objects: BTreeMap<String, Resource>,
}

impl Places {
    /// The places of these objects.
    pub fn new(resources: &[Resource]) -> Self {
        let key = |resource: &Resource| {
            let (kind, namespace) = (resource.kind.as_str(), resource.namespace());
            format!("{kind}/{namespace}/{}", resource.name())
        };
        Self {
            objects: resources
                .iter()
                .map(|resource| (key(resource), resource.clone()))
                .collect(),
        }
    }

    /// An object, by `Kind/namespace/name`.
    pub fn object(&self, object: &str) -> Option<&Resource> {
        self.objects.get(object)
    }

    /// Every object, by `Kind/namespace/name`.
    pub fn objects(&self) -> impl Iterator<Item = (&str, &Resource)> {
        self.objects
            .iter()
            .map(|(object, resource)| (object.as_str(), resource))
    }

    /// Every rule for tokens.
    pub(crate) fn jwt_rules(&self) -> impl Iterator<Item = &JwtRule> + Clone {
        let specs = self.objects.values();
        specs
            .filter_map(|resource| resource.spec_as::<RequestAuthentication>())
            .flat_map(|spec| &spec.jwt_rules)
    }

    /// The place of a field of an object.
    pub fn of(&self, object: &str, field: &str) -> Place {
        Place {
            object: object.to_owned(),
            field: field.to_owned(),
            source: self.source(object, field),
        }
    }

    fn source(&self, object: &str, field: &str) -> Option<Source> {
        let resource = self.objects.get(object)?;
        // What nobody wrote stands nowhere.
        (resource.origin.root.entries().iter().len() > 0).then(|| resource.file_span(field).into())
    }

    /// Whether a place's field is written in its object, rather than a default or implied.
    pub fn is_written(&self, place: &Place) -> bool {
        let resource = self.objects.get(&place.object);
        resource.is_some_and(|resource| resource.origin.span(&place.field).is_some())
    }

    /// The place of what the engine decided by.
    pub fn of_provenance(&self, provenance: &Provenance) -> Option<Place> {
        let origin = provenance.origin()?;
        let object = match (&origin.object, &origin.istio_config) {
            (Some(object), _) => object.to_string(),
            (None, Some(path)) => object_of_path(path)?,
            (None, None) => return None,
        };
        let field = origin.field.as_deref().unwrap_or_default();
        let source = origin.source.as_deref().and_then(parse_source);
        Some(Place {
            source: source.or_else(|| self.source(&object, field)),
            field: field.to_owned(),
            object,
        })
    }
}

/// `file:line:column`, as another control plane may write it.
fn parse_source(text: &str) -> Option<Source> {
    let mut parts = text.rsplitn(3, ':');
    let column = parts.next()?.parse().ok()?;
    let line = parts.next()?.parse().ok()?;
    Some(Source {
        file: parts.next()?.to_owned(),
        line,
        column,
    })
}

/// Istio's path of an object, in our form: `/apis/networking.istio.io/v1/namespaces/shop/virtual-service/web`.
fn object_of_path(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').collect();
    let ["", "apis", _, _, "namespaces", namespace, kind, name] = parts[..] else {
        return None;
    };
    let words = kind.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        format!("{}{rest}", first.to_ascii_uppercase())
    });
    Some(format!("{}/{namespace}/{name}", words.collect::<String>()))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.object)?;
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istios_paths_name_objects_as_ours_do() {
        let path = "/apis/networking.istio.io/v1/namespaces/shop/virtual-service/web";
        assert_eq!(
            object_of_path(path).as_deref(),
            Some("VirtualService/shop/web")
        );
        assert_eq!(object_of_path("/nonsense"), None);
    }
}
