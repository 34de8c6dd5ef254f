//! The client side: a delta ADS client that stays connected.
//!
//! [`client`] gives a future to run, a [`Subscriber`] to change subscriptions with, and a channel of updates. Every update comes with an
//! [`Acknowledge`]; what it says goes back to the server. While there is no server nothing arrives, so whoever applies updates
//! keeps the last good state by doing nothing.

use std::collections::BTreeSet;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::TypeUrl;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use tokio::sync::{mpsc, oneshot};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::client::{ClientSession, Update};

mod run;

/// What a client subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// Every resource of a type.
    All(TypeUrl),
    /// Resources by name.
    Names(TypeUrl, Vec<Arc<str>>),
    /// Takes names back.
    Drop(TypeUrl, Vec<Arc<str>>),
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Who it says it is.
    pub node: Node,
    /// What it subscribes to from the start.
    pub subscriptions: Vec<Subscription>,
    /// How long it waits between attempts to connect.
    pub backoff: Backoff,
    /// How long one attempt may take, up to the response's headers. Servers send those with their first response, so a busy one takes its time.
    pub open_timeout: Duration,
    /// Largest response in bytes.
    pub max_response_bytes: usize,
}

impl ClientConfig {
    /// Defaults for `node`, with no subscriptions.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            subscriptions: Vec::new(),
            backoff: Backoff::default(),
            open_timeout: Duration::from_secs(60),
            max_response_bytes: 256 << 20,
        }
    }
}

/// Exponential backoff with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first wait.
    pub initial: Duration,
    /// The bound of every wait.
    pub max: Duration,
}

impl Default for Backoff {
    /// Envoy's `DnsSrv` and gRPC retries start at 500 ms and end at 30 s; a mesh wants its control plane back sooner.
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(250),
            max: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    /// The wait before attempt `attempt` (from 0), with `jitter` between 0 and 1: half of the bound is fixed, half random.
    pub fn wait(&self, attempt: u32, jitter: f64) -> Duration {
        let bound = self
            .initial
            .saturating_mul(1 << attempt.min(20))
            .min(self.max);
        bound.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

/// How a client notices that its server is gone without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// How often it asks.
    pub interval: Duration,
    /// How long the server has to answer.
    pub timeout: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(10),
        }
    }
}

/// An endpoint set up for ADS: keep-alive while idle, so that a half-dead control plane is noticed. Connect it, plainly or with a
/// connector of your own for mTLS.
pub fn endpoint(uri: Uri, keep_alive: KeepAlive) -> Endpoint {
    Channel::builder(uri)
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(keep_alive.interval)
        .keep_alive_timeout(keep_alive.timeout)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}

/// A connection to a server, and the headers to open the stream with.
#[derive(Clone, Debug)]
pub struct Link {
    /// The connection.
    pub channel: Channel,
    /// Such as `authorization: Bearer …`.
    pub metadata: MetadataMap,
}

impl From<Channel> for Link {
    fn from(channel: Channel) -> Self {
        Self {
            channel,
            metadata: MetadataMap::new(),
        }
    }
}

/// Any error of a connector.
pub type ConnectError = Box<dyn Error + Send + Sync>;

/// Something for whoever applies updates.
#[derive(Debug)]
pub enum ClientEvent {
    /// A stream is open.
    Connected,
    /// There is no stream. What was applied stays valid.
    Disconnected {
        /// Why.
        error: String,
        /// When the next attempt is made.
        retry_in: Duration,
    },
    /// Something changed. Apply it and say so.
    Update(Update, Acknowledge),
}

/// The duty to answer an update. Dropped without an answer it rejects the update.
#[derive(Debug)]
#[must_use = "an update that is not answered is rejected"]
pub struct Acknowledge {
    verdict: oneshot::Sender<Verdict>,
}

#[derive(Debug)]
enum Verdict {
    Ack,
    Nack(String),
    NackSome(String, BTreeSet<Arc<str>>),
}

impl Acknowledge {
    /// The update was applied.
    pub fn ack(self) {
        self.say(Verdict::Ack);
    }

    /// The update was refused as a whole.
    pub fn nack(self, message: impl Into<String>) {
        self.say(Verdict::Nack(message.into()));
    }

    /// The update was applied but for the resources named.
    pub fn nack_some(self, message: impl Into<String>, refused: BTreeSet<Arc<str>>) {
        self.say(Verdict::NackSome(message.into(), refused));
    }

    fn say(self, verdict: Verdict) {
        // If the stream is gone, the next one begins with what was accepted; there is nobody to tell.
        drop(self.verdict.send(verdict));
    }
}

/// Changes what a running client is subscribed to.
#[derive(Clone, Debug)]
pub struct Subscriber {
    commands: mpsc::Sender<Subscription>,
}

impl Subscriber {
    /// Changes the subscriptions; waits while many changes are under way. Does nothing once the client has ended.
    pub async fn change(&self, subscription: Subscription) {
        drop(self.commands.send(subscription).await);
    }
}

/// A client: what changes its subscriptions, what it receives, and the future that runs it. The future ends when the receiver is
/// dropped; it may also be dropped itself at any time.
///
/// `connect` is called for each attempt, so it may read a fresh token or certificate.
pub fn client<F, C>(
    config: ClientConfig,
    connect: F,
) -> (
    Subscriber,
    mpsc::Receiver<ClientEvent>,
    impl Future<Output = ()> + Send,
)
where
    F: FnMut() -> C + Send,
    C: Future<Output = Result<Link, ConnectError>> + Send,
{
    // Full: the stream is not read, and the server holds back and merges.
    let (events, receiver) = mpsc::channel(16);
    // Full: whoever changes subscriptions waits.
    let (commands, changes) = mpsc::channel(64);
    let mut session = ClientSession::new(config.node.clone());
    for subscription in config.subscriptions.iter().cloned() {
        // There is no stream yet, hence no request.
        drop(run::apply(&mut session, subscription));
    }
    let running = run::Running {
        config,
        connect,
        session,
        events,
        changes,
    };
    (Subscriber { commands }, receiver, running.run())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_jitter_takes_at_most_half() {
        let backoff = Backoff {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(1),
        };
        let longest: Vec<_> = (0..6).map(|n| backoff.wait(n, 1.0).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.wait(0, 0.0), Duration::from_millis(50));
        assert_eq!(backoff.wait(u32::MAX, 1.0), Duration::from_secs(1));
    }
}
