//! Istio's sample of an external authorizer: it allows what carries `x-ext-authz: allow`, over HTTP (port 8000) and gRPC (port
//! 9000). Connections, which carry no header, it allows from one service account (`--allow_service_account`, `a` by default).
//!
//! Source: Istio, `samples/extauthz`; `envoy.service.auth.v3`, of which only the fields used here are declared.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use prost::Message;
use tokio_util::sync::CancellationToken;

use crate::RunError;
use crate::options::Options;
use crate::server::{self, Body, Service, text};

const CHECK: &str = "x-ext-authz";
const ALLOW: &str = "allow";
const RESULT: HeaderName = HeaderName::from_static("x-ext-authz-check-result");
const RECEIVED: HeaderName = HeaderName::from_static("x-ext-authz-check-received");
const OVERRIDE: HeaderName = HeaderName::from_static("x-ext-authz-additional-header-override");
const DENIED: &str = "denied by ext_authz for not found header `x-ext-authz: allow` in the request";
/// What is shown of a check, at most; longer headers would be refused by servers.
const LONGEST: usize = 60_000;

#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, optional, tag = "1")]
    source: Option<Peer>,
    #[prost(message, optional, tag = "2")]
    destination: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    request: Option<AttributesRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct Peer {
    #[prost(string, tag = "4")]
    principal: String,
}

#[derive(Clone, PartialEq, Message)]
struct AttributesRequest {
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpRequest {
    #[prost(string, tag = "2")]
    method: String,
    #[prost(btree_map = "string, string", tag = "3")]
    headers: BTreeMap<String, String>,
    #[prost(string, tag = "4")]
    path: String,
    #[prost(string, tag = "5")]
    host: String,
    #[prost(string, tag = "11")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, optional, tag = "2")]
    denied: Option<DeniedResponse>,
    #[prost(message, optional, tag = "3")]
    ok: Option<OkResponse>,
}

/// `google.rpc.Status` and `envoy.type.v3.HttpStatus` both begin with a code.
#[derive(Clone, PartialEq, Message)]
struct Code {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct OkResponse {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
}

#[derive(Clone, PartialEq, Message)]
struct DeniedResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
    #[prost(string, tag = "3")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderOption {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// The sample, on both ports.
pub(crate) struct Authorizer {
    service_account: String,
}

pub(crate) async fn run(arguments: &[String], stop: CancellationToken) -> Result<u8, RunError> {
    let options = Options::parse(arguments, &["http", "grpc", "allow_service_account"], &[])?;
    let http = server::listen(options.number("http")?.unwrap_or(8000))?;
    let grpc = server::listen(options.number("grpc")?.unwrap_or(9000))?;
    let account = options.last("allow_service_account").unwrap_or("a");
    let service = Arc::new(Authorizer::new(account));
    tokio::join!(
        server::serve(http, Arc::clone(&service), stop.clone()),
        server::serve(grpc, service, stop),
    );
    Ok(0)
}

impl Authorizer {
    pub(crate) fn new(service_account: &str) -> Authorizer {
        Authorizer {
            service_account: service_account.to_owned(),
        }
    }

    fn allows(&self, check: &Attributes) -> bool {
        let request = check
            .request
            .as_ref()
            .and_then(|request| request.http.as_ref());
        if let Some(said) = request.and_then(|http| http.headers.get(CHECK)) {
            return said == ALLOW;
        }
        let account = format!("/sa/{}", self.service_account);
        check
            .source
            .as_ref()
            .is_some_and(|source| source.principal.ends_with(&account))
    }

    fn check(&self, check: &Attributes) -> CheckResponse {
        let allowed = self.allows(check);
        let http = check.request.clone().and_then(|request| request.http);
        let http = http.unwrap_or_default();
        let verdict = if allowed { "allowed" } else { "denied" };
        println!(
            "[gRPCv3][{verdict}]: {}{}, attributes: {check:?}",
            http.host, http.path
        );
        let option = |key: &HeaderName, value: &str| HeaderOption {
            header: Some(Header {
                key: key.to_string(),
                value: value.to_owned(),
            }),
        };
        let headers = vec![
            option(&RESULT, verdict),
            option(&RECEIVED, &shortened(format!("{check:?}"))),
            option(&OVERRIDE, "grpc-additional-header-override-value"),
        ];
        if allowed {
            return CheckResponse {
                status: Some(Code { code: 0 }),
                ok: Some(OkResponse { headers }),
                denied: None,
            };
        }
        CheckResponse {
            // PERMISSION_DENIED
            status: Some(Code { code: 7 }),
            ok: None,
            denied: Some(DeniedResponse {
                status: Some(Code { code: 403 }),
                headers,
                body: DENIED.to_owned(),
            }),
        }
    }

