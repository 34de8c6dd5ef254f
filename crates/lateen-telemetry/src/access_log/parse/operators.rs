//! The table of command operators: which names exist and what each takes.

use super::super::context::{
    AddressField, HeaderSource, MetadataSource, NumberField, Side, TextField, TimePoint, TlsField,
};
use super::super::format::{AddressPart, GrpcForm, Operation, TimeSource};
use super::Problem;

/// An operator before its parameters are read.
#[derive(Clone, Copy)]
pub(super) enum Operator {
    Text(TextField),
    Number(NumberField),
    /// Milliseconds between two points.
    Elapsed(Option<TimePoint>, TimePoint),
    Address(AddressField, AddressPart),
    Flags {
        long: bool,
    },
    Header(HeaderSource),
    RequestWithoutQuery,
    Time {
        source: TimeSource,
        local: bool,
    },
    PeerCertTime {
        side: Side,
        end: bool,
    },
    CodeDetails,
    CommonDuration,
    GrpcStatus,
    GrpcStatusNumber,
    MetadataOf(MetadataSource),
    Metadata,
    FilterState(Side),
    Path,
    QueryParam,
    Query,
    Attempted {
        name: bool,
        part: AddressPart,
    },
    UniqueId,
    Empty,
    Hostname,
    Environment,
    /// CEL; whether its value keeps its type in JSON.
    Expression {
        typed: bool,
    },
    Coalesce,
    FileContent,
    Secret,
    Unsupported,
}

/// Whether an operator takes parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Parameters {
    None,
    Optional,
    Required,
}

impl Operator {
    /// Whether it takes parameters and a length.
    pub(super) fn syntax(self) -> (Parameters, bool) {
        use Operator as O;
        match self {
            O::Header(_)
            | O::RequestWithoutQuery
            | O::MetadataOf(_)
            | O::Metadata
            | O::FilterState(_)
            | O::QueryParam
            | O::Expression { .. }
            | O::Coalesce
            | O::FileContent
            | O::Environment => (Parameters::Required, true),
            O::Path => (Parameters::Optional, true),
            O::CommonDuration => (Parameters::Required, false),
            O::Time { .. } | O::PeerCertTime { .. } | O::CodeDetails | O::GrpcStatus => {
                (Parameters::Optional, false)
            }
            O::Unsupported | O::Secret | O::Query => (Parameters::Optional, true),
            O::Attempted { .. } => (Parameters::None, true),
            _ => (Parameters::None, false),
        }
    }
}

/// The operator called `name`.
pub(super) fn operator(name: &str) -> Option<Operator> {
    request(name)
        .or_else(|| addresses(name))
        .or_else(|| connection(name))
        .or_else(|| sizes(name))
}

