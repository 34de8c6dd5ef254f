//! What is sent, and in which order: make before break.
//!
//! On the way in, types go in the order CDS, EDS, LDS, RDS. Order alone does not protect a route to a new cluster: the client asks for
//! the cluster's endpoints only once it has the cluster, and until they arrive requests would fail. So listeners and
//! routes also wait until the clusters sent were ACKed and their endpoints too. On the way out it is the reverse: a removed
//! cluster stays until the listeners and routes were ACKed that no longer use it.
//!
//! Both waits are bounded by [`SessionConfig`](super::SessionConfig), so a client that never answers is not starved by them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use lateen_envoy::pb::envoy::config::core::v3::ControlPlane;
use lateen_envoy::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use lateen_envoy::pb::google::protobuf::Any;
use lateen_envoy::{Resource, Resources, TypeUrl};

use super::state::{Diff, Held, InFlight};
use super::status::Transfer;
use super::wire::{endpoints_of, wire_resource};
use super::{Response, ServerSession, Variant};

/// What listeners and routes are waiting for.
#[derive(Debug, Default)]
pub(super) struct Ordering {
    /// Clusters that were sent; until their endpoints are ACKed they do not work.
    awaited: BTreeMap<Arc<str>, Awaited>,
}

#[derive(Debug)]
struct Awaited {
    /// The name under which the endpoints are asked for.
    endpoints: String,
    /// The number of the response that held the cluster. What was sent before it may have been for a cluster that is gone.
    since: u64,
}

impl Ordering {
    /// A response was ACKed or NACKed.
    pub(super) fn answered(&mut self, ty: TypeUrl, flight: Option<&InFlight>) {
        let Some(flight) = flight else { return };
        if ty == TypeUrl::ClusterLoadAssignment && !self.awaited.is_empty() {
            let names: BTreeSet<&str> = flight.names.iter().map(|name| &**name).collect();
            let arrived = |awaited: &Awaited| {
                flight.number > awaited.since && names.contains(awaited.endpoints.as_str())
            };
            self.awaited.retain(|_, awaited| !arrived(awaited));
        }
    }
}

/// What is to be said of one type.
struct Push {
    ty: TypeUrl,
    diff: Diff,
    /// Whether the client may be told of what was removed.
    release: bool,
    target: Arc<Resources>,
    now: Instant,
}

impl Push {
    /// Whether the client keeps what was removed.
    fn withholds(&self) -> bool {
        // Envoy loses an extension that is removed while a listener that drains still uses it (envoyproxy/envoy#32823).
        !self.release || self.ty == TypeUrl::TypedExtensionConfig
    }
}

/// Types whose resources refer to those of `ty`: its removals wait for them.
fn users(ty: TypeUrl) -> &'static [TypeUrl] {
    use TypeUrl::{Cluster, ClusterLoadAssignment, Listener, RouteConfiguration, Secret};
    match ty {
        Cluster => &[Listener, RouteConfiguration],
        ClusterLoadAssignment => &[Listener, RouteConfiguration, Cluster],
        RouteConfiguration => &[Listener],
        Secret => &[Listener, Cluster],
        Listener | TypeUrl::TypedExtensionConfig | TypeUrl::NameTable | TypeUrl::ProxyConfig => &[],
    }
}

impl ServerSession {
    pub(super) fn next_response(&mut self, now: Instant) -> Option<Response> {
        self.target.as_ref()?;
        TypeUrl::ALL
            .into_iter()
            .find_map(|ty| self.response(ty, now))
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let config = &self.config;
        let waits = self
            .types
            .values()
            .filter(|state| state.dirty && state.in_flight.is_none());
        waits
            .filter_map(|state| {
                // What is blocked as a whole has no removals to think of before that ends.
                let make = state.blocked_since.map(|since| since + config.make_wait);
                make.or_else(|| state.withheld_since.map(|since| since + config.break_wait))
            })
            .min()
    }

    fn response(&mut self, ty: TypeUrl, now: Instant) -> Option<Response> {
        let state = self.types.get(&ty)?;
        if state.in_flight.is_some() || !state.dirty {
            return None;
        }
        if waits_for_clusters(ty) && !self.may_send(ty, now) {
            return None;
        }
        let target = self.target.as_ref()?.get(ty);
        let diff = self.types.get(&ty)?.diff(&target);
        let push = Push {
            ty,
            release: self.may_remove(ty, &diff, now),
            diff,
            target,
            now,
        };
        match self.variant {
            Variant::Delta => self.delta(&push),
            Variant::StateOfTheWorld => self.state_of_the_world(&push),
        }
    }

