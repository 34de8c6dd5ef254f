//! One ADS stream as the server sees it: requests and resources in, responses out.
//!
//! No sockets and no clock: time is an argument. The same machine serves state-of-the-world and delta streams; what a client
//! holds is tracked per resource in both, so an unchanged resource is never sent twice. What clients hold in common is stored once,
//! and finding what one lacks costs what has changed, not what there is (`server/state/held.rs`).
//!
//! The rules, and where they come from (<https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>):
//! - A request that answers the response in flight ACKs it, or NACKs it if it carries an error. Any other nonce is stale: a delta
//!   request's subscriptions still count, since they are said once; a state-of-the-world request is ignored, since the next one
//!   repeats everything.
//! - At most one response per type is in flight. What changes meanwhile is merged into the next one.
//! - A rejected version is not sent again until the resource changes.
//! - Make before break: `server/push.rs`.
//! - Warming: Envoy asks for endpoints again when a cluster changes, or waits for them without asking (envoyproxy/envoy#13009,
//!   #33607). So the endpoints of every cluster sent are sent behind it, changed or not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use lateen_envoy::pb::google::rpc::Status as RpcStatus;
use lateen_envoy::{ResourceSet, TypeUrl};

mod push;
mod state;
mod status;
mod wire;

pub use status::{Rejection, SessionStatus, SyncState, Transfer, TypeStatus};

use push::Ordering;
use state::TypeState;

/// Which of the two protocols a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Every response of a type that is subscribed by wildcard repeats the whole type.
    StateOfTheWorld,
    /// Responses say what changed.
    Delta,
}

/// What a session allows and how long it waits.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Sent as `control_plane.identifier`; empty leaves the field out. Istio puts JSON here that `istioctl` reads.
    pub identifier: Arc<str>,
    /// Names one client may subscribe to per type. A sidecar of a mesh of 10,000 services with subsets stays below.
    pub max_names: usize,
    /// Bytes of one resource name. Istio's longest are below 400.
    pub max_name_bytes: usize,
    /// Bytes of all names one client may subscribe to per type.
    pub max_names_bytes: usize,
    /// How long listeners and routes wait for the clusters they may refer to to be ACKed and to have their endpoints. After it
    /// only the order of sending protects them.
    pub make_wait: Duration,
    /// How long what was removed is left to a client that has not yet ACKed the listeners and routes that stopped using it.
    pub break_wait: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            identifier: "".into(),
            max_names: 100_000,
            max_name_bytes: 4096,
            max_names_bytes: 16 << 20,
            make_wait: Duration::from_secs(3),
            break_wait: Duration::from_secs(10),
        }
    }
}

/// A message for the client.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// On a state-of-the-world stream.
    StateOfTheWorld(DiscoveryResponse),
    /// On a delta stream.
    Delta(DeltaDiscoveryResponse),
}

/// What a request meant, for logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The type; `None` if it is none of ours, in which case the request was ignored.
    pub ty: Option<TypeUrl>,
    /// What it said about an earlier response.
    pub answer: Answer,
    /// Whether it changed what the client is subscribed to.
    pub resubscribed: bool,
}

/// What a request said about an earlier response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: it only subscribes.
    None,
    /// The response in flight was accepted, this long after it was sent.
    Ack(Duration),
    /// The response in flight was rejected for this reason.
    Nack(String),
    /// It answers a response that is no longer in flight.
    Stale,
}

/// Why a stream must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More names than [`SessionConfig::max_names`].
    #[error("subscription to {count} names of {ty}; {max} are allowed")]
    TooManyNames {
        /// The type.
        ty: TypeUrl,
        /// How many there would be.
        count: usize,
        /// How many may be.
        max: usize,
    },
    /// A name longer than [`SessionConfig::max_name_bytes`].
    #[error("resource name of {bytes} bytes; {max} are allowed")]
    NameTooLong {
        /// Its length.
        bytes: usize,
        /// What it may be.
        max: usize,
    },
    /// Longer names than [`SessionConfig::max_names_bytes`], together.
    #[error("subscription to names of {ty} of {bytes} bytes together; {max} are allowed")]
    NamesTooLong {
        /// The type.
        ty: TypeUrl,
        /// What they have.
        bytes: usize,
        /// What they may have.
        max: usize,
    },
    /// A request of the other protocol.
    #[error("a state-of-the-world request on a delta stream, or the reverse")]
    WrongVariant,
}

