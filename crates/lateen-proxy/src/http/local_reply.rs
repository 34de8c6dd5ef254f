//! Answers the proxy gives itself: status, body, response flag and code details, worded as Envoy's.
//!
//! People grep for these texts and dashboards count these flags, so they are kept to the letter. This is the one place
//! where an error of the proxy becomes something a client sees.
//!
//! Source: Envoy's `response_code_details` documentation, `CodeUtility` and the router's local replies.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use lateen_telemetry::{ResponseFlag, ResponseFlags};

use super::grpc;
use crate::decisions::Cause;

/// An answer of the proxy's own.
#[derive(Clone, Debug)]
pub(crate) struct LocalReply {
    /// The status.
    pub(crate) status: StatusCode,
    /// The text; empty for none.
    pub(crate) body: Cow<'static, str>,
    /// `%RESPONSE_FLAGS%`.
    pub(crate) flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub(crate) details: Cow<'static, str>,
    /// Further headers.
    pub(crate) headers: Box<HeaderMap>,
    /// The gRPC status, if another than the HTTP status's counterpart.
    pub(crate) grpc_status: Option<u32>,
    /// What denied the request, if something did.
    pub(crate) cause: Option<Box<Cause>>,
    /// The request reached no host.
    pub(crate) unserved: bool,
}

/// How an upstream attempt failed before its response headers, in Envoy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetReason {
    /// The host refused the connection or TLS failed.
    RemoteConnectionFailure,
    /// No connection within the connect timeout.
    ConnectionTimeout,
    /// The connection was closed.
    ConnectionTermination,
    /// The host reset the stream.
    RemoteReset,
    /// The host refused the stream without looking at it.
    RemoteRefusedStream,
    /// A circuit breaker was open.
    Overflow,
    /// The host broke the protocol.
    ProtocolError,
}

impl ResetReason {
    const fn text(self) -> &'static str {
        match self {
            Self::RemoteConnectionFailure => "remote connection failure",
            Self::ConnectionTimeout => "connection timeout",
            Self::ConnectionTermination => "connection termination",
            Self::RemoteReset => "remote reset",
            Self::RemoteRefusedStream => "remote refused stream reset",
            Self::Overflow => "overflow",
            Self::ProtocolError => "protocol error",
        }
    }

    /// The response flag it sets.
    pub(crate) const fn flag(self) -> ResponseFlag {
        match self {
            Self::RemoteConnectionFailure | Self::ConnectionTimeout => {
                ResponseFlag::UpstreamConnectionFailure
            }
            Self::ConnectionTermination => ResponseFlag::UpstreamConnectionTermination,
            Self::RemoteReset | Self::RemoteRefusedStream => ResponseFlag::UpstreamRemoteReset,
            Self::Overflow => ResponseFlag::UpstreamOverflow,
            Self::ProtocolError => ResponseFlag::UpstreamProtocolError,
        }
    }
}

