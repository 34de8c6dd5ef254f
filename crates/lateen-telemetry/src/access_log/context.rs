//! What an access log may ask about a request or connection: the one trait the data plane implements.
//!
//! Fields are enums rather than sixty methods, so that an implementation is a few `match`es and a new operator is one
//! variant. Everything is borrowed; nothing is computed unless a format asks for it.

use std::any::Any;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderName;

use crate::ResponseFlags;

/// Which header an operator names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderKey {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority`, or `host`
    Authority,
    /// `:path`
    Path,
    /// `:protocol`
    Protocol,
    /// `:status`
    Status,
    /// An ordinary header.
    Name(HeaderName),
}

/// Which header map an operator reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderSource {
    /// `REQ`
    Request,
    /// `RESP`
    Response,
    /// `TRAILER`
    ResponseTrailer,
}

/// Which of the two connections of a request is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The one to the upstream.
    Upstream,
}

/// What is known of a TLS connection. Lists (SANs, chains) are joined by commas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "the names are those of Envoy's command operators"
)]
pub enum TlsField {
    PeerUriSan,
    PeerDnsSan,
    PeerIpSan,
    PeerEmailSan,
    PeerOthernameSan,
    PeerSubject,
    PeerIssuer,
    PeerSerial,
    PeerFingerprint1,
    PeerFingerprint256,
    PeerChainFingerprints1,
    PeerChainFingerprints256,
    PeerChainSerials,
    /// The certificate as URL-encoded PEM.
    PeerCert,
    LocalUriSan,
    LocalDnsSan,
    LocalIpSan,
    LocalEmailSan,
    LocalOthernameSan,
    LocalSubject,
    SessionId,
    Cipher,
    Version,
    /// The key exchange group.
    Group,
}

/// A field that is text. An empty text counts as unset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "the names are those of Envoy's command operators"
)]
pub enum TextField {
    /// `HTTP/1.0`, `HTTP/1.1`, `HTTP/2`
    Protocol,
    UpstreamProtocol,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    DownstreamTransportFailureReason,
    DownstreamLocalCloseReason,
    UpstreamLocalCloseReason,
    DownstreamDetectedCloseType,
    UpstreamDetectedCloseType,
    /// The cluster's observability name (`alt_stat_name`), else its name.
    UpstreamCluster,
    /// The cluster's name.
    UpstreamClusterRaw,
    UpstreamHostName,
    UpstreamHostNameWithoutPort,
    RequestedServerName,
    RouteName,
    VirtualClusterName,
    ListenerName,
    FilterChainName,
    StreamId,
    /// The id of the trace that the request belongs to.
    TraceId,
    SpanId,
    AccessLogType,
    LocalReplyBody,
    Ja3Fingerprint,
    Ja4Fingerprint,
    Tls(Side, TlsField),
}

/// A field that is a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "the names are those of Envoy's command operators"
)]
pub enum NumberField {
    /// 0 if no response was begun.
    ResponseCode,
    BytesReceived,
    BytesSent,
    BytesRetransmitted,
    PacketsRetransmitted,
    UpstreamRequestAttemptCount,
    ConnectionId,
    UpstreamConnectionId,
    RequestHeadersBytes,
    ResponseHeadersBytes,
    ResponseTrailersBytes,
    WireBytesReceived(Side),
    WireBytesSent(Side),
    HeaderBytesReceived(Side),
    HeaderBytesSent(Side),
    DecompressedHeaderBytesReceived(Side),
    DecompressedHeaderBytesSent(Side),
    RouteResolutionCount,
    /// The gRPC status, `None` for a request that is not gRPC.
    GrpcStatus,
}

/// An address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "the names are those of Envoy's command operators"
)]
pub enum AddressField {
    DownstreamLocal,
    DownstreamDirectLocal,
    DownstreamRemote,
    DownstreamDirectRemote,
    /// The upstream host as the cluster knows it.
    UpstreamHost,
    UpstreamLocal,
    /// The address that was really connected to.
    UpstreamRemote,
}

/// The value of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A path of a Unix socket, or the name of an internal listener; printed as it is.
    Other(&'a str),
}

/// A host that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempted<'a> {
    /// Where it is.
    pub address: Address<'a>,
    /// Its name, if it has one.
    pub name: Option<&'a str>,
}

