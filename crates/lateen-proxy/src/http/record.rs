//! What is remembered of a request until it has ended: for metrics, statistics and the access log.
//!
//! Dropping a [`Record`] is what counts and logs the request, exactly once, whatever became of it.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, Version};
use lateen_telemetry::access_log::TlsField;
use lateen_telemetry::metrics::istio::{
    ConnectionSecurityPolicy, PeerId, PrincipalId, Reporter, RequestKey, RequestProtocol,
    RequestSample, ServiceId, Shape,
};
use lateen_telemetry::{ResponseFlag, ResponseFlags};
use lateen_traffic::listener::TrafficDirection;
use lateen_traffic::request::FilterState;
use lateen_traffic::value::Metadata;
use tokio::time::Instant;

use super::body::Meter;
use super::dimensions::Ends;
use super::grpc::MessageCounter;
use super::local_reply::LocalReply;
use super::log;
use super::manager::Manager;
use super::trace::Active;
use crate::clock;
use crate::connection::Connection;
use crate::net::HostAddress;
use crate::tls::{PeerCertificate, Session};
use crate::upstream::UpstreamError;

/// How often messages of a gRPC stream are counted while it goes on. Source: the default of Istio's `istio.stats` filter.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(5);

/// A request under way.
#[derive(Debug)]
pub(crate) struct Record {
    /// The client's connection.
    pub(crate) connection: Rc<Connection>,
    /// The connection manager it came through.
    pub(crate) manager: Rc<Manager>,
    /// When its head was complete.
    pub(crate) started: Instant,
    /// The same by the wall clock; only if it is to be logged.
    pub(crate) started_at: Option<SystemTime>,
    /// The version the client speaks.
    pub(crate) version: Version,
    /// Whether it is gRPC.
    pub(crate) is_grpc: bool,
    /// Bytes of the request's head.
    pub(crate) head_bytes: u64,
    /// The request's body.
    pub(crate) request: Rc<Meter>,
    /// The response's status; 0 until one began.
    pub(crate) status: u16,
    /// The gRPC status, from headers or trailers.
    pub(crate) grpc_status: Option<u32>,
    /// Response flags.
    pub(crate) flags: ResponseFlags,
    /// Response code details.
    pub(crate) details: Cow<'static, str>,
    /// The route's name.
    pub(crate) route: Option<Arc<str>>,
    /// Where it went.
    pub(crate) upstream: UpstreamFacts,
    /// Milliseconds until the upstream's response headers.
    pub(crate) service_time: Option<u64>,
    /// The client, as its metadata says.
    pub(crate) source: PeerId,
    /// The client's address after `x-forwarded-for`.
    pub(crate) remote: SocketAddr,
    /// Heads kept for the access log.
    pub(crate) heads: Option<Box<Heads>>,
    /// What filters wrote and left, kept for the access log.
    pub(crate) noted: Option<Box<(Metadata, FilterState)>>,
    /// Its spans, if it is traced or passes on a trace.
    pub(crate) span: Option<Box<Active>>,
    /// The client's upgrade was accepted: the status is 101, whatever the client's version of HTTP makes of it.
    pub(crate) upgraded: bool,
    response_head_bytes: u64,
    response_bytes: u64,
    response_messages: Option<MessageCounter>,
    /// Messages of the request and of the response that metrics know of.
    reported_messages: (u64, u64),
    messages_reported_at: Option<Instant>,
    ended: Cell<bool>,
}

/// What is known of the upstream side.
#[derive(Debug, Default)]
pub(crate) struct UpstreamFacts {
    /// The cluster.
    pub(crate) cluster: Option<Arc<str>>,
    /// The service it stands for.
    pub(crate) service: ServiceId,
    /// The host.
    pub(crate) host: Option<HostAddress>,
    /// Hosts that were tried before, with their names.
    pub(crate) tried: Vec<(HostAddress, Option<Arc<str>>)>,
    /// The local address of the connection to it.
    pub(crate) local: Option<SocketAddr>,
    /// The workload behind it.
    pub(crate) peer: PeerId,
    /// Its name, if it has one.
    pub(crate) host_name: Option<Arc<str>>,
    /// Its certificate.
    pub(crate) certificate: Option<Rc<PeerCertificate>>,
    /// What the TLS session with it agreed on.
    pub(crate) session: Option<Session>,
    /// Its mTLS identity.
    pub(crate) principal: PrincipalId,
    /// The proxy's own identity towards it.
    pub(crate) own_principal: PrincipalId,
    /// Tries made.
    pub(crate) attempts: u32,
    /// Why its transport failed.
    pub(crate) transport_failure: Option<String>,
    /// Whether it was spoken to in HTTP/2.
    pub(crate) h2: bool,
}

/// Heads of a request that is logged.
#[derive(Debug)]
pub(crate) struct Heads {
    pub(crate) method: Method,
    pub(crate) scheme: &'static str,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) protocol: Option<String>,
    pub(crate) request: HeaderMap,
    pub(crate) response: HeaderMap,
    pub(crate) trailers: HeaderMap,
}

