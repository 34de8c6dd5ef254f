//! The client's loop: connect, serve one stream, wait, again.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use lateen_envoy::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use lateen_envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Streaming};

use super::{Acknowledge, ClientConfig, ClientEvent, ConnectError, Link, Subscription, Verdict};
use crate::client::{ClientSession, Incoming, Ticket};

/// Requests that wait to be sent before changes of subscriptions have to wait.
const MAX_OUTBOX: usize = 64;

pub(super) struct Running<F> {
    pub(super) config: ClientConfig,
    pub(super) connect: F,
    pub(super) session: ClientSession,
    pub(super) events: mpsc::Sender<ClientEvent>,
    pub(super) changes: mpsc::Receiver<Subscription>,
}

/// Why a stream, or the whole client, ended.
enum End {
    /// Nobody receives the updates any more.
    Abandoned,
    /// The stream, or the attempt to open one, failed.
    Broken {
        error: ConnectError,
        /// Whether the server had answered; the backoff then starts anew.
        served: bool,
    },
}

impl<F, C> Running<F>
where
    F: FnMut() -> C + Send,
    C: Future<Output = Result<Link, ConnectError>> + Send,
{
    pub(super) async fn run(mut self) {
        let abandoned = self.events.clone();
        tokio::select! {
            () = self.streams() => {}
            () = abandoned.closed() => {}
        }
    }

    /// Stream after stream, until nobody receives the updates any more.
    async fn streams(&mut self) {
        let mut attempt = 0;
        loop {
            let End::Broken { error, served } = self.stream().await else {
                return;
            };
            self.session.disconnected();
            attempt = if served { 0 } else { attempt + 1 };
            let retry_in = self.config.backoff.wait(attempt, rand::random());
            let error = lateen_envoy::with_causes(&*error);
            tracing::info!(error, ?retry_in, "no discovery stream");
            let events = self.events.clone();
            let event = ClientEvent::Disconnected { error, retry_in };
            if self.meanwhile(events.send(event)).await.0.is_err() {
                return;
            }
            self.meanwhile(sleep(retry_in)).await;
        }
    }

    /// Waits for `future` and takes changes of subscriptions meanwhile, so that whoever makes them is not held up. Also gives the
    /// requests that say them, if there is a stream to say them on.
    async fn meanwhile<T>(
        &mut self,
        future: impl Future<Output = T>,
    ) -> (T, VecDeque<DeltaDiscoveryRequest>) {
        let mut future = pin!(future);
        let mut outbox = VecDeque::new();
        loop {
            tokio::select! {
                done = &mut future => return (done, outbox),
                Some(change) = self.changes.recv(), if outbox.len() < MAX_OUTBOX => {
                    outbox.extend(apply(&mut self.session, change));
                }
            }
        }
    }

    /// One stream, from connecting to its end.
    async fn stream(&mut self) -> End {
        while self.session.is_idle() {
            // A server closes a stream on which nothing is asked for.
            match self.changes.recv().await {
                Some(change) => drop(apply(&mut self.session, change)),
                None => return End::Abandoned,
            }
        }
        let (open, mut queues) = match self.open().await {
            Ok(opened) => opened,
            Err(error) => {
                return End::Broken {
                    error,
                    served: false,
                };
            }
        };
        let events = self.events.clone();
        let (told, more) = self.meanwhile(events.send(ClientEvent::Connected)).await;
        if told.is_err() {
            return End::Abandoned;
        }
        queues.outbox.extend(more);
        self.serve(open, queues).await
    }

    async fn open(&mut self) -> Result<(Open, Queues), ConnectError> {
        let open_timeout = self.config.open_timeout;
        let connect = timeout(open_timeout, (self.connect)());
        let (connected, _) = self.meanwhile(connect).await;
        let Link { channel, metadata } = connected.map_err(|_| "connecting timed out")??;
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(self.config.max_response_bytes)
            .max_encoding_message_size(usize::MAX);
        // The opening requests must fit, since nothing reads before the stream is open.
        let opening = self.session.restart();
        let (outbound, requests) = mpsc::channel(opening.len().max(16));
        for request in opening {
            outbound.try_send(request)?;
        }
        let request = with_metadata(metadata, ReceiverStream::new(requests));
        let call = timeout(open_timeout, client.delta_aggregated_resources(request));
        let (answered, outbox) = self.meanwhile(call).await;
        let inbound = answered
            .map_err(|_| "opening the stream timed out")??
            .into_inner();
        Ok((
            Open { outbound, inbound },
            Queues {
                outbox,
                ..Queues::default()
            },
        ))
    }

    /// Each branch of the `select!` is cancel safe: receiving, reserving, and polling a set of futures.
    async fn serve(&mut self, open: Open, mut queues: Queues) -> End {
        let Open {
            outbound,
            mut inbound,
        } = open;
        let mut served = false;
        loop {
            let accepts_changes = queues.outbox.len() < MAX_OUTBOX;
            tokio::select! {
                response = inbound.message(), if queues.update.is_none() => match response {
                    Ok(Some(response)) => {
                        served = true;
                        queues.take(&mut self.session, response);
                    }
                    Ok(None) => return End::Broken { error: "the server closed the stream".into(), served },
                    Err(status) => return End::Broken { error: status.into(), served },
                },
                permit = self.events.reserve(), if queues.update.is_some() => match permit {
                    Ok(permit) => if let Some(update) = queues.update.take() { permit.send(update); },
                    Err(_) => return End::Abandoned,
                },
                Some((ticket, verdict)) = queues.verdicts.next(), if !queues.verdicts.is_empty() => {
                    queues.outbox.extend(answer(&mut self.session, &ticket, verdict));
                },
                Some(change) = self.changes.recv(), if accepts_changes => {
                    queues.outbox.extend(apply(&mut self.session, change));
                },
                permit = outbound.reserve(), if !queues.outbox.is_empty() => match permit {
                    Ok(permit) => if let Some(next) = queues.outbox.pop_front() { permit.send(next); },
                    Err(_) => return End::Broken { error: "the stream is gone".into(), served },
                },
            }
        }
    }
}

