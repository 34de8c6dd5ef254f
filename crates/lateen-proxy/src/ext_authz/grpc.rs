//! Authorizers that speak gRPC: `envoy.service.auth.v3.Authorization/Check`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::service::auth::v3 as auth;
use lateen_envoy::pb::google::protobuf as google;
use lateen_traffic::ext_authz::{Allowance, Change, Denial, ExtAuthz, GrpcService, How, Verdict};
use lateen_traffic::value::{Metadata, Value};
use prost::Message;

use super::{ConnectionSubject, RequestSubject};
use crate::http::head::Head;
use crate::upstream::call::Answer;

/// What is asked.
pub(super) type Check = auth::CheckRequest;

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Bytes before a message: a flag and its length.
const FRAME: usize = 5;

/// Why an answer is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    /// The HTTP status is not 200.
    #[error("HTTP status {0}")]
    Status(StatusCode),
    /// The gRPC status is not 0.
    #[error("gRPC status {0}")]
    Grpc(u32),
    /// There is no message, or more than one.
    #[error("the answer is not one message")]
    Framing,
    /// The message is none.
    #[error("the answer cannot be decoded")]
    Decode(#[source] prost::DecodeError),
    /// A header name or value of it is none.
    #[error("header `{0}` cannot be written")]
    Header(String),
}

/// The head of a call.
pub(super) fn head(service: &GrpcService) -> Head {
    crate::export::grpc(service, PATH)
}

/// A message with its length before it.
pub(super) fn frame(check: &Check) -> Bytes {
    crate::export::framed(&check.encode_to_vec())
}

/// What is asked about a connection.
pub(super) fn of_connection(
    connection: &ConnectionSubject<'_>,
    namespaces: &[Arc<str>],
    with_tls_session: bool,
) -> Check {
    let peer = connection.peer;
    let principal = [peer.uri_sans, peer.dns_sans]
        .into_iter()
        .find_map(|sans| sans.first())
        .map_or(peer.subject, String::as_str);
    let info = connection.connection;
    let metadata = chosen(connection.metadata, namespaces);
    let attributes = auth::AttributeContext {
        source: Some(party(info.remote, principal)),
        destination: Some(party(
            info.local,
            connection.own_principal.unwrap_or_default(),
        )),
        metadata_context: (!namespaces.is_empty()).then_some(metadata),
        tls_session: info.server_name.filter(|_| with_tls_session).map(|sni| {
            auth::attribute_context::TlsSession {
                sni: sni.to_owned(),
            }
        }),
        ..Default::default()
    };
    Check {
        attributes: Some(attributes),
    }
}

/// What is asked about a request.
pub(super) fn of_request(
    settings: &ExtAuthz,
    connection: &ConnectionSubject<'_>,
    request: &RequestSubject<'_>,
) -> Check {
    let mut check = of_connection(
        connection,
        &settings.metadata_namespaces,
        settings.include_tls_session,
    );
    if let Some(attributes) = check.attributes.as_mut() {
        if let Some(source) = attributes.source.as_mut() {
            source.address = Some(address(request.view.client));
            let service = request
                .view
                .headers
                .get("x-envoy-downstream-service-cluster");
            source.service = service.map(lossy).unwrap_or_default();
        }
        let route = request.route.iter().flat_map(|route| &route.context);
        attributes.context_extensions = route
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        attributes.request = Some(auth::attribute_context::Request {
            time: timestamp(request.time),
            http: Some(http_request(request)),
        });
    }
    check
}

fn http_request(request: &RequestSubject<'_>) -> auth::attribute_context::HttpRequest {
    let view = request.view;
    let (mut body, mut raw_body) = (String::new(), Vec::new());
    let mut size = 0;
    if let Some(sent) = request.body {
        size = i64::try_from(sent.bytes.len()).unwrap_or(i64::MAX);
        if sent.settings.pack_as_bytes {
            raw_body = sent.bytes.to_vec();
        } else {
            body = String::from_utf8_lossy(&sent.bytes).into_owned();
        }
    }
    auth::attribute_context::HttpRequest {
        id: request.id.to_string(),
        method: view.method.to_owned(),
        path: view.path.to_owned(),
        host: view.authority.to_owned(),
        scheme: view.scheme.to_owned(),
        protocol: format!("{:?}", request.version).replace("HTTP/2.0", "HTTP/2"),
        headers: headers(request),
        size,
        body,
        raw_body,
        ..Default::default()
    }
}

