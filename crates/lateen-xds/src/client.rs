//! One delta ADS subscription as the client sees it, over any number of streams.
//!
//! No sockets and no clock. The session remembers what is subscribed to and which version of each resource was last accepted, so
//! that a new stream continues where the last one broke off: nothing that is unchanged is sent again, and what was removed meanwhile
//! is told as removed. The resources themselves are the caller's: they stay as they are while there is no stream.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use lateen_envoy::pb::google::rpc::Status as RpcStatus;
use lateen_envoy::{Resource, TypeUrl};

/// The client's half of a delta ADS subscription.
#[derive(Debug)]
pub struct ClientSession {
    node: Node,
    types: BTreeMap<TypeUrl, TypeState>,
    /// The number of the stream; tickets of earlier ones are void.
    stream: u64,
    /// Whether the stream knows who we are.
    introduced: bool,
    /// Whether there is a stream; without one, subscriptions are said when it starts.
    connected: bool,
}

#[derive(Debug, Default)]
struct TypeState {
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
    /// The server's versions of what was accepted.
    accepted: BTreeMap<Arc<str>, String>,
    /// Responses handed out and not answered, by nonce.
    pending: BTreeMap<String, Pending>,
}

#[derive(Debug)]
struct Pending {
    changed: Vec<(Arc<str>, String)>,
    removed: Vec<Arc<str>>,
}

/// What a response says.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The type.
    pub ty: TypeUrl,
    /// New and changed resources.
    pub changed: Vec<Resource>,
    /// Names that no longer exist, or never did.
    pub removed: Vec<Arc<str>>,
    /// The version the server gives the whole type.
    pub version: String,
    /// To be given back with the verdict.
    pub ticket: Ticket,
}

/// Names the response that an [`Update`] came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    ty: TypeUrl,
    nonce: String,
    stream: u64,
}

/// What came of a response.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// Apply it, then [`ack`](ClientSession::ack) or [`nack`](ClientSession::nack) it.
    Update(Update),
    /// It is malformed; this request rejects it.
    Refused(Box<DeltaDiscoveryRequest>),
    /// It is of a type that was never asked for; nothing is to be done.
    Ignored,
}

/// `google.rpc.Code.INVALID_ARGUMENT`, which Envoy rejects with.
const INVALID_ARGUMENT: i32 = 3;

/// Unanswered responses of one type. A server that sends more without waiting for answers is broken.
const MAX_PENDING: usize = 64;

