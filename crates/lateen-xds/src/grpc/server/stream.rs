//! One stream from its first request to its end.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_envoy::TypeUrl;
use prost::Message;
use tokio::time::{Instant as TokioInstant, sleep_until, timeout};
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};

use super::{ConnectRequest, Connection, PeerInfo, Protocol, Shared, StreamEvent};
use crate::grpc::admission::{Permit, Rate};
use crate::server::ServerSession;

/// Where a stream is in its life. Each step gives one response.
pub(super) enum State<P: Protocol> {
    Opening(Box<Opening<P>>),
    Open(Box<Open<P>>),
    Done,
}

/// A stream whose first request has not arrived.
pub(super) struct Opening<P> {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: PeerInfo,
    pub(super) metadata: MetadataMap,
    pub(super) inbound: Streaming<P>,
}

/// A stream that is being served.
pub(super) struct Open<P> {
    shared: Arc<Shared>,
    node_id: String,
    inbound: Streaming<P>,
    session: ServerSession,
    connection: Connection,
    /// Until the first resources are there.
    permit: Option<Permit>,
    /// How fast requests are read, and when the next one may be.
    pace: Rate,
    read_from: TokioInstant,
}

impl<P: Protocol> State<P> {
    pub(super) async fn step(self) -> Option<(Result<P::Response, Status>, Self)> {
        let mut open = match self {
            Self::Done => return None,
            Self::Open(open) => open,
            Self::Opening(opening) => {
                let drain = opening.shared.config.drain.clone();
                let opened = tokio::select! {
                    opened = opening.open() => opened,
                    () = drain.cancelled() => return None,
                };
                match opened {
                    Ok(Some(open)) => Box::new(open),
                    Ok(None) => return None,
                    Err(status) => return Some((Err(status), Self::Done)),
                }
            }
        };
        match open.next().await {
            Ok(Some(response)) => Some((Ok(response), Self::Open(open))),
            Ok(None) => None,
            Err(status) => Some((Err(status), Self::Done)),
        }
    }
}

impl<P: Protocol> Opening<P> {
    /// `None` if the client went away without a word.
    async fn open(mut self: Box<Self>) -> Result<Option<Open<P>>, Status> {
        let peer = std::mem::take(&mut self.peer);
        let discovery = &self.shared.discovery;
        let peer = discovery.authenticate(peer, &self.metadata).await?;
        let config = &self.shared.config;
        let Ok(first) = timeout(config.first_request_timeout, self.inbound.message()).await else {
            return Err(Status::deadline_exceeded(
                "no request arrived on the new stream",
            ));
        };
        let Ok(Some(mut first)) = first else {
            return Ok(None);
        };
        let node = first.take_node().filter(|node| !node.id.is_empty());
        let node =
            node.ok_or_else(|| Status::invalid_argument("the first request names no node"))?;
        let permit = self.shared.admission.admit().await?;
        let node_id = node.id.clone();
        let request = ConnectRequest {
            peer,
            node,
            metadata: self.metadata,
            variant: P::VARIANT,
        };
        let connection = self.shared.discovery.connect(request).await?;
        let session = ServerSession::new(P::VARIANT, config.session.clone());
        let (per_second, burst) = config.request_rate;
        let mut open = Open {
            shared: self.shared.clone(),
            node_id,
            inbound: self.inbound,
            session,
            connection,
            permit: Some(permit),
            pace: Rate::new(per_second, burst),
            read_from: TokioInstant::now(),
        };
        open.take_resources();
        open.feed(&first)?;
        Ok(Some(open))
    }
}

/// What woke a stream up.
enum Wake<P> {
    Request(Result<Option<P>, Status>),
    /// `false`: there will be no more.
    Resources(bool),
    Deadline,
    Drain,
}

impl<P: Protocol> Open<P> {
    /// The next response; `None` at the end of the stream.
    ///
    /// Cancel safe: what was received is in the session before the next await.
    async fn next(&mut self) -> Result<Option<P::Response>, Status> {
        loop {
            let response = self.session.poll(Instant::now());
            self.connection.status.send_replace(self.session.status());
            if let Some((response, url, resources)) = response.and_then(P::response) {
                if let Some(ty) = TypeUrl::parse(&url) {
                    let bytes = response.encoded_len();
                    self.observe(&StreamEvent::Sent {
                        ty,
                        resources,
                        bytes,
                    });
                }
                return Ok(Some(response));
            }
            match self.wake().await {
                Wake::Request(Ok(Some(request))) => self.feed(&request)?,
                // The client closed the stream, or its connection broke.
                Wake::Request(Ok(None) | Err(_)) | Wake::Drain => return Ok(None),
                Wake::Resources(true) => self.take_resources(),
                Wake::Resources(false) => {
                    return Err(Status::unavailable(
                        "the control plane no longer serves this node",
                    ));
                }
                Wake::Deadline => {}
            }
        }
    }

    /// Cancel safe, as each of the branches is.
    async fn wake(&mut self) -> Wake<P> {
        let deadline = self.session.deadline();
        let wait = async move {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => pending().await,
            }
        };
        let (inbound, read_from) = (&mut self.inbound, self.read_from);
        let request = async move {
            sleep_until(read_from).await;
            inbound.message().await
        };
        tokio::select! {
            request = request => Wake::Request(request),
            changed = self.connection.resources.changed() => Wake::Resources(changed.is_ok()),
            () = wait => Wake::Deadline,
            () = self.shared.config.drain.cancelled() => Wake::Drain,
        }
    }

    fn take_resources(&mut self) {
        let resources = self.connection.resources.borrow_and_update().clone();
        if let Some(resources) = resources {
            self.permit = None;
            self.session.set_resources(resources);
        }
    }

    fn feed(&mut self, request: &P) -> Result<(), Status> {
        let now = TokioInstant::now();
        let wait = self.pace.reserve(now, Duration::MAX).unwrap_or_default();
        self.read_from = now + wait;
        if let Some(health) = request.health() {
            self.observe(&StreamEvent::Health(health));
            return Ok(());
        }
        let received = request
            .feed(&mut self.session, Instant::now())
            .map_err(|error| {
                tracing::warn!(node = self.node_id, %error, "closing a discovery stream");
                Status::invalid_argument(error.to_string())
            })?;
        self.observe(&StreamEvent::Received(received));
        Ok(())
    }

    fn observe(&self, event: &StreamEvent) {
        self.shared.discovery.observe(&self.node_id, event);
    }
}

impl<P> Drop for Open<P> {
    fn drop(&mut self) {
        self.shared
            .discovery
            .observe(&self.node_id, &StreamEvent::Closed);
    }
}
