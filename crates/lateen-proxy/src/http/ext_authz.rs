//! The external authorization filter: asking about a request, and doing what the answer says.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use lateen_telemetry::ResponseFlag;
use lateen_traffic::ext_authz::{
    Allowance, BodySettings, Denial, ExtAuthz, RouteSettings, Service, Verdict,
};
use lateen_traffic::value::Value;

use super::exchange::Exchange;
use super::filters::count_authorizer;
use super::local_reply::LocalReply;
use super::passage::Passage;
use super::source::Ahead;
use crate::decisions::Cause;
use crate::ext_authz::{Asker, ConnectionSubject, RequestSubject, SentBody};

/// The name under which authorizers' metadata is found.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";
static FAILURE_ALLOWED: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

/// Asks about a request, if it is one that the authorizer is asked about.
///
/// # Errors
/// The request is denied, or its body cannot be had.
pub(super) async fn check(
    exchange: &mut Exchange,
    settings: &ExtAuthz,
    route: Option<&RouteSettings>,
    passage: &mut Passage<'_>,
) -> Result<(), LocalReply> {
    if !settings.when.holds(&passage.metadata, rand::random()) {
        count_authorizer(exchange, &settings.stat_prefix, "disabled");
        return if settings.deny_at_disable {
            Err(error_reply(settings))
        } else {
            Ok(())
        };
    }
    let body = sent_body(settings, route, passage).await?;
    let verdict = ask(exchange, settings, route, passage, body.as_ref()).await;
    let said = match &verdict {
        Verdict::Allowed(_) => "ok",
        Verdict::Denied(_) => "denied",
        Verdict::Failed => "error",
    };
    count_authorizer(exchange, &settings.stat_prefix, said);
    match verdict {
        Verdict::Allowed(allowance) => {
            go_on(exchange, settings, passage, allowance);
            Ok(())
        }
        Verdict::Denied(denial) => {
            note_metadata(passage, denial.metadata.as_ref());
            Err(denied(denial).denied_by(cause(settings)))
        }
        Verdict::Failed if settings.failure_mode_allow => {
            count_authorizer(exchange, &settings.stat_prefix, "failure_mode_allowed");
            if settings.failure_mode_allow_header {
                let value = HeaderValue::from_static("true");
                passage.head.headers.insert(&FAILURE_ALLOWED, value);
            }
            Ok(())
        }
        Verdict::Failed => Err(error_reply(settings)),
    }
}

async fn ask(
    exchange: &Exchange,
    settings: &ExtAuthz,
    route: Option<&RouteSettings>,
    passage: &Passage<'_>,
    body: Option<&SentBody>,
) -> Verdict {
    let view = passage.view();
    let connection = ConnectionSubject {
        connection: passage.connection,
        peer: passage.peer,
        own_principal: exchange
            .now
            .own_principal
            .as_deref()
            .filter(|_| passage.peer.is_tls),
        metadata: &passage.metadata,
    };
    let request = RequestSubject {
        view: &view,
        id: rand::random(),
        version: passage.head.version,
        body,
        headers: &settings.headers,
        route,
        time: exchange
            .record
            .started_at
            .unwrap_or_else(std::time::SystemTime::now),
    };
    let asker = Asker {
        worker: &exchange.connection.worker,
        now: &exchange.now,
    };
    Box::pin(asker.request(settings, &connection, &request)).await
}

/// The part of the body that the authorizer gets; none if it gets none, or there is none.
async fn sent_body(
    settings: &ExtAuthz,
    route: Option<&RouteSettings>,
    passage: &mut Passage<'_>,
) -> Result<Option<SentBody>, LocalReply> {
    let wanted: Option<BodySettings> = match route {
        Some(route) if route.without_body => None,
        Some(route) => route.body.or(settings.body),
        None => settings.body,
    };
    let has_none = http_body::Body::is_end_stream(&passage.body) || passage.head.protocol.is_some();
    let Some(wanted) = wanted.filter(|_| !has_none) else {
        return Ok(None);
    };
    let enough = if wanted.allow_partial {
        wanted.max_bytes
    } else {
        wanted.max_bytes.saturating_add(1)
    };
    let read = passage.body.read_ahead(enough).await;
    let read = read.map_err(|_| LocalReply::downstream_ended())?;
    let too_long = passage.body.ahead_bytes() > wanted.max_bytes;
    if too_long && !wanted.allow_partial {
        return Err(LocalReply::payload_too_large());
    }
    Ok(Some(SentBody {
        bytes: passage.body.first_bytes(wanted.max_bytes).into(),
        partial: too_long || read == Ahead::Part,
        settings: wanted,
    }))
}

fn go_on(
    exchange: &mut Exchange,
    settings: &ExtAuthz,
    passage: &mut Passage<'_>,
    allowance: Allowance,
) {
    note_metadata(passage, allowance.metadata.as_ref());
    let head = &mut passage.head;
    allowance.apply(&mut head.headers);
    // The host is not among the headers here, but for an authorizer that sets it.
    if let Some(host) = head.headers.remove(header::HOST)
        && let Ok(host) = host.to_str()
    {
        host.clone_into(&mut head.authority);
    }
    if let Some(path) = allowance.path(&head.path) {
        head.path = path;
    }
    if settings.clear_route_cache && allowance.changes_request() {
        passage.reroute();
    }
    exchange.changes.extend(allowance.response);
}

/// The authorizer's metadata joins what is there.
fn note_metadata(passage: &mut Passage<'_>, metadata: Option<&Value>) {
    if let Some(Value::Struct(fields)) = metadata {
        for (key, value) in fields {
            passage.metadata.put(NAMESPACE, key, value.clone());
        }
    }
}

fn cause(settings: &ExtAuthz) -> Cause {
    Cause::Authorizer(Arc::clone(match &settings.service {
        Service::Http(service) => &service.cluster,
        Service::Grpc(service) => &service.cluster,
    }))
}

fn denied(denial: Denial) -> LocalReply {
    let status = StatusCode::from_u16(denial.status).unwrap_or(StatusCode::FORBIDDEN);
    let mut headers = HeaderMap::new();
    for change in &denial.headers {
        change.apply(&mut headers);
    }
    if denial.body.is_empty() {
        headers.remove(header::CONTENT_TYPE);
    }
    let body = match String::from_utf8(denial.body.into()) {
        Ok(text) => Cow::Owned(text),
        Err(bytes) => Cow::Owned(String::from_utf8_lossy(bytes.as_bytes()).into_owned()),
    };
    LocalReply {
        headers: Box::new(headers),
        ..LocalReply::new(status, body, "ext_authz_denied")
            .flagged(ResponseFlag::UnauthorizedExternalService)
    }
}

/// The authorizer cannot be asked: no request goes on for that.
fn error_reply(settings: &ExtAuthz) -> LocalReply {
    let status = StatusCode::from_u16(settings.status_on_error).unwrap_or(StatusCode::FORBIDDEN);
    LocalReply::new(status, "", "ext_authz_error")
        .flagged(ResponseFlag::UnauthorizedExternalService)
        .denied_by(cause(settings))
}
