//! `envoy.filters.http.local_ratelimit`: descriptors are made by the rules of route, virtual host or filter, and each asks its bucket.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use lateen_telemetry::ResponseFlag;
use lateen_traffic::rate_limit::{Descriptor, LocalRateLimit, RateLimitSubject};
use lateen_traffic::value::Metadata;

use super::super::exchange::Exchange;
use super::super::local_reply::LocalReply;
use super::super::passage::Passage;
use super::CommandValues;
use crate::rate_limit::{BucketState, Taken};

/// gRPC's code for being asked too much.
const RESOURCE_EXHAUSTED: u32 = 8;
/// gRPC's code for the rest.
const UNAVAILABLE: u32 = 14;

/// Takes the request's tokens.
///
/// # Errors
/// There are not enough of them, and the limit is enforced.
pub(super) fn apply(
    exchange: &mut Exchange,
    limit: &Arc<LocalRateLimit>,
    passage: &mut Passage<'_>,
) -> Result<(), LocalReply> {
    if !limit.enabled.hit(rand::random()) {
        return Ok(());
    }
    count(exchange, limit, "enabled");
    let taken = take(exchange, limit, passage);
    if limit.tells_limits
        && let Some(bucket) = taken.bucket
    {
        tell(&mut exchange.additions, bucket);
    }
    if taken.allowed {
        count(exchange, limit, "ok");
        return Ok(());
    }
    count(exchange, limit, "rate_limited");
    if limit.enforced.hit(rand::random()) {
        count(exchange, limit, "enforced");
        return Err(refusal(exchange, limit, passage, taken.bucket));
    }
    // The request goes on, and says that it would not have: further headers for whoever wants to know.
    let mut headers = passage.head.headers.clone();
    let values = CommandValues {
        view: &passage.view(),
        connection: &exchange.connection,
        record: &exchange.record,
        response: None,
    };
    limit
        .unenforced_request_headers
        .apply(&mut headers, &values);
    passage.head.headers = headers;
    Ok(())
}

fn take(exchange: &Exchange, limit: &Arc<LocalRateLimit>, passage: &Passage<'_>) -> Taken {
    let descriptors = if limit.descriptors.is_empty() {
        Vec::new()
    } else {
        descriptors(exchange, limit, passage)
    };
    let connection = &exchange.connection;
    let buckets = if limit.per_connection {
        &connection.rate_limits
    } else {
        &connection.worker.shared.rate_limits
    };
    buckets.take(limit, &descriptors)
}

fn descriptors(
    exchange: &Exchange,
    limit: &LocalRateLimit,
    passage: &Passage<'_>,
) -> Vec<Descriptor> {
    let none = Metadata::default();
    let decision = passage.decision();
    let route = decision.map_or(&[][..], |decision| &decision.route.rate_limits);
    let host = decision.map_or(&[][..], |decision| &decision.vhost.rate_limits);
    let subject = RateLimitSubject {
        request: &passage.view(),
        route_metadata: decision.map_or(&none, |decision| &decision.route.metadata),
        cluster: decision
            .and_then(|decision| decision.cluster.as_deref())
            .unwrap_or_default(),
        route_name: decision.map_or("", |decision| &decision.route.name),
        source_cluster: &exchange.connection.worker.shared.config.node.cluster,
    };
    limit
        .rules(route, host)
        .filter_map(|rule| rule.descriptor(&subject))
        .collect()
}

fn refusal(
    exchange: &Exchange,
    limit: &LocalRateLimit,
    passage: &Passage<'_>,
    bucket: Option<BucketState>,
) -> LocalReply {
    let status = StatusCode::from_u16(limit.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let mut reply = LocalReply::new(status, "local_rate_limited", "local_rate_limited")
        .flagged(ResponseFlag::RateLimited);
    reply.grpc_status = Some(if limit.resource_exhausted {
        RESOURCE_EXHAUSTED
    } else {
        UNAVAILABLE
    });
    let headers = &mut reply.headers;
    if limit.tells_retry
        && let Some(bucket) = bucket
    {
        headers.insert(header::RETRY_AFTER, seconds(bucket));
    }
    let values = CommandValues {
        view: &passage.view(),
        connection: &exchange.connection,
        record: &exchange.record,
        response: None,
    };
    limit.response_headers.apply(headers, &values);
    reply
}

/// `x-ratelimit-…`, draft version 3.
fn tell(headers: &mut HeaderMap, bucket: BucketState) {
    headers.insert("x-ratelimit-limit", HeaderValue::from(bucket.limit));
    headers.insert("x-ratelimit-remaining", HeaderValue::from(bucket.remaining));
    headers.insert("x-ratelimit-reset", seconds(bucket));
}

/// Whole seconds to the next tokens, and never too few.
fn seconds(bucket: BucketState) -> HeaderValue {
    let rest = u64::from(bucket.reset.subsec_nanos() > 0);
    HeaderValue::from(bucket.reset.as_secs() + rest)
}

fn count(exchange: &Exchange, limit: &LocalRateLimit, what: &'static str) {
    let prefix = &limit.stat_prefix;
    let key = (Arc::clone(prefix), Arc::clone(prefix), "", what);
    let counter = exchange.connection.worker.counter(key, || {
        let name = format!("{{local_http_ratelimit_prefix}}.http_local_rate_limit.{what}");
        (name, Arc::clone(prefix))
    });
    counter.inc();
}