/// The headers, pseudo-headers among them; values of one name joined.
fn headers(request: &RequestSubject<'_>) -> HashMap<String, String> {
    let view = request.view;
    let mut out: HashMap<String, String> = HashMap::new();
    let pseudo = [
        (":authority", view.authority),
        (":method", view.method),
        (":path", view.path),
        (":scheme", view.scheme),
    ];
    for (name, value) in pseudo {
        if request.headers.includes(name) {
            out.insert(name.to_owned(), value.to_owned());
        }
    }
    const PARTIAL: &str = "x-envoy-auth-partial-body";
    for (name, value) in view.headers {
        if name.as_str() == PARTIAL || !request.headers.includes(name.as_str()) {
            continue;
        }
        let joined = out.entry(name.as_str().to_owned()).or_default();
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(&lossy(value));
    }
    if let Some(body) = request.body {
        out.insert(PARTIAL.to_owned(), body.partial.to_string());
    }
    out
}

fn party(socket: SocketAddr, principal: &str) -> auth::attribute_context::Peer {
    auth::attribute_context::Peer {
        address: Some(address(socket)),
        principal: principal.to_owned(),
        ..Default::default()
    }
}

fn address(socket: SocketAddr) -> core::Address {
    lateen_envoy::socket_address(socket.ip(), socket.port())
}

fn timestamp(time: std::time::SystemTime) -> Option<google::Timestamp> {
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(google::Timestamp {
        seconds: i64::try_from(since.as_secs()).ok()?,
        nanos: i32::try_from(since.subsec_nanos()).ok()?,
    })
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn chosen(metadata: &Metadata, namespaces: &[Arc<str>]) -> core::Metadata {
    let fields =
        namespaces
            .iter()
            .filter_map(|namespace| match metadata.namespaces.get(namespace)? {
                Value::Struct(fields) => Some((namespace.to_string(), object(fields))),
                _ => None,
            });
    core::Metadata {
        filter_metadata: fields.collect(),
        ..Default::default()
    }
}

fn object(fields: &std::collections::BTreeMap<Arc<str>, Value>) -> google::Struct {
    google::Struct {
        fields: fields
            .iter()
            .map(|(key, value)| (key.to_string(), protobuf(value)))
            .collect(),
    }
}

fn protobuf(value: &Value) -> google::Value {
    use google::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Number(number) => Kind::NumberValue(*number),
        Value::String(text) => Kind::StringValue(text.to_string()),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::List(items) => Kind::ListValue(google::ListValue {
            values: items.iter().map(protobuf).collect(),
        }),
        Value::Struct(fields) => Kind::StructValue(object(fields)),
    };
    google::Value { kind: Some(kind) }
}

/// What an answer means.
///
/// # Errors
/// It is none.
pub(super) fn verdict(answer: &Answer) -> Result<Verdict, AnswerError> {
    if answer.head.status != StatusCode::OK {
        return Err(AnswerError::Status(answer.head.status));
    }
    let trailers = answer.trailers.as_ref().unwrap_or(&answer.head.headers);
    // A missing status is "unknown".
    let status = crate::http::grpc::status_in(trailers).unwrap_or(2);
    if status != 0 {
        return Err(AnswerError::Grpc(status));
    }
    let message = one_message(&answer.body).ok_or(AnswerError::Framing)?;
    let response = auth::CheckResponse::decode(message).map_err(AnswerError::Decode)?;
    decision(response)
}

/// The only message of an uncompressed stream.
fn one_message(body: &[u8]) -> Option<&[u8]> {
    let (header, message) = body.split_at_checked(FRAME)?;
    let length = u32::from_be_bytes(header[1..].try_into().ok()?);
    (header[0] == 0 && usize::try_from(length).ok()? == message.len()).then_some(message)
}