/// The server's half of one ADS stream.
#[derive(Debug)]
pub struct ServerSession {
    config: SessionConfig,
    variant: Variant,
    /// What the client is to have; `None` until it is first known, and nothing is sent until then.
    target: Option<ResourceSet>,
    types: BTreeMap<TypeUrl, TypeState>,
    ordering: Ordering,
    /// How many were sent.
    responses: u64,
}

impl ServerSession {
    /// A session on a new stream.
    pub fn new(variant: Variant, config: SessionConfig) -> Self {
        Self {
            config,
            variant,
            target: None,
            types: BTreeMap::new(),
            ordering: Ordering::default(),
            responses: 0,
        }
    }

    /// Sets what the client is to have. What was set before and not yet sent is forgotten: the latest wins.
    pub fn set_resources(&mut self, resources: ResourceSet) {
        for (ty, state) in &mut self.types {
            let same = self
                .target
                .as_ref()
                .is_some_and(|old| old.get(*ty).is_same(&resources.get(*ty)));
            state.dirty |= !same;
        }
        self.target = Some(resources);
    }

    /// Takes a request of a state-of-the-world stream.
    ///
    /// # Errors
    /// The client broke a limit; close the stream.
    pub fn on_request(
        &mut self,
        request: &DiscoveryRequest,
        now: Instant,
    ) -> Result<Received, RequestError> {
        if self.variant != Variant::StateOfTheWorld {
            return Err(RequestError::WrongVariant);
        }
        let Some(ty) = TypeUrl::parse(&request.type_url) else {
            return Ok(Received::ignored());
        };
        self.check_names(ty, &request.resource_names)?;
        // Whatever nonce a client brings from an earlier stream, the first request of a type starts afresh.
        let first = !self.types.contains_key(&ty);
        let state = self.types.entry(ty).or_default();
        let (answer, again) = if first {
            (Answer::None, false)
        } else {
            let (answer, flight) =
                state.answered_by(&request.response_nonce, &request.error_detail, now);
            self.ordering.answered(ty, flight.as_ref());
            let again = answer == Answer::Stale && state.is_asking_again(&request.response_nonce);
            (answer, again)
        };
        if answer == Answer::Stale && !again {
            return Ok(Received {
                ty: Some(ty),
                answer,
                resubscribed: false,
            });
        }
        let resubscribed = state.subscribe_to_exactly(ty, &request.resource_names);
        // The same nonce a second time with the same names: the client has dropped and wants again something that it is still
        // subscribed to in our eyes, and will wait for it.
        if again && !resubscribed && !ty.is_wildcard() {
            state.forget_held();
        }
        let answer = if again { Answer::None } else { answer };
        Ok(Received {
            ty: Some(ty),
            answer,
            resubscribed,
        })
    }

    /// Takes a request of a delta stream.
    ///
    /// # Errors
    /// The client broke a limit; close the stream.
    pub fn on_delta_request(
        &mut self,
        request: &DeltaDiscoveryRequest,
        now: Instant,
    ) -> Result<Received, RequestError> {
        if self.variant != Variant::Delta {
            return Err(RequestError::WrongVariant);
        }
        let Some(ty) = TypeUrl::parse(&request.type_url) else {
            return Ok(Received::ignored());
        };
        let subscribe = &request.resource_names_subscribe;
        self.check_names(ty, subscribe)?;
        self.check_count(ty, request.initial_resource_versions.len())?;
        let first = !self.types.contains_key(&ty);
        let state = self.types.entry(ty).or_default();
        let answer = if first || request.response_nonce.is_empty() {
            Answer::None
        } else {
            let (answer, flight) =
                state.answered_by(&request.response_nonce, &request.error_detail, now);
            self.ordering.answered(ty, flight.as_ref());
            answer
        };
        let mut resubscribed = state.subscribe_also(subscribe);
        resubscribed |= state.unsubscribe(&request.resource_names_unsubscribe);
        if first {
            // "No names at all" once meant "everything", and clients still say it so.
            if subscribe.is_empty() && ty.is_wildcard() {
                state.subscribe_also(&["*".to_owned()]);
            }
            resubscribed = true;
            self.claim(ty, request);
        }
        if !subscribe.is_empty() {
            self.check_subscribed(ty)?;
        }
        Ok(Received {
            ty: Some(ty),
            answer,
            resubscribed,
        })
    }

