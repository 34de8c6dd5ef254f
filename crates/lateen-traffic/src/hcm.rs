//! The HTTP connection manager's settings (`envoy.filters.network.http_connection_manager`).

use std::sync::Arc;
use std::time::Duration;

use crate::access_log::{AccessLog, LogFilter, LogFormat};
use crate::cluster::{Http1Options, Http2Options};
use crate::filter::HttpFilter;
use crate::headers::{HeaderMutations, StripPort};
use crate::path::PathOptions;
use crate::route::RouteConfig;
use crate::tls::DataSource;
use crate::tracing::Tracing;

/// The HTTP connection manager's settings.
#[derive(Clone, Debug)]
pub struct HttpConnectionManager {
    /// The prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// Which versions are accepted.
    pub codec: Codec,
    /// Where its routes are.
    pub routes: RouteSource,
    /// Its filters, in order; the last is the router.
    pub filters: Vec<HttpFilter>,
    /// Its access logs.
    pub access_logs: Vec<AccessLog>,
    /// Access logs are flushed while a request is under way, at this interval.
    pub access_log_flush_interval: Option<Duration>,
    /// Access logs are written when a request arrives, too.
    pub flush_access_log_on_new_request: bool,
    /// The timeouts.
    pub timeouts: HttpTimeouts,
    /// Path canonicalisation.
    pub path: PathOptions,
    /// Port of the authority.
    pub strip_port: StripPort,
    /// A trailing dot of the authority goes.
    pub strip_trailing_host_dot: bool,
    /// The client's address is the connection's, and `x-forwarded-for` is appended to.
    pub use_remote_address: bool,
    /// Trusted proxies in front, whose `x-forwarded-for` entries are believed.
    pub xff_num_trusted_hops: u32,
    /// `x-forwarded-for` is left as it is.
    pub skip_xff_append: bool,
    /// `via` gets this value.
    pub via: Option<Arc<str>>,
    /// What happens to `x-forwarded-client-cert`.
    pub forward_client_cert: ForwardClientCert,
    /// What is put into `x-forwarded-client-cert`.
    pub client_cert_details: ClientCertDetails,
    /// The `server` header's value.
    pub server_name: Arc<str>,
    /// When the `server` header is set.
    pub server_header: ServerHeader,
    /// `x-request-id` is made if absent.
    pub generate_request_id: bool,
    /// A client's `x-request-id` is kept even at the edge.
    pub preserve_external_request_id: bool,
    /// `x-request-id` is put into responses.
    pub always_set_request_id_in_response: bool,
    /// Upgrades that are accepted.
    pub upgrades: Vec<Upgrade>,
    /// Bytes of request headers, at most (`max_request_headers_kb`, 60 by default).
    pub max_request_headers_bytes: u32,
    /// Number of request headers, at most; 100 by default.
    pub max_headers_count: u32,
    /// Requests on one connection; `None` sets no limit.
    pub max_requests_per_connection: Option<u32>,
    /// What happens to header names with underscores.
    pub underscores: UnderscoreHeaders,
    /// HTTP/1 settings.
    pub http1: Http1Options,
    /// HTTP/2 settings.
    pub http2: Http2Options,
    /// An HTTP/1 message that is malformed does not end the connection.
    pub stream_error_on_invalid_message: bool,
    /// `:scheme` is overwritten with this.
    pub scheme_override: Option<Arc<str>>,
    /// `:scheme` follows the upstream's transport.
    pub scheme_match_upstream: bool,
    /// `x-forwarded-port` is added.
    pub append_x_forwarded_port: bool,
    /// Addresses that count as internal; empty is Envoy's default (none from 1.33 on).
    pub internal_addresses: Vec<ipnet::IpNet>,
    /// Unix sockets count as internal.
    pub internal_unix_sockets: bool,
    /// Answers made by the proxy itself.
    pub local_reply: LocalReply,
    /// Status 100 goes to the client.
    pub proxy_100_continue: bool,
    /// How requests are traced, if they are.
    pub tracing: Option<Arc<Tracing>>,
    /// What `x-request-id` has to do with it.
    pub request_id: RequestId,
}

