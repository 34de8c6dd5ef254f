//! What servers answer the proxy and what clients say of themselves in headers: authorizers over gRPC and over HTTP, gRPC-Web bodies,
//! trace contexts, `x-forwarded-for`.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use lateen_telemetry::trace::context::{Carried, Propagation};
use lateen_traffic::ext_authz::HttpService;
use lateen_traffic::matcher::{StringMatcher, StringPattern};

use crate::ext_authz;
use crate::http::grpc_web::{Decoder, Web};
use crate::http::headers::forwarded_address;
use crate::upstream::call::Answer;

/// Headers as lines of `name: value`, up to an empty line; and what follows it.
fn headers(bytes: &[u8]) -> (HeaderMap, &[u8]) {
    let (mut map, mut rest) = (HeaderMap::new(), bytes);
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (line, after) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        rest = after;
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    (map, rest)
}

/// The body of an authorizer's answer over gRPC.
pub(super) fn authorizer_grpc(bytes: &[u8]) {
    let (head, ()) = http::Response::new(()).into_parts();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    ext_authz::read_grpc(&Answer {
        head,
        body: Bytes::copy_from_slice(bytes),
        trailers: Some(trailers),
    });
}

/// An authorizer's answer over HTTP: two bytes of status, headers, body. Nothing but 200 allows.
pub(super) fn authorizer_http(bytes: &[u8]) {
    use lateen_traffic::ext_authz::Verdict;
    let Some((status, rest)) = bytes.split_at_checked(2) else {
        return;
    };
    let status = u16::from_be_bytes([status[0], status[1]]);
    if StatusCode::from_u16(status).is_err() {
        return;
    }
    let (headers, body) = headers(rest);
    let verdict = asked().verdict(status, &headers, Bytes::copy_from_slice(body));
    let allowed = matches!(verdict, Verdict::Allowed(_));
    assert_eq!(allowed, status == 200, "{status} is no permission");
}

/// A service whose answers' headers go everywhere they can.
fn asked() -> HttpService {
    let any = || vec![StringMatcher::new(StringPattern::Prefix("".into()), false)];
    HttpService {
        cluster: "authorizer".into(),
        timeout: Duration::from_secs(1),
        path_prefix: "".into(),
        path_override: None,
        headers_to_add: Vec::new(),
        to_upstream: any(),
        append_to_upstream: any(),
        to_client_on_deny: any(),
        to_client_on_allow: any(),
        to_metadata: any(),
    }
}

/// The body of a gRPC-Web request in base64, which comes to the same however it is cut; and trailers that become its answer's end.
pub(super) fn grpc_web(bytes: &[u8]) {
    let whole = decoded(&[bytes]);
    for size in [1, 3, 7] {
        let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
        assert_eq!(whole, decoded(&pieces), "a cut makes it another body");
    }
    let (trailers, _) = headers(bytes);
    for text_response in [false, true] {
        let web = Web {
            text_request: false,
            text_response,
        };
        let _ = web.trailers(&trailers);
    }
}

/// A body and whether it may end there; none if it is no base64.
fn decoded(pieces: &[&[u8]]) -> Option<(Vec<u8>, bool)> {
    let (mut decoder, mut out) = (Decoder::default(), Vec::new());
    for piece in pieces {
        out.extend_from_slice(&decoder.decode(piece)?);
    }
    Some((out, decoder.is_complete()))
}

/// Headers of a traced request. What is read is written so that it reads the same.
pub(super) fn trace_context(bytes: &[u8]) {
    let (headers, _) = headers(bytes);
    for propagation in [Propagation::B3, Propagation::B3WithW3c, Propagation::W3c] {
        let Carried::Context(context, _) = propagation.read(&headers) else {
            continue;
        };
        let mut written = HeaderMap::new();
        propagation.write(&context, &mut written);
        let Carried::Context(again, sampled) = propagation.read(&written) else {
            panic!("what was written cannot be read: {written:?}");
        };
        assert_eq!(again.trace, context.trace);
        assert_eq!(again.span, context.span);
        assert_eq!(sampled, Some(context.sampled));
    }
}

/// `x-forwarded-for` as a stranger sends it: what trusted hops append to it says who the client is, whatever stands before.
pub(super) fn forwarded_for(bytes: &[u8]) {
    const TOLD: &str = "203.0.113.7";
    let name = HeaderName::from_static("x-forwarded-for");
    for (tail, back) in [(", 203.0.113.7", 0), (",203.0.113.7, 10.0.0.1", 1)] {
        let joined = HeaderValue::from_bytes(&[bytes, tail.as_bytes()].concat());
        let Ok(joined) = joined else { return };
        let headers = HeaderMap::from_iter([(name.clone(), joined)]);
        let client = TOLD.parse::<IpAddr>().ok();
        assert_eq!(forwarded_address(&headers, back), client, "{headers:?}");
    }
    if let Ok(alone) = HeaderValue::from_bytes(bytes) {
        let headers = HeaderMap::from_iter([(name, alone)]);
        let _ = forwarded_address(&headers, 0);
    }
}
