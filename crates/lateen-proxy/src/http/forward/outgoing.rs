//! A request's head as one try sends it: what came, with all that the route and the proxy change in it.
//!
//! Where the configuration changes headers, or the host, a copy of the head is changed. Else the few things the proxy says itself are
//! told beside what came ([`Plain`]), which is then written as it is.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, header};
use lateen_traffic::route::{HostRewrite, RETRY_HEADERS};
use lateen_traffic::value::Value;

use super::{ALTERNATIVE, Plan, TIMEOUT, TRY_TIMEOUT, stream_life};
use crate::clock;
use crate::cluster::Host;
use crate::h2::head::Protocol;
use crate::http::body::RequestBody;
use crate::http::exchange::{Exchange, PEER_METADATA, PEER_METADATA_ID};
use crate::http::filters::CommandValues;
use crate::http::head::Head;
use crate::http::headers;
use crate::http::local_reply::LocalReply;
use crate::upstream::plain::{Plain, Said};
use crate::upstream::{Begun, Lease, SendError};

static EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");

/// Begins the request on a lease that takes heads in parts.
///
/// # Errors
/// The head cannot be written: an answer that no retry changes.
pub(super) fn begin(
    exchange: &mut Exchange,
    plan: &Plan<'_>,
    host: &Host,
    lease: &mut Lease,
) -> Result<Result<Begun, SendError>, LocalReply> {
    let body = RequestBody::of(&plan.body);
    if !needs_copy(exchange, plan) {
        let plain = beside(exchange, plan).ok_or_else(no_head)?;
        return Ok(lease.begin(&plain, body));
    }
    let head = outgoing(exchange, plan, Some(host));
    let plain = as_it_is(&head).ok_or_else(no_head)?;
    let begun = lease.begin(&plain, body);
    if let Some(heads) = &mut exchange.record.heads {
        heads.request = head.headers;
        heads.path = head.path;
        heads.authority = head.authority;
    }
    Ok(begun)
}

/// The request as this try sends it where heads are taken whole.
///
/// # Errors
/// As for [`begin`].
pub(super) fn request(
    exchange: &mut Exchange,
    plan: &Plan<'_>,
    host: &Host,
    h2: bool,
) -> Result<Request<RequestBody>, LocalReply> {
    let head = outgoing(exchange, plan, Some(host));
    if let Some(heads) = &mut exchange.record.heads {
        heads.request.clone_from(&head.headers);
        heads.path.clone_from(&head.path);
        heads.authority.clone_from(&head.authority);
    }
    build(head, RequestBody::of(&plan.body), h2).ok_or_else(no_head)
}

fn no_head() -> LocalReply {
    LocalReply::bad_request("http.invalid_authority_or_path")
}

/// Whether the head is changed in ways that are not told beside it: by the configuration, for traces, or for logs, which want to see the
/// outcome.
fn needs_copy(exchange: &Exchange, plan: &Plan<'_>) -> bool {
    exchange.record.heads.is_some()
        || exchange.record.span.is_some()
        || plan.decision.request_headers().next().is_some()
        || plan.decision.host_rewrite().is_some()
        || plan.action.timeouts.max_grpc_stream.is_some()
}

/// A head that was changed already. `None` if its path or host is none.
fn as_it_is(head: &Head) -> Option<Plain<'_>> {
    Some(Plain {
        method: &head.method,
        scheme: head.scheme,
        target: head.target(&head.path)?,
        host: head.host()?,
        headers: &head.headers,
        leaves_out: None,
        said: Said::default(),
        spelling: head.extensions.get(),
    })
}

