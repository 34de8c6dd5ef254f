//! An HTTP connection manager in one worker: its settings with everything that is looked up once rather than per request.

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use lateen_telemetry::metrics::Shard;
use lateen_telemetry::metrics::envoy::HttpStats;
use lateen_telemetry::metrics::istio::WorkerMetrics;
use lateen_traffic::filter::{
    AlpnFilter, HttpFilterKind, PeerDiscovery, PeerMetadata, PeerPropagation,
};
use lateen_traffic::hcm::HttpConnectionManager;
use lateen_traffic::listener::TrafficDirection;

use super::dimensions::Dimensions;
use super::log::AccessLog;
use super::reply_format::ReplyFormats;
use super::trace::Tracer;
use crate::mux::Carries;
use crate::shared::Shared;
use crate::trace::Exporter;

/// A connection manager's settings, ready to serve.
#[derive(Debug)]
pub(crate) struct Manager {
    /// The settings.
    pub(crate) config: Arc<HttpConnectionManager>,
    /// `http.<prefix>.…`.
    pub(crate) stats: HttpStats,
    /// The direction of its listener's traffic.
    pub(crate) direction: TrafficDirection,
    /// Its access logs.
    pub(crate) logs: Vec<AccessLog>,
    /// How the proxy's own answers look.
    pub(crate) replies: ReplyFormats,
    /// The value of `server`.
    pub(crate) server: HeaderValue,
    /// Whether Istio's metrics are reported.
    pub(crate) reports_istio: bool,
    /// What configuration makes of them.
    pub(crate) dimensions: Dimensions,
    /// How requests are traced, if they are.
    pub(crate) tracer: Option<Tracer>,
    /// Whether the request's host stands for a service that is not known otherwise, in these metrics.
    pub(crate) reports_host: bool,
    /// How peers introduce themselves.
    pub(crate) exchange: Introductions,
    /// ALPN protocols towards mesh upstreams, by the client's protocol.
    pub(crate) alpn: Option<Arc<AlpnFilter>>,
    /// The same for HTTP/1.1 where requests share connections; none where that is turned off.
    pub(crate) shared_alpn: Option<Vec<Arc<str>>>,
    /// Whether `x-envoy-*` headers are neither added nor passed on.
    pub(crate) suppress_envoy_headers: bool,
}

/// Which of the four halves of the metadata exchange by headers take place.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Introductions {
    /// Requests tell who the client is.
    pub(crate) read_request: bool,
    /// Responses tell clients who this is.
    pub(crate) tell_client: bool,
    /// Requests tell upstreams who this is.
    pub(crate) tell_upstream: bool,
    /// Requests to clusters outside the mesh tell it, too.
    pub(crate) tell_outside: bool,
    /// Responses tell who the upstream is.
    pub(crate) read_response: bool,
}

impl Manager {
    /// Prepares a connection manager.
    pub(crate) fn new(
        config: &Arc<HttpConnectionManager>,
        direction: TrafficDirection,
        shared: &Shared,
        (shard, metrics): (Shard, &mut WorkerMetrics),
        exporter: Option<Rc<Exporter>>,
    ) -> Rc<Self> {
        let kinds = || {
            config
                .filters
                .iter()
                .filter(|filter| !filter.disabled)
                .map(|filter| &filter.kind)
        };
        let alpn = kinds().find_map(|kind| match kind {
            HttpFilterKind::Alpn(filter) => Some(Arc::clone(filter)),
            _ => None,
        });
        let server = HeaderValue::from_str(&config.server_name)
            .unwrap_or_else(|_| HeaderValue::from_static("istio-envoy"));
        Rc::new(Self {
            stats: shared.stats.http.handles(shard, &config.stat_prefix),
            direction,
            logs: config.access_logs.iter().filter_map(AccessLog::compile).collect(),
            replies: ReplyFormats::compile(&config.local_reply),
            server,
            dimensions: kinds()
                .find_map(|kind| match kind {
                    HttpFilterKind::IstioStats(stats) => Some(Dimensions::of(stats, metrics)),
                    _ => None,
                })
                .unwrap_or_default(),
            tracer: Tracer::of(config, direction, exporter),
            reports_istio: kinds().any(|kind| matches!(kind, HttpFilterKind::IstioStats(_))),
            reports_host: kinds().any(|kind| {
                matches!(kind, HttpFilterKind::IstioStats(stats) if !stats.disable_host_header_fallback)
            }),
            exchange: kinds().fold(Introductions::default(), |all, kind| match kind {
                HttpFilterKind::PeerMetadata(settings) => all.with(settings),
                _ => all,
            }),
            shared_alpn: alpn
                .as_ref()
                .filter(|_| shared.config.share_connections)
                .map(|filter| {
                    let own = std::iter::once(Arc::from(Carries::Http.alpn()));
                    own.chain(filter.http11.iter().cloned()).collect()
                }),
            alpn,
            suppress_envoy_headers: kinds()
                .any(|kind| matches!(kind, HttpFilterKind::Router(router) if router.suppress_envoy_headers)),
            config: Arc::clone(config),
        })
    }

    /// Whether heads of requests are kept for what looks at them at the end.
    pub(crate) fn keeps_heads(&self) -> bool {
        self.logs_requests() || !self.replies.is_empty() || !self.dimensions.is_empty()
    }

    /// Whether any request may be logged.
    pub(crate) fn logs_requests(&self) -> bool {
        !self.logs.is_empty()
    }
}

impl Introductions {
    fn with(self, settings: &PeerMetadata) -> Self {
        let reads = |list: &[PeerDiscovery]| {
            list.iter()
                .any(|d| matches!(d, PeerDiscovery::IstioHeaders))
        };
        let tells = |list: &[PeerPropagation]| {
            list.iter()
                .any(|p| matches!(p, PeerPropagation::IstioHeaders { .. }))
        };
        Self {
            read_request: self.read_request || reads(&settings.downstream_discovery),
            read_response: self.read_response || reads(&settings.upstream_discovery),
            tell_client: self.tell_client || tells(&settings.downstream_propagation),
            tell_upstream: self.tell_upstream || tells(&settings.upstream_propagation),
            tell_outside: self.tell_outside
                || settings
                    .upstream_propagation
                    .contains(&PeerPropagation::IstioHeaders {
                        skip_external_clusters: false,
                    }),
        }
    }
}
