//! The client's loop: connect, serve one stream, wait, again.

use std::collections::VecDeque;
use std::future::Future;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use lateen_envoy::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use lateen_envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
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
        let mut attempt = 0;
        loop {
            let End::Broken { error, served } = self.stream().await else {
                return;
            };
            self.session.disconnected();
            attempt = if served { 0 } else { attempt + 1 };
            let retry_in = self.config.backoff.wait(attempt, rand::random());
            let error = chain(&*error);
            tracing::info!(error, ?retry_in, "no discovery stream");
            let event = ClientEvent::Disconnected { error, retry_in };
            if self.events.send(event).await.is_err() {
                return;
            }
            if self.wait(retry_in).await.is_err() {
                return;
            }
        }
    }

    /// Waits, taking changes of subscriptions. An error if nobody receives the updates any more.
    async fn wait(&mut self, duration: std::time::Duration) -> Result<(), End> {
        let until = Instant::now() + duration;
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                () = self.events.closed() => return Err(End::Abandoned),
                Some(change) = self.changes.recv() => drop(apply(&mut self.session, change)),
            }
        }
    }

    /// One stream, from connecting to its end.
    async fn stream(&mut self) -> End {
        let events = self.events.clone();
        let stream = async {
            let open = match self.open().await {
                Ok(open) => open,
                Err(error) => {
                    return End::Broken {
                        error,
                        served: false,
                    };
                }
            };
            if self.events.send(ClientEvent::Connected).await.is_err() {
                return End::Abandoned;
            }
            self.serve(open).await
        };
        tokio::select! {
            end = stream => end,
            () = events.closed() => End::Abandoned,
        }
    }

    async fn open(&mut self) -> Result<Open, ConnectError> {
        let open_timeout = self.config.open_timeout;
        let connect = (self.connect)();
        let opened = timeout(open_timeout, async {
            let Link { channel, metadata } = connect.await?;
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
            let inbound = client
                .delta_aggregated_resources(request)
                .await?
                .into_inner();
            Ok::<_, ConnectError>(Open { outbound, inbound })
        });
        opened.await.map_err(|_| ConnectError::from("timed out"))?
    }

    /// Each branch of the `select!` is cancel safe: receiving, reserving, and polling a set of futures.
    async fn serve(&mut self, open: Open) -> End {
        let Open {
            outbound,
            mut inbound,
        } = open;
        let mut queues = Queues::default();
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

/// An error with its causes, for people.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
