//! What the compiler finds while it puts objects together: mistakes that no object shows by itself.
//!
//! Codes are `LAT3nnn`. Each says what the mesh did.

use lateen_api::{Diagnostic, Resource, ResourceRef, Severity};

use crate::names::ObjectRef;

/// Two rules for one host define the same subset.
pub(crate) const DUPLICATE_SUBSET: &str = "LAT3001";
/// A delegate that does not exist, or is itself a root.
pub(crate) const DELEGATE: &str = "LAT3002";
/// A root's match and its delegate's exclude each other.
pub(crate) const DELEGATE_CONFLICT: &str = "LAT3003";
/// A server that cannot share its port with another.
pub(crate) const GATEWAY_CONFLICT: &str = "LAT3004";
/// A gateway's certificate that is not there.
pub(crate) const MISSING_CREDENTIAL: &str = "LAT3005";
/// A gateway's Secret that holds no usable certificate.
pub(crate) const BAD_CREDENTIAL: &str = "LAT3006";
/// Two services with the same host name.
pub(crate) const DUPLICATE_SERVICE: &str = "LAT3007";
/// A credential that the proxy may not read.
pub(crate) const SIDECAR_CREDENTIAL: &str = "LAT3008";
/// A host that belongs to another namespace, where ownership is strict.
pub(crate) const HOST_OWNER: &str = "LAT3009";

/// A part of an Ingress that cannot be served.
pub(crate) const INGRESS: &str = "LAT3020";
/// A part of a route of the Gateway API that cannot be served.
pub(crate) const ROUTE_PARENT: &str = "LAT3021";
/// A policy that names something no workload of this mesh is.
pub(crate) const UNKNOWN_TARGET: &str = "LAT3030";
/// A CUSTOM policy whose authorizer cannot be asked.
pub(crate) const BAD_AUTHORIZER: &str = "LAT3031";
/// Two CUSTOM policies with different authorizers may meet at one workload.
pub(crate) const SEVERAL_AUTHORIZERS: &str = "LAT3032";
/// Keys of a token issuer that cannot be fetched, and none are known.
pub(crate) const JWKS_UNAVAILABLE: &str = "LAT3040";
/// Keys of a token issuer that cannot be fetched anew.
pub(crate) const JWKS_STALE: &str = "LAT3041";
/// A policy that asks for a verified token where none is verified.
pub(crate) const NO_REQUEST_AUTHENTICATION: &str = "LAT3042";

/// A part of an access rule that matches nothing, by its own text.
pub(crate) const NEVER_MATCHES: &str = "LAT3050";
/// An ALLOW rule whose every request a DENY rule denies.
pub(crate) const DENIED_RULE: &str = "LAT3051";
/// A rule all of whose requests another one of the same action matches.
pub(crate) const REDUNDANT_RULE: &str = "LAT3052";
/// An identity is asked for where clients can have none.
pub(crate) const NO_IDENTITY: &str = "LAT3053";
/// A DENY by identity where clients may come without one.
pub(crate) const PLAIN_TEXT_ESCAPES: &str = "LAT3054";
/// An identity that no workload has.
pub(crate) const UNKNOWN_IDENTITY: &str = "LAT3055";
/// A token of an issuer whose tokens are not taken.
pub(crate) const UNKNOWN_ISSUER: &str = "LAT3056";
/// A rule about requests on a port that carries none.
pub(crate) const HTTP_ON_TCP: &str = "LAT3057";
/// A policy that selects no workload.
pub(crate) const NO_WORKLOAD: &str = "LAT3058";

/// A Telemetry that names a provider that cannot be used.
pub(crate) const TELEMETRY_PROVIDER: &str = "LAT3060";

/// Every finding of [`crate::dead_rules`].
pub const DEAD_RULES: [&str; 9] = [
    NEVER_MATCHES,
    DENIED_RULE,
    REDUNDANT_RULE,
    NO_IDENTITY,
    PLAIN_TEXT_ESCAPES,
    UNKNOWN_IDENTITY,
    UNKNOWN_ISSUER,
    HTTP_ON_TCP,
    NO_WORKLOAD,
];

/// A finding about a resource that is at hand.
pub(crate) fn on_resource(
    code: &'static str,
    resource: &Resource,
    field: &str,
    message: String,
) -> Diagnostic {
    Diagnostic::new(code, Severity::Warning, message)
        .on(resource.reference())
        .at(field)
        .spanned(Some(resource.file_span(field)))
}

/// A finding about an object known by reference only.
pub(crate) fn on_object(
    code: &'static str,
    object: &ObjectRef,
    field: &str,
    message: String,
) -> Diagnostic {
    Diagnostic::new(code, Severity::Warning, message)
        .on(ResourceRef {
            api_version: String::new(),
            kind: object.kind.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
        })
        .at(field)
}
