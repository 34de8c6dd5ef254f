//! What the hot paths may cost, in allocations: counts, not seconds, so that any machine can hold a change to them.
//!
//! A number here may go down. One that has to go up is a decision, made in the commit that raises it; `docs/performance.md` says
//! how the cost of a change is looked into. What a decision looks at, which allocates nothing, is counted beside the decisions
//! (`lateen-traffic`: the tests of `rbac::index` and `route::table`), and so are a metric and a line of the access log
//! (`lateen-telemetry`: `tests/allocations.rs`).
//!
//! Budgets leave room for less than one allocation: now and then a timer fires or a window is enlarged.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "budget/allocations.rs"]
mod allocations;
#[path = "support/mtls.rs"]
mod mtls;
#[path = "budget/peers.rs"]
mod peers;
#[path = "budget/resources.rs"]
mod resources;
mod support;

use std::net::SocketAddr;

use allocations::opt_out;
use peers::{grpc_host, host, per_call, per_exchange, per_request_h2, plain, tls};
use rcgen::{CertificateParams, KeyPair};
use resources::{Hosts, Token};
use support::identity::Root;
use support::{Running, start_with};

/// Of a request over HTTP/1.1 to a host that speaks it, and its answer, on kept connections.
const HTTP1: f64 = 12.5;
/// Of a request over HTTP/2 to a host that speaks HTTP/1.1.
const HTTP2: f64 = 16.7;
/// Of a gRPC call over HTTP/2 on both sides, with trailers.
const GRPC: f64 = 19.7;
/// Of an HTTP/1.1 request in TLS that the proxy ends.
const TLS: f64 = 14.5;
/// Of an HTTP/1.1 request through two sidecars with mTLS, a rule and metrics between them, in both together.
const MTLS: f64 = 31.7;
/// Of a message each way on a TCP connection.
const TCP: f64 = 0.1;
/// What a hundred rules add to an HTTP/1.1 request.
const RULES: f64 = 0.5;
/// What a token adds that was verified before.
const TOKEN: f64 = 7.5;
/// What a line of the access log adds.
const LOG: f64 = 13.5;
/// What Istio's metrics add.
const METRICS: f64 = 2.5;
/// What a thousand routes add to a request that one route would take.
const ROUTES: f64 = 0.5;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello";
const END: &[u8] = b"hello";
const QUESTION: &[u8] =
    b"GET /path HTTP/1.1\r\nhost: a.example\r\nuser-agent: test\r\naccept: */*\r\n\r\n";

/// A cost and what it may be.
struct Held {
    what: &'static str,
    cost: f64,
    budget: f64,
}

fn held(what: &'static str, cost: f64, budget: f64) -> Held {
    println!("{what}: {cost:.1} allocations, budget {budget}");
    Held { what, cost, budget }
}

/// Runs a client beside the proxy, whose thread is this one's.
async fn client<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let work = move || {
        opt_out();
        work()
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn http1(to: SocketAddr) -> f64 {
    client(move || per_exchange(plain(to), QUESTION, END)).await
}

#[tokio::test(flavor = "current_thread")]
async fn hot_paths_stay_within_their_budgets() {
    opt_out();
    let hosts = Hosts {
        web: host(ANSWER),
        grpc: grpc_host(),
        echo: host(b""),
    };
    let (token, log) = (Token::new(), tempfile::NamedTempFile::new().unwrap());
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["gateway.example".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let list = resources::all(&hosts, &token, log.path(), (&certificate, &key));
    let proxy = start_with(list, None, |config| config.concurrency = 1).await;
    let at = |name: &str| proxy.address(name);

    let base = http1(at("http1")).await;
    let mut all = vec![held("an HTTP/1.1 request", base, HTTP1)];
    let (h2, grpc, tcp, gateway) = (at("http2"), at("grpc"), at("tcp"), at("tls"));
    let cost = client(move || per_request_h2(h2)).await;
    all.push(held("an HTTP/2 request", cost, HTTP2));
    let cost = client(move || per_call(grpc)).await;
    all.push(held("a gRPC call", cost, GRPC));
    let root = certificate.der().clone();
    let cost = client(move || per_exchange(tls(gateway, root), QUESTION, END)).await;
    all.push(held("an HTTP/1.1 request in TLS", cost, TLS));
    let cost = client(move || per_exchange(plain(tcp), b"question", b"question")).await;
    all.push(held("a TCP message", cost, TCP));

    for (listener, what, budget) in [
        ("rules", "a hundred rules", RULES),
        ("log", "a line of the access log", LOG),
        ("metrics", "Istio's metrics", METRICS),
        ("routes", "a thousand routes", ROUTES),
    ] {
        all.push(held(what, http1(at(listener)).await - base, budget));
    }
    let (to, request) = (at("token"), token.request());
    let cost = client(move || per_exchange(plain(to), request.as_bytes(), END)).await;
    all.push(held("a token", cost - base, TOKEN));
    let cost = through_two_sidecars(hosts.web).await;
    all.push(held("an HTTP/1.1 request through two sidecars", cost, MTLS));

    let over: Vec<String> = all
        .iter()
        .filter(|held| held.cost > held.budget)
        .map(|h| format!("{}: {:.1} instead of {}", h.what, h.cost, h.budget))
        .collect();
    assert!(over.is_empty(), "over budget, in allocations: {over:#?}");
}

async fn through_two_sidecars(app: SocketAddr) -> f64 {
    let root = Root::new();
    let one = |list, account| start_with(list, Some(root.workload(account)), |c| c.concurrency = 1);
    let server: Running = one(mtls::inbound(app), "server").await;
    let caller = one(
        mtls::outbound(server.address("inbound"), "server"),
        "client",
    )
    .await;
    http1(caller.address("outbound")).await
}
