//! Whether a route's conditions hold, and which is the first that does not.

use std::fmt;

use super::table::PathKnown;
use super::types::{PathMatch, RouteMatch, TlsContextMatch};
use crate::request::{PeerTls, RequestView};

/// The first condition of a route that does not hold. Numbers are indexes into the route's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The path.
    Path,
    /// The share of requests.
    Fraction,
    /// It is not gRPC.
    NotGrpc,
    /// A header.
    Header(usize),
    /// A query parameter.
    Query(usize),
    /// The peer's certificate.
    TlsContext,
    /// Dynamic metadata.
    DynamicMetadata(usize),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("the path does not match"),
            Self::Fraction => f.write_str("the request is not in the route's share"),
            Self::NotGrpc => f.write_str("the request is not gRPC"),
            Self::Header(index) => write!(f, "header condition {index} does not hold"),
            Self::Query(index) => write!(f, "query parameter condition {index} does not hold"),
            Self::TlsContext => {
                f.write_str("the condition on the peer's certificate does not hold")
            }
            Self::DynamicMetadata(index) => {
                write!(f, "dynamic metadata condition {index} does not hold")
            }
        }
    }
}

impl RouteMatch {
    /// Whether all conditions hold.
    pub fn matches(&self, request: &RequestView<'_>, random: u64) -> bool {
        self.first_mismatch(request, random, PathKnown::No)
            .is_none()
    }

    /// The first condition that does not hold.
    pub fn mismatch(&self, request: &RequestView<'_>, random: u64) -> Option<Mismatch> {
        self.first_mismatch(request, random, PathKnown::No)
    }

    pub(super) fn first_mismatch(
        &self,
        request: &RequestView<'_>,
        random: u64,
        known: PathKnown,
    ) -> Option<Mismatch> {
        if known == PathKnown::No && !self.path.matches(request) {
            return Some(Mismatch::Path);
        }
        if self.fraction.is_some_and(|fraction| !fraction.hit(random)) {
            return Some(Mismatch::Fraction);
        }
        if self.grpc && !request.is_grpc() {
            return Some(Mismatch::NotGrpc);
        }
        if let Some(index) = self
            .headers
            .iter()
            .position(|matcher| !matcher.matches(request))
        {
            return Some(Mismatch::Header(index));
        }
        if !self.query.is_empty() {
            let query = request.query();
            if let Some(index) = self
                .query
                .iter()
                .position(|matcher| !matcher.matches(query))
            {
                return Some(Mismatch::Query(index));
            }
        }
        if self.tls.is_some_and(|tls| !tls.matches(request.peer)) {
            return Some(Mismatch::TlsContext);
        }
        let metadata = request.dynamic_metadata;
        let index = self
            .dynamic_metadata
            .iter()
            .position(|matcher| !matcher.matches(metadata))?;
        Some(Mismatch::DynamicMetadata(index))
    }
}

impl PathMatch {
    /// Whether a request's path matches. A request without a path only matches [`PathMatch::Connect`].
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        if let Self::Connect = self {
            return request.method == "CONNECT";
        }
        let path = request.path_only();
        !path.is_empty() && self.matches_path(path)
    }

    fn matches_path(&self, path: &str) -> bool {
        match self {
            Self::Exact {
                path: want,
                ignore_case,
            } => equal(path.as_bytes(), want, *ignore_case),
            Self::Prefix {
                prefix,
                ignore_case,
            } => begins(path, prefix, *ignore_case),
            Self::SegmentPrefix {
                prefix,
                ignore_case,
            } => {
                begins(path, prefix, *ignore_case)
                    && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
            Self::Template(template) => template.matches(path),
            Self::Connect => false,
        }
    }

    /// How many bytes of a path that matches are the matched part, for prefix rewriting.
    pub(super) fn matched_length(&self, path_only: &str) -> usize {
        match self {
            Self::Prefix { prefix, .. } | Self::SegmentPrefix { prefix, .. } => {
                prefix.len().min(path_only.len())
            }
            Self::Exact { .. } | Self::Regex(_) | Self::Template(_) | Self::Connect => {
                path_only.len()
            }
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact { path, .. } => write!(f, "path = {path:?}"),
            Self::Prefix { prefix, .. } => write!(f, "path begins with {prefix:?}"),
            Self::SegmentPrefix { prefix, .. } => {
                write!(f, "path begins with the segments {prefix:?}")
            }
            Self::Regex(regex) => write!(f, "path matches {:?}", regex.as_str()),
            Self::Template(template) => {
                write!(f, "path matches the template {:?}", template.as_str())
            }
            Self::Connect => f.write_str("method = CONNECT"),
        }
    }
}

impl TlsContextMatch {
    fn matches(self, peer: &PeerTls<'_>) -> bool {
        self.presented.is_none_or(|wanted| wanted == peer.presented)
            && self.validated.is_none_or(|wanted| wanted == peer.validated)
    }
}

fn equal(path: &[u8], want: &str, ignore_case: bool) -> bool {
    if ignore_case {
        path.eq_ignore_ascii_case(want.as_bytes())
    } else {
        path == want.as_bytes()
    }
}

fn begins(path: &str, prefix: &str, ignore_case: bool) -> bool {
    path.as_bytes()
        .get(..prefix.len())
        .is_some_and(|head| equal(head, prefix, ignore_case))
}
