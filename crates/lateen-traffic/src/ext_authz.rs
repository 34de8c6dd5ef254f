//! External authorization: which requests and connections an authorizer is asked about, what it is told, and what its answer means.
//!
//! Asking is not done here; an answer comes in as a status with headers (HTTP) or as a [`Verdict`] (gRPC). Source: Envoy's
//! `ext_authz` filters.

mod answer;

use std::sync::Arc;
use std::time::Duration;

use crate::format::Format;
use crate::matcher::{Fraction, MetadataMatcher, StringMatcher};
use crate::value::Metadata;

pub use answer::{Allowance, Change, Denial, How, Verdict};

/// `envoy.filters.http.ext_authz`.
#[derive(Clone, Debug)]
pub struct ExtAuthz {
    /// Who is asked.
    pub service: Service,
    /// Which requests it is asked about.
    pub when: When,
    /// What is not asked about is denied instead of let through.
    pub deny_at_disable: bool,
    /// A request goes on if the authorizer cannot be asked.
    pub failure_mode_allow: bool,
    /// Such a request gets `x-envoy-auth-failure-mode-allowed: true`.
    pub failure_mode_allow_header: bool,
    /// Routes are looked for anew if the authorizer changed the request.
    pub clear_route_cache: bool,
    /// The status of requests that are denied because the authorizer cannot be asked.
    pub status_on_error: u16,
    /// The request's body goes to the authorizer, too.
    pub body: Option<BodySettings>,
    /// Request headers the authorizer is told; all for gRPC without a list.
    pub headers: HeaderChoice,
    /// Namespaces of dynamic metadata that the authorizer is told (gRPC).
    pub metadata_namespaces: Vec<Arc<str>>,
    /// The authorizer is told the server name of the connection (gRPC).
    pub include_tls_session: bool,
    /// What counters' names have before what they count; ends with a dot unless it is empty.
    pub stat_prefix: Arc<str>,
}

/// `envoy.filters.network.ext_authz`.
#[derive(Clone, Debug)]
pub struct NetworkExtAuthz {
    /// Who is asked.
    pub service: GrpcService,
    /// Which connections it is asked about.
    pub when: When,
    /// A connection goes on if the authorizer cannot be asked.
    pub failure_mode_allow: bool,
    /// Namespaces of dynamic metadata that the authorizer is told.
    pub metadata_namespaces: Vec<Arc<str>>,
    /// The authorizer is told the server name of the connection.
    pub include_tls_session: bool,
    /// The label of its counters.
    pub stat_prefix: Arc<str>,
}

/// What a route says of the filter (`ExtAuthzPerRoute.check_settings`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteSettings {
    /// What the authorizer is told besides, by key in order (gRPC).
    pub context: Vec<(Arc<str>, Arc<str>)>,
    /// The body is not sent.
    pub without_body: bool,
    /// The body is sent as these say.
    pub body: Option<BodySettings>,
}

/// Who is asked.
#[derive(Clone, Debug)]
pub enum Service {
    /// By HTTP: the request's own method, path and host, and its status is the answer.
    Http(Box<HttpService>),
    /// By gRPC: `envoy.service.auth.v3.Authorization/Check`.
    Grpc(GrpcService),
}

/// An authorizer that speaks HTTP.
#[derive(Clone, Debug)]
pub struct HttpService {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// How long it has.
    pub timeout: Duration,
    /// What stands before the request's path.
    pub path_prefix: Arc<str>,
    /// What stands for the request's path.
    pub path_override: Option<Arc<str>>,
    /// Headers it gets besides, replacing those of the request.
    pub headers_to_add: Vec<(http::HeaderName, Format)>,
    /// Its answer's headers that the upstream gets if it allows, in place of the request's.
    pub to_upstream: Vec<StringMatcher>,
    /// The same, after the request's.
    pub append_to_upstream: Vec<StringMatcher>,
    /// Its answer's headers that the client gets if it denies; all if there is no list.
    pub to_client_on_deny: Vec<StringMatcher>,
    /// Its answer's headers that the client gets if it allows.
    pub to_client_on_allow: Vec<StringMatcher>,
    /// Its answer's headers that become dynamic metadata.
    pub to_metadata: Vec<StringMatcher>,
}

/// A service that speaks gRPC: an authorizer, a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcService {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// `:authority`; the cluster's name if empty.
    pub authority: Arc<str>,
    /// How long it has; none: as long as it takes.
    pub timeout: Option<Duration>,
    /// Metadata it gets.
    pub initial_metadata: Vec<(http::HeaderName, Format)>,
}

/// Which requests or connections an authorizer is asked about.
#[derive(Clone, Debug)]
pub struct When {
    /// A share of them.
    pub share: Fraction,
    /// Those with this metadata.
    pub metadata: Option<MetadataMatcher>,
}

/// How a body goes to the authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodySettings {
    /// Bytes, at most.
    pub max_bytes: usize,
    /// A longer body goes as far as that; otherwise the request is refused (413).
    pub allow_partial: bool,
    /// It goes as bytes, not as text (gRPC).
    pub pack_as_bytes: bool,
}

/// Which of a request's headers are told.
#[derive(Clone, Debug, Default)]
pub struct HeaderChoice {
    /// These; all if there is no list.
    pub allowed: Option<Vec<StringMatcher>>,
    /// But not these.
    pub disallowed: Vec<StringMatcher>,
}

impl When {
    /// Whether the authorizer is asked.
    pub fn holds(&self, metadata: &Metadata, random: u64) -> bool {
        self.share.hit(random)
            && self
                .metadata
                .as_ref()
                .is_none_or(|matcher| matcher.matches(metadata))
    }
}

impl HeaderChoice {
    /// Whether a header, by its lower-case name, is told. An HTTP authorizer is always told who is asked for, how, and with which
    /// credentials.
    pub fn includes(&self, name: &str) -> bool {
        let any = |list: &[StringMatcher]| list.iter().any(|m| m.matches(name.as_bytes()));
        !any(&self.disallowed) && self.allowed.as_ref().is_none_or(|list| any(list))
    }
}
