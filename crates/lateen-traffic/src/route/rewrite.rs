//! What a route makes of a request's path and host, and where a redirect leads.

use std::borrow::Cow;

use super::action::{HostRewrite, PathRewrite, Redirect, RedirectPath};
use super::decision::RouteDecision;
use crate::path::without_query;
use crate::request::RequestView;

impl RouteDecision<'_> {
    /// The path to send upstream, with its query; `None` if it stays as it is.
    pub fn rewritten_path(&self, request: &RequestView<'_>) -> Option<String> {
        let (path, tail) = split_path(request.path);
        match self.forward()?.path_rewrite.as_ref()? {
            PathRewrite::Prefix(prefix) => Some(self.with_prefix(prefix, request)),
            PathRewrite::Regex(regex) => Some(regex.replace(path) + tail),
            PathRewrite::Template { pattern, rewrite } => {
                Some(pattern.rewrite(path, rewrite)? + tail)
            }
        }
    }

    /// The host to send upstream; `None` if it stays, or depends on the endpoint ([`HostRewrite::Auto`]).
    pub fn rewritten_host<'a>(&'a self, request: &RequestView<'a>) -> Option<Cow<'a, str>> {
        match self.host_rewrite()? {
            HostRewrite::Literal(host) => Some(Cow::Borrowed(host)),
            HostRewrite::Auto => None,
            HostRewrite::Header(name) => {
                let value = request.headers.get(name)?.to_str().ok()?;
                (!value.is_empty()).then_some(Cow::Borrowed(value))
            }
            HostRewrite::PathRegex(regex) => Some(Cow::Owned(regex.replace(request.path_only()))),
        }
    }

    /// The `location` of a redirect.
    pub fn redirect_location(&self, redirect: &Redirect, request: &RequestView<'_>) -> String {
        let scheme = redirect.scheme.as_deref().unwrap_or(request.scheme);
        let host = match &redirect.host {
            Some(host) => host,
            None => host_without_needless_port(request, scheme, redirect.port.is_some()),
        };
        let path = self.redirect_path(redirect, request);
        match redirect.port {
            Some(port) => format!("{scheme}://{host}:{port}{path}"),
            None => format!("{scheme}://{host}{path}"),
        }
    }

    fn redirect_path<'r>(&self, redirect: &'r Redirect, request: &RequestView<'r>) -> Cow<'r, str> {
        let (path, tail) = split_path(request.path);
        let full: Cow<'r, str> = match &redirect.path {
            // A query in the redirect's own path wins, and is never stripped.
            RedirectPath::Literal(path) if path.contains('?') => return Cow::Borrowed(path),
            RedirectPath::Literal(path) => Cow::Owned(format!("{path}{tail}")),
            RedirectPath::Same => Cow::Borrowed(request.path),
            RedirectPath::Prefix(prefix) => Cow::Owned(self.with_prefix(prefix, request)),
            RedirectPath::Regex(regex) => Cow::Owned(regex.replace(path) + tail),
        };
        if !redirect.strip_query {
            return full;
        }
        match full {
            Cow::Borrowed(path) => Cow::Borrowed(without_query(path)),
            Cow::Owned(path) => Cow::Owned(without_query(&path).to_owned()),
        }
    }

    fn with_prefix(&self, prefix: &str, request: &RequestView<'_>) -> String {
        let matched = self.route.matcher.path.matched_length(request.path_only());
        format!("{prefix}{}", request.path.get(matched..).unwrap_or(""))
    }
}

/// Where a virtual host that wants TLS sends a plaintext request.
pub fn https_location(request: &RequestView<'_>) -> String {
    format!(
        "https://{}{}",
        host_without_needless_port(request, "https", false),
        request.path
    )
}

fn split_path(path: &str) -> (&str, &str) {
    path.split_at(without_query(path).len())
}

/// A port in the host goes if the redirect sets one, or if it was the default of a scheme that changes.
/// Source: Envoy's `RouteEntryImplBase::processRequestHost`.
fn host_without_needless_port<'r>(
    request: &RequestView<'r>,
    scheme: &str,
    new_port: bool,
) -> &'r str {
    let host = request.authority;
    let bare = crate::headers::without_port(host);
    let port = &host[bare.len()..];
    let default = match request.scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let needless = scheme != request.scheme && !port.is_empty() && port == default;
    if new_port || needless { bare } else { host }
}