    fn delta(&mut self, push: &Push) -> Option<Response> {
        let (ty, diff) = (push.ty, &push.diff);
        let mut removed = diff.missing.clone();
        if !push.withholds() {
            removed.extend(diff.removed.iter().cloned());
        }
        let state = self.types.get_mut(&ty)?;
        if diff.changed.is_empty() && removed.is_empty() && !state.is_owed_an_answer() {
            state.told(diff, push.withholds(), &push.target);
            state.dirty = !push.release;
            return None;
        }
        if ty == TypeUrl::Cluster {
            let awaited = &mut self.ordering.awaited;
            removed.iter().for_each(|name| drop(awaited.remove(name)));
        }
        let transfer = self.sent(push)?;
        let state = self.types.get_mut(&ty)?;
        removed.iter().for_each(|name| state.told_absent(name));
        let resources = diff.changed.iter().map(wire_resource).collect();
        Some(Response::Delta(DeltaDiscoveryResponse {
            system_version_info: transfer.version,
            nonce: transfer.nonce,
            type_url: ty.as_str().to_owned(),
            resources,
            removed_resources: removed.iter().map(|name| String::from(&**name)).collect(),
            control_plane: self.control_plane(),
            ..DeltaDiscoveryResponse::default()
        }))
    }

    fn state_of_the_world(&mut self, push: &Push) -> Option<Response> {
        let (ty, diff) = (push.ty, &push.diff);
        let state = self.types.get_mut(&ty)?;
        // Only of these types does absence from a response mean removal; of the others a response may be a part.
        let whole = ty.is_wildcard();
        let gone = whole && push.release && !diff.removed.is_empty();
        let owed = whole && state.is_owed_an_answer();
        if diff.changed.is_empty() && !gone && !owed {
            state.told(diff, push.withholds(), &push.target);
            state.dirty = !push.release;
            return None;
        }
        let resources: Vec<Any> = if whole {
            let kept: &[Arc<str>] = if push.release { &[] } else { &diff.removed };
            state
                .whole(&push.target, kept)
                .map(|resource| Any::clone(&resource.body))
                .collect()
        } else {
            diff.changed
                .iter()
                .map(|resource| Any::clone(&resource.body))
                .collect()
        };
        if push.release && ty == TypeUrl::Cluster {
            let awaited = &mut self.ordering.awaited;
            diff.removed
                .iter()
                .for_each(|name| drop(awaited.remove(name)));
        }
        let transfer = self.sent(push)?;
        Some(Response::StateOfTheWorld(DiscoveryResponse {
            version_info: transfer.version,
            nonce: transfer.nonce,
            type_url: ty.as_str().to_owned(),
            resources,
            control_plane: self.control_plane(),
            ..DiscoveryResponse::default()
        }))
    }

    /// Books a response as sent.
    fn sent(&mut self, push: &Push) -> Option<Transfer> {
        let (ty, changed) = (push.ty, &push.diff.changed);
        let number = self.next_number();
        if ty == TypeUrl::Cluster {
            self.expect_endpoints(changed, number);
        }
        let state = self.types.get_mut(&ty)?;
        let adds = changed.iter().any(|resource| state.lacks(resource));
        state.refresh.clear();
        state.answered = true;
        state.dirty = !push.release;
        state.told(&push.diff, push.withholds(), &push.target);
        let transfer = Transfer {
            version: format!("{:016x}", state.held.digest()),
            nonce: format!("{number:x}"),
            at: push.now,
        };
        state.in_flight = Some(InFlight {
            transfer: transfer.clone(),
            number,
            names: changed.iter().map(|r| r.name.clone()).collect(),
            adds,
        });
        state.status.sent = Some(transfer.clone());
        Some(transfer)
    }

    /// Behind every cluster that takes its endpoints from us those are sent, and listeners and routes wait for them.
    fn expect_endpoints(&mut self, clusters: &[Resource], since: u64) {
        let mut endpoints = self.types.get_mut(&TypeUrl::ClusterLoadAssignment);
        for cluster in clusters {
            let Some(name) = endpoints_of(cluster) else {
                continue;
            };
            if let Some(state) = &mut endpoints
                && state.is_subscribed(&name)
            {
                state.refresh.insert(Arc::from(name.as_str()));
                state.dirty = true;
            }
            let awaited = Awaited {
                endpoints: name,
                since,
            };
            self.ordering.awaited.insert(cluster.name.clone(), awaited);
        }
    }

