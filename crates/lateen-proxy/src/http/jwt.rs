//! The JWT filter on a request: the engine judges, this fetches the keys that it misses and applies what comes of it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderValue, StatusCode, header};
use lateen_traffic::jwt::{
    FetchedKeys, JwtAuthn, JwtStatus, KeySet, METADATA_NAMESPACE, Outcome, Refusal, RemoteKeys,
    RouteRequirement,
};
use lateen_traffic::value::{Metadata, Value};

use super::exchange::Exchange;
use super::local_reply::LocalReply;
use super::passage::Passage;
use crate::decisions::{Cause, token_reasons};
use crate::jwks::Jwks;
use crate::worker::Worker;

/// Judges a request's tokens, and changes the request by what they say.
///
/// # Errors
/// A token is bad, or one is missing that has to be there.
pub(super) async fn authenticate(
    exchange: &mut Exchange,
    config: &JwtAuthn,
    route: Option<&RouteRequirement>,
    passage: &mut Passage<'_>,
) -> Result<(), LocalReply> {
    let at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let judge = Judge {
        worker: &exchange.connection.worker,
        config,
        route,
        drawn: (at, rand::random()),
    };
    let mut outcome = judge.judge(&judge.worker.jwks, passage);
    if !outcome.missed.is_empty() {
        // Boxed: every request's task would have to hold room for it.
        outcome = Box::pin(judge.fetch_and_judge(outcome, passage)).await;
    }
    // The request is still as it came: what is found out about it now is what it was refused for.
    let worker = judge.worker;
    let explained = outcome.verdict.is_err() && worker.shared.decisions.may_explain(worker.index());
    let reasons = if explained {
        let (_, checks) = config.explain(&passage.view(), route, judge.drawn, &worker.jwks);
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

/// What a request's tokens are judged by.
struct Judge<'a> {
    worker: &'a Rc<Worker>,
    config: &'a JwtAuthn,
    route: Option<&'a RouteRequirement>,
    /// The time in seconds since 1970, and what was drawn for rules that are for a share of requests.
    drawn: (u64, u64),
}

impl Judge<'_> {
    fn judge(&self, keys: &dyn FetchedKeys, passage: &Passage<'_>) -> Outcome {
        let mut tokens = self.worker.tokens.borrow_mut();
        let known = (&mut *tokens, keys);
        self.config
            .authenticate(&passage.view(), self.route, self.drawn, known)
    }

    /// Fetches what is missing. What was fetched for a request is used for it, however soon it is to be fetched again; so this ends.
    async fn fetch_and_judge(&self, mut outcome: Outcome, passage: &Passage<'_>) -> Outcome {
        let mut here = Here {
            kept: &self.worker.jwks,
            fetched: Vec::new(),
        };
        while !outcome.missed.is_empty() {
            for from in std::mem::take(&mut outcome.missed) {
                let keys = self.worker.jwks.fetch(self.worker, &from).await;
                here.fetched.push((from, keys));
            }
            outcome = self.judge(&here, passage);
        }
        outcome
    }
}

/// Keys that were fetched for one request, before those that are kept.
struct Here<'a> {
    kept: &'a Jwks,
    fetched: Vec<(Arc<RemoteKeys>, Fetched)>,
}

/// What came of a fetch.
type Fetched = Result<Arc<KeySet>, JwtStatus>;

impl FetchedKeys for Here<'_> {
    fn get(&self, from: &RemoteKeys) -> Option<Fetched> {
        let here = self.fetched.iter().find(|(known, _)| **known == *from);
        here.map_or_else(|| self.kept.get(from), |(_, keys)| Some(keys.clone()))
    }
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
