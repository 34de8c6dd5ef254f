//! Istio's standard metrics: one line of labels per kind of traffic, resolved once per worker and kind.
//!
//! A request is described by a [`RequestKey`] of small numbers. A worker's cache maps it to ready handles, so that
//! the path of a request builds no string and no label map; only the first request of its kind resolves handles.
//! Peers and services are interned per worker when a connection or route is first seen.
//!
//! Configuration may drop metrics and change labels ([`Changes`]); what a request's labels are worth then is told by who counts it.
//! It does not find out who the peers are.
//! Source: Istio 1.30 standard metrics; label order of its proxy's metric templates.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::{Counter, CounterFamily, Histogram, HistogramFamily, OVERFLOW_VALUE, Registry, Shard};
use crate::ResponseFlags;

mod labels;
mod plan;

pub use plan::{Change, Changes};

pub use labels::{
    ConnectionSecurityPolicy, DestinationService, Peer, Reporter, RequestProtocol, UNKNOWN,
};

use plan::{Plan, Planned};

/// Peers, services and principals a worker remembers each; further ones are counted under `other`.
const INTERNED: usize = 16_384;
/// Plans of metrics a worker remembers. A proxy has one for what it sends and one for what it gets, and those of earlier configurations.
const PLANS: usize = 1024;
/// Kinds of traffic a worker keeps handles for. When full, what was not used since the last sweep goes.
const CACHED: usize = 16_384;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Istio's metrics in a registry. Clones share them.
#[derive(Clone, Debug)]
pub struct IstioMetrics {
    registry: Registry,
    standard: Arc<Plan>,
}

impl IstioMetrics {
    /// The metrics in `registry`.
    pub fn new(registry: &Registry) -> IstioMetrics {
        IstioMetrics {
            registry: registry.clone(),
            standard: Arc::new(Plan::new(registry, &Changes::default())),
        }
    }

    /// The cache of the worker that owns `shard`.
    pub fn worker(&self, shard: Shard) -> WorkerMetrics {
        let other = || Peer::of(OVERFLOW_VALUE);
        WorkerMetrics {
            registry: self.registry.clone(),
            shard,
            plans: vec![(Changes::default(), Arc::clone(&self.standard))],
            values: Interner::new(Vec::new(), vec![OVERFLOW_VALUE.into()]),
            peers: Interner::new(Peer::default(), other()),
            services: Interner::new(
                DestinationService::default(),
                DestinationService::of(OVERFLOW_VALUE),
            ),
            principals: Interner::new(String::new(), OVERFLOW_VALUE.to_owned()),
            requests: Map::default(),
            messages: Map::default(),
            tcp: Map::default(),
        }
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Valid in the worker that made it. `Default` means unknown.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name(u32);
    };
}

id!(
    /// A workload that a worker has seen at one end of a connection.
    PeerId
);
id!(
    /// A destination service that a worker has seen.
    ServiceId
);
id!(
    /// Values of labels that are configured, of one kind of request.
    ValuesId
);
id!(
    /// What differs from the standard metrics. The default is: nothing.
    PlanId
);
id!(
    /// An mTLS identity (`spiffe://…`) that a worker has seen.
    PrincipalId
);

/// What configuration makes of a request's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    /// What differs from the standard ones.
    pub plan: PlanId,
    /// The values of the labels it sets.
    pub values: ValuesId,
}

/// What a request's metrics are labelled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// Which side reports.
    pub reporter: Reporter,
    /// The calling workload.
    pub source: PeerId,
    /// The called workload.
    pub destination: PeerId,
    /// The caller's mTLS identity.
    pub source_principal: PrincipalId,
    /// The called workload's mTLS identity.
    pub destination_principal: PrincipalId,
    /// The service that was called.
    pub service: ServiceId,
    /// HTTP or gRPC.
    pub protocol: RequestProtocol,
    /// HTTP status, 0 if no response was begun.
    pub response_code: u16,
    /// gRPC status, for gRPC only.
    pub grpc_status: Option<u16>,
    /// Why the response is as it is.
    pub response_flags: ResponseFlags,
    /// Whether the connection was mTLS.
    pub security: ConnectionSecurityPolicy,
    /// Which metrics are reported, and how they are labelled.
    pub shape: Shape,
}

