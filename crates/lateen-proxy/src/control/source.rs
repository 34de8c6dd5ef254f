//! Where changes come from: an xDS server or the embedder, in one form.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use foldhash::fast::FixedState;
use lateen_envoy::{ResourceSet, TypeUrl};
use lateen_traffic::program::Change;
use lateen_xds::grpc::client::{self, Acknowledge, ClientEvent, Subscriber, Subscription};
use tokio::sync::{mpsc, watch};

use super::ControlError;
use crate::config::{ConfigSource, XdsSource};
use crate::shared::Shared;

/// The types a proxy takes, in the order in which they have to be applied.
pub(super) const TYPES: [TypeUrl; 5] = [
    TypeUrl::Cluster,
    TypeUrl::ClusterLoadAssignment,
    TypeUrl::Listener,
    TypeUrl::RouteConfiguration,
    TypeUrl::Secret,
];

/// A source, before it runs.
pub(super) enum Source {
    /// An xDS server.
    Xds(Box<XdsSource>),
    /// The embedder.
    Resources(watch::Receiver<Arc<ResourceSet>>),
}

/// Something that came from a source.
pub(super) enum Event {
    /// Changes of one or several types, to be answered if they came by xDS.
    Changes {
        /// What changed.
        changes: Vec<Change>,
        /// The types that were told of, even if nothing in them changed.
        told: Vec<TypeUrl>,
        /// The version each changed resource has at its source.
        version: String,
        /// The duty to answer.
        answer: Option<Acknowledge>,
    },
    /// The control plane came or went.
    Connected(bool),
}

/// A running source.
pub(super) struct Running {
    events: Events,
    subscriber: Option<Subscriber>,
    subscribed: BTreeMap<TypeUrl, Names>,
}

/// Some names, in no order.
pub(super) type Names = HashSet<Arc<str>, FixedState>;

enum Events {
    Xds(mpsc::Receiver<ClientEvent>),
    Resources {
        receiver: watch::Receiver<Arc<ResourceSet>>,
        last: Option<Arc<ResourceSet>>,
    },
    Ended,
}

/// Takes the source out of a configuration.
pub(super) fn take(source: &ConfigSource) -> Result<Source, ControlError> {
    match source {
        ConfigSource::Resources(receiver) => Ok(Source::Resources(receiver.clone())),
        ConfigSource::Xds(source) => {
            let mut source = source
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            source
                .take()
                .map(|source| Source::Xds(Box::new(source)))
                .ok_or(ControlError::SourceTaken)
        }
    }
}

impl Running {
    /// Starts a source on the current runtime.
    pub(super) fn start(source: Source, shared: &Shared) -> Self {
        let (events, subscriber) = match source {
            Source::Resources(receiver) => (
                Events::Resources {
                    receiver,
                    last: None,
                },
                None,
            ),
            Source::Xds(source) => {
                let XdsSource {
                    connect,
                    mut client,
                } = *source;
                client.node = shared.config.node.clone();
                client.subscriptions = vec![
                    Subscription::All(TypeUrl::Cluster),
                    Subscription::All(TypeUrl::Listener),
                ];
                let (subscriber, events, running) = client::client(client, connect);
                tokio::task::spawn_local(running);
                (Events::Xds(events), Some(subscriber))
            }
        };
        Self {
            events,
            subscriber,
            subscribed: BTreeMap::new(),
        }
    }

    /// The next event. Safe to cancel.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            match &mut self.events {
                Events::Xds(receiver) => match receiver.recv().await {
                    Some(event) => return of_xds(event),
                    None => self.events = Events::Ended,
                },
                Events::Resources { receiver, last } => {
                    if last.is_some() && receiver.changed().await.is_err() {
                        self.events = Events::Ended; // the last value stays
                        continue;
                    }
                    let next = receiver.borrow_and_update().clone();
                    let changes = difference(last.as_deref(), &next);
                    *last = Some(next);
                    let version = String::from("embedded");
                    return Event::Changes {
                        changes,
                        told: TYPES.to_vec(),
                        version,
                        answer: None,
                    };
                }
                Events::Ended => std::future::pending().await,
            }
        }
    }

    /// Whether it wants to be told which names a program refers to.
    pub(super) fn is_asked(&self) -> bool {
        self.subscriber.is_some()
    }

    /// Subscribes to the names a program refers to now, and no longer to others. Returns the names that were taken back.
    pub(super) async fn subscribe(&mut self, ty: TypeUrl, wanted: Names) -> Vec<Arc<str>> {
        let Some(subscriber) = &self.subscriber else {
            return Vec::new();
        };
        let have = self.subscribed.entry(ty).or_default();
        let new: Vec<_> = wanted.difference(have).cloned().collect();
        let old: Vec<_> = have.difference(&wanted).cloned().collect();
        if !new.is_empty() {
            subscriber.change(Subscription::Names(ty, new)).await;
        }
        if !old.is_empty() {
            subscriber.change(Subscription::Drop(ty, old.clone())).await;
        }
        *have = wanted;
        old
    }
}

fn of_xds(event: ClientEvent) -> Event {
    match event {
        ClientEvent::Connected => {
            tracing::info!("connected to the control plane");
            Event::Connected(true)
        }
        ClientEvent::Disconnected { error, retry_in } => {
            tracing::warn!(
                error,
                ?retry_in,
                "the control plane is away; the configuration stays as it is"
            );
            Event::Connected(false)
        }
        ClientEvent::Update(update, answer) => {
            let ty = update.ty;
            let changed = update
                .changed
                .into_iter()
                .map(|resource| Change::Upsert(ty, resource));
            let removed = update
                .removed
                .into_iter()
                .map(|name| Change::Remove(ty, name));
            let changes = changed.chain(removed).collect();
            Event::Changes {
                changes,
                told: vec![ty],
                version: update.version,
                answer: Some(answer),
            }
        }
    }
}

/// What makes `last` into `next`.
fn difference(last: Option<&ResourceSet>, next: &ResourceSet) -> Vec<Change> {
    let room = last
        .is_none()
        .then(|| TYPES.iter().map(|ty| next.get(*ty).len()).sum());
    let mut changes = Vec::with_capacity(room.unwrap_or(0));
    for ty in TYPES {
        let (old, new) = (
            last.map(|set| set.get(ty)).unwrap_or_default(),
            next.get(ty),
        );
        if Arc::ptr_eq(&old, &new) {
            continue;
        }
        let gone = old.keys().filter(|name| !new.contains_key(*name));
        changes.extend(gone.map(|name| Change::Remove(ty, Arc::clone(name))));
        let changed = new
            .iter()
            .filter(|(name, resource)| old.get(*name).map(|o| o.version) != Some(resource.version));
        changes.extend(changed.map(|(_, resource)| Change::Upsert(ty, resource.clone())));
    }
    changes
}
