//! Mirrors: copies of a request to further clusters, whose answers nobody waits for (`request_mirror_policies`).
//!
//! A copy is made while the request goes by and never holds it up. It has a bounded memory ([`WAITING`]) and a bounded number of
//! companions ([`AT_A_TIME`]); beyond either it is given up, which only its cluster's statistics tell.
//! Source: Envoy's documentation of `RequestMirrorPolicy`.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use lateen_traffic::Cluster;
use lateen_traffic::cluster::Discovery;
use lateen_traffic::route::MirrorPolicy;

use super::outgoing::{build, outgoing};
use super::{Plan, charge, offer};
use crate::cluster::breaker::Resource;
use crate::cluster::outlier::Ended;
use crate::cluster::{ActiveRequest, ClusterState, Host, Wanted};
use crate::http::body::RequestBody;
use crate::http::exchange::Exchange;
use crate::http::filters::CommandValues;
use crate::http::head::Head;
use crate::http::headers;
use crate::http::manager::Manager;
use crate::upstream::target::{self, Wish};
use crate::upstream::{Route, UpstreamBody, acquire};
use crate::worker::{Now, Worker};

/// Bytes of a body that wait for a mirror, at most.
const WAITING: usize = 1024 * 1024;
/// Mirrored requests of a worker under way at a time.
const AT_A_TIME: usize = 1024;
/// The longest pause in a mirror's answer; also the time for its head if the route sets none.
const PAUSE: Duration = Duration::from_secs(60);

static INTERNAL: http::HeaderName = http::HeaderName::from_static("x-envoy-internal");

/// One copy on its way.
struct Mirror {
    worker: Rc<Worker>,
    manager: Rc<Manager>,
    now: Rc<Now>,
    cluster: Arc<Cluster>,
    state: Rc<ClusterState>,
    head: Head,
    body: RequestBody,
    hash: Option<u64>,
    /// The client and where it was going.
    client: (SocketAddr, SocketAddr),
    limit: Option<Duration>,
    high_priority: bool,
}

/// Starts the copies a route asks for.
pub(super) fn start(exchange: &Exchange, plan: &Plan<'_>) {
    for policy in plan.decision.mirrors() {
        if !policy.fraction.hit(rand::random()) {
            continue;
        }
        if let Some(mirror) = prepare(exchange, plan, policy)
            && let Some(place) = Place::take(&exchange.connection.worker)
        {
            tokio::task::spawn_local(async move {
                mirror.send().await;
                drop(place);
            });
        }
    }
}

fn prepare(exchange: &Exchange, plan: &Plan<'_>, policy: &MirrorPolicy) -> Option<Mirror> {
    let name = policy.target.name(plan.view)?;
    let cluster = exchange.now.program.cluster(&name)?;
    let worker = &exchange.connection.worker;
    let mut head = outgoing(exchange, plan, None);
    let values = CommandValues {
        view: plan.view,
        connection: &exchange.connection,
        record: &exchange.record,
        response: None,
    };
    policy.headers.apply(&mut head.headers, &values);
    if let Some(own) = worker.shared.identity.address {
        headers::append(&mut head.headers, &headers::FORWARDED_FOR, &own.to_string());
    }
    head.headers
        .insert(&INTERNAL, HeaderValue::from_static("true"));
    head.authority = host_of_copy(policy, &head.authority);
    Some(Mirror {
        state: worker.cluster(&cluster.name),
        worker: Rc::clone(worker),
        manager: Rc::clone(&exchange.manager),
        now: Rc::clone(&exchange.now),
        cluster: Arc::clone(cluster),
        body: plan.body.copy(WAITING),
        head,
        hash: plan.hash,
        client: exchange.connection.facts.ends(),
        limit: plan.timeout,
        high_priority: plan.action.high_priority,
    })
}

/// `host-shadow:port`, so that the mirror's logs tell copies from requests.
fn host_of_copy(policy: &MirrorPolicy, authority: &str) -> String {
    if let Some(host) = &policy.host_rewrite {
        return host.to_string();
    }
    if policy.disable_host_suffix {
        return authority.to_owned();
    }
    let port = authority
        .rsplit_once(':')
        .filter(|(host, port)| {
            let bracketed = !host.contains(':') || host.ends_with(']');
            bracketed && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
        })
        .map(|(_, port)| port);
    match port {
        Some(port) => {
            let host = &authority[..authority.len() - port.len() - 1];
            format!("{host}-shadow:{port}")
        }
        None => format!("{authority}-shadow"),
    }
}

