//! Istio's metrics of one TCP connection: who speaks with whom, and how much.
//!
//! As in Istio, a connection is counted as opened once its peer is known, or it is known that it will not say; one that ends before is
//! counted as opened and closed at once. What is known then labels everything else that is counted of it.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::time::Duration;

use lateen_telemetry::ResponseFlags;
use lateen_telemetry::metrics::istio::{
    ConnectionSecurityPolicy, PeerId, Reporter, Shape, TcpHandles, TcpKey,
};
use lateen_traffic::Cluster;
use lateen_traffic::access_log::{Finished, More};
use lateen_traffic::filter::{IstioStats, NetworkFilterKind};
use lateen_traffic::listener::TrafficDirection;

use crate::cluster::Host;
use crate::connection::Connection;
use crate::http::dimensions::Ends;
use crate::metadata_exchange::Introduction;
use crate::net::copy::Transferred;

/// How often the counters of an open connection are brought up to date. Source: the default of Istio's `istio.stats` filter.
const INTERVAL: Duration = Duration::from_secs(5);

/// The upstream's side of a connection.
#[derive(Debug, Default)]
pub(super) struct Upstream<'a> {
    /// The cluster.
    pub(super) cluster: Option<&'a Arc<Cluster>>,
    /// The host.
    pub(super) host: Option<&'a Host>,
    /// Its mTLS identity.
    pub(super) principal: Option<&'a str>,
    /// What it says of itself, if it is to say anything.
    pub(super) introduction: Option<Arc<Introduction>>,
}

/// What is counted of a connection.
#[derive(Debug)]
pub(super) struct Report<'a> {
    connection: &'a Connection,
    settings: Option<&'a Arc<IstioStats>>,
    upstream: Upstream<'a>,
    handles: OnceCell<TcpHandles>,
    reported: (Cell<u64>, Cell<u64>),
}

impl<'a> Report<'a> {
    /// Of a connection; nothing is counted if its chain has no `istio.stats`.
    pub(super) fn of(connection: &'a Connection, upstream: Upstream<'a>) -> Self {
        let settings = connection.chain.filters.iter().find_map(|f| match &f.kind {
            NetworkFilterKind::IstioStats(settings) => Some(settings),
            _ => None,
        });
        Self {
            connection,
            settings,
            upstream,
            handles: OnceCell::new(),
            reported: (Cell::new(0), Cell::new(0)),
        }
    }

    /// Counts for as long as the connection goes on; never returns.
    pub(super) async fn keep(&self, moved: &Transferred) {
        let Some(settings) = self.settings else {
            return std::future::pending().await;
        };
        if let Some(introduction) = self.introduction() {
            introduction.settled().await;
        }
        self.opened(ResponseFlags::NONE);
        let interval = settings.tcp_reporting_duration.unwrap_or(INTERVAL);
        loop {
            tokio::time::sleep(interval).await;
            self.bytes(moved, ResponseFlags::NONE);
        }
    }

    /// Counts the end.
    pub(super) fn close(&self, moved: &Transferred, flags: ResponseFlags) {
        if self.settings.is_some() {
            self.bytes(moved, flags);
            self.opened(flags).closed.inc();
        }
    }

    fn bytes(&self, moved: &Transferred, flags: ResponseFlags) {
        let (forward, back) = (moved.forward.get(), moved.back.get());
        let handles = self.opened(flags);
        let received = forward - self.reported.0.replace(forward);
        let sent = back - self.reported.1.replace(back);
        handles.received_bytes.add(received);
        handles.sent_bytes.add(sent);
    }

    fn opened(&self, flags: ResponseFlags) -> &TcpHandles {
        self.handles.get_or_init(|| {
            let mut key = self.key(flags);
            key.shape = self.shape(&key);
            let handles = self.connection.worker.metrics.borrow_mut().tcp(&key);
            handles.opened.inc();
            handles
        })
    }

    fn is_inbound(&self) -> bool {
        self.connection.direction == TrafficDirection::Inbound
    }

    /// What the side that is not this workload says of itself.
    fn introduction(&self) -> Option<&Arc<Introduction>> {
        if self.is_inbound() {
            self.connection.introduction()
        } else {
            self.upstream.introduction.as_ref()
        }
    }

    fn key(&self, response_flags: ResponseFlags) -> TcpKey {
        let connection = self.connection;
        let worker = &connection.worker;
        let cluster = self.upstream.cluster;
        let service = cluster.map_or_else(Default::default, |cluster| worker.service(cluster));
        if self.is_inbound() {
            return TcpKey {
                reporter: Reporter::Destination,
                source: connection.told_peer(),
                destination: worker.own_peer,
                source_principal: connection.peer_principal,
                destination_principal: connection.own_principal(),
                service,
                response_flags,
                security: connection.security(),
                shape: Shape::default(),
            };
        }
        let secure = self.upstream.principal.is_some();
        let own = connection.now.own_principal.as_deref();
        TcpKey {
            reporter: Reporter::Source,
            source: worker.own_peer,
            destination: self.server(),
            source_principal: worker.principal(own.filter(|_| secure)),
            destination_principal: worker.principal(self.upstream.principal),
            service,
            response_flags,
            security: ConnectionSecurityPolicy::Unknown,
            shape: Shape::default(),
        }
    }

    /// What configuration makes of the connection's metrics.
    fn shape(&self, key: &TcpKey) -> Shape {
        let Some(settings) = self.settings else {
            return Shape::default();
        };
        let worker = &self.connection.worker;
        let dimensions = worker.dimensions(settings);
        if dimensions.is_empty() {
            return dimensions.shape();
        }
        let info = self.connection.facts.info();
        let cluster = self.upstream.cluster.map(|cluster| &*cluster.name);
        let done = Finished {
            request: None,
            status: 0,
            grpc_status: None,
            duration_ms: 0,
            flags: &[],
            health_check: false,
            traced: false,
            random: 0,
            more: More {
                connection: Some(&info),
                peer: self.connection.peer_tls(),
                cluster: cluster.unwrap_or_default(),
                ..More::default()
            },
        };
        let values = {
            let metrics = worker.metrics.borrow();
            let ends = Ends {
                node: &worker.shared.config.node,
                downstream: metrics.peer_of(key.source),
                upstream: metrics.peer_of(key.destination),
            };
            dimensions.values(&done, ends)
        };
        dimensions.shaped(&values, &mut worker.metrics.borrow_mut())
    }

    /// The workload behind the upstream: as it says itself, else as the configuration says of its endpoint.
    fn server(&self) -> PeerId {
        let worker = &self.connection.worker;
        let told = self.introduction().and_then(|told| told.peer());
        match (told, self.upstream.host) {
            (Some(peer), _) => worker.metrics.borrow_mut().peer(peer),
            (None, Some(host)) => host.state.described(&host.endpoint, worker),
            (None, None) => PeerId::default(),
        }
    }
}