/// What a TCP connection's metrics are labelled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpKey {
    /// Which side reports.
    pub reporter: Reporter,
    /// The calling workload.
    pub source: PeerId,
    /// The called workload.
    pub destination: PeerId,
    /// The caller's mTLS identity.
    pub source_principal: PrincipalId,
    /// The called workload's mTLS identity.
    pub destination_principal: PrincipalId,
    /// The service that was called.
    pub service: ServiceId,
    /// Why the connection ended as it did.
    pub response_flags: ResponseFlags,
    /// Whether the connection was mTLS.
    pub security: ConnectionSecurityPolicy,
    /// Which metrics are reported, and how they are labelled.
    pub shape: Shape,
}

/// Handles for one kind of request.
#[derive(Clone, Debug)]
pub struct RequestHandles {
    requests: Counter,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    used: bool,
}

/// What counts of gRPC messages are labelled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct MessageKey {
    reporter: Reporter,
    source: PeerId,
    destination: PeerId,
    source_principal: PrincipalId,
    destination_principal: PrincipalId,
    service: ServiceId,
    shape: Shape,
}

impl From<&RequestKey> for MessageKey {
    fn from(key: &RequestKey) -> Self {
        Self {
            reporter: key.reporter,
            source: key.source,
            destination: key.destination,
            source_principal: key.source_principal,
            destination_principal: key.destination_principal,
            service: key.service,
            shape: key.shape,
        }
    }
}

#[derive(Debug)]
struct MessageHandles {
    requests: Counter,
    responses: Counter,
    used: bool,
}

/// Measurements of one finished request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestSample {
    /// From the first byte in to the last byte out.
    pub duration_milliseconds: u64,
    /// Bytes of headers and body.
    pub request_bytes: u64,
    /// Bytes of headers and body.
    pub response_bytes: u64,
}

/// Handles for one kind of TCP connection; a connection keeps a clone for its life.
#[derive(Clone, Debug)]
pub struct TcpHandles {
    /// `istio_tcp_connections_opened_total`
    pub opened: Counter,
    /// `istio_tcp_connections_closed_total`
    pub closed: Counter,
    /// `istio_tcp_sent_bytes_total`: towards the client.
    pub sent_bytes: Counter,
    /// `istio_tcp_received_bytes_total`: from the client.
    pub received_bytes: Counter,
}

#[derive(Debug)]
struct CachedTcp {
    handles: TcpHandles,
    used: bool,
}

/// One worker's interned names and cached handles. It is never shared.
#[derive(Debug)]
pub struct WorkerMetrics {
    registry: Registry,
    shard: Shard,
    /// Plans that were asked for; the standard one is the first.
    plans: Vec<(Changes, Arc<Plan>)>,
    values: Interner<Vec<Box<str>>>,
    peers: Interner<Peer>,
    services: Interner<DestinationService>,
    principals: Interner<String>,
    requests: Map<RequestKey, RequestHandles>,
    messages: Map<MessageKey, MessageHandles>,
    tcp: Map<TcpKey, CachedTcp>,
}

impl WorkerMetrics {
    /// The id of `peer`: once per connection, when its metadata arrives.
    pub fn peer(&mut self, peer: &Peer) -> PeerId {
        PeerId(self.peers.id(peer))
    }

    /// The id of `service`: once per route or cluster.
    pub fn service(&mut self, service: &DestinationService) -> ServiceId {
        ServiceId(self.services.id(service))
    }

    /// The id of `principal`: once per connection.
    pub fn principal(&mut self, principal: &str) -> PrincipalId {
        PrincipalId(self.principals.id(principal))
    }

    /// The id of a plan: when configuration arrives. Beyond a limit that no configuration comes near the standard metrics are reported.
    pub fn plan(&mut self, changes: &Changes) -> PlanId {
        let known = self.plans.iter().position(|(known, _)| known == changes);
        let index = known.unwrap_or_else(|| {
            if self.plans.len() >= PLANS {
                return 0;
            }
            let plan = Plan::new(&self.registry, changes);
            self.plans.push((changes.clone(), Arc::new(plan)));
            self.plans.len() - 1
        });
        PlanId(u32::try_from(index).unwrap_or_default())
    }

