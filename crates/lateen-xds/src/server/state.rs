//! One type on one stream: what the client asked for, what it holds, and what separates that from what it should hold.

mod held;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use lateen_envoy::pb::google::rpc::Status as RpcStatus;
use lateen_envoy::{Resource, Resources, TypeUrl};

use super::status::{Rejection, Transfer, TypeStatus};
use super::{Answer, reason};

pub(super) use held::Held;
use held::Holdings;

/// A response that was sent and not answered.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) transfer: Transfer,
    /// Its number in the order of sending, over all types.
    pub(super) number: u64,
    /// The resources in it.
    pub(super) names: Vec<Arc<str>>,
    /// Whether any of them is new to the client.
    pub(super) adds: bool,
}

/// What separates what the client holds from what it should hold.
#[derive(Debug, Default)]
pub(super) struct Diff {
    /// New or changed, or wanted again.
    pub(super) changed: Vec<Resource>,
    /// Held, and no longer there.
    pub(super) removed: Vec<Arc<str>>,
    /// Asked for by name, never there, and not yet said so.
    pub(super) missing: Vec<Arc<str>>,
}

impl Diff {
    /// Whether the client has what it should have. To be told that something never existed does not count.
    pub(super) fn is_settled(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

#[derive(Debug, Default)]
pub(super) struct TypeState {
    /// Holds the subscription too.
    pub(super) status: TypeStatus,
    /// Whether names were ever given; "no names" then means none, not all.
    named_once: bool,
    /// Only names that are subscribed to count.
    pub(super) held: Holdings,
    /// Names to send although the client has their version.
    pub(super) refresh: BTreeSet<Arc<str>>,
    pub(super) in_flight: Option<InFlight>,
    /// Whether any response was sent: the first request of a type is owed one.
    pub(super) answered: bool,
    /// Whether there may be something to send. Spares comparing what was compared before.
    pub(super) dirty: bool,
    /// Since when everything has had to wait for clusters.
    pub(super) blocked_since: Option<Instant>,
    /// Since when removals are being withheld.
    pub(super) withheld_since: Option<Instant>,
}

impl TypeState {
    pub(super) fn is_subscribed(&self, name: &str) -> bool {
        self.status.wildcard || self.status.names.contains(name)
    }

    /// Takes the answer to the response in flight. Also gives that response.
    pub(super) fn answered_by(
        &mut self,
        nonce: &str,
        error: &Option<RpcStatus>,
        now: Instant,
    ) -> (Answer, Option<InFlight>) {
        let Some(flight) = self.in_flight.take_if(|f| f.transfer.nonce == nonce) else {
            return (Answer::Stale, None);
        };
        let latency = now.saturating_duration_since(flight.transfer.at);
        let answered = Transfer {
            at: now,
            ..flight.transfer.clone()
        };
        let answer = match error {
            Some(error) => {
                let message = reason(error);
                self.status.error = Some(Rejection {
                    of: answered,
                    message: message.clone(),
                });
                Answer::Nack(message)
            }
            None => {
                self.status.acked = Some(answered);
                self.status.error = None;
                Answer::Ack(latency)
            }
        };
        (answer, Some(flight))
    }

    /// Whether a request that answers nothing in flight is not stale but asks again: it names the last response, which it has
    /// answered before, or none, as on a new stream.
    pub(super) fn is_asking_again(&self, nonce: &str) -> bool {
        let last = self.status.sent.as_ref().map(|sent| sent.nonce.as_str());
        nonce.is_empty() || (self.in_flight.is_none() && last == Some(nonce))
    }

    /// State of the world: the request lists everything wanted.
    pub(super) fn subscribe_to_exactly(&mut self, ty: TypeUrl, names: &[String]) -> bool {
        self.named_once |= !names.is_empty();
        let all = names.iter().any(|name| name == "*") || (!self.named_once && ty.is_wildcard());
        let named: BTreeSet<Arc<str>> = names
            .iter()
            .filter(|name| *name != "*")
            .map(|name| Arc::from(name.as_str()))
            .collect();
        if all == self.status.wildcard && named == *self.status.names {
            return false;
        }
        if all && !self.status.wildcard {
            self.spell_out();
        }
        for name in named.difference(&self.status.names) {
            self.held.lose(name.clone());
        }
        self.status.wildcard = all;
        self.status.names = Arc::new(named);
        self.forget_unsubscribed();
        self.dirty = true;
        true
    }

    /// Delta: adds names. Those that are subscribed to already are sent again: the client may have dropped them.
    pub(super) fn subscribe_also(&mut self, names: &[String]) -> bool {
        for name in names {
            if name == "*" {
                self.spell_out();
                self.status.wildcard = true;
            } else {
                let name: Arc<str> = self.held.shared_name(name);
                self.held.lose(name.clone());
                Arc::make_mut(&mut self.status.names).insert(name);
            }
        }
        self.dirty |= !names.is_empty();
        !names.is_empty()
    }

    /// Delta: takes names back.
    pub(super) fn unsubscribe(&mut self, names: &[String]) -> bool {
        if names.is_empty() {
            return false;
        }
        for name in names {
            if name == "*" {
                self.status.wildcard = false;
            } else {
                Arc::make_mut(&mut self.status.names).remove(name.as_str());
            }
        }
        self.forget_unsubscribed();
        self.dirty = true;
        true
    }

    /// Whether any of `names` was brought from an earlier stream.
    pub(super) fn inherited(&self, names: &[Arc<str>]) -> bool {
        names.iter().any(|name| self.held.was_brought(name))
    }

    /// Makes everything be sent again.
    pub(super) fn forget_held(&mut self) {
        let names = Arc::clone(&self.status.names);
        self.held = Holdings::default();
        names.iter().for_each(|name| self.held.lose(name.clone()));
        self.dirty = true;
    }

    /// Names that were none of its business may become so: what is held of them is then said name by name.
    fn spell_out(&mut self) {
        if !self.status.wildcard {
            let names = &self.status.names;
            self.held.spell_out(|name| names.contains(name));
        }
    }

    fn forget_unsubscribed(&mut self) {
        if self.status.wildcard {
            return;
        }
        let names = &self.status.names;
        self.held.retain(|name| names.contains(name));
        self.refresh.retain(|name| names.contains(name));
    }

    /// Whether a resource that the client is subscribed to is new to it rather than changed.
    pub(super) fn lacks(&self, resource: &Resource) -> bool {
        let held = self.held.get(&resource.name);
        held.and_then(Held::version).is_none()
    }

    /// Whether something that was asked for and exists has not arrived in any version.
    pub(super) fn lacks_any(&self, target: &Resources) -> bool {
        let pending = || {
            self.diff(target)
                .changed
                .iter()
                .any(|resource| self.lacks(resource))
        };
        self.in_flight.as_ref().is_some_and(|flight| flight.adds) || (self.dirty && pending())
    }

    /// Compares what the client holds with what it should hold. Looks only at what changed since the client was last told, and
    /// at what is out of the ordinary.
    pub(super) fn diff(&self, target: &Resources) -> Diff {
        let mut diff = Diff::default();
        let moved = self.held.base().differences(target);
        let names: BTreeSet<&Arc<str>> = moved
            .map(|difference| difference.key)
            .chain(self.held.exceptions())
            .chain(&self.refresh)
            .filter(|name| self.is_subscribed(name))
            .collect();
        for name in names {
            let held = self.held.get(name);
            match (target.get(name), held) {
                (Some(resource), held) => {
                    let current = held.and_then(Held::version) == Some(resource.version);
                    if !current || self.refresh.contains(name) {
                        diff.changed.push(resource.clone());
                    }
                }
                (None, Some(Held::Absent)) => {}
                (None, Some(_)) => diff.removed.push(name.clone()),
                (None, None) if self.status.names.contains(name) => diff.missing.push(name.clone()),
                (None, None) => {}
            }
        }
        diff
    }

    /// The client was told all of `changed`, and of `removed` unless they are `withheld`: from now on it is compared with `target`.
    pub(super) fn told(&mut self, diff: &Diff, withheld: bool, target: &Arc<Resources>) {
        let kept: Vec<Resource> = diff
            .removed
            .iter()
            .filter(|_| withheld)
            .filter_map(|name| match self.held.get(name) {
                Some(Held::Sent(resource)) => Some(resource.clone()),
                _ => None,
            })
            .collect();
        for resource in &diff.changed {
            self.held.take_back(&resource.name);
        }
        if !withheld {
            for name in &diff.removed {
                self.held.take_back(name);
            }
        }
        self.held.rebase(target);
        for resource in kept {
            self.held.keep(resource);
        }
    }

    /// The client was told that there is nothing of this name.
    pub(super) fn told_absent(&mut self, name: &Arc<str>) {
        if self.status.names.contains(name) {
            self.held.absent(name.clone());
        } else {
            self.held.take_back(name);
        }
    }
}