/// A moment in the life of a request or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimePoint {
    /// `DS_RX_END`: the last byte of the request was received.
    DownstreamRxEnd,
    /// `US_CX_BEG`: connecting to the upstream began.
    UpstreamConnectBegin,
    /// `US_CX_END`: it was connected.
    UpstreamConnectEnd,
    /// `US_HS_END`: its TLS handshake was complete.
    UpstreamHandshakeEnd,
    /// `US_TX_BEG`: the first byte was sent upstream.
    UpstreamTxBegin,
    /// `US_TX_END`: the last byte was sent upstream.
    UpstreamTxEnd,
    /// `US_RX_BEG`: the first byte of the response was received.
    UpstreamRxBegin,
    /// `US_RX_BODY_BEG`: the first byte of its body was received.
    UpstreamRxBodyBegin,
    /// `US_RX_END`: the last byte of the response was received.
    UpstreamRxEnd,
    /// `DS_TX_BEG`: the first byte of the response was sent to the client.
    DownstreamTxBegin,
    /// `DS_TX_END`: the last byte of the response was sent to the client.
    DownstreamTxEnd,
    /// `DS_CX_END`: the client's connection ended.
    DownstreamConnectionEnd,
    /// The client's TLS handshake was complete.
    DownstreamHandshakeEnd,
    /// The client acknowledged the last byte (QUIC only).
    DownstreamLastAck,
    /// A connection to the upstream was ready for the request.
    UpstreamPoolReady,
    /// The end of the request or connection.
    End,
}

/// Whose metadata an operator reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "the names are those of Envoy's METADATA operator"
)]
pub enum MetadataSource {
    Dynamic,
    Cluster,
    Route,
    VirtualHost,
    UpstreamHost,
    Listener,
    ListenerFilterChain,
}

/// A value of metadata or filter state.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogValue<'a> {
    Bool(bool),
    Number(f64),
    Text(&'a str),
    Json(&'a serde_json::Value),
}

/// An expression over what is logged. Whoever compiled it evaluates it, and alone knows what it is.
pub type Expression = Arc<dyn Any + Send + Sync>;

/// A text that may change while it is logged: the content of a file.
pub trait Content: Debug + Send + Sync {
    /// The text now.
    fn text(&self) -> Arc<str>;
}

/// In which form the value of an expression is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueForm {
    /// As a text.
    Text,
    /// As JSON.
    Json,
}

/// How a filter-state object is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterStateForm<'a> {
    /// Its own textual form.
    Plain,
    /// Its protobuf form, as JSON.
    Typed,
    /// One of its fields.
    Field(&'a str),
}

/// A request or connection that is logged.
///
/// `None` means unset and prints as `-` (`null` in JSON). Times are those of one clock, given by the caller.
pub trait LogContext {
    /// When the request or connection began.
    fn start_time(&self) -> SystemTime;

    /// When the line is written.
    fn emit_time(&self) -> SystemTime;

    /// Seconds that local time is ahead of UTC, for the `_LOCAL` operators.
    fn local_offset_seconds(&self) -> i32 {
        0
    }

    /// The first value of a header.
    fn header(&self, _source: HeaderSource, _key: &HeaderKey) -> Option<&[u8]> {
        None
    }

    /// A text.
    fn text(&self, _field: TextField) -> Option<&str> {
        None
    }

    /// A number.
    fn number(&self, _field: NumberField) -> Option<u64> {
        None
    }

    /// An address.
    fn address(&self, _field: AddressField) -> Option<Address<'_>> {
        None
    }

    /// A host that was tried, by its place among the tries.
    fn attempted(&self, _index: usize) -> Option<Attempted<'_>> {
        None
    }

    /// When something happened, counted from [`LogContext::start_time`].
    fn time_point(&self, _point: TimePoint) -> Option<Duration> {
        None
    }

    /// Why the response is as it is.
    fn response_flags(&self) -> ResponseFlags {
        ResponseFlags::NONE
    }

    /// When the certificate of a side's peer begins and ends to be valid.
    fn peer_cert_validity(&self, _side: Side) -> Option<(SystemTime, SystemTime)> {
        None
    }

    /// The metadata at `path` (the whole namespace if it is empty).
    fn metadata(
        &self,
        _source: MetadataSource,
        _namespace: &str,
        _path: &[Box<str>],
    ) -> Option<LogValue<'_>> {
        None
    }

    /// The value of an expression.
    fn evaluate(
        &self,
        _expression: &(dyn Any + Send + Sync),
        _form: ValueForm,
    ) -> Option<serde_json::Value> {
        None
    }

    /// A filter-state object.
    fn filter_state(
        &self,
        _side: Side,
        _key: &str,
        _form: FilterStateForm<'_>,
    ) -> Option<LogValue<'_>> {
        None
    }
}