/// An open stream.
struct Open {
    outbound: mpsc::Sender<DeltaDiscoveryRequest>,
    inbound: Streaming<DeltaDiscoveryResponse>,
}

type Verdicts = FuturesUnordered<BoxFuture<'static, (Ticket, Verdict)>>;

/// What is under way on a stream.
#[derive(Default)]
struct Queues {
    /// Requests to send.
    outbox: VecDeque<DeltaDiscoveryRequest>,
    /// Received and not yet handed on; nothing more is read meanwhile.
    update: Option<ClientEvent>,
    /// Of the updates handed on.
    verdicts: Verdicts,
}

impl Queues {
    fn take(&mut self, session: &mut ClientSession, response: DeltaDiscoveryResponse) {
        match session.on_response(response) {
            Incoming::Update(update) => {
                let (verdict, answered) = oneshot::channel();
                let ticket = update.ticket.clone();
                self.verdicts.push(Box::pin(async move {
                    let dropped = |_| Verdict::Nack("the update was dropped".to_owned());
                    (ticket, answered.await.unwrap_or_else(dropped))
                }));
                self.update = Some(ClientEvent::Update(update, Acknowledge { verdict }));
            }
            Incoming::Refused(rejection) => self.outbox.push_back(*rejection),
            Incoming::Ignored => {}
        }
    }
}

fn answer(
    session: &mut ClientSession,
    ticket: &Ticket,
    verdict: Verdict,
) -> Option<DeltaDiscoveryRequest> {
    match verdict {
        Verdict::Ack => session.ack(ticket),
        Verdict::Nack(message) => session.nack(ticket, &message),
        Verdict::NackSome(message, refused) => session.nack_some(ticket, &message, &refused),
    }
}

/// Books a change of subscriptions; gives the request that says so on the open stream.
pub(super) fn apply(
    session: &mut ClientSession,
    change: Subscription,
) -> Option<DeltaDiscoveryRequest> {
    match change {
        Subscription::All(ty) => session.subscribe_all(ty),
        Subscription::Names(ty, names) => session.subscribe(ty, names),
        Subscription::Drop(ty, names) => session.unsubscribe(ty, names),
    }
}

fn with_metadata<T>(metadata: MetadataMap, message: T) -> Request<T> {
    Request::from_parts(metadata, Extensions::default(), message)
}