    /// The id of the values of the labels that a plan sets.
    pub fn values(&mut self, values: &[Box<str>]) -> ValuesId {
        ValuesId(self.values.id(values))
    }

    /// A workload, by its id.
    pub fn peer_of(&self, id: PeerId) -> &Peer {
        self.peers.get(id.0)
    }

    /// Counts one finished request.
    pub fn record_request(&mut self, key: &RequestKey, sample: RequestSample) {
        let handles = self.request(key);
        handles.requests.inc();
        handles.duration.record(sample.duration_milliseconds);
        handles.request_bytes.record(sample.request_bytes);
        handles.response_bytes.record(sample.response_bytes);
    }

    /// Counts gRPC messages of one stream: those the client sent and those it received. How the stream ends is no part of it, so that a long
    /// stream may be counted while it goes on.
    pub fn record_messages(&mut self, key: &RequestKey, request: u64, response: u64) {
        let key = MessageKey::from(key);
        if !self.messages.contains_key(&key) {
            self.make_room();
            let handles = self.resolve_messages(&key);
            self.messages.insert(key, handles);
        }
        if let Some(handles) = self.messages.get_mut(&key) {
            handles.used = true;
            handles.requests.add(request);
            handles.responses.add(response);
        }
    }

    /// The handles for connections of this kind.
    pub fn tcp(&mut self, key: &TcpKey) -> TcpHandles {
        if let Some(cached) = self.tcp.get_mut(key) {
            cached.used = true;
            return cached.handles.clone();
        }
        self.make_room();
        let handles = self.resolve_tcp(key);
        self.tcp.insert(
            *key,
            CachedTcp {
                handles: handles.clone(),
                used: true,
            },
        );
        handles
    }

    /// Lets go of handles that were not used since the last sweep, so that the registry may forget their series.
    /// Meant for the worker's own slow timer (a minute or so).
    pub fn sweep(&mut self) {
        self.requests
            .retain(|_, handles| std::mem::take(&mut handles.used));
        self.messages
            .retain(|_, handles| std::mem::take(&mut handles.used));
        self.tcp
            .retain(|_, cached| std::mem::take(&mut cached.used));
    }

    fn request(&mut self, key: &RequestKey) -> &RequestHandles {
        if !self.requests.contains_key(key) {
            self.make_room();
            let handles = self.resolve_request(key);
            self.requests.insert(*key, handles);
        }
        let handles = self
            .requests
            .get_mut(key)
            .expect("present or inserted just above");
        handles.used = true;
        handles
    }

    fn make_room(&mut self) {
        if self.cached() >= CACHED {
            self.sweep();
        }
        // Everything in use: start over. Handles are cheap to resolve again; the registry bounds the series.
        if self.cached() >= CACHED {
            self.requests.clear();
            self.messages.clear();
            self.tcp.clear();
        }
    }

    fn cached(&self) -> usize {
        self.requests.len() + self.messages.len() + self.tcp.len()
    }

    fn resolve_request(&self, key: &RequestKey) -> RequestHandles {
        let code = key.response_code.to_string();
        let grpc = key
            .grpc_status
            .map(|status| status.to_string())
            .unwrap_or_default();
        let flags = key.response_flags.to_string();
        let ends = self.ends(key.source, key.destination, key.service);
        let principals = self.principals(key.source_principal, key.destination_principal);
        let mut values = labels::ends(key.reporter, ends, principals);
        values.extend([
            key.protocol.label(),
            &code,
            &grpc,
            &flags,
            key.security.label(),
        ]);
        let (plan, labels) = self.shaped(key.shape, &values);
        RequestHandles {
            requests: labels.counter(plan.requests.as_ref()),
            duration: labels.histogram(plan.durations.as_ref()),
            request_bytes: labels.histogram(plan.request_bytes.as_ref()),
            response_bytes: labels.histogram(plan.response_bytes.as_ref()),
            used: false,
        }
    }

