//! A request of the proxy's own to a cluster, answered in whole: how external authorizers are asked.
//!
//! It goes through the cluster's pools, circuit breakers and outlier detection like any request. Nothing of it is repeated, but for
//! one case: a kept connection that was closed before anything was sent on it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Version, header};
use http_body_util::BodyExt;
use lateen_traffic::Cluster;

use super::connect::ConnectError;
use super::target::{self, Wish};
use super::{AcquireError, Lease, Protocol, Route, UpstreamBody, UpstreamError, acquire};
use crate::cluster::breaker::Resource;
use crate::cluster::outlier::Ended;
use crate::cluster::{ActiveRequest, ClusterState, Host, Wanted};
use crate::http::body::RequestBody;
use crate::http::head::Head;
use crate::worker::{Now, Worker};

/// Connections that turned out to be closed, at most, before the call counts as failed.
const MAX_RACES: u32 = 3;

/// What is asked.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// The cluster.
    pub(crate) cluster: &'a str,
    /// The head.
    pub(crate) head: Head,
    /// The body.
    pub(crate) body: Bytes,
    /// How long it may take in all; none: as long as it takes.
    pub(crate) timeout: Option<Duration>,
    /// Bytes of the answer's body, at most.
    pub(crate) max_answer: usize,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The head.
    pub(crate) head: http::response::Parts,
    /// The body.
    pub(crate) body: Bytes,
    /// The trailers, if there were any.
    pub(crate) trailers: Option<HeaderMap>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The cluster does not exist.
    #[error("cluster `{0}` does not exist")]
    NoCluster(String),
    /// It has no host.
    #[error("no healthy host")]
    NoHost,
    /// Its circuit breakers are open.
    #[error("circuit breaker is open")]
    Overflow,
    /// No host can be reached.
    #[error("cannot connect")]
    Connect(#[source] ConnectError),
    /// The head cannot be written.
    #[error("invalid authority or path")]
    Head,
    /// The host broke it off.
    #[error("broken off by the host")]
    Broken(#[source] UpstreamError),
    /// The answer is longer than what is read.
    #[error("answer is too long")]
    TooLong,
    /// The time passed.
    #[error("no answer in time")]
    TimedOut,
}

/// Asks, and reads the whole answer.
///
/// # Errors
/// There is none.
pub(crate) async fn call(worker: &Worker, now: &Now, call: &Call<'_>) -> Result<Answer, CallError> {
    let no_cluster = || CallError::NoCluster(call.cluster.to_owned());
    let cluster = now.program.cluster(call.cluster).ok_or_else(no_cluster)?;
    let state = worker.cluster(&cluster.name);
    let _permit = state
        .permit(cluster, false, Resource::Requests)
        .ok_or(CallError::Overflow)?;
    let answer = exchange(worker, now, cluster, &state, call);
    match call.timeout {
        None => answer.await,
        Some(limit) => tokio::time::timeout(limit, answer)
            .await
            .unwrap_or_else(|_| {
                state.stats.upstream_rq_timeout.inc();
                Err(CallError::TimedOut)
            }),
    }
}

async fn exchange(
    worker: &Worker,
    now: &Now,
    cluster: &Arc<Cluster>,
    state: &Rc<ClusterState>,
    call: &Call<'_>,
) -> Result<Answer, CallError> {
    let wanted = Wanted {
        random: rand::random(),
        ..Wanted::default()
    };
    let Some(host) = state.pick(cluster, now, wanted) else {
        state.stats.upstream_cx_none_healthy.inc();
        return Err(CallError::NoHost);
    };
    let answer = send(worker, now, cluster, state, &host, call).await;
    match &answer {
        Ok(answer) => state.answered(cluster, &host.state, &answer.head),
        Err(_) => state.record(cluster, &host.state, Ended::LocalFailure, rand::random()),
    }
    if let Ok(answer) = &answer {
        state.stats.upstream_rq_completed.inc();
        if let Some(class) = state.stats.response_class(answer.head.status.as_u16()) {
            class.inc();
        }
    }
    answer
}

async fn send(
    worker: &Worker,
    now: &Now,
    cluster: &Arc<Cluster>,
    state: &Rc<ClusterState>,
    host: &Host,
    call: &Call<'_>,
) -> Result<Answer, CallError> {
    let wish = Wish {
        alpn: None,
        authority: Some(&call.head.authority),
        client: None,
        original_source: None,
    };
    let (target, key) =
        target::of(worker, now, state, cluster, host, wish).map_err(CallError::Connect)?;
    let _active = ActiveRequest::begin(&host.state, &state.stats.upstream_rq_active);
    let mut races = 0;
    loop {
        let route = Route {
            state,
            cluster,
            host: &host.state,
            target: &target,
            key: key.clone(),
            protocol: Protocol::of(cluster.http.protocol, false),
            high_priority: false,
        };
        let mut lease = acquire(&route).await.map_err(|error| match error {
            AcquireError::Overflow => CallError::Overflow,
            AcquireError::Connect(error) => CallError::Connect(error),
        })?;
        state.stats.upstream_rq_total.inc();
        let request = request(call, lease.is_h2()).ok_or(CallError::Head)?;
        match lease.send(request).await {
            Ok(response) => return read(response, lease, call.max_answer).await,
            Err(failed) => {
                races += 1;
                if !failed.unsent || races >= MAX_RACES {
                    return Err(CallError::Broken(failed.error));
                }
            }
        }
    }
}

fn request(call: &Call<'_>, h2: bool) -> Option<Request<RequestBody>> {
    let head = &call.head;
    let mut request = Request::new(RequestBody::Full(Some(call.body.clone())));
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri(h2)?;
    let mut headers = head.headers.clone();
    if h2 {
        *request.version_mut() = Version::HTTP_2;
    } else {
        headers.insert(header::HOST, HeaderValue::from_str(&head.authority).ok()?);
    }
    *request.headers_mut() = headers;
    Some(request)
}

async fn read(
    response: http::Response<UpstreamBody>,
    mut lease: Lease,
    max: usize,
) -> Result<Answer, CallError> {
    let (head, mut incoming) = response.into_parts();
    let mut body = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(CallError::Broken)?;
        match frame.into_data() {
            Ok(data) if body.len() + data.len() > max => return Err(CallError::TooLong),
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    lease.finish();
    Ok(Answer {
        head,
        body: body.freeze(),
        trailers,
    })
}