    async fn grpc(&self, request: Request<Incoming>) -> Response<Body> {
        if !request.uri().path().ends_with(".Authorization/Check") {
            return grpc_status("12"); // UNIMPLEMENTED
        }
        let body = match server::read(request).await {
            Ok(body) => body,
            Err(_) => return grpc_status("3"), // INVALID_ARGUMENT
        };
        let message = body
            .get(5..)
            .and_then(|message| CheckRequest::decode(message).ok());
        match message {
            Some(check) => framed(&self.check(&check.attributes.unwrap_or_default())),
            None => grpc_status("3"),
        }
    }

    async fn http(request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let header = |name: &str| parts.headers.get(name).cloned();
        let allowed = header(CHECK).is_some_and(|said| said == ALLOW);
        let request = Request::from_parts(parts.clone(), body);
        let body = match server::read(request).await {
            Ok(body) => body,
            Err(answer) => return *answer,
        };
        let host = header("host").unwrap_or_else(|| HeaderValue::from_static(""));
        let received = format!(
            "{} {}{}, headers: {:?}, body: [{}]",
            parts.method,
            host.to_str().unwrap_or_default(),
            parts.uri,
            parts.headers,
            shortened(String::from_utf8_lossy(&body).into_owned())
        );
        let verdict = if allowed { "allowed" } else { "denied" };
        println!("[HTTP][{verdict}]: {received}");
        let mut answer = if allowed {
            text(StatusCode::OK, "")
        } else {
            text(StatusCode::FORBIDDEN, DENIED)
        };
        let headers = answer.headers_mut();
        headers.insert(RESULT, HeaderValue::from_static(verdict));
        let given = header(OVERRIDE.as_str()).unwrap_or_else(|| HeaderValue::from_static(""));
        headers.insert(OVERRIDE, given);
        if let Ok(received) = HeaderValue::from_str(&received.replace(['\r', '\n'], " ")) {
            headers.insert(RECEIVED, received);
        }
        answer
    }
}

impl Service for Authorizer {
    async fn call(&self, request: Request<Incoming>, _peer: SocketAddr) -> Response<Body> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            return self.grpc(request).await;
        }
        Self::http(request).await
    }
}

fn shortened(text: String) -> String {
    if text.len() > LONGEST {
        return "<too-long>".to_owned();
    }
    text
}

fn framed(message: &CheckResponse) -> Response<Body> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    // A check's headers are bounded, and so is the answer.
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    message.encode_raw(&mut frame);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [
        Ok(Frame::data(frame.freeze())),
        Ok(Frame::trailers(trailers)),
    ];
    grpc(StreamBody::new(stream::iter(frames)).boxed_unsync())
}

fn grpc_status(status: &'static str) -> Response<Body> {
    let mut answer = grpc(server::full(Bytes::new()));
    answer
        .headers_mut()
        .insert("grpc-status", HeaderValue::from_static(status));
    answer
}

fn grpc(body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(header: Option<&str>, principal: &str) -> Attributes {
        let headers = header.map(|value| (CHECK.to_owned(), value.to_owned()));
        Attributes {
            source: Some(Peer {
                principal: principal.to_owned(),
            }),
            request: Some(AttributesRequest {
                http: Some(HttpRequest {
                    headers: headers.into_iter().collect(),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn the_header_decides_and_without_it_the_service_account() {
        let authorizer = Authorizer::new("a");
        let allows = |header, principal| {
            let response = authorizer.check(&attributes(header, principal));
            response.ok.is_some() && response.denied.is_none()
        };
        assert!(allows(Some("allow"), ""));
        assert!(!allows(Some("deny"), "spiffe://cluster.local/ns/foo/sa/a"));
        assert!(allows(None, "spiffe://cluster.local/ns/foo/sa/a"));
        assert!(!allows(None, "spiffe://cluster.local/ns/foo/sa/ba"));
    }
}