fn request(name: &str) -> Option<Operator> {
    use Operator as O;
    use TextField as T;
    let time = |source, local| O::Time { source, local };
    let attempted = |name, part| O::Attempted { name, part };
    Some(match name {
        "REQ" => O::Header(HeaderSource::Request),
        "RESP" => O::Header(HeaderSource::Response),
        "TRAILER" => O::Header(HeaderSource::ResponseTrailer),
        "REQ_WITHOUT_QUERY" => O::RequestWithoutQuery,
        "PATH" => O::Path,
        "QUERY_PARAM" => O::QueryParam,
        "START_TIME" => time(TimeSource::Start, false),
        "START_TIME_LOCAL" => time(TimeSource::Start, true),
        "EMIT_TIME" => time(TimeSource::Emit, false),
        "EMIT_TIME_LOCAL" => time(TimeSource::Emit, true),
        "PROTOCOL" => O::Text(T::Protocol),
        "UPSTREAM_PROTOCOL" => O::Text(T::UpstreamProtocol),
        "RESPONSE_CODE" => O::Number(NumberField::ResponseCode),
        "RESPONSE_CODE_DETAILS" => O::CodeDetails,
        "RESPONSE_FLAGS" => O::Flags { long: false },
        "RESPONSE_FLAGS_LONG" => O::Flags { long: true },
        "CONNECTION_TERMINATION_DETAILS" => O::Text(T::ConnectionTerminationDetails),
        "GRPC_STATUS" => O::GrpcStatus,
        "GRPC_STATUS_NUMBER" => O::GrpcStatusNumber,
        "DURATION" => O::Elapsed(None, TimePoint::End),
        "REQUEST_DURATION" => O::Elapsed(None, TimePoint::DownstreamRxEnd),
        "REQUEST_TX_DURATION" => O::Elapsed(None, TimePoint::UpstreamTxEnd),
        "RESPONSE_DURATION" => O::Elapsed(None, TimePoint::UpstreamRxBegin),
        "RESPONSE_TX_DURATION" => {
            O::Elapsed(Some(TimePoint::UpstreamRxBegin), TimePoint::DownstreamTxEnd)
        }
        "ROUNDTRIP_DURATION" => O::Elapsed(None, TimePoint::DownstreamLastAck),
        "DOWNSTREAM_HANDSHAKE_DURATION" => O::Elapsed(None, TimePoint::DownstreamHandshakeEnd),
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => O::Elapsed(None, TimePoint::UpstreamPoolReady),
        "COMMON_DURATION" => O::CommonDuration,
        "UPSTREAM_CLUSTER" => O::Text(T::UpstreamCluster),
        "UPSTREAM_CLUSTER_RAW" => O::Text(T::UpstreamClusterRaw),
        "ROUTE_NAME" => O::Text(T::RouteName),
        "VIRTUAL_CLUSTER_NAME" => O::Text(T::VirtualClusterName),
        "LISTENER_NAME" => O::Text(T::ListenerName),
        "FILTER_CHAIN_NAME" => O::Text(T::FilterChainName),
        "STREAM_ID" => O::Text(T::StreamId),
        "TRACE_ID" => O::Text(T::TraceId),
        "SPAN_ID" => O::Text(T::SpanId),
        "ACCESS_LOG_TYPE" => O::Text(T::AccessLogType),
        "LOCAL_REPLY_BODY" => O::Text(T::LocalReplyBody),
        "DYNAMIC_METADATA" => O::MetadataOf(MetadataSource::Dynamic),
        "CLUSTER_METADATA" => O::MetadataOf(MetadataSource::Cluster),
        "UPSTREAM_METADATA" => O::MetadataOf(MetadataSource::UpstreamHost),
        "METADATA" => O::Metadata,
        "FILTER_STATE" => O::FilterState(Side::Downstream),
        "UPSTREAM_FILTER_STATE" => O::FilterState(Side::Upstream),
        "HOSTNAME" => O::Hostname,
        "ENVIRONMENT" => O::Environment,
        "QUERY_PARAMS" => O::Query,
        "UNIQUE_ID" => O::UniqueId,
        "CUSTOM_FLAGS"
        | "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID"
        | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID"
        | "UPSTREAM_LOCAL_ADDRESS_ENDPOINT_ID"
        | "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID" => O::Empty,
        "UPSTREAM_HOSTS_ATTEMPTED" => attempted(false, AddressPart::Whole),
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT" => attempted(false, AddressPart::WithoutPort),
        "UPSTREAM_HOST_NAMES_ATTEMPTED" => attempted(true, AddressPart::Whole),
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT" => attempted(true, AddressPart::WithoutPort),
        "CEL" => O::Expression { typed: false },
        "TYPED_CEL" => O::Expression { typed: true },
        "COALESCE" => O::Coalesce,
        "FILE_CONTENT" => O::FileContent,
        "SECRET" => O::Secret,
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED"
        | "DOWNSTREAM_PEER_ISSUER_SERIAL"
        | "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256" => O::Unsupported,
        _ => return None,
    })
}

fn addresses(name: &str) -> Option<Operator> {
    const FIELDS: [(&str, AddressField); 7] = [
        ("DOWNSTREAM_LOCAL", AddressField::DownstreamLocal),
        (
            "DOWNSTREAM_DIRECT_LOCAL",
            AddressField::DownstreamDirectLocal,
        ),
        ("DOWNSTREAM_REMOTE", AddressField::DownstreamRemote),
        (
            "DOWNSTREAM_DIRECT_REMOTE",
            AddressField::DownstreamDirectRemote,
        ),
        ("UPSTREAM_HOST", AddressField::UpstreamHost),
        ("UPSTREAM_LOCAL", AddressField::UpstreamLocal),
        ("UPSTREAM_REMOTE", AddressField::UpstreamRemote),
    ];
    FIELDS.iter().find_map(|(prefix, field)| {
        let part = match name.strip_prefix(prefix)? {
            "" if *field == AddressField::UpstreamHost => AddressPart::Whole,
            "_ADDRESS" if *field != AddressField::UpstreamHost => AddressPart::Whole,
            "_ADDRESS_WITHOUT_PORT" if *field != AddressField::UpstreamHost => {
                AddressPart::WithoutPort
            }
            "_PORT" if *field != AddressField::UpstreamHost => AddressPart::Port,
            _ => return None,
        };
        Some(Operator::Address(*field, part))
    })
}