impl LocalReply {
    /// An answer without flags or further headers.
    pub(crate) fn new(
        status: StatusCode,
        body: impl Into<Cow<'static, str>>,
        details: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            body: body.into(),
            flags: ResponseFlags::NONE,
            details: details.into(),
            headers: Box::default(),
            grpc_status: None,
            cause: None,
            unserved: false,
        }
    }

    /// The same with a response flag.
    #[must_use]
    pub(crate) const fn flagged(mut self, flag: ResponseFlag) -> Self {
        self.flags = self.flags.with(flag);
        self
    }

    /// The same with a header.
    #[must_use]
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The same as a denial.
    #[must_use]
    pub(crate) fn denied_by(mut self, cause: Cause) -> Self {
        self.cause = Some(Box::new(cause));
        self
    }

    /// More headers than are taken, or longer ones.
    pub(crate) fn head_too_large() -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, "", "request_headers_too_large")
            .flagged(ResponseFlag::DownstreamProtocolError)
    }

    /// The same, as HTTP/1's codec words it.
    pub(crate) fn head_refused(details: &'static str) -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, "Request Header Fields Too Large", details)
            .flagged(ResponseFlag::DownstreamProtocolError)
    }

    /// No route for the request.
    pub(crate) fn route_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "", "route_not_found").flagged(ResponseFlag::NoRouteFound)
    }

    /// The route's cluster does not exist.
    pub(crate) fn cluster_not_found(status: StatusCode) -> Self {
        Self::new(status, "", "cluster_not_found").flagged(ResponseFlag::NoClusterFound)
    }

    /// The cluster has no host to send to.
    pub(crate) fn no_healthy_upstream() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no healthy upstream",
            "no_healthy_upstream",
        )
        .flagged(ResponseFlag::NoHealthyUpstream)
    }

    /// The control plane wants a share of the requests dropped, or all of them.
    pub(crate) fn drop_overload(all: bool) -> Self {
        let (body, details, flag, header) = match all {
            true => (
                "unconditional drop overload",
                "unconditional_drop_overload",
                ResponseFlag::UnconditionalDropOverload,
                "x-envoy-unconditional-drop-overload",
            ),
            false => (
                "drop overload",
                "drop_overload",
                ResponseFlag::DropOverload,
                "x-envoy-drop-overload",
            ),
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, body, details)
            .flagged(flag)
            .with_header(
                HeaderName::from_static(header),
                HeaderValue::from_static("true"),
            )
    }

    /// A rule of access control refused the request; `policy` is the one that matched.
    pub(crate) fn rbac_denied(policy: Option<&str>) -> Self {
        let details = format!(
            "rbac_access_denied_matched_policy[{}]",
            policy.unwrap_or("none")
        );
        Self::new(
            StatusCode::FORBIDDEN,
            "RBAC: access denied",
            details.replace(' ', "_"),
        )
    }

    /// The route's timeout passed.
    pub(crate) fn response_timeout() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream request timeout",
            "response_timeout",
        )
        .flagged(ResponseFlag::UpstreamRequestTimeout)
    }

    /// The time of the last try passed.
    pub(crate) fn per_try_timeout() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream request timeout",
            "upstream_per_try_timeout",
        )
        .flagged(ResponseFlag::UpstreamRequestTimeout)
    }

    /// Nothing moved for the stream's idle time: the client's fault as long as its request is not complete.
    pub(crate) fn stream_idle_timeout(request_complete: bool) -> Self {
        let status = if request_complete {
            StatusCode::GATEWAY_TIMEOUT
        } else {
            StatusCode::REQUEST_TIMEOUT
        };
        Self::new(status, "stream timeout", "stream_idle_timeout")
            .flagged(ResponseFlag::StreamIdleTimeout)
    }

    /// The stream's longest life is over.
    pub(crate) fn max_stream_duration() -> Self {
        Self {
            grpc_status: Some(grpc::DEADLINE_EXCEEDED),
            ..Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "downstream duration timeout",
                "max_duration_timeout",
            )
        }
    }

    /// The client did not send its whole request in time.
    pub(crate) fn request_timeout() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "request timeout",
            "request_overall_timeout",
        )
    }

    /// The upstream failed before its response began.
    pub(crate) fn upstream_reset(
        reason: ResetReason,
        transport_failure: Option<&str>,
        retried: bool,
    ) -> Self {
        let reset = reason.text();
        let lead = if retried {
            "retried and the latest reset reason"
        } else {
            "reset reason"
        };
        let body =
            format!("upstream connect error or disconnect/reset before headers. {lead}: {reset}");
        let mut details = format!(
            "upstream_reset_before_response_started{{{}",
            reset.replace(' ', "_")
        );
        if let Some(failure) = transport_failure {
            // Only the log says why: clients are not told about certificates and addresses (Envoy does so since 1.36).
            details.push('|');
            details.push_str(&failure.replace(' ', "_"));
        }
        details.push('}');
        let reply =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, body, details).flagged(reason.flag());
        match reason {
            ResetReason::Overflow => reply.with_header(
                HeaderName::from_static("x-envoy-overloaded"),
                HeaderValue::from_static("true"),
            ),
            _ => reply,
        }
    }

    /// The body is longer than what may be held.
    pub(crate) fn payload_too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Payload Too Large",
            "request_payload_too_large",
        )
    }

    /// The client broke its body off: nobody may be left to read this.
    pub(crate) fn downstream_ended() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "", "downstream_remote_disconnect")
            .flagged(ResponseFlag::DownstreamConnectionTermination)
    }

    /// A fault rule aborted the request.
    pub(crate) fn fault_abort(status: StatusCode, grpc_status: Option<u32>) -> Self {
        let reply = Self::new(status, "fault filter abort", "fault_filter_abort")
            .flagged(ResponseFlag::FaultInjected);
        Self {
            grpc_status,
            ..reply
        }
    }

    /// The connection is not one for the request's host.
    pub(crate) fn misdirected() -> Self {
        Self::new(StatusCode::MISDIRECTED_REQUEST, "", "misdirected_request")
    }

    /// The client speaks a version of HTTP that is not spoken here.
    pub(crate) fn low_version() -> Self {
        Self::new(
            StatusCode::UPGRADE_REQUIRED,
            "Upgrade Required",
            "low_version",
        )
        .flagged(ResponseFlag::DownstreamProtocolError)
    }

    /// The client broke a rule of HTTP.
    pub(crate) fn bad_request(details: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Bad Request", details)
            .flagged(ResponseFlag::DownstreamProtocolError)
    }

    /// Turns it into a response. A gRPC caller gets status 200 and a gRPC status; HEAD gets no body.
    pub(crate) fn into_parts(self, caller: Caller) -> (http::response::Parts, Bytes) {
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.headers = *self.headers;
        if caller == Caller::Grpc {
            parts.headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            let code = self
                .grpc_status
                .unwrap_or_else(|| grpc::status_of_http(self.status));
            parts.headers.insert("grpc-status", HeaderValue::from(code));
            if !self.body.is_empty() {
                parts.headers.insert(
                    "grpc-message",
                    grpc::message_value(self.body.trim_end_matches('\n')),
                );
            }
            return (parts, Bytes::new());
        }
        parts.status = self.status;
        if self.body.is_empty() {
            return (parts, Bytes::new());
        }
        parts
            .headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        parts
            .headers
            .entry(header::CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("text/plain"));
        let body = match self.body {
            Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
            Cow::Owned(text) => Bytes::from(text),
        };
        (
            parts,
            if caller == Caller::Head {
                Bytes::new()
            } else {
                body
            },
        )
    }
}

/// Who is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A gRPC client.
    Grpc,
    /// A HEAD request.
    Head,
    /// Anyone else.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_is_worded_as_envoy_does() {
        let reply = LocalReply::upstream_reset(
            ResetReason::RemoteConnectionFailure,
            Some("delayed connect error: Connection refused"),
            false,
        );
        assert_eq!(
            reply.body,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
        );
        assert_eq!(
            reply.details,
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
        assert_eq!(reply.flags.to_string(), "UF");
    }

    #[test]
    fn grpc_callers_get_trailers_only_answers() {
        let (parts, body) = LocalReply::rbac_denied(None).into_parts(Caller::Grpc);
        assert_eq!(parts.status, StatusCode::OK);
        assert_eq!(parts.headers["grpc-status"], "7");
        assert_eq!(parts.headers["grpc-message"], "RBAC: access denied");
        assert!(body.is_empty());
    }

    #[test]
    fn head_gets_the_length_without_the_body() {
        let (parts, body) = LocalReply::no_healthy_upstream().into_parts(Caller::Head);
        assert_eq!(parts.headers[header::CONTENT_LENGTH], "19");
        assert!(body.is_empty());
    }
}
