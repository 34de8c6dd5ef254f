//! Sending what workers tell of requests to collectors: spans, and access logs over gRPC. In batches, each worker its own.
//!
//! A request never waits for it: what is told goes into a queue of bounded length, or is dropped and counted. Whether a batch arrives is
//! counted, too, and not tried again: a collector that is late is not helped by getting everything twice.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Version, header};
use lateen_telemetry::metrics::{Counter, Descriptor, Registry, Shard};
use lateen_traffic::ext_authz::GrpcService;
use lateen_traffic::format::{Command, Values};
use lateen_traffic::tracing::HttpCollector;
use tokio::sync::Notify;

use crate::http::head::{Head, Verbatim};
use crate::http::present::Present;
use crate::upstream::call::{self, Answer, Call};
use crate::worker::Worker;

/// What waits in a worker. At 1000 a second that is two seconds.
const QUEUE: usize = 2048;
/// After so many a batch is sent at once.
const BATCH: usize = 512;
/// How long one waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;
/// How long a collector has that nobody gave a time.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is told to one collector.
pub(crate) trait Report: 'static {
    /// One thing that is told.
    type Item: 'static;

    /// What waits.
    fn queue(&self) -> &Queue<Self::Item>;

    /// The message that tells a batch.
    fn message(&self, worker: &Worker, batch: Vec<Self::Item>) -> Message<'_>;
}

/// A request to a collector.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) head: Head,
    pub(crate) body: Bytes,
    /// None: five seconds.
    pub(crate) timeout: Option<Duration>,
}

/// What waits to be told, and what became of it.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    items: RefCell<Vec<T>>,
    full: Notify,
    sending: Cell<bool>,
    sent: Counter,
    dropped: Counter,
    success: Counter,
    failure: Counter,
}

impl<T> Queue<T> {
    /// An empty queue, counted under a prefix: `tracing.zipkin` counts `spans_sent` and so on.
    pub(crate) fn new(
        (registry, shard): (&Registry, Shard),
        prefix: &str,
        [sent, dropped, success, failure]: [&str; 4],
    ) -> Self {
        let of = |what: &str| {
            let family = registry.counters(Descriptor::envoy(&format!("{prefix}.{what}")));
            family.handle(shard, &[])
        };
        Self {
            items: RefCell::default(),
            full: Notify::new(),
            sending: Cell::new(false),
            sent: of(sent),
            dropped: of(dropped),
            success: of(success),
            failure: of(failure),
        }
    }
}

/// Takes something to be told. It never waits.
pub(crate) fn push<R: Report>(to: &Rc<R>, worker: &Rc<Worker>, item: R::Item) {
    let queue = to.queue();
    let waiting = {
        let mut items = queue.items.borrow_mut();
        if items.len() >= QUEUE {
            queue.dropped.inc();
            return;
        }
        items.push(item);
        items.len()
    };
    if waiting == BATCH {
        queue.full.notify_one();
    }
    if !queue.sending.replace(true) {
        let (to, worker) = (Rc::clone(to), Rc::clone(worker));
        // It ends when nothing is left to send, and with the worker's other tasks.
        tokio::task::spawn_local(async move { send(&*to, &worker).await });
    }
}

/// Sends until nothing is left.
async fn send<R: Report>(to: &R, worker: &Rc<Worker>) {
    let queue = to.queue();
    loop {
        // Either is fine: time passed, or there is enough.
        let _ = tokio::time::timeout(LINGER, queue.full.notified()).await;
        let batch = std::mem::take(&mut *queue.items.borrow_mut());
        if batch.is_empty() {
            queue.sending.set(false);
            return;
        }
        queue.sent.add(batch.len() as u64);
        match deliver(worker, to.message(worker, batch)).await {
            Ok(()) => queue.success.inc(),
            Err(error) => {
                queue.failure.inc();
                tracing::debug!(error, "a report did not arrive");
            }
        }
    }
}

async fn deliver(worker: &Rc<Worker>, message: Message<'_>) -> Result<(), String> {
    let is_grpc = message.head.headers[header::CONTENT_TYPE] == "application/grpc";
    let call = Call {
        cluster: message.cluster,
        head: message.head,
        body: message.body,
        timeout: Some(message.timeout.unwrap_or(TIMEOUT)),
        max_answer: MAX_ANSWER,
    };
    let now = worker.now();
    let answer = call::call(worker, &now, &call).await;
    let answer = answer.map_err(|error| error.to_string())?;
    taken(&answer, is_grpc)
}

/// Whether a collector took what it was sent.
fn taken(answer: &Answer, is_grpc: bool) -> Result<(), String> {
    let status = answer.head.status;
    if !status.is_success() {
        return Err(format!("HTTP status {status}"));
    }
    let trailers = answer.trailers.as_ref().unwrap_or(&answer.head.headers);
    match crate::http::grpc::status_in(trailers) {
        Some(0) => Ok(()),
        Some(status) => Err(format!("gRPC status {status}")),
        None if is_grpc => Err("no gRPC status".to_owned()),
        None => Ok(()),
    }
}

/// The head of a call over gRPC.
pub(crate) fn grpc(to: &GrpcService, method: &str) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    for (name, format) in &to.initial_metadata {
        if let Ok(value) = HeaderValue::from_str(&format.render(&Nothing)) {
            headers.append(name.clone(), value);
        }
    }
    let authority = if to.authority.is_empty() {
        &to.cluster
    } else {
        &to.authority
    };
    post(authority, method, headers)
}

/// A call of the proxy's own has no request whose values its metadata could show.
struct Nothing;

impl Values for Nothing {
    fn write(&self, _: &Command, _: &mut String) -> bool {
        false
    }
}

/// The head of a request with a body.
pub(crate) fn post(authority: &str, path: &str, headers: HeaderMap) -> Head {
    Head {
        method: Method::POST,
        scheme: "http",
        authority: authority.to_owned(),
        path: path.to_owned(),
        protocol: None,
        version: Version::HTTP_2,
        headers,
        extensions: http::Extensions::default(),
        present: Present::default(),
        verbatim: Verbatim::default(),
    }
}

/// A request to a collector that takes HTTP.
pub(crate) fn over_http<'a>(
    to: &'a HttpCollector,
    kind: &'static str,
    body: Vec<u8>,
) -> Message<'a> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in &to.headers {
        headers.insert(name, value.clone());
    }
    Message {
        cluster: &to.cluster,
        head: post(&to.authority, &to.path, headers),
        body: body.into(),
        timeout: to.timeout,
    }
}

/// A message of gRPC: with its length before it.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(5 + message.len());
    out.put_u8(0);
    // What a queue holds is far below 4 GiB.
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}
