//! What an authorizer that speaks HTTP is sent: the request's own method, path and host, and the headers it may know.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use lateen_traffic::ext_authz::HttpService;
use lateen_traffic::format::RequestValues;

use super::RequestSubject;
use crate::http::head::{Head, Verbatim};
use crate::http::present::Present;

static PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
static EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
static INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");

/// The head; none if the method is none that HTTP has.
pub(super) fn head(service: &HttpService, request: &RequestSubject<'_>) -> Option<Head> {
    let view = request.view;
    let mut headers = HeaderMap::new();
    for (name, value) in view.headers {
        // Length and framing are of the authorizer's request; whether its body is cut is not the client's to say.
        let own = *name == header::CONTENT_LENGTH
            || *name == header::TRANSFER_ENCODING
            || *name == header::CONNECTION
            || *name == header::UPGRADE
            || *name == PARTIAL_BODY;
        if !own && request.headers.includes(name.as_str()) {
            headers.append(name.clone(), value.clone());
        }
    }
    let length = request.body.map_or(0, |body| body.bytes.len());
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(body) = request.body {
        let partial = if body.partial { "true" } else { "false" };
        headers.insert(&PARTIAL_BODY, HeaderValue::from_static(partial));
    }
    headers.insert(&INTERNAL, HeaderValue::from_static("true"));
    let timeout = u64::try_from(service.timeout.as_millis()).unwrap_or(u64::MAX);
    headers.insert(&EXPECTED_TIMEOUT, HeaderValue::from(timeout));
    for (name, format) in &service.headers_to_add {
        let values = RequestValues {
            request: view,
            protocol: "",
            route_name: "",
            cluster: &service.cluster,
        };
        let value = format.render(&values);
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name.clone(), value);
        }
    }
    let path = match &service.path_override {
        Some(path) => path.to_string(),
        None => format!("{}{}", service.path_prefix, view.path),
    };
    Some(Head {
        method: Method::from_bytes(view.method.as_bytes()).ok()?,
        scheme: "http",
        authority: view.authority.to_owned(),
        path,
        protocol: None,
        version: Version::HTTP_11,
        headers,
        extensions: http::Extensions::default(),
        present: Present::default(),
        verbatim: Verbatim::default(),
    })
}
