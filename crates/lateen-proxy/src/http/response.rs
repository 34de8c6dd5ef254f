//! The body of an answer on its way to the client, and what has to happen when it ends.
//!
//! However it ends (complete, broken off by the upstream, abandoned by the client, out of time) the request is recorded exactly
//! once, the upstream connection goes back to its pool only if the response was read to its end, and places below limits are
//! given back. All of that hangs on this value, so that no path can forget it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use lateen_telemetry::ResponseFlag;
use tokio::time::{Instant, Sleep};

use super::body::BodyError;
use super::grpc;
use super::grpc_web::Web;
use super::record::Record;
use crate::clock;
use crate::cluster::ActiveRequest;
use crate::cluster::breaker::Permit;
use crate::cluster::reports::Listener;
use crate::codec::outgoing;
use crate::net::splice::Splice;
use crate::upstream::{Lease, UpstreamBody};

/// An answer's body.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    record: Option<Box<Record>>,
    web: Option<Web>,
}

#[derive(Debug)]
enum Source {
    Full(Bytes),
    Upstream(Box<Upstream>),
}

/// The body of an upstream's response with all it holds on to.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) body: UpstreamBody,
    pub(crate) lease: Lease,
    pub(crate) active: ActiveRequest,
    /// A place among the cluster's requests; held by others until the answer begins.
    pub(crate) permit: Option<Permit>,
    pub(crate) deadlines: Deadlines,
    /// Who takes what the host reports of its load in trailers.
    pub(crate) reports: Option<Listener>,
}

impl Upstream {
    /// A body that has no times to keep yet.
    pub(crate) fn new(body: UpstreamBody, lease: Lease, active: ActiveRequest) -> Self {
        Self {
            body,
            lease,
            active,
            permit: None,
            deadlines: Deadlines::default(),
            reports: None,
        }
    }
}

/// Times a response body has to keep.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    /// The end of the route's timeout.
    pub(crate) overall: Option<Timer>,
    /// The end of the stream's longest life.
    pub(crate) stream: Option<Timer>,
    /// Time without a byte.
    pub(crate) idle: Option<(Duration, Timer)>,
}

/// A time that is to be noticed. Most bodies are there before anyone has to wait, so it costs nothing until then.
#[derive(Debug)]
pub(crate) struct Timer {
    at: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// One that fires at a time.
    pub(crate) const fn new(at: Instant) -> Self {
        Self { at, sleep: None }
    }

    fn has_fired(&mut self, cx: &mut Context<'_>) -> bool {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.at)));
        sleep.as_mut().poll(cx).is_ready()
    }

    fn set(&mut self, at: Instant) {
        self.at = at;
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(at);
        }
    }
}

impl Deadlines {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Option<ResponseFlag>, &'static str)> {
        let mut fired = |timer: Option<&mut Timer>| timer.is_some_and(|timer| timer.has_fired(cx));
        if fired(self.overall.as_mut()) {
            let flag = Some(ResponseFlag::UpstreamRequestTimeout);
            return Poll::Ready((flag, "response_timeout"));
        }
        if fired(self.stream.as_mut()) {
            return Poll::Ready((None, "max_duration_timeout"));
        }
        if fired(self.idle.as_mut().map(|(_, timer)| timer)) {
            let flag = Some(ResponseFlag::StreamIdleTimeout);
            return Poll::Ready((flag, "stream_idle_timeout"));
        }
        Poll::Pending
    }

    fn moved(&mut self) {
        if let Some((limit, timer)) = &mut self.idle {
            timer.set(clock::now() + *limit);
        }
    }
}

impl ResponseBody {
    /// A body that is there already.
    pub(crate) const fn full(bytes: Bytes, record: Box<Record>) -> Self {
        Self {
            source: Source::Full(bytes),
            record: Some(record),
            web: None,
        }
    }

    /// A body that is recorded elsewhere (upgrades).
    pub(crate) const fn empty() -> Self {
        Self {
            source: Source::Full(Bytes::new()),
            record: None,
            web: None,
        }
    }

    /// The body of an upstream's response, for a client that may speak gRPC-Web.
    pub(crate) fn upstream(
        mut upstream: Box<Upstream>,
        mut record: Box<Record>,
        web: Option<Web>,
    ) -> Self {
        if upstream.body.is_end_stream() {
            upstream.lease.finish();
            record.complete();
        }
        Self {
            source: Source::Upstream(upstream),
            record: Some(record),
            web,
        }
    }