fn decision(response: auth::CheckResponse) -> Result<Verdict, AnswerError> {
    use auth::check_response::HttpResponse;
    let code = response.status.map_or(0, |status| status.code);
    let mut metadata = response.dynamic_metadata;
    if code == 0 {
        let ok = match response.http_response {
            Some(HttpResponse::OkResponse(ok)) => ok,
            _ => auth::OkHttpResponse::default(),
        };
        #[expect(
            deprecated,
            reason = "authorizers of before v3 still write it, and Envoy reads it first"
        )]
        let own = ok.dynamic_metadata.clone();
        metadata = own.or(metadata);
        return allowance(ok, metadata).map(Verdict::Allowed);
    }
    let denied = match response.http_response {
        Some(HttpResponse::ErrorResponse(_)) => return Ok(Verdict::Failed),
        Some(HttpResponse::DeniedResponse(denied)) => denied,
        _ => auth::DeniedHttpResponse::default(),
    };
    let status = denied.status.as_ref().map_or(0, |status| status.code);
    Ok(Verdict::Denied(Denial {
        status: u16::try_from(status)
            .ok()
            .filter(|status| (200..600).contains(status))
            .unwrap_or(403),
        headers: changes(&denied.headers, Reads::Append)?,
        body: denied.body.into(),
        metadata: metadata.map(|fields| lateen_traffic::from_xds::object(&fields)),
    }))
}

fn allowance(
    ok: auth::OkHttpResponse,
    metadata: Option<google::Struct>,
) -> Result<Allowance, AnswerError> {
    Ok(Allowance {
        request: changes(&ok.headers, Reads::Append)?,
        remove: ok
            .headers_to_remove
            .iter()
            .filter_map(|name| HeaderName::try_from(name).ok())
            .collect(),
        response: changes(&ok.response_headers_to_add, Reads::AppendAction)?,
        set_query: ok
            .query_parameters_to_set
            .into_iter()
            .map(|parameter| (parameter.key, parameter.value))
            .collect(),
        remove_query: ok.query_parameters_to_remove,
        metadata: metadata.map(|fields| lateen_traffic::from_xds::object(&fields)),
    })
}

/// Which of a header's two fields for what becomes of values that are there is read. Source: Envoy 1.40, observed: requests and
/// denials know `append` alone, and replace without it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Append,
    AppendAction,
}

fn changes(options: &[core::HeaderValueOption], reads: Reads) -> Result<Vec<Change>, AnswerError> {
    options.iter().map(|option| change(option, reads)).collect()
}

fn change(option: &core::HeaderValueOption, reads: Reads) -> Result<Change, AnswerError> {
    use core::header_value_option::HeaderAppendAction as Action;
    let header = option.header.clone().unwrap_or_default();
    let bad = || AnswerError::Header(header.key.clone());
    let value = if header.raw_value.is_empty() {
        header.value.as_bytes()
    } else {
        &header.raw_value
    };
    #[expect(
        deprecated,
        reason = "authorizers write this field more often than its successor"
    )]
    let append = option.append.as_ref().map(|append| append.value);
    let how = match (reads, append, Action::try_from(option.append_action)) {
        (Reads::Append, Some(true), _) => How::Append,
        (Reads::Append, _, _) | (_, Some(false), _) => How::Overwrite,
        (_, Some(true), _) | (_, None, Ok(Action::AppendIfExistsOrAdd)) => How::Add,
        (_, None, Ok(Action::AddIfAbsent)) => How::AddIfAbsent,
        (_, None, Ok(Action::OverwriteIfExists)) => How::OverwriteIfPresent,
        (_, None, Ok(Action::OverwriteIfExistsOrAdd) | Err(_)) => How::Overwrite,
    };
    Ok(Change {
        name: HeaderName::try_from(header.key.as_str()).map_err(|_| bad())?,
        value: HeaderValue::from_bytes(value).map_err(|_| bad())?,
        how,
    })
}

#[cfg(test)]
mod tests;
