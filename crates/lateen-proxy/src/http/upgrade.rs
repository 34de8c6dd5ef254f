//! Upgrades: a request that becomes a tunnel (WebSocket and the like, over HTTP/1.1 and as HTTP/2's extended CONNECT).

use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, Version, header};
use lateen_telemetry::ResponseFlag;
use lateen_traffic::route::RouteDecision;
use tokio_util::sync::CancellationToken;

use super::client::ClientUpgrade;
use super::exchange::Exchange;
use super::head::Head;
use super::local_reply::LocalReply;
use super::record::Record;
use crate::cluster::ActiveRequest;
use crate::cluster::breaker::Permit;
use crate::net::copy::{self, Carrier, Ended, Transferred};
use crate::upstream::{Lease, Upgraded};

/// What becomes of a request that asks for bytes both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upgrade {
    /// It does not ask for that.
    None,
    /// The host is asked in turn, by an upgrade or CONNECT.
    Forwarded,
    /// It ends here: its bytes go to the host as they are (`connect_config`).
    Terminated,
    /// It is a POST that ends here likewise: its body goes to the host as it is, and what comes back is the response's.
    Posted,
}

impl Upgrade {
    /// Whether bytes go to the host as they are.
    pub(super) const fn ends_here(self) -> bool {
        matches!(self, Self::Terminated | Self::Posted)
    }
}

/// Whether the request is an upgrade (or CONNECT) that may be made.
///
/// # Errors
/// It is one that may not.
pub(super) fn permitted(
    exchange: &Exchange,
    head: &Head,
    decision: &RouteDecision<'_>,
) -> Result<Upgrade, LocalReply> {
    let token = match &head.protocol {
        Some(token) => token.as_str(),
        None if head.method == Method::CONNECT => "CONNECT",
        None if head.method == Method::POST && decision.terminates_post() => {
            return Ok(Upgrade::Posted);
        }
        None => return Ok(Upgrade::None),
    };
    let upgrades = &exchange.manager.config.upgrades;
    let by_default = upgrades
        .iter()
        .any(|u| u.enabled && u.token.eq_ignore_ascii_case(token));
    if decision.upgrade_allowed(token, by_default) {
        let ends_here = head.protocol.is_none() && decision.terminates_connect();
        return Ok(match ends_here {
            true => Upgrade::Terminated,
            false => Upgrade::Forwarded,
        });
    }
    if head.version != Version::HTTP_2 {
        // What follows on the connection may be of the protocol that was refused.
        exchange.connection.draining.set(true);
    }
    Err(LocalReply::new(StatusCode::FORBIDDEN, "", "upgrade_failed"))
}

/// Makes the answer one that accepts the upgrade, in the client's version of HTTP.
pub(super) fn answer(parts: &mut http::response::Parts, head: &Head) {
    if head.protocol.is_none() {
        // CONNECT: a success says it all, and nothing frames what follows (RFC 9110 section 9.3.6).
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.remove(header::TRANSFER_ENCODING);
        return;
    }
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

/// Two sides that are about to be joined.
pub(super) struct Tunnel {
    client: ClientUpgrade,
    upstream: Upgraded,
    active: ActiveRequest,
    lease: Lease,
    permit: Permit,
    idle: Option<Duration>,
}

impl Tunnel {
    /// Joins a client's and an upstream's side, and ends them when nothing moves for `idle`. The rest is held meanwhile.
    pub(super) fn new(
        (client, upstream): (ClientUpgrade, Upgraded),
        active: ActiveRequest,
        lease: Lease,
        permit: Permit,
        idle: Option<Duration>,
    ) -> Self {
        Self {
            client,
            upstream,
            active,
            lease,
            permit,
            idle,
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
                permit,
                idle,
            } = self;
            let moved = Transferred::default();
            let joined = async {
                match client {
                    ClientUpgrade::H1(stream) => {
                        join(stream.await.ok()?, upstream, idle, &moved).await
                    }
                    ClientUpgrade::H2(stream) => {
                        join(stream.await.ok()?, upstream, idle, &moved).await
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
            drop((active, lease, permit));
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
        Upgraded::H2(stream) => copy::bidirectional(client, *stream, idle, moved).await,
    })
}