fn connection(name: &str) -> Option<Operator> {
    use Operator as O;
    use TextField as T;
    Some(match name {
        "REQUESTED_SERVER_NAME" => O::Text(T::RequestedServerName),
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => O::Text(T::UpstreamTransportFailureReason),
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => O::Text(T::DownstreamTransportFailureReason),
        "DOWNSTREAM_LOCAL_CLOSE_REASON" => O::Text(T::DownstreamLocalCloseReason),
        "UPSTREAM_LOCAL_CLOSE_REASON" => O::Text(T::UpstreamLocalCloseReason),
        "DOWNSTREAM_DETECTED_CLOSE_TYPE" => O::Text(T::DownstreamDetectedCloseType),
        "UPSTREAM_DETECTED_CLOSE_TYPE" => O::Text(T::UpstreamDetectedCloseType),
        "UPSTREAM_HOST_NAME" => O::Text(T::UpstreamHostName),
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => O::Text(T::UpstreamHostNameWithoutPort),
        "TLS_JA3_FINGERPRINT" => O::Text(T::Ja3Fingerprint),
        "TLS_JA4_FINGERPRINT" => O::Text(T::Ja4Fingerprint),
        "CONNECTION_ID" => O::Number(NumberField::ConnectionId),
        "UPSTREAM_CONNECTION_ID" => O::Number(NumberField::UpstreamConnectionId),
        _ => {
            let (side, rest) = if let Some(rest) = name.strip_prefix("DOWNSTREAM_") {
                (Side::Downstream, rest)
            } else {
                (Side::Upstream, name.strip_prefix("UPSTREAM_")?)
            };
            match rest {
                "PEER_CERT_V_START" => O::PeerCertTime { side, end: false },
                "PEER_CERT_V_END" => O::PeerCertTime { side, end: true },
                _ => O::Text(T::Tls(side, tls(side, rest)?)),
            }
        }
    })
}

fn tls(side: Side, name: &str) -> Option<TlsField> {
    use TlsField as F;
    let field = match name {
        "PEER_URI_SAN" => F::PeerUriSan,
        "PEER_DNS_SAN" => F::PeerDnsSan,
        "PEER_IP_SAN" => F::PeerIpSan,
        "PEER_SUBJECT" => F::PeerSubject,
        "PEER_ISSUER" => F::PeerIssuer,
        "PEER_CERT" => F::PeerCert,
        "LOCAL_URI_SAN" => F::LocalUriSan,
        "LOCAL_DNS_SAN" => F::LocalDnsSan,
        "LOCAL_IP_SAN" => F::LocalIpSan,
        "TLS_SESSION_ID" => F::SessionId,
        "TLS_CIPHER" => F::Cipher,
        "TLS_VERSION" => F::Version,
        "TLS_GROUP" => F::Group,
        // Envoy offers the rest for the client's connection only.
        _ if side == Side::Upstream => return None,
        "PEER_EMAIL_SAN" => F::PeerEmailSan,
        "PEER_OTHERNAME_SAN" => F::PeerOthernameSan,
        "LOCAL_EMAIL_SAN" => F::LocalEmailSan,
        "LOCAL_OTHERNAME_SAN" => F::LocalOthernameSan,
        "LOCAL_SUBJECT" => F::LocalSubject,
        "PEER_SERIAL" => F::PeerSerial,
        "PEER_FINGERPRINT_1" => F::PeerFingerprint1,
        "PEER_FINGERPRINT_256" => F::PeerFingerprint256,
        "PEER_CHAIN_FINGERPRINTS_1" => F::PeerChainFingerprints1,
        "PEER_CHAIN_FINGERPRINTS_256" => F::PeerChainFingerprints256,
        "PEER_CHAIN_SERIALS" => F::PeerChainSerials,
        _ => return None,
    };
    Some(field)
}

