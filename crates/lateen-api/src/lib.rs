//! Istio and Kubernetes resource types: YAML with spans, defaulting and validation to diagnostics.
//!
//! ```
//! use lateen_api::{SourceFile, networking::VirtualService, parse_file, validate};
//!
//! let file = SourceFile::new("reviews.yaml", "
//! apiVersion: networking.istio.io/v1
//! kind: VirtualService
//! metadata: {name: reviews}
//! spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}
//! ");
//! let parsed = parse_file(&file, "default");
//! assert!(parsed.diagnostics.is_empty() && validate(&parsed.resources[0]).is_empty());
//! let reviews: &VirtualService = parsed.resources[0].spec_as().unwrap();
//! assert_eq!(reviews.hosts, ["reviews"]);
//! ```
//!
//! Nothing here does I/O, knows a clock, or depends on a runtime. Modules depend only on those listed before them.

pub mod cipher;
pub mod curve;
pub mod diagnostic;
pub mod extensions;
pub mod host;
mod kind;
pub mod kube;
pub mod labels;
pub mod mesh;
pub mod meshtest;
pub mod meta;
pub mod networking;
mod parse;
mod path;
pub mod query;
pub mod resource;
pub mod schema;
pub mod security;
pub mod selector;
pub mod span;
pub mod telemetry;
pub mod tree;
mod validation;
pub mod value;
mod yaml;

pub use diagnostic::{Diagnostic, Severity};
pub use kind::{Body, Kind, KindInfo, KindSpec, Scope, Spec};
pub use meta::{Key, ObjectMeta, ResourceRef};
pub use parse::{Parsed, fragment_tree, parse_document, parse_file, parse_fragment};
pub use resource::{Origin, OtherDoc, Resource};
pub use schema::{nearest, parse_duration};
pub use span::{FileSpan, SourceFile, Span};
pub use validation::{regex_problem, validate};
