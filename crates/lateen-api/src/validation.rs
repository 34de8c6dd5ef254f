//! The API's rules that need to know what fields mean: what Istio's validation webhook and `istioctl validate` check
//! beyond the schema. What the schema alone says is checked while decoding (`schema::check`).
//!
//! Each kind has a module here; each rule is a short function from a typed value to reports. Rules that need other
//! objects (a host that no service has) belong to analysis, not here.
//!
//! Source: Istio 1.30 `pkg/config/validation`.

mod authorization;
mod common;
mod destination_rule;
mod envoy_filter;
mod forms;
mod gateway;
mod headers;
mod jwt;
mod kube;
mod load_balancer;
mod metadata;
mod reachability;
mod routes;
mod service_entry;
mod sidecar;
mod telemetry;
mod virtual_service;
mod workload;

use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Severity, codes};
use crate::kind::Spec;
use crate::path;
use crate::resource::Resource;
use crate::span::FileSpan;

/// Checks `resource` against the rules of its API. An error means that the object has to be refused.
pub fn validate(resource: &Resource) -> Vec<Diagnostic> {
    if resource.origin.truncated {
        return Vec::new();
    }
    let mut report = Report {
        resource,
        path: String::new(),
        found: Vec::new(),
    };
    metadata::check(&mut report);
    report.key("spec", |report| match &*resource.spec {
        Spec::VirtualService(spec) => virtual_service::check(spec, report),
        Spec::DestinationRule(spec) => destination_rule::check(spec, report),
        Spec::Gateway(spec) => gateway::check(spec, report),
        Spec::ServiceEntry(spec) => service_entry::check(spec, report),
        Spec::WorkloadEntry(spec) => workload::entry(spec, report),
        Spec::WorkloadGroup(spec) => workload::group(spec, report),
        Spec::Sidecar(spec) => sidecar::check(spec, report),
        Spec::EnvoyFilter(spec) => envoy_filter::check(spec, report),
        Spec::ProxyConfig(spec) => common::selector(spec.selector.as_ref(), report),
        Spec::PeerAuthentication(spec) => common::selector(spec.selector.as_ref(), report),
        Spec::RequestAuthentication(spec) => jwt::check(spec, report),
        Spec::AuthorizationPolicy(spec) => authorization::check(spec, report),
        Spec::Telemetry(spec) => telemetry::check(spec, report),
        Spec::WasmPlugin(spec) => {
            common::selector(spec.selector.as_ref(), report);
            common::targets(spec.target_ref.as_ref(), &spec.target_refs, report);
        }
        Spec::TrafficExtension(spec) => {
            common::selector(spec.selector.as_ref(), report);
            common::targets(None, &spec.target_refs, report);
        }
        other => kube::check(other, report),
    });
    report.found
}

/// Why a text is no regular expression that a proxy takes; `None` if it is one.
pub fn regex_problem(text: &str) -> Option<String> {
    forms::regex(text)
}

/// Collects findings about one resource, at a path that follows the checks.
pub(crate) struct Report<'a> {
    pub(crate) resource: &'a Resource,
    path: String,
    found: Vec<Diagnostic>,
}

impl Report<'_> {
    /// Runs `inner` with `.key` appended to the path.
    pub(crate) fn key<R>(&mut self, key: &str, inner: impl FnOnce(&mut Self) -> R) -> R {
        let len = self.path.len();
        path::push_key(&mut self.path, key);
        let result = inner(self);
        self.path.truncate(len);
        result
    }

    /// Runs `inner` with `[index]` appended to the path.
    pub(crate) fn index<R>(&mut self, index: usize, inner: impl FnOnce(&mut Self) -> R) -> R {
        let len = self.path.len();
        path::push_index(&mut self.path, index);
        let result = inner(self);
        self.path.truncate(len);
        result
    }

    /// Runs `inner` for each of `items` under `key`.
    pub(crate) fn each<'t, T>(
        &mut self,
        key: &str,
        items: &'t [T],
        mut inner: impl FnMut(&mut Self, &'t T),
    ) {
        self.key(key, |report| {
            for (index, item) in items.iter().enumerate() {
                report.index(index, |report| inner(report, item));
            }
        });
    }

    /// Runs `inner` for the message under `key`, if there is one.
    pub(crate) fn some<'t, T>(
        &mut self,
        key: &str,
        item: Option<&'t T>,
        inner: impl FnOnce(&mut Self, &'t T),
    ) {
        if let Some(item) = item {
            self.key(key, |report| inner(report, item));
        }
    }

    /// Reports an error here.
    pub(crate) fn error(&mut self, message: impl Into<String>) {
        self.push(
            codes::SCHEMA,
            Severity::Error,
            message.into(),
            codes::EFFECT_REFUSED,
            None,
        );
    }

    /// Reports an error at `.key`.
    pub(crate) fn error_at(&mut self, key: &str, message: impl Into<String>) {
        self.key(key, |report| report.error(message));
    }

    /// Reports an error here, and what to write instead.
    pub(crate) fn error_with(&mut self, message: impl Into<String>, fix: impl Into<String>) {
        let (message, fix) = (message.into(), Some(fix.into()));
        self.push(
            codes::SCHEMA,
            Severity::Error,
            message,
            codes::EFFECT_REFUSED,
            fix,
        );
    }

    /// Reports a warning here.
    pub(crate) fn warning(&mut self, message: impl Into<String>, effect: &str) {
        self.push(
            codes::SCHEMA_WARNING,
            Severity::Warning,
            message.into(),
            effect,
            None,
        );
    }

    /// Reports under a code of its own.
    pub(crate) fn push(
        &mut self,
        code: &'static str,
        severity: Severity,
        message: String,
        effect: &str,
        fix: Option<String>,
    ) {
        let origin = &self.resource.origin;
        let span = (!origin.path.is_empty())
            .then(|| FileSpan::new(Arc::clone(&origin.path), origin.nearest_span(&self.path)));
        let mut diagnostic = Diagnostic::new(code, severity, message)
            .on(self.resource.reference())
            .at(&*self.path)
            .spanned(span)
            .effect(effect);
        diagnostic.fix = fix;
        self.found.push(diagnostic);
    }
}

#[cfg(test)]
mod tests;