impl UpstreamFacts {
    /// A field of an access log about the TLS session with the host.
    pub(crate) fn tls_text(&self, field: TlsField) -> Option<&str> {
        match field {
            TlsField::Version | TlsField::Cipher => self.session.as_ref()?.text(field),
            _ => self.certificate.as_ref()?.text(field),
        }
    }
}

impl Record {
    /// Begins to record.
    pub(crate) fn begin(
        connection: &Rc<Connection>,
        manager: &Rc<Manager>,
        version: Version,
        is_grpc: bool,
    ) -> Self {
        manager.stats.downstream_rq_total.inc();
        manager.stats.downstream_rq_active.inc();
        match version {
            Version::HTTP_2 => manager.stats.downstream_rq_http2_total.inc(),
            _ => manager.stats.downstream_rq_http1_total.inc(),
        }
        Self {
            remote: connection.facts.remote,
            connection: Rc::clone(connection),
            manager: Rc::clone(manager),
            started: clock::now(),
            started_at: manager.logs_requests().then(SystemTime::now),
            version,
            is_grpc,
            head_bytes: 0,
            request: Rc::new(if is_grpc {
                Meter::grpc()
            } else {
                Meter::default()
            }),
            status: 0,
            grpc_status: None,
            flags: ResponseFlags::NONE,
            details: Cow::Borrowed(""),
            route: None,
            upstream: UpstreamFacts::default(),
            service_time: None,
            source: connection.told_peer(),
            heads: None,
            noted: None,
            span: None,
            upgraded: false,
            response_head_bytes: 0,
            response_bytes: 0,
            response_messages: is_grpc.then(MessageCounter::default),
            reported_messages: (0, 0),
            messages_reported_at: None,
            ended: Cell::new(false),
        }
    }

    /// Notes an answer of the proxy's own.
    pub(crate) fn local_reply(&mut self, reply: &LocalReply) {
        for flag in reply.flags.iter() {
            self.flags.insert(flag);
        }
        self.details = reply.details.clone();
    }

    /// Notes the head of the answer as the client gets it.
    pub(crate) fn answered(&mut self, status: u16, headers: &HeaderMap) {
        self.status = if self.upgraded { 101 } else { status };
        self.manager.stats.downstream_rq_completed.inc();
        if let Some(class) = self.manager.stats.response_class(self.status) {
            class.inc();
        }
        self.response_head_bytes = headers
            .iter()
            .map(|(name, value)| (name.as_str().len() + value.len()) as u64)
            .sum();
        if self.is_grpc
            && let Some(status) = super::grpc::status_in(headers)
        {
            self.grpc_status = Some(status);
        }
        if let Some(heads) = &mut self.heads {
            heads.response = headers.clone();
        }
    }

    /// Notes bytes of the proxy's own answer.
    pub(crate) const fn sent(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
    }

    /// Whether it looks at what is in the answer's body.
    pub(crate) const fn reads_body(&self) -> bool {
        self.response_messages.is_some()
    }

    /// Notes bytes of the upstream's answer.
    pub(crate) fn received(&mut self, data: &[u8]) {
        self.response_bytes += data.len() as u64;
        let Some(counter) = &mut self.response_messages else {
            return;
        };
        counter.feed(data);
        let last = self.messages_reported_at.unwrap_or(self.started);
        if self.manager.reports_istio && last.elapsed() >= MESSAGE_INTERVAL {
            self.messages_reported_at = Some(Instant::now());
            self.report_messages();
        }
    }

    /// Tells metrics of the messages since the last time.
    fn report_messages(&mut self) {
        let Some(responses) = &self.response_messages else {
            return;
        };
        let (key, known) = (self.istio_key(), self.reported_messages);
        let now = (self.request.message_count(), responses.count());
        let mut metrics = self.connection.worker.metrics.borrow_mut();
        metrics.record_messages(&key, now.0 - known.0, now.1 - known.1);
        drop(metrics);
        self.reported_messages = now;
    }