impl Mirror {
    async fn send(mut self) {
        let stats = &self.state.stats;
        let permit = self
            .state
            .permit(&self.cluster, self.high_priority, Resource::Requests);
        let Some(_permit) = permit else {
            stats.upstream_rq_pending_overflow.inc();
            charge(&self.state, StatusCode::SERVICE_UNAVAILABLE);
            return;
        };
        let wanted = Wanted {
            random: rand::random(),
            hash: self.hash,
            // Nobody waits for a name on behalf of a copy.
            original_dst: (!matches!(self.cluster.discovery, Discovery::DynamicForwardProxy(_)))
                .then_some(self.client.1),
            ..Wanted::default()
        };
        let Some(host) = self.state.pick(&self.cluster, &self.now, wanted) else {
            stats.upstream_cx_none_healthy.inc();
            charge(&self.state, StatusCode::SERVICE_UNAVAILABLE);
            return;
        };
        let limit = self.limit.unwrap_or(PAUSE);
        if tokio::time::timeout(limit, self.exchange(&host))
            .await
            .is_err()
        {
            self.state.stats.upstream_rq_timeout.inc();
            charge(&self.state, StatusCode::GATEWAY_TIMEOUT);
        }
    }

    async fn exchange(&mut self, host: &Host) {
        let offer = offer::to(
            &self.manager,
            &self.head,
            &self.cluster,
            self.high_priority,
            host,
        );
        let wish = Wish {
            alpn: offer.alpn,
            authority: Some(&self.head.authority),
            client: Some(self.client),
            original_source: None,
        };
        let Ok((target, key)) = target::of(
            &self.worker,
            &self.now,
            &self.state,
            &self.cluster,
            host,
            wish,
        ) else {
            return;
        };
        let route = Route {
            state: &self.state,
            cluster: &self.cluster,
            host: &host.state,
            target: &target,
            key,
            protocol: offer.protocol,
            high_priority: self.high_priority,
        };
        let _active = ActiveRequest::begin(&host.state, &self.state.stats.upstream_rq_active);
        let Ok(mut lease) = acquire(&route).await else {
            self.failed(host);
            return;
        };
        self.state.stats.upstream_rq_total.inc();
        let body = std::mem::replace(&mut self.body, RequestBody::Empty);
        let Some(request) = build(self.head.clone(), body, lease.is_h2()) else {
            return;
        };
        let Ok(response) = lease.send(request).await else {
            self.failed(host);
            return;
        };
        let (parts, answer) = response.into_parts();
        self.state.answered(&self.cluster, &host.state, &parts);
        charge(&self.state, parts.status);
        if drain(answer).await {
            lease.finish();
        }
    }

    fn failed(&self, host: &Host) {
        let ended = Ended::LocalFailure;
        self.state
            .record(&self.cluster, &host.state, ended, rand::random());
        charge(&self.state, StatusCode::SERVICE_UNAVAILABLE);
    }
}

/// Reads an answer to its end, so that its connection can be used again; whether it ended well.
async fn drain(mut body: UpstreamBody) -> bool {
    loop {
        match tokio::time::timeout(PAUSE, body.frame()).await {
            Ok(Some(Ok(_))) => {}
            Ok(None) => return true,
            Ok(Some(Err(_))) | Err(_) => return false,
        }
    }
}

/// A place among a worker's mirrors.
struct Place(Rc<Worker>);

impl Place {
    fn take(worker: &Rc<Worker>) -> Option<Self> {
        let taken = worker.mirrors.get();
        if taken >= AT_A_TIME {
            return None;
        }
        worker.mirrors.set(taken + 1);
        Some(Self(Rc::clone(worker)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use lateen_traffic::matcher::Fraction;
    use lateen_traffic::route::WeightedTarget;

    use super::*;

    #[test]
    fn a_copys_host_says_so_before_its_port() {
        let policy = MirrorPolicy {
            target: WeightedTarget::Cluster("shadow".into()),
            fraction: Fraction::ALL,
            disable_host_suffix: false,
            host_rewrite: None,
            headers: Default::default(),
        };
        for (host, copy) in [
            ("a.example", "a.example-shadow"),
            ("a.example:80", "a.example-shadow:80"),
            ("[::1]:80", "[::1]-shadow:80"),
            ("[::1]", "[::1]-shadow"),
        ] {
            assert_eq!(host_of_copy(&policy, host), copy);
        }
        let kept = MirrorPolicy {
            disable_host_suffix: true,
            ..policy
        };
        assert_eq!(host_of_copy(&kept, "a.example"), "a.example");
    }
}
