//! Upgrades: a request that becomes a tunnel (WebSocket and the like, over HTTP/1.1 and as HTTP/2's extended CONNECT).

use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, Version, header};
use hyper_util::rt::TokioIo;
use lateen_telemetry::ResponseFlag;
use lateen_traffic::route::RouteDecision;
use tokio_util::sync::CancellationToken;

use super::client::ClientUpgrade;
use super::exchange::Exchange;
use super::head::Head;
use super::local_reply::LocalReply;
use super::record::Record;
use crate::cluster::ActiveRequest;
use crate::net::copy::{self, Carrier, Ended, Transferred};
use crate::upstream::{Lease, Upgraded};

/// Whether the request is an upgrade that may be made.
///
/// # Errors
/// It is one that may not, or a plain CONNECT, which needs a route that terminates it.
pub(super) fn permitted(
    exchange: &Exchange,
    head: &Head,
    decision: &RouteDecision<'_>,
) -> Result<bool, LocalReply> {
    let token = match &head.protocol {
        Some(token) => token.as_str(),
        None if head.method == Method::CONNECT => "CONNECT",
        None => return Ok(false),
    };
    let upgrades = &exchange.manager.config.upgrades;
    let by_default = upgrades
        .iter()
        .any(|u| u.enabled && u.token.eq_ignore_ascii_case(token));
    if decision.upgrade_allowed(token, by_default) && head.protocol.is_some() {
        return Ok(true);
    }
    if head.version != Version::HTTP_2 {
        // What follows on the connection may be of the protocol that was refused.
        exchange.connection.draining.set(true);
    }
    Err(LocalReply::new(StatusCode::FORBIDDEN, "", "upgrade_failed"))
}

/// Makes the answer one that accepts the upgrade, in the client's version of HTTP.
pub(super) fn answer(parts: &mut http::response::Parts, head: &Head) {
    if head.version == Version::HTTP_2 {
        parts.status = StatusCode::OK;
        parts.headers.remove(header::UPGRADE);
        parts.headers.remove(header::CONNECTION);
        return;
    }
    parts.status = StatusCode::SWITCHING_PROTOCOLS;
    if let Some(token) = head
        .protocol
        .as_deref()
        .and_then(|token| HeaderValue::from_str(token).ok())
    {
        parts.headers.entry(header::UPGRADE).or_insert(token);
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    parts.headers.remove(header::CONTENT_LENGTH);
}

impl Carrier for TokioIo<hyper::upgrade::Upgraded> {}

/// Two sides that are about to be joined.
pub(super) struct Tunnel {
    client: ClientUpgrade,
    upstream: Upgraded,
    active: ActiveRequest,
    lease: Lease,
    idle: Option<Duration>,
}

impl Tunnel {
    /// Joins a client's and an upstream's side.
    pub(super) const fn new(
        client: ClientUpgrade,
        upstream: Upgraded,
        active: ActiveRequest,
        lease: Lease,
    ) -> Self {
        Self {
            client,
            upstream,
            active,
            lease,
            idle: None,
        }
    }

    /// Carries bytes until both sides end or `kill` says so, then records the request.
    pub(super) fn run(self, mut record: Box<Record>, kill: CancellationToken) {
        tokio::task::spawn_local(async move {
            let Self {
                client,
                upstream,
                active,
                lease,
                idle,
            } = self;
            let moved = Transferred::default();
            let joined = async {
                match client {
                    ClientUpgrade::H1(stream) => {
                        join(stream.await.ok()?, upstream, idle, &moved).await
                    }
                    ClientUpgrade::Hyper(stream) => {
                        let stream = TokioIo::new(stream.await.ok()?);
                        join(stream, upstream, idle, &moved).await
                    }
                }
            };
            let ended = tokio::select! {
                ended = joined => ended,
                () = kill.cancelled() => None,
            };
            let meter = &record.request;
            meter.bytes.set(meter.bytes.get() + moved.forward.get());
            meter.end();
            record.sent(usize::try_from(moved.back.get()).unwrap_or(usize::MAX));
            match ended {
                Some(Ended::Second(_)) => {
                    record.cut(
                        Some(ResponseFlag::UpstreamConnectionTermination),
                        "upstream_reset_after_response_started",
                    );
                }
                Some(Ended::First(_)) => record.abandoned(),
                Some(Ended::Idle) => {
                    record.cut(Some(ResponseFlag::StreamIdleTimeout), "stream_idle_timeout");
                }
                Some(Ended::Closed) | None => record.complete(),
            }
            drop((active, lease));
        });
    }
}

async fn join(
    client: impl Carrier,
    upstream: Upgraded,
    idle: Option<Duration>,
    moved: &Transferred,
) -> Option<Ended> {
    Some(match upstream {
        Upgraded::Stream(stream) => copy::bidirectional(client, *stream, idle, moved).await,
        Upgraded::Hyper(stream) => {
            let stream = TokioIo::new(stream.await.ok()?);
            copy::bidirectional(client, stream, idle, moved).await
        }
    })
}