    fn resolve_messages(&self, key: &MessageKey) -> MessageHandles {
        let ends = self.ends(key.source, key.destination, key.service);
        let principals = self.principals(key.source_principal, key.destination_principal);
        let values = labels::ends(key.reporter, ends, principals);
        let (plan, labels) = self.shaped(key.shape, &values);
        MessageHandles {
            requests: labels.counter(plan.request_messages.as_ref()),
            responses: labels.counter(plan.response_messages.as_ref()),
            used: false,
        }
    }

    fn resolve_tcp(&self, key: &TcpKey) -> TcpHandles {
        let flags = key.response_flags.to_string();
        let ends = self.ends(key.source, key.destination, key.service);
        let principals = self.principals(key.source_principal, key.destination_principal);
        let mut values = labels::ends(key.reporter, ends, principals);
        values.extend(["tcp", &flags, key.security.label()]);
        let (plan, labels) = self.shaped(key.shape, &values);
        TcpHandles {
            opened: labels.counter(plan.tcp_opened.as_ref()),
            closed: labels.counter(plan.tcp_closed.as_ref()),
            sent_bytes: labels.counter(plan.tcp_sent.as_ref()),
            received_bytes: labels.counter(plan.tcp_received.as_ref()),
        }
    }

    /// The plan of a shape, and what handles are resolved by.
    fn shaped<'a>(&'a self, shape: Shape, standard: &'a [&'a str]) -> (&'a Plan, Labels<'a>) {
        let plan = self.plans.get(shape.plan.0 as usize);
        let (_, plan) = plan.unwrap_or(&self.plans[0]);
        let labels = Labels {
            shard: self.shard,
            standard,
            values: self.values.get(shape.values.0),
        };
        (plan, labels)
    }

    fn ends(&self, source: PeerId, destination: PeerId, service: ServiceId) -> labels::Ends<'_> {
        labels::Ends {
            source: self.peers.get(source.0),
            destination: self.peers.get(destination.0),
            service: self.services.get(service.0),
        }
    }

    fn principals(&self, source: PrincipalId, destination: PrincipalId) -> (&str, &str) {
        (
            self.principals.get(source.0),
            self.principals.get(destination.0),
        )
    }
}

/// The values of labels, for metrics that have them.
struct Labels<'a> {
    shard: Shard,
    standard: &'a [&'a str],
    values: &'a [Box<str>],
}

impl Labels<'_> {
    /// A counter; one that nobody reads if the metric is dropped.
    fn counter(&self, metric: Option<&Planned<CounterFamily>>) -> Counter {
        metric.map_or_else(Counter::default, |metric| {
            let values = metric.values(self.standard, self.values);
            metric.family.handle(self.shard, &values)
        })
    }

    /// A histogram; one that nobody reads if the metric is dropped.
    fn histogram(&self, metric: Option<&Planned<HistogramFamily>>) -> Histogram {
        metric.map_or_else(Histogram::default, |metric| {
            let values = metric.values(self.standard, self.values);
            metric.family.handle(self.shard, &values)
        })
    }
}

/// Gives equal values one small number. 0 is the unknown value, 1 stands for everything beyond the limit.
#[derive(Debug)]
struct Interner<T> {
    ids: Map<T, u32>,
    values: Vec<T>,
}

impl<T: Clone + Eq + Hash> Interner<T> {
    fn new(unknown: T, other: T) -> Interner<T> {
        let ids = Map::from_iter([(unknown.clone(), 0), (other.clone(), 1)]);
        Interner {
            ids,
            values: vec![unknown, other],
        }
    }

    fn id<Q>(&mut self, value: &Q) -> u32
    where
        T: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = T> + ?Sized,
    {
        if let Some(id) = self.ids.get(value) {
            return *id;
        }
        if self.values.len() >= INTERNED {
            return 1;
        }
        let id = self.values.len() as u32;
        let value: T = value.to_owned();
        self.ids.insert(value.clone(), id);
        self.values.push(value);
        id
    }

    /// An id of another worker may be too large here: it names nobody.
    fn get(&self, id: u32) -> &T {
        self.values.get(id as usize).unwrap_or(&self.values[0])
    }
}

#[cfg(test)]
mod tests;
