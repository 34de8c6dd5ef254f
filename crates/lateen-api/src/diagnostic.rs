//! What is wrong, odd or unsupported in the user's configuration, as data.
//!
//! Every front end (command line, webhook, status, dashboard) shows these same values; [`render`](render::render)
//! is their plain-text form. The catalogue of codes is [`codes`].

pub mod codes;
mod render;

pub use render::{Style, render};

use serde::Serialize;

use crate::meta::ResourceRef;
use crate::span::FileSpan;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is refused: the mesh keeps its last good version, if it had one. Of references between objects: it is used, and
    /// requests fail for it.
    Error,
    /// The object is used; it probably does not do what was meant.
    Warning,
    /// Worth knowing.
    Info,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// Stable: `LATnnnn`, or Istio's `ISTnnnn` where Istio has the same finding.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The object it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceRef>,
    /// Path of the field from the object's root, such as `spec.http[0].route`; empty for the whole object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span: Option<FileSpan>,
    /// What is wrong, one line, lower case, no trailing stop.
    pub message: String,
    /// What the mesh did about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub effect: String,
    /// What to write instead, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Diagnostic {
    /// A finding without place, effect or fix.
    pub fn new(code: &'static str, severity: Severity, message: impl Into<String>) -> Self {
        Self {
            code,
            severity,
            resource: None,
            field: String::new(),
            span: None,
            message: message.into(),
            effect: String::new(),
            fix: None,
        }
    }

    /// Whether it is an error. Those that come from parsing and validation alone say that the object is refused.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Says which object it is about.
    #[must_use]
    pub fn on(mut self, resource: ResourceRef) -> Self {
        self.resource = Some(resource);
        self
    }

    /// Says which field it is about.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = field.into();
        self
    }

    /// Says where it stands.
    #[must_use]
    pub fn spanned(mut self, span: Option<FileSpan>) -> Self {
        self.span = span;
        self
    }

    /// Says what the mesh did.
    #[must_use]
    pub fn effect(mut self, effect: impl Into<String>) -> Self {
        self.effect = effect.into();
        self
    }

    /// Says what to write instead.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}
