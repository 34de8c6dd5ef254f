//! The spans of a request: whether there are any, what the next hop is told of them, and what they say when the request has ended.
//!
//! Without tracing nothing of this runs. With it, a request that is not sampled costs the ids that the next hop is told, as with Envoy;
//! everything else is found out at the end, of those that are.
//! Source: Envoy's `ConnectionManagerImpl::ActiveStream::traceRequest`, its `HttpTracerUtility`, and its tracers.

mod tags;

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use lateen_telemetry::trace::context::{Carried, Context};
use lateen_telemetry::trace::{Kind, Span};
use lateen_traffic::hcm::HttpConnectionManager;
use lateen_traffic::listener::TrafficDirection;
use lateen_traffic::tracing::{Asked, REASON_AT, TraceReason, Tracing};
use tokio::time::Instant;

use self::tags::Tag;
use super::headers::{DECORATOR, REQUEST_ID};
use super::record::Record;
use crate::net::HostAddress;
use crate::trace::Exporter;

static CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");
static FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");

/// A connection manager's tracing, ready to be used.
#[derive(Debug)]
pub(crate) struct Tracer {
    config: Arc<Tracing>,
    exporter: Option<Rc<Exporter>>,
    tags: Vec<Tag>,
    /// It traces what its workload sends, rather than what it gets.
    egress: bool,
    packs_reason: bool,
    samples_by_id: bool,
}

/// What is remembered of a request that is traced, or passes on a trace.
#[derive(Debug)]
pub(crate) struct Active {
    /// None if it carries a context that is broken, or there is no tracer.
    context: Option<Context>,
    operation: Option<Arc<str>>,
    /// The next hop, or the client, is told what this one calls the request.
    decorator: Option<HeaderValue>,
    /// What it was sent as, each try a span.
    tries: RefCell<Vec<Try>>,
    /// The ids of the trace and of the span as logs have them, if they do.
    ids: OnceCell<(String, String)>,
}

#[derive(Debug)]
struct Try {
    id: u64,
    began: Instant,
    host: Option<HostAddress>,
    took: Option<Duration>,
}

impl Tracer {
    /// Prepares a manager's tracing.
    pub(crate) fn of(
        config: &HttpConnectionManager,
        direction: TrafficDirection,
        exporter: Option<Rc<Exporter>>,
    ) -> Option<Self> {
        let tracing = config.tracing.as_ref()?;
        Some(Self {
            config: Arc::clone(tracing),
            exporter,
            tags: tracing.tags.iter().filter_map(Tag::compile).collect(),
            egress: direction == TrafficDirection::Outbound,
            packs_reason: config.request_id.packs_reason,
            samples_by_id: config.request_id.samples,
        })
    }

    /// Begins a request's span, and writes into its id why it is traced.
    pub(crate) fn begin(&self, headers: &mut HeaderMap) -> Active {
        let traced = self.decide(headers);
        let context = self.exporter.as_ref().and_then(|exporter| {
            let random: u64 = rand::random();
            // Zero is no id.
            let span = random.max(1);
            match exporter.propagation.read(headers) {
                Carried::Broken => None,
                Carried::Nothing(sampled) => Some(exporter.begin(span, sampled.unwrap_or(traced))),
                Carried::Context(carried, sampled) => {
                    Some(exporter.go_on(carried, span, sampled.unwrap_or(traced)))
                }
            }
        });
        Active {
            context,
            operation: None,
            decorator: None,
            tries: RefCell::default(),
            ids: OnceCell::new(),
        }
    }

    /// Whether chance, the client or an earlier hop wants a request traced.
    fn decide(&self, headers: &mut HeaderMap) -> bool {
        if !self.samples_by_id {
            return true;
        }
        let Some(id) = headers.get(&REQUEST_ID).map(HeaderValue::as_bytes) else {
            return false;
        };
        let asked = Asked {
            by_client: headers.contains_key(&CLIENT_TRACE_ID),
            forced: headers.contains_key(&FORCE_TRACE),
        };
        let Some(reason) = self.config.reason(id, asked) else {
            return false;
        };
        if self.packs_reason && TraceReason::of(id) != Some(reason) {
            let mut id = id.to_vec();
            id[REASON_AT] = reason.letter();
            if let Ok(id) = HeaderValue::from_bytes(&id) {
                headers.insert(&REQUEST_ID, id);
            }
        }
        reason != TraceReason::NotTraceable
    }

    /// Names what is done by the route, or by what the other side calls it.
    pub(crate) fn decorate(
        &self,
        active: &mut Active,
        route: Option<&Arc<str>>,
        headers: &mut HeaderMap,
    ) {
        active.operation = route.cloned();
        let told = |name: &Arc<str>| HeaderValue::from_str(name).ok();
        active.decorator = route.and_then(told);
        if self.egress {
            return;
        }
        if let Some(name) = headers.remove(&DECORATOR)
            && let Ok(name) = name.to_str()
            && !name.is_empty()
        {
            active.operation = Some(name.into());
            active.decorator = None;
        }
    }