impl ClientSession {
    /// A session without subscriptions and without a stream.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            types: BTreeMap::new(),
            stream: 0,
            introduced: false,
            connected: false,
        }
    }

    /// Subscribes to every resource of a type. Gives the request to send, if there is a stream.
    pub fn subscribe_all(&mut self, ty: TypeUrl) -> Option<DeltaDiscoveryRequest> {
        let first = !self.types.contains_key(&ty);
        let state = self.types.entry(ty).or_default();
        if std::mem::replace(&mut state.wildcard, true) {
            return None;
        }
        // The first request of a type says "everything" by naming nothing; every server understands that.
        let names = if first && ty.is_wildcard() {
            Vec::new()
        } else {
            vec!["*".to_owned()]
        };
        self.when_connected(DeltaDiscoveryRequest {
            resource_names_subscribe: names,
            ..request(ty)
        })
    }

    /// Subscribes to resources by name. Gives the request to send, if there is a stream and any of the names is new.
    pub fn subscribe<I>(&mut self, ty: TypeUrl, names: I) -> Option<DeltaDiscoveryRequest>
    where
        I: IntoIterator<Item: Into<Arc<str>>>,
    {
        let state = self.types.entry(ty).or_default();
        let names = names.into_iter().map(Into::into);
        let new: Vec<_> = names
            .filter(|name: &Arc<str>| state.names.insert(name.clone()))
            .collect();
        if new.is_empty() {
            return None;
        }
        self.when_connected(DeltaDiscoveryRequest {
            resource_names_subscribe: strings(&new),
            ..request(ty)
        })
    }

    /// Takes back subscriptions by name. The server will say nothing of these resources any more: drop them.
    pub fn unsubscribe<I>(&mut self, ty: TypeUrl, names: I) -> Option<DeltaDiscoveryRequest>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let state = self.types.get_mut(&ty)?;
        let old: Vec<_> = names
            .into_iter()
            .filter_map(|name| state.names.take(name.as_ref()))
            .collect();
        if old.is_empty() {
            return None;
        }
        if !state.wildcard {
            for name in &old {
                state.accepted.remove(name);
            }
        }
        self.when_connected(DeltaDiscoveryRequest {
            resource_names_unsubscribe: strings(&old),
            ..request(ty)
        })
    }

    /// A new stream is open: the requests to send on it first, in order. They say what is subscribed to and what is there already.
    pub fn restart(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.stream += 1;
        self.connected = true;
        self.introduced = false;
        // Naming nothing would mean everything, so a type without subscriptions is not mentioned.
        let subscribed = self.types.iter_mut().filter(|(_, state)| !state.is_idle());
        let mut opening: Vec<_> = subscribed.map(|(ty, state)| state.opening(*ty)).collect();
        if let Some(first) = opening.first_mut() {
            self.introduce(first);
        }
        opening
    }

    /// Whether nothing is subscribed to. A stream would have nothing to say, and no server keeps such a one.
    pub fn is_idle(&self) -> bool {
        self.types.values().all(TypeState::is_idle)
    }

    /// The first request of a stream, and only that, says who we are.
    fn introduce(&mut self, request: &mut DeltaDiscoveryRequest) {
        if !std::mem::replace(&mut self.introduced, true) {
            request.node = Some(self.node.clone());
        }
    }

    /// The stream broke. Subscriptions made until the next one are said there.
    pub fn disconnected(&mut self) {
        self.connected = false;
    }

    /// Takes a response.
    pub fn on_response(&mut self, response: DeltaDiscoveryResponse) -> Incoming {
        let Some(ty) = TypeUrl::parse(&response.type_url) else {
            return Incoming::Ignored;
        };
        let stream = self.stream;
        let Some(state) = self.types.get_mut(&ty) else {
            return Incoming::Ignored;
        };
        let ticket = Ticket {
            ty,
            nonce: response.nonce,
            stream,
        };
        if state.pending.len() >= MAX_PENDING {
            return refused(&ticket, "too many responses without waiting for an answer");
        }
        let mut changed = Vec::with_capacity(response.resources.len());
        let mut versions = Vec::with_capacity(response.resources.len());
        for wire in response.resources {
            let Some(body) = wire.resource else {
                return refused(&ticket, &format!("resource {:?} has no body", wire.name));
            };
            if body.type_url != ty.as_str() {
                let found = &body.type_url;
                return refused(&ticket, &format!("resource {:?} is a {found}", wire.name));
            }
            let name: Arc<str> = wire.name.into();
            // The response and a request that took the subscription back have crossed.
            if !state.wants(&name) {
                continue;
            }
            versions.push((name.clone(), wire.version));
            changed.push(Resource::from_any(name, body));
        }
        let removed: Vec<Arc<str>> = response
            .removed_resources
            .into_iter()
            .map(Into::into)
            .collect();
        let pending = Pending {
            changed: versions,
            removed: removed.clone(),
        };
        state.pending.insert(ticket.nonce.clone(), pending);
        let version = response.system_version_info;
        Incoming::Update(Update {
            ty,
            changed,
            removed,
            version,
            ticket,
        })
    }

    /// The update was applied. Gives the request to send, unless its stream is gone.
    pub fn ack(&mut self, ticket: &Ticket) -> Option<DeltaDiscoveryRequest> {
        self.verdict(ticket, |_| true)?;
        Some(answer(ticket))
    }

    /// The update was refused as a whole: what was there before stays.
    pub fn nack(&mut self, ticket: &Ticket, message: &str) -> Option<DeltaDiscoveryRequest> {
        self.verdict(ticket, |_| false)?;
        Some(rejection(ticket, message))
    }

    /// Of the update's changed resources those in `refused` were refused; the others, and the removals, were applied.
    pub fn nack_some(
        &mut self,
        ticket: &Ticket,
        message: &str,
        refused: &BTreeSet<Arc<str>>,
    ) -> Option<DeltaDiscoveryRequest> {
        self.verdict(ticket, |name| !refused.contains(name))?;
        Some(rejection(ticket, message))
    }

    /// Books a verdict: `applied` says of each name whether the change took effect. Removals take effect with any of them.
    fn verdict(&mut self, ticket: &Ticket, applied: impl Fn(&str) -> bool) -> Option<()> {
        if ticket.stream != self.stream || !self.connected {
            return None;
        }
        let state = self.types.get_mut(&ticket.ty)?;
        let pending = state.pending.remove(&ticket.nonce)?;
        for (name, version) in pending.changed {
            if applied(&name) && state.wants(&name) {
                state.accepted.insert(name, version);
            }
        }
        for name in pending.removed.into_iter().filter(|name| applied(name)) {
            state.accepted.remove(&name);
        }
        Some(())
    }

    fn when_connected(
        &mut self,
        mut request: DeltaDiscoveryRequest,
    ) -> Option<DeltaDiscoveryRequest> {
        if !self.connected {
            return None;
        }
        self.introduce(&mut request);
        Some(request)
    }
}

impl TypeState {
    fn is_idle(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn opening(&mut self, ty: TypeUrl) -> DeltaDiscoveryRequest {
        // What an earlier stream sent and nobody answered is sent again, since it is not among the versions we name.
        self.pending.clear();
        let mut subscribe = strings(&self.names);
        if self.wildcard && !(ty.is_wildcard() && subscribe.is_empty()) {
            subscribe.push("*".to_owned());
        }
        let accepted = self.accepted.iter();
        let versions: HashMap<_, _> = accepted
            .map(|(name, version)| (String::from(&**name), version.clone()))
            .collect();
        DeltaDiscoveryRequest {
            resource_names_subscribe: subscribe,
            initial_resource_versions: versions,
            ..request(ty)
        }
    }
}

fn request(ty: TypeUrl) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ty.as_str().to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn answer(ticket: &Ticket) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        response_nonce: ticket.nonce.clone(),
        ..request(ticket.ty)
    }
}

fn rejection(ticket: &Ticket, message: &str) -> DeltaDiscoveryRequest {
    let error = RpcStatus {
        code: INVALID_ARGUMENT,
        message: message.to_owned(),
        ..RpcStatus::default()
    };
    DeltaDiscoveryRequest {
        error_detail: Some(error),
        ..answer(ticket)
    }
}

fn refused(ticket: &Ticket, message: &str) -> Incoming {
    Incoming::Refused(Box::new(rejection(ticket, message)))
}

fn strings<'a>(names: impl IntoIterator<Item = &'a Arc<str>>) -> Vec<String> {
    names
        .into_iter()
        .map(|name| String::from(&**name))
        .collect()
}

#[cfg(test)]
mod tests;