/// What `x-request-id` has to do with tracing (`envoy.request_id.uuid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// Why a request is traced is written into its id.
    pub packs_reason: bool,
    /// The id says which requests are traced. Otherwise all of them are.
    pub samples: bool,
}

impl Default for RequestId {
    fn default() -> Self {
        Self {
            packs_reason: true,
            samples: true,
        }
    }
}

/// Which HTTP versions are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// By ALPN, else by the preface.
    #[default]
    Auto,
    /// HTTP/1 only.
    Http1,
    /// HTTP/2 only, with prior knowledge.
    Http2,
    /// HTTP/3.
    Http3,
}

/// Where the routes are.
#[derive(Clone, Debug)]
pub enum RouteSource {
    /// In place.
    Inline(Arc<RouteConfig>),
    /// By RDS.
    Rds(Arc<str>),
}

/// The HTTP connection manager's timeouts; `None` never ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpTimeouts {
    /// A connection without requests; 1 h by default.
    pub idle: Option<Duration>,
    /// Longest life of a connection.
    pub max_connection_duration: Option<Duration>,
    /// Longest life of a stream.
    pub max_stream_duration: Option<Duration>,
    /// A stream without a byte; 5 min by default.
    pub stream_idle: Option<Duration>,
    /// A whole request.
    pub request: Option<Duration>,
    /// A request's headers.
    pub request_headers: Option<Duration>,
    /// Between GOAWAY and the end of a draining connection; 5 s by default.
    pub drain: Duration,
    /// Between the last byte and the end of a connection that is being closed; 1 s by default.
    pub delayed_close: Duration,
}

/// What happens to `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// It is taken away.
    #[default]
    Sanitize,
    /// It is passed on if the connection is mTLS.
    ForwardOnly,
    /// The peer's certificate is appended if the connection is mTLS.
    AppendForward,
    /// The peer's certificate replaces it if the connection is mTLS, else it is taken away.
    SanitizeSet,
    /// It is passed on in any case.
    AlwaysForwardOnly,
}

/// What is put into `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCertDetails {
    /// The subject.
    pub subject: bool,
    /// The certificate.
    pub cert: bool,
    /// The chain.
    pub chain: bool,
    /// DNS SANs.
    pub dns: bool,
    /// The first URI SAN.
    pub uri: bool,
}

/// When the `server` header is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerHeader {
    /// Always.
    #[default]
    Overwrite,
    /// If the upstream sent none.
    AppendIfAbsent,
    /// Never.
    PassThrough,
}

/// What happens to header names with underscores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnderscoreHeaders {
    /// They are allowed.
    #[default]
    Allow,
    /// The request is answered with 400.
    RejectRequest,
    /// They are taken away.
    DropHeader,
}

/// One upgrade.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// Its token, `websocket` or `CONNECT`; matched without regard to case.
    pub token: Arc<str>,
    /// Whether it is accepted unless a route says otherwise.
    pub enabled: bool,
    /// Its own filters; empty are the manager's.
    pub filters: Vec<HttpFilter>,
}

/// How answers of the proxy itself look.
#[derive(Clone, Debug, Default)]
pub struct LocalReply {
    /// The first that fits changes the answer.
    pub mappers: Vec<ReplyMapper>,
    /// The body's format; `None` is the text itself.
    pub body_format: Option<BodyFormat>,
}

/// A change to some of the proxy's own answers.
#[derive(Clone, Debug)]
pub struct ReplyMapper {
    /// Which answers.
    pub filter: LogFilter,
    /// Another status.
    pub status: Option<u16>,
    /// Another text.
    pub body: Option<DataSource>,
    /// Another format.
    pub body_format: Option<BodyFormat>,
    /// Further headers.
    pub headers: HeaderMutations,
}

/// A body's format.
#[derive(Clone, Debug)]
pub struct BodyFormat {
    /// The text or object.
    pub format: LogFormat,
    /// Its content type; by the kind of format if not given.
    pub content_type: Option<Arc<str>>,
}