    /// Notes the end, once.
    fn end(&mut self, note: impl FnOnce(&mut Record)) {
        if let Some(mut record) = self.record.take() {
            note(&mut record);
            // Dropping it writes the log and counts.
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let upstream = match &mut this.source {
            Source::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                if let Some(record) = &mut this.record {
                    record.sent(bytes.len());
                }
                this.end(Record::complete);
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            Source::Upstream(upstream) => upstream,
        };
        let polled = Pin::new(&mut upstream.body).poll_frame(cx);
        if polled.is_pending() {
            let (flag, details) = ready!(upstream.deadlines.poll(cx));
            this.end(|record| record.cut(flag, details));
            return Poll::Ready(Some(Err(BodyError::TimedOut(details))));
        }
        match ready!(polled) {
            None => {
                upstream.lease.finish();
                this.end(Record::complete);
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                this.end(|record| record.upstream_broke(&error));
                Poll::Ready(Some(Err(BodyError::Upstream(Box::new(error)))))
            }
            Some(Ok(frame)) => {
                upstream.deadlines.moved();
                if let (Some(reports), Some(trailers)) = (&upstream.reports, frame.trailers_ref()) {
                    reports.note(trailers);
                }
                if let Some(record) = &mut this.record {
                    note_frame(record, &frame);
                }
                let frame = match this.web {
                    None => frame,
                    Some(web) => {
                        let came = frame.data_ref().map_or(0, Bytes::len);
                        let data = for_browser(web, frame);
                        if let Some(record) = &mut this.record {
                            record.sent(data.len().saturating_sub(came));
                        }
                        Frame::data(data)
                    }
                };
                if upstream.body.is_end_stream() {
                    upstream.lease.finish();
                    this.end(Record::complete);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Full(bytes) => bytes.is_empty(),
            Source::Upstream(upstream) => upstream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Upstream(_) if self.web.is_some() => SizeHint::default(),
            Source::Upstream(upstream) => upstream.body.size_hint(),
        }
    }
}

impl outgoing::Source for ResponseBody {
    fn can_splice(&self) -> bool {
        let Source::Upstream(upstream) = &self.source else {
            return false;
        };
        let read = |record: &Record| record.reads_body();
        self.web.is_none()
            && !self.record.as_deref().is_some_and(read)
            && upstream.body.can_splice()
    }

    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Splice,
    ) -> Poll<Result<usize, BodyError>> {
        let Source::Upstream(upstream) = &mut self.source else {
            return Poll::Pending;
        };
        let polled = upstream.body.poll_splice(cx, pipe);
        if polled.is_pending() {
            let (flag, details) = ready!(upstream.deadlines.poll(cx));
            self.end(|record| record.cut(flag, details));
            return Poll::Ready(Err(BodyError::TimedOut(details)));
        }
        match ready!(polled) {
            Err(error) => {
                self.end(|record| record.upstream_broke(&error));
                Poll::Ready(Err(BodyError::Upstream(Box::new(error))))
            }
            Ok(moved) => {
                upstream.deadlines.moved();
                if let Some(record) = &mut self.record {
                    record.sent(moved);
                }
                if upstream.body.is_end_stream() {
                    upstream.lease.finish();
                    self.end(Record::complete);
                }
                Poll::Ready(Ok(moved))
            }
        }
    }
}

fn for_browser(web: Web, frame: Frame<Bytes>) -> Bytes {
    match frame.into_data() {
        Ok(data) => web.data(data),
        Err(frame) => web.trailers(&frame.into_trailers().unwrap_or_default()),
    }
}

fn note_frame(record: &mut Record, frame: &Frame<Bytes>) {
    if let Some(data) = frame.data_ref() {
        record.received(data);
    }
    if let Some(trailers) = frame.trailers_ref() {
        if let Some(status) = grpc::status_in(trailers) {
            record.grpc_status = Some(status);
        }
        record.trailers(trailers);
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let complete = match &self.source {
            Source::Full(_) => true,
            Source::Upstream(upstream) => upstream.body.is_end_stream(),
        };
        // A body nobody read to its end: the client is gone, or asked with HEAD.
        self.end(|record| {
            if complete {
                record.complete()
            } else {
                record.abandoned()
            }
        });
    }
}