    /// Whether listeners or routes may go out: the clusters and their endpoints are ACKed, or were waited for long enough.
    fn may_send(&mut self, ty: TypeUrl, now: Instant) -> bool {
        let in_flight = self
            .types
            .get(&TypeUrl::Cluster)
            .is_some_and(|s| s.in_flight.is_some());
        let ready = !in_flight && !self.lacks_endpoints();
        let Some(state) = self.types.get_mut(&ty) else {
            return true;
        };
        let since = *state.blocked_since.get_or_insert(now);
        let over = now >= since + self.config.make_wait;
        if over {
            // A client that does not ask for them now will not later; it must not pay for it with every change.
            self.ordering.awaited.clear();
        }
        if ready || over {
            state.blocked_since = None;
        }
        ready || over
    }

    /// Whether the client has a cluster, or asked for endpoints, that it has no endpoints for although there are some.
    fn lacks_endpoints(&self) -> bool {
        let Some(target) = &self.target else {
            return false;
        };
        let exist = target.get(TypeUrl::ClusterLoadAssignment);
        let state = self.types.get(&TypeUrl::ClusterLoadAssignment);
        self.ordering
            .awaited
            .values()
            .any(|a| exist.contains_key(a.endpoints.as_str()))
            || state.is_some_and(|state| state.lacks_any(&exist))
    }

    /// Whether what was removed from `ty` is no longer used by the client, or was left to it for long enough.
    fn may_remove(&mut self, ty: TypeUrl, diff: &Diff, now: Instant) -> bool {
        // A state-of-the-world response of a type that is subscribed by name cannot say that something is gone.
        let sayable = self.variant == Variant::Delta || ty.is_wildcard();
        // A reconnecting client asks for one type after the other. What it brought along may be used by those still to come.
        let inherited = self
            .types
            .get(&ty)
            .is_some_and(|state| state.inherited(&diff.removed));
        let is_unused_by = |user: &TypeUrl| match self.types.contains_key(user) {
            true => self.is_settled(*user),
            false => !inherited,
        };
        let unused = || users(ty).iter().all(is_unused_by);
        let free = diff.removed.is_empty() || !sayable || unused();
        let break_wait = self.config.break_wait;
        let Some(state) = self.types.get_mut(&ty) else {
            return true;
        };
        let since = *state.withheld_since.get_or_insert(now);
        let may = free || now >= since + break_wait;
        if may {
            state.withheld_since = None;
        }
        may
    }

    /// Whether the client has ACKed all there is of a type, or did not ask for it.
    fn is_settled(&self, ty: TypeUrl) -> bool {
        let (Some(state), Some(target)) = (self.types.get(&ty), &self.target) else {
            return true;
        };
        let equal = || !state.dirty || state.diff(&target.get(ty)).is_settled();
        state.in_flight.is_none() && state.status.error.is_none() && equal()
    }

    fn control_plane(&self) -> Option<ControlPlane> {
        let identifier = &self.config.identifier;
        (!identifier.is_empty()).then(|| ControlPlane {
            identifier: String::from(&**identifier),
        })
    }
}

impl super::state::TypeState {
    /// A client waits for the first answer to a subscription, even if there is nothing to say.
    fn is_owed_an_answer(&self) -> bool {
        !self.answered && (self.status.wildcard || !self.status.names.is_empty())
    }

    /// Every subscribed resource of `target`, and those of `kept` that the client still holds.
    fn whole<'a>(
        &'a self,
        target: &'a Resources,
        kept: &'a [Arc<str>],
    ) -> impl Iterator<Item = &'a Resource> {
        let kept = kept.iter().filter_map(|name| match self.held.get(name) {
            Some(Held::Sent(resource)) => Some(resource),
            _ => None,
        });
        target
            .values()
            .filter(|resource| self.is_subscribed(&resource.name))
            .chain(kept)
    }
}

fn waits_for_clusters(ty: TypeUrl) -> bool {
    matches!(ty, TypeUrl::Listener | TypeUrl::RouteConfiguration)
}