fn sizes(name: &str) -> Option<Operator> {
    use NumberField as N;
    let field = match name {
        "BYTES_RECEIVED" => N::BytesReceived,
        "BYTES_SENT" => N::BytesSent,
        "BYTES_RETRANSMITTED" => N::BytesRetransmitted,
        "PACKETS_RETRANSMITTED" => N::PacketsRetransmitted,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => N::UpstreamRequestAttemptCount,
        "REQUEST_HEADERS_BYTES" => N::RequestHeadersBytes,
        "RESPONSE_HEADERS_BYTES" => N::ResponseHeadersBytes,
        "RESPONSE_TRAILERS_BYTES" => N::ResponseTrailersBytes,
        "ROUTE_RESOLUTION_COUNT" => N::RouteResolutionCount,
        _ => {
            let (side, rest) = if let Some(rest) = name.strip_prefix("DOWNSTREAM_") {
                (Side::Downstream, rest)
            } else {
                (Side::Upstream, name.strip_prefix("UPSTREAM_")?)
            };
            match rest {
                "WIRE_BYTES_RECEIVED" => N::WireBytesReceived(side),
                "WIRE_BYTES_SENT" => N::WireBytesSent(side),
                "HEADER_BYTES_RECEIVED" => N::HeaderBytesReceived(side),
                "HEADER_BYTES_SENT" => N::HeaderBytesSent(side),
                "DECOMPRESSED_HEADER_BYTES_RECEIVED" => N::DecompressedHeaderBytesReceived(side),
                "DECOMPRESSED_HEADER_BYTES_SENT" => N::DecompressedHeaderBytesSent(side),
                _ => return None,
            }
        }
    };
    Some(Operator::Number(field))
}

/// `COMMON_DURATION(START:END:PRECISION)`.
pub(super) fn common_duration(parameters: &str) -> Result<Operation, Problem> {
    let mut parts = parameters.split(':');
    let (Some(from), Some(to), Some(precision), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("three parameters are needed: start, end and precision".into());
    };
    let unit_nanoseconds = match precision {
        "ms" => 1_000_000,
        "us" => 1_000,
        "ns" => 1,
        _ => return Err("the precision is ms, us or ns".into()),
    };
    let to = time_point(to)?.ok_or("an end cannot be the beginning")?;
    Ok(Operation::Elapsed {
        from: time_point(from)?,
        to,
        unit_nanoseconds,
    })
}

/// `None` is the beginning.
fn time_point(name: &str) -> Result<Option<TimePoint>, Problem> {
    Ok(Some(match name {
        "DS_RX_BEG" | "DS_CX_BEG" => return Ok(None),
        "DS_RX_END" => TimePoint::DownstreamRxEnd,
        "DS_CX_END" => TimePoint::DownstreamConnectionEnd,
        "US_CX_BEG" => TimePoint::UpstreamConnectBegin,
        "US_CX_END" => TimePoint::UpstreamConnectEnd,
        "US_HS_END" => TimePoint::UpstreamHandshakeEnd,
        "US_TX_BEG" => TimePoint::UpstreamTxBegin,
        "US_TX_END" => TimePoint::UpstreamTxEnd,
        "US_RX_BEG" => TimePoint::UpstreamRxBegin,
        "US_RX_BODY_BEG" => TimePoint::UpstreamRxBodyBegin,
        "US_RX_END" => TimePoint::UpstreamRxEnd,
        "DS_TX_BEG" => TimePoint::DownstreamTxBegin,
        "DS_TX_END" => TimePoint::DownstreamTxEnd,
        _ => return Err("not a point of time that this data plane records".into()),
    }))
}

/// How `GRPC_STATUS` prints.
pub(super) fn grpc_form(parameters: &str) -> Result<GrpcForm, Problem> {
    match parameters {
        "" | "CAMEL_STRING" => Ok(GrpcForm::Camel),
        "SNAKE_STRING" => Ok(GrpcForm::Snake),
        "NUMBER" => Ok(GrpcForm::Number),
        _ => Err("the form is CAMEL_STRING, SNAKE_STRING or NUMBER".into()),
    }
}

/// Whose metadata `METADATA(…)` means.
pub(super) fn metadata_source(name: &str) -> Option<MetadataSource> {
    Some(match name {
        "DYNAMIC" => MetadataSource::Dynamic,
        "CLUSTER" => MetadataSource::Cluster,
        "ROUTE" => MetadataSource::Route,
        "VIRTUAL_HOST" => MetadataSource::VirtualHost,
        "UPSTREAM_HOST" => MetadataSource::UpstreamHost,
        "LISTENER" => MetadataSource::Listener,
        "LISTENER_FILTER_CHAIN" => MetadataSource::ListenerFilterChain,
        _ => return None,
    })
}
