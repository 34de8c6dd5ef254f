//! Filter metadata: what each resource says about where it came from, in Istio's form (`istio`) and in ours (`lateen`).

use std::collections::{BTreeMap, HashMap};

use lateen_envoy::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};

use crate::names::ObjectRef;
use crate::proto::core;

/// Istio's namespace in filter metadata.
pub(crate) const ISTIO: &str = "istio";
/// Ours: `{ object: "VirtualService/ns/name", field: "spec.http[0]" }`, as the traffic engine reads it.
pub(crate) const LATEEN: &str = "lateen";
/// What Envoy's transport-socket matcher looks at.
pub(crate) const TRANSPORT_SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// Filter metadata under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meta {
    namespaces: BTreeMap<String, BTreeMap<String, Value>>,
}

impl Meta {
    /// Sets a field.
    pub(crate) fn value(mut self, namespace: &str, key: &str, value: Value) -> Self {
        self.namespaces
            .entry(namespace.to_owned())
            .or_default()
            .insert(key.to_owned(), value);
        self
    }

    /// Sets a text field.
    pub(crate) fn string(self, namespace: &str, key: &str, text: &str) -> Self {
        self.value(namespace, key, string(text))
    }

    /// Names the object this came from, as Istio does and with our field path.
    ///
    /// `path` is the field that decided, such as `spec.http[0].match[1]`; empty for the whole object.
    pub(crate) fn config(self, object: &ObjectRef, path: &str) -> Self {
        let meta = self.string(ISTIO, "config", &api_path(object));
        meta.provenance(object, path)
    }

    /// Our provenance alone, for objects Istio does not name.
    pub(crate) fn provenance(self, object: &ObjectRef, path: &str) -> Self {
        let meta = self.string(LATEEN, "object", &object.to_string());
        if path.is_empty() {
            meta
        } else {
            meta.string(LATEEN, "field", path)
        }
    }

    /// The message; none if nothing was set.
    pub(crate) fn build(self) -> Option<core::Metadata> {
        if self.namespaces.is_empty() {
            return None;
        }
        let filter_metadata = self
            .namespaces
            .into_iter()
            .map(|(key, fields)| (key, to_struct(fields)))
            .collect();
        Some(core::Metadata {
            filter_metadata,
            typed_filter_metadata: HashMap::new(),
        })
    }
}

/// The group and version Istio writes for a kind, and the kind in kebab case.
fn api_of(kind: &str) -> (&'static str, &'static str, &'static str) {
    match kind {
        "VirtualService" => ("networking.istio.io", "v1", "virtual-service"),
        "DestinationRule" => ("networking.istio.io", "v1", "destination-rule"),
        "ServiceEntry" => ("networking.istio.io", "v1", "service-entry"),
        "Gateway" => ("networking.istio.io", "v1", "gateway"),
        "Sidecar" => ("networking.istio.io", "v1", "sidecar"),
        "PeerAuthentication" => ("security.istio.io", "v1", "peer-authentication"),
        "AuthorizationPolicy" => ("security.istio.io", "v1", "authorization-policy"),
        _ => ("", "v1", "service"),
    }
}

/// `/apis/networking.istio.io/v1/namespaces/ns/virtual-service/name`: what Istio's tools parse.
fn api_path(object: &ObjectRef) -> String {
    let (group, version, kind) = api_of(&object.kind);
    format!(
        "/apis/{group}/{version}/namespaces/{}/{kind}/{}",
        object.namespace, object.name
    )
}

/// A text value.
pub(crate) fn string(text: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    }
}

/// A truth value.
pub(crate) fn boolean(value: bool) -> Value {
    Value {
        kind: Some(Kind::BoolValue(value)),
    }
}

/// A number.
pub(crate) fn number(value: f64) -> Value {
    Value {
        kind: Some(Kind::NumberValue(value)),
    }
}

/// A list.
pub(crate) fn list(values: Vec<Value>) -> Value {
    Value {
        kind: Some(Kind::ListValue(ListValue { values })),
    }
}

/// An object.
pub(crate) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value {
        kind: Some(Kind::StructValue(fields_to_struct(fields))),
    }
}

/// A `Struct` of the given fields.
pub(crate) fn fields_to_struct<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct {
        fields: fields
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    }
}

fn to_struct(fields: BTreeMap<String, Value>) -> Struct {
    Struct {
        fields: fields.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_in_both_forms() {
        let object = ObjectRef::new("VirtualService", "default", "reviews");
        let built = Meta::default()
            .config(&object, "spec.http[0]")
            .build()
            .unwrap();
        let text = |ns: &str, key: &str| built.filter_metadata[ns].fields[key].clone();
        assert_eq!(
            text(ISTIO, "config"),
            string("/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews")
        );
        assert_eq!(
            text(LATEEN, "object"),
            string("VirtualService/default/reviews")
        );
        assert_eq!(text(LATEEN, "field"), string("spec.http[0]"));
        assert_eq!(Meta::default().build(), None);
    }
}