    /// Tells the next hop about the span that it is called from.
    pub(crate) fn tell(
        &self,
        active: &Active,
        headers: &mut HeaderMap,
        (path, host): (&str, Option<&HostAddress>),
    ) {
        if self.egress
            && let Some(name) = &active.decorator
        {
            headers.insert(&DECORATOR, name.clone());
        }
        let (Some(exporter), Some(context)) = (&self.exporter, &active.context) else {
            return;
        };
        let propagates = self.config.propagates;
        if !self.config.spawn_upstream_span || host.is_none() {
            if propagates {
                exporter.tell(context, (0, path, host), headers);
            }
            return;
        }
        let own = Context {
            span: rand::random::<u64>().max(1),
            parent: Some(context.span),
            ..context.clone()
        };
        let mut tries = active.tries.borrow_mut();
        if propagates {
            exporter.tell(&own, (tries.len() as u64 + 1, path, host), headers);
        }
        if context.sampled {
            if let Some(last) = tries.last_mut() {
                last.took = Some(last.began.elapsed());
            }
            tries.push(Try {
                id: own.span,
                began: Instant::now(),
                host: host.cloned(),
                took: None,
            });
        }
    }

    /// What is done with the name of what is done in an answer.
    pub(crate) fn answer(&self, active: &mut Active, headers: &mut HeaderMap) {
        if !self.egress {
            if let Some(name) = active.decorator.take() {
                headers.insert(&DECORATOR, name);
            }
            return;
        }
        if let Some(name) = headers.remove(&DECORATOR)
            && let Ok(name) = name.to_str()
            && !name.is_empty()
        {
            active.operation = Some(name.into());
        }
    }

    /// Sends the spans of a request that has ended.
    pub(crate) fn finish(&self, record: &Record, active: &Active) {
        let (Some(exporter), Some(context)) = (&self.exporter, &active.context) else {
            return;
        };
        if !context.sampled {
            return;
        }
        let worker = &record.connection.worker;
        let took = record.started.elapsed();
        let now = SystemTime::now();
        let two = self.config.spawn_upstream_span;
        let kind = match self.egress && !two {
            true => Kind::Client,
            false => Kind::Server,
        };
        let failed = |kind| {
            let bad = if kind == Kind::Client { 400 } else { 500 };
            record.status >= bad || tags::grpc_failed(record)
        };
        let span = Span {
            trace: context.trace,
            id: context.span,
            parent: context.parent,
            state: context.state.clone(),
            kind,
            name: self.name(record, active),
            start: now - took,
            duration: took,
            tags: tags::of_request(record, &self.tags, self.config.max_path_tag_length),
            failed: failed(kind),
        };
        exporter.push(worker, span);
        let tries = active.tries.take();
        let last = tries.len().saturating_sub(1);
        for (index, tried) in tries.into_iter().enumerate() {
            let age = tried.began.elapsed();
            exporter.push(
                worker,
                Span {
                    trace: context.trace,
                    id: tried.id,
                    parent: Some(context.span),
                    state: context.state.clone(),
                    kind: Kind::Client,
                    name: match exporter.names_by_path() {
                        true => self.name(record, active),
                        false => tags::try_name(record),
                    },
                    start: now - age,
                    duration: tried.took.unwrap_or(age),
                    tags: tags::of_try(record, &self.tags, tried.host.as_ref(), index == last),
                    failed: index < last || failed(Kind::Client),
                },
            );
        }
    }

    /// What is done, by its route; without one, the host (Zipkin) or which way it goes.
    fn name(&self, record: &Record, active: &Active) -> String {
        let host = || record.heads.as_ref().map(|heads| heads.authority.as_str());
        let host = || host().unwrap_or_default();
        let by_path = self.exporter.as_ref().is_some_and(|to| to.names_by_path());
        if let Some(heads) = record.heads.as_ref().filter(|_| by_path) {
            return heads.path.clone();
        }
        let by_host = self.exporter.as_ref().is_some_and(|to| to.names_by_host());
        match &active.operation {
            Some(operation) => operation.to_string(),
            None if by_host => host().to_owned(),
            None if self.egress => format!("egress {}", host()),
            None => "ingress".to_owned(),
        }
    }
}

impl Active {
    /// `%TRACE_ID%`.
    pub(crate) fn trace_text(&self) -> Option<&str> {
        self.ids().map(|(trace, _)| trace.as_str())
    }

    /// `%SPAN_ID%`.
    pub(crate) fn span_text(&self) -> Option<&str> {
        self.ids().map(|(_, span)| span.as_str())
    }

    fn ids(&self) -> Option<&(String, String)> {
        let context = self.context.as_ref()?;
        let make = || (context.trace.short(), format!("{:016x}", context.span));
        Some(self.ids.get_or_init(make))
    }

    /// Whether its spans are kept.
    pub(crate) fn is_sampled(&self) -> bool {
        self.context.as_ref().is_some_and(|context| context.sampled)
    }
}
