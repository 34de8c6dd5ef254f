//! The JWT filter on a request: the engine judges, this applies what comes of it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderValue, StatusCode, header};
use lateen_traffic::jwt::{JwtAuthn, METADATA_NAMESPACE, Refusal, RouteRequirement};
use lateen_traffic::value::{Metadata, Value};

use super::exchange::Exchange;
use super::local_reply::LocalReply;
use super::passage::Passage;
use crate::decisions::{Cause, token_reasons};

/// Judges a request's tokens, and changes the request by what they say.
///
/// # Errors
/// A token is bad, or one is missing that has to be there.
pub(super) fn authenticate(
    exchange: &mut Exchange,
    config: &JwtAuthn,
    route: Option<&RouteRequirement>,
    passage: &mut Passage<'_>,
) -> Result<(), LocalReply> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let worker = &exchange.connection.worker;
    let outcome = {
        let mut cache = worker.tokens.borrow_mut();
        config.authenticate(&passage.view(), route, (now, rand::random()), &mut cache)
    };
    // The request is still as it came: what is found out about it now is what it was refused for.
    let explained = outcome.verdict.is_err() && worker.shared.decisions.may_explain(worker.index());
    let reasons = if explained {
        let (_, checks) = config.explain(&passage.view(), route, (now, rand::random()));
        token_reasons(checks)
    } else {
        Vec::new()
    };
    let head = &mut passage.head;
    outcome.edits.apply(&mut head.headers, &mut head.path);
    if let Some(found) = outcome.metadata {
        merge(&mut passage.metadata, found);
    }
    outcome.verdict.map_err(|refusal| reply(refusal, reasons))?;
    if outcome.clear_route_cache {
        passage.reroute();
        if let Some(decision) = passage.decision() {
            exchange.note_route(decision);
        }
    }
    Ok(())
}

/// Adds to the filter's metadata what is not there yet, and replaces what is.
fn merge(metadata: &mut Metadata, found: Value) {
    match (metadata.namespaces.get_mut(METADATA_NAMESPACE), found) {
        (Some(Value::Struct(known)), Value::Struct(found)) => known.extend(found),
        (_, found) => metadata.set(METADATA_NAMESPACE, found),
    }
}

fn reply(refusal: Refusal, reasons: Vec<(Arc<str>, String)>) -> LocalReply {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::UNAUTHORIZED);
    let reply = LocalReply::new(status, refusal.body, refusal.details);
    let reply = reply.denied_by(Cause::Token(reasons));
    let challenge = refusal
        .www_authenticate
        .and_then(|text| HeaderValue::try_from(text).ok());
    match challenge {
        Some(challenge) => reply.with_header(header::WWW_AUTHENTICATE, challenge),
        None => reply,
    }
}