/// The head that came, with what the proxy says beside it: the same as [`outgoing`] makes of it.
fn beside<'p>(exchange: &Exchange, plan: &'p Plan<'_>) -> Option<Plain<'p>> {
    let head = plan.head;
    let mut said = Said::default();
    let tells_about_itself = !exchange.manager.suppress_envoy_headers;
    if tells_about_itself && let Some(expected) = expected_timeout(plan) {
        said.say(&EXPECTED_TIMEOUT, headers::number(milliseconds(expected)));
    }
    if plan.path.is_some()
        && tells_about_itself
        && let Ok(path) = HeaderValue::from_str(&head.path)
    {
        said.say(&headers::ORIGINAL_PATH, path);
    }
    if plan.decision.vhost.include_request_attempt_count {
        said.say(&headers::ATTEMPT_COUNT, attempt_count(exchange));
    }
    if tells_upstream(exchange, plan) {
        let identity = &exchange.connection.worker.shared.identity;
        said.say(&PEER_METADATA, identity.metadata.clone());
        said.say(&PEER_METADATA_ID, identity.id.clone());
    }
    Some(Plain {
        method: &head.method,
        scheme: head.scheme,
        target: head.target(plan.path.as_ref().unwrap_or(&head.path))?,
        host: head.host()?,
        headers: &head.headers,
        leaves_out: Some(is_wish),
        said,
        spelling: head.extensions.get(),
    })
}