    /// The next message for the client, if there is one to send now. Call until `None`, after every request, every
    /// [`set_resources`](Self::set_resources), and at [`deadline`](Self::deadline).
    pub fn poll(&mut self, now: Instant) -> Option<Response> {
        self.next_response(now)
    }

    /// When [`poll`](Self::poll) may return something although nothing arrived: the end of a wait.
    pub fn deadline(&self) -> Option<Instant> {
        self.next_deadline()
    }

    /// What the client has of what it should have.
    pub fn status(&self) -> SessionStatus {
        SessionStatus {
            types: self
                .types
                .iter()
                .map(|(ty, s)| (*ty, s.status.clone()))
                .collect(),
        }
    }

    /// What a reconnecting client says it holds already.
    fn claim(&mut self, ty: TypeUrl, request: &DeltaDiscoveryRequest) {
        let Some(state) = self.types.get_mut(&ty) else {
            return;
        };
        for (name, version) in sorted(&request.initial_resource_versions) {
            if state.is_subscribed(name) {
                let version = u64::from_str_radix(version, 16).ok();
                state.held.claim(Arc::from(name), version);
            }
        }
    }

    fn check_names(&self, ty: TypeUrl, names: &[String]) -> Result<(), RequestError> {
        let max = self.config.max_name_bytes;
        if let Some(long) = names.iter().find(|name| name.len() > max) {
            return Err(RequestError::NameTooLong {
                bytes: long.len(),
                max,
            });
        }
        self.check_count(ty, names.len())?;
        self.check_bytes(ty, names.iter().map(String::len).sum())
    }

    fn check_subscribed(&self, ty: TypeUrl) -> Result<(), RequestError> {
        let Some(state) = self.types.get(&ty) else {
            return Ok(());
        };
        let names = &state.status.names;
        self.check_count(ty, names.len())?;
        self.check_bytes(ty, names.iter().map(|name| name.len()).sum())
    }

    fn check_bytes(&self, ty: TypeUrl, bytes: usize) -> Result<(), RequestError> {
        let max = self.config.max_names_bytes;
        if bytes > max {
            Err(RequestError::NamesTooLong { ty, bytes, max })
        } else {
            Ok(())
        }
    }

    fn check_count(&self, ty: TypeUrl, count: usize) -> Result<(), RequestError> {
        let max = self.config.max_names;
        if count > max {
            Err(RequestError::TooManyNames { ty, count, max })
        } else {
            Ok(())
        }
    }

    /// The number of the next response; its nonce is made of it.
    fn next_number(&mut self) -> u64 {
        self.responses += 1;
        self.responses
    }
}

impl Received {
    fn ignored() -> Self {
        Self {
            ty: None,
            answer: Answer::None,
            resubscribed: false,
        }
    }
}

fn sorted(versions: &std::collections::HashMap<String, String>) -> BTreeMap<&str, &str> {
    versions
        .iter()
        .map(|(name, version)| (name.as_str(), version.as_str()))
        .collect()
}

/// A NACK's reason, cut to what is worth keeping: the client chooses its length.
pub(crate) fn reason(error: &RpcStatus) -> String {
    const MAX_CHARS: usize = 4096;
    error.message.chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests;