    /// Notes the answer's trailers.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(heads) = &mut self.heads {
            heads.trailers = trailers.clone();
        }
    }

    /// The answer was given whole.
    pub(crate) fn complete(&mut self) {
        self.ended.set(true);
    }

    /// The answer was cut off by the proxy.
    pub(crate) fn cut(&mut self, flag: Option<ResponseFlag>, details: &'static str) {
        self.ended.set(true);
        if let Some(flag) = flag {
            self.flags.insert(flag);
        }
        self.details = Cow::Borrowed(details);
        self.manager.stats.downstream_rq_tx_reset.inc();
    }

    /// The upstream broke off its answer.
    pub(crate) fn upstream_broke(&mut self, error: &UpstreamError) {
        let reset = error.is_stream_reset();
        let (flag, reason) = if reset {
            (ResponseFlag::UpstreamRemoteReset, "remote_reset")
        } else if !self.upstream.h2 {
            // HTTP/1: the message ended before it said it would.
            (ResponseFlag::UpstreamProtocolError, "protocol_error")
        } else {
            (
                ResponseFlag::UpstreamConnectionTermination,
                "connection_termination",
            )
        };
        self.ended.set(true);
        self.flags.insert(flag);
        self.details = format!("upstream_reset_after_response_started{{{reason}}}").into();
        self.manager.stats.downstream_rq_tx_reset.inc();
    }

    /// The client went away before the end.
    pub(crate) fn abandoned(&mut self) {
        self.ended.set(true);
        self.flags
            .insert(ResponseFlag::DownstreamConnectionTermination);
        self.details = Cow::Borrowed("downstream_remote_disconnect");
        self.manager.stats.downstream_rq_rx_reset.inc();
    }

    /// When the whole request was there, counted from its head; `None` if it never was.
    pub(crate) fn request_end(&self) -> Option<Duration> {
        let last = self.request.last_moved();
        self.request
            .has_ended()
            .then(|| last.map_or(Duration::ZERO, |last| last.duration_since(self.started)))
    }

    /// Bytes of the answer's body.
    pub(crate) const fn response_bytes(&self) -> u64 {
        self.response_bytes
    }

    /// Bytes of the answer's head.
    pub(crate) const fn response_head_bytes(&self) -> u64 {
        self.response_head_bytes
    }

    fn report(&mut self) {
        if self.is_grpc && self.grpc_status.is_none() {
            // A gRPC answer without a status has the one its HTTP status stands for.
            self.grpc_status = http::StatusCode::from_u16(self.status)
                .ok()
                .map(super::grpc::status_of_http);
        }
        let stats = &self.manager.stats;
        let elapsed = u64::try_from(clock::since(self.started).as_millis()).unwrap_or(u64::MAX);
        stats.downstream_rq_active.dec();
        stats.downstream_rq_time.record(elapsed);
        if self.manager.reports_istio {
            self.report_istio(elapsed);
        }
        if let Some(started_at) = self.started_at {
            log::write(self, started_at);
        }
        if let (Some(tracer), Some(span)) = (&self.manager.tracer, &self.span) {
            tracer.finish(self, span);
        }
    }

    /// Whether its spans are kept.
    pub(crate) fn is_traced(&self) -> bool {
        self.span.as_ref().is_some_and(|span| span.is_sampled())
    }

    /// Whether its head is kept for what looks at it at the end.
    pub(crate) fn keeps_head(&self) -> bool {
        self.manager.keeps_heads() || self.is_traced()
    }

    /// What configuration makes of its metrics.
    fn shape(&self, ends: (PeerId, PeerId)) -> Shape {
        let dimensions = &self.manager.dimensions;
        if dimensions.is_empty() {
            return dimensions.shape();
        }
        let worker = &self.connection.worker;
        let values = {
            let metrics = worker.metrics.borrow();
            let ends = Ends {
                node: &worker.shared.config.node,
                downstream: metrics.peer_of(ends.0),
                upstream: metrics.peer_of(ends.1),
            };
            log::finished(self, |done| dimensions.values(done, ends))
        };
        dimensions.shaped(&values, &mut worker.metrics.borrow_mut())
    }

    fn report_istio(&mut self, elapsed: u64) {
        let key = self.istio_key();
        let sample = RequestSample {
            duration_milliseconds: elapsed,
            request_bytes: self.head_bytes + self.request.bytes.get(),
            response_bytes: self.response_head_bytes + self.response_bytes,
        };
        let mut metrics = self.connection.worker.metrics.borrow_mut();
        metrics.record_request(&key, sample);
        drop(metrics);
        self.report_messages();
    }

    fn istio_key(&self) -> RequestKey {
        let worker = &self.connection.worker;
        let connection = &self.connection;
        let inbound = self.manager.direction == TrafficDirection::Inbound;
        let own = worker.own_peer;
        let ends = if inbound {
            (self.source, own)
        } else {
            (own, self.upstream.peer)
        };
        let shape = self.shape(ends);
        if inbound {
            RequestKey {
                shape,
                reporter: Reporter::Destination,
                source: self.source,
                destination: own,
                source_principal: connection.peer_principal,
                destination_principal: connection.own_principal(),
                security: connection.security(),
                ..self.key()
            }
        } else {
            RequestKey {
                shape,
                reporter: Reporter::Source,
                source: own,
                destination: self.upstream.peer,
                source_principal: self.upstream.own_principal,
                destination_principal: self.upstream.principal,
                security: ConnectionSecurityPolicy::Unknown,
                ..self.key()
            }
        }
    }

    /// The part of the key that both sides have.
    fn key(&self) -> RequestKey {
        RequestKey {
            reporter: Reporter::Source,
            source: PeerId::default(),
            destination: PeerId::default(),
            source_principal: PrincipalId::default(),
            destination_principal: PrincipalId::default(),
            service: self.upstream.service,
            protocol: if self.is_grpc {
                RequestProtocol::Grpc
            } else {
                RequestProtocol::Http
            },
            response_code: self.status,
            grpc_status: self
                .grpc_status
                .map(|status| u16::try_from(status).unwrap_or(2)),
            response_flags: self.flags,
            security: ConnectionSecurityPolicy::Unknown,
            shape: Shape::default(),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.ended.get() {
            // The exchange was dropped on its way: the client is gone.
            self.abandoned();
        }
        self.report();
    }
}