/// The request's head with all that the route and the proxy change in it. Without a host (for mirrors, which have one of their
/// own) what only a host tells is left out.
pub(super) fn outgoing(exchange: &Exchange, plan: &Plan<'_>, host: Option<&Host>) -> Head {
    let mut head = plan.head.clone();
    let values = CommandValues {
        view: plan.view,
        connection: &exchange.connection,
        record: &exchange.record,
        response: None,
    };
    for mutations in plan.decision.request_headers() {
        mutations.apply(&mut head.headers, &values);
    }
    let told = headers::has_envoy_headers(&head.headers);
    let tells_about_itself = !exchange.manager.suppress_envoy_headers;
    if tells_about_itself && let Some(expected) = expected_timeout(plan) {
        let expected = headers::number(milliseconds(expected));
        head.headers.insert(&EXPECTED_TIMEOUT, expected);
    }
    if let Some(Some(life)) = stream_life(plan.action, plan.head) {
        // The next hop is told what it has, not what the client asked for.
        let milliseconds = format!("{}m", life.as_millis());
        headers::set(&mut head.headers, &GRPC_TIMEOUT, &milliseconds);
    }
    if told {
        take_away_wishes(&mut head.headers);
    }
    if let Some(path) = &plan.path {
        if tells_about_itself {
            headers::set(&mut head.headers, &headers::ORIGINAL_PATH, &head.path);
        }
        head.path.clone_from(path);
    }
    rewrite_host(plan, host, &mut head);
    if plan.decision.vhost.include_request_attempt_count {
        head.headers
            .insert(&headers::ATTEMPT_COUNT, attempt_count(exchange));
    }
    if tells_upstream(exchange, plan) {
        exchange.introduce_self(&mut head.headers);
    }
    if let (Some(tracer), Some(span)) = (&exchange.manager.tracer, &exchange.record.span) {
        let address = host.map(|host| &host.state.address);
        tracer.tell(span, &mut head.headers, (plan.view.path, address));
    }
    head
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn attempt_count(exchange: &Exchange) -> HeaderValue {
    headers::number(u64::from(exchange.record.upstream.attempts.max(1)))
}

/// Whether the host is told who this is.
fn tells_upstream(exchange: &Exchange, plan: &Plan<'_>) -> bool {
    let tells = exchange.manager.exchange;
    tells.tell_upstream && (tells.tell_outside || !is_external(&plan.cluster))
}

/// Takes away what the caller asked of this proxy.
fn take_away_wishes(headers: &mut HeaderMap) {
    headers.remove(&TIMEOUT);
    headers.remove(&TRY_TIMEOUT);
    headers.remove(&ALTERNATIVE);
    for name in RETRY_HEADERS {
        headers.remove(name);
    }
    headers.remove(&crate::http::headers::DECORATOR);
}

/// Whether a header is one of those.
fn is_wish(name: &HeaderName) -> bool {
    headers::is_envoys(name)
        && (*name == TIMEOUT
            || *name == TRY_TIMEOUT
            || *name == ALTERNATIVE
            || *name == headers::DECORATOR
            || RETRY_HEADERS.contains(&name.as_str()))
}

/// How long this try has: its own time, or what is left of the whole request's.
fn expected_timeout(plan: &Plan<'_>) -> Option<Duration> {
    let left = plan
        .timeout
        .map(|timeout| timeout.saturating_sub(clock::since(plan.began)));
    plan.try_timeout.into_iter().chain(left).min()
}

/// Whether a cluster is outside the mesh, by the mark Istio's control plane puts on it.
fn is_external(cluster: &lateen_traffic::Cluster) -> bool {
    matches!(
        cluster.metadata.get("istio", &["external"]),
        Some(Value::Bool(true))
    )
}

fn rewrite_host(plan: &Plan<'_>, host: Option<&Host>, head: &mut Head) {
    let automatic = matches!(plan.decision.host_rewrite(), Some(HostRewrite::Auto));
    let rewritten = if automatic {
        host.map(|host| host.endpoint.hostname.to_string())
            .filter(|name| !name.is_empty())
    } else {
        plan.decision
            .rewritten_host(plan.view)
            .map(std::borrow::Cow::into_owned)
    };
    let Some(rewritten) = rewritten else { return };
    if plan.action.append_x_forwarded_host {
        static FORWARDED_HOST: http::HeaderName = http::HeaderName::from_static("x-forwarded-host");
        headers::append(&mut head.headers, &FORWARDED_HOST, &head.authority);
    }
    headers::set(&mut head.headers, &ORIGINAL_HOST, &head.authority);
    head.authority = rewritten;
}

/// The request of a head and a body, in HTTP/1 or HTTP/2. `None` if rewriting made a path or host that is none.
pub(super) fn build(mut head: Head, body: RequestBody, h2: bool) -> Option<Request<RequestBody>> {
    let upgrade = head.protocol.take();
    let is_empty = matches!(body, RequestBody::Empty);
    let mut request = Request::new(body);
    *request.extensions_mut() = std::mem::take(&mut head.extensions);
    *request.method_mut() = head.method.clone();
    if let Some(token) = &upgrade {
        // An upgrade carries its bytes after the response, not in a body.
        *request.body_mut() = RequestBody::Empty;
        if h2 {
            *request.method_mut() = Method::CONNECT;
            head.headers.remove(header::UPGRADE);
            head.headers.remove(header::CONNECTION);
            request.extensions_mut().insert(Protocol(token.clone()));
        } else {
            *request.method_mut() = Method::GET;
            head.headers
                .insert(header::UPGRADE, HeaderValue::from_str(token).ok()?);
            head.headers
                .entry(header::CONNECTION)
                .or_insert(HeaderValue::from_static("upgrade"));
        }
        head.protocol = upgrade;
    }
    *request.uri_mut() = head.uri(h2)?;
    *request.version_mut() = if h2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    if !h2 {
        head.headers.insert(header::HOST, head.host()?);
        framing(&head.method, is_empty, &mut head.headers);
    }
    *request.headers_mut() = head.headers;
    Some(request)
}

/// HTTP/1 says how long a body is, or that it comes in chunks; a request without a body says so where one would be expected
/// (RFC 9112 section 6.3, as Envoy's codec does).
fn framing(method: &Method, is_empty: bool, headers: &mut HeaderMap) {
    if is_empty {
        let never_has_one = matches!(
            *method,
            Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT
        );
        if !never_has_one {
            headers
                .entry(header::CONTENT_LENGTH)
                .or_insert(HeaderValue::from_static("0"));
        }
        return;
    }
    if !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_wish_is_what_is_taken_away() {
        let names = RETRY_HEADERS.into_iter().chain([
            "x-envoy-upstream-rq-timeout-ms",
            "x-envoy-upstream-rq-per-try-timeout-ms",
            "x-envoy-upstream-rq-timeout-alt-response",
            "x-envoy-decorator-operation",
            "x-envoy-expected-rq-timeout-ms",
            "x-envoy-attempt-count",
            "x-request-id",
        ]);
        for name in names {
            let name = HeaderName::from_static(name);
            let mut headers = HeaderMap::new();
            headers.insert(&name, HeaderValue::from_static("1"));
            take_away_wishes(&mut headers);
            assert_eq!(headers.is_empty(), is_wish(&name), "{name}");
        }
    }
}
