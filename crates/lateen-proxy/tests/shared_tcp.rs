//! TCP connections that share one between two of our own sidecars: when they do, when they do not, and that nothing else changes.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/exchange.rs"]
mod exchange;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use exchange::{Pair, counts, greeter, inbound, outbound};
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Connections at a time.
const AT_ONCE: usize = 40;
const OPENED: &str = "istio_tcp_connections_opened_total";
const CLOSED: &str = "istio_tcp_connections_closed_total";

/// An application that does something with each connection, and how many there were.
async fn app<F, A>(work: F) -> (SocketAddr, Arc<AtomicU64>)
where
    F: Fn(TcpStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(work(stream));
        }
    });
    (address, count)
}

/// Says back what it is told.
async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

async fn pair_of(app: SocketAddr) -> Pair {
    Pair::of(inbound(app, true), |server| outbound(server, true), true).await
}

/// Two sidecars between which one connection is open: the only one has one of its own, those that follow share.
async fn sharing(app: SocketAddr) -> (Pair, TcpStream) {
    let pair = pair_of(app).await;
    let lone = connect(&pair).await;
    wait_for(|| async { made(&pair) == 1 }).await;
    (pair, lone)
}

/// Connections the client's proxy made to the server's.
fn made(pair: &Pair) -> u64 {
    let labels = [("cluster_name", "server")];
    let metrics = pair.client.handle.metrics();
    metrics.counter("envoy_cluster_upstream_cx_total", &labels)
}

async fn connect(pair: &Pair) -> TcpStream {
    TcpStream::connect(pair.client.address("outbound"))
        .await
        .unwrap()
}

/// Whether a connection is closed without a word.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut byte)).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

async fn says(stream: &mut TcpStream, word: &[u8]) {
    stream.write_all(word).await.unwrap();
    let mut answer = vec![0; word.len()];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut answer)).await;
    read.unwrap().unwrap();
    assert_eq!(answer, word);
}

#[tokio::test]
async fn many_connections_share_a_few_and_are_counted_each() {
    let pair = Pair::start(true, true).await;
    let mut open = Vec::new();
    for _ in 0..AT_ONCE {
        open.push(pair.talk().await);
    }
    let shared = made(&pair);
    assert!((2..=4).contains(&shared), "{shared} connections");
    for proxy in [&pair.client, &pair.server] {
        counts(proxy, OPENED, AT_ONCE as u64, &[]).await;
        counts(proxy, CLOSED, 0, &[]).await;
    }
    open.truncate(1);
    for proxy in [&pair.client, &pair.server] {
        counts(proxy, CLOSED, AT_ONCE as u64 - 1, &[]).await;
    }
    pair.talk().await;
    assert_eq!(made(&pair), shared, "what is open is used again");
    pair.stop().await;
}

#[tokio::test]
async fn connections_that_begin_together_share_too() {
    let (address, _) = app(echo).await;
    let pair = pair_of(address).await;
    let mut open = Vec::new();
    for _ in 0..AT_ONCE {
        open.push(connect(&pair).await);
    }
    for (n, stream) in open.iter_mut().enumerate() {
        says(stream, format!("I am {n}").as_bytes()).await;
    }
    assert!(made(&pair) <= 5, "{} connections", made(&pair));
    pair.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_does_not_agree_has_a_connection_for_each_and_none_in_vain() {
    let (address, accepted) = app(echo).await;
    let unshared = inbound(address, true);
    let pair = Pair::of(unshared, |server| outbound(server, true), false).await;
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(connect(&pair).await);
    }
    for stream in &mut open {
        says(stream, b"hello").await;
    }
    assert_eq!(made(&pair), 8);
    assert_eq!(accepted.load(Ordering::Relaxed), 8);
    pair.stop().await;
}

#[tokio::test]
async fn what_limits_connections_keeps_each_on_its_own() {
    let (address, _) = app(echo).await;
    let limited = |server| {
        let mut resources = outbound(server, true);
        let most = json!({"circuit_breakers": {"thresholds": [{"max_connections": 3}]}});
        merge(&mut resources[1], most);
        resources
    };
    let pair = Pair::of(inbound(address, true), limited, true).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(&pair).await;
        says(&mut stream, b"hello").await;
        open.push(stream);
    }
    assert!(is_closed(&mut connect(&pair).await).await);
    assert_eq!(made(&pair), 3);
    pair.stop().await;
}

#[tokio::test]
async fn an_end_is_passed_on_and_the_other_direction_goes_on() {
    let (address, _) = app(|mut stream| async move {
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).await.unwrap();
        asked.reverse();
        stream.write_all(&asked).await.unwrap();
    })
    .await;
    let (pair, _lone) = sharing(address).await;
    for _ in 0..3 {
        let mut stream = connect(&pair).await;
        stream.write_all(b"question").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"noitseuq");
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_reader_that_stalls_holds_up_no_other_and_transfers_keep_every_byte() {
    let (address, _) = app(echo).await;
    let (pair, _lone) = sharing(address).await;
    let mut stalled = connect(&pair).await;
    says(&mut stalled, b"hello").await;
    // What nobody reads fills what there is room for, and no more is taken.
    let chunk = vec![7; 64 * 1024];
    let fill = async {
        loop {
            stalled.write_all(&chunk).await.unwrap();
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(500), fill).await;

    let sent: Vec<u8> = (0..20_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let (mut read, mut write) = connect(&pair).await.into_split();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    let all = read.read_to_end(&mut received);
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .unwrap()
        .unwrap();
    writer.await.unwrap();
    assert!(received == expected, "bytes were changed on their way");
    assert_eq!(made(&pair), 2);
    pair.stop().await;
}

#[tokio::test]
async fn a_connection_without_others_has_one_of_its_own() {
    let (address, _) = app(echo).await;
    let pair = pair_of(address).await;
    for n in 1..=3 {
        let mut stream = connect(&pair).await;
        says(&mut stream, b"hello").await;
        drop(stream);
        counts(&pair.client, CLOSED, n, &[]).await;
        assert_eq!(made(&pair), n);
    }
    pair.stop().await;
}

#[tokio::test]
async fn an_application_that_is_not_there_ends_its_connections_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let takes_one = tokio::spawn(async move { listener.accept().await.unwrap().0 });
    let (pair, mut lone) = sharing(address).await;
    let mut taken = takes_one.await.unwrap();
    for _ in 0..3 {
        assert!(is_closed(&mut connect(&pair).await).await);
    }
    let labels = [("reporter", "destination"), ("response_flags", "UF,URX")];
    counts(&pair.server, OPENED, 3, &labels).await;
    assert_eq!(made(&pair), 2);
    taken.write_all(b"here").await.unwrap();
    lone.read_exact(&mut [0; 4]).await.unwrap();
    pair.stop().await;
}

/// The server's resources with an access rule that lets in whom `principals` says.
fn ruled(app: SocketAddr, principals: &Value) -> Vec<Value> {
    let mut resources = inbound(app, true);
    let rule = filter(
        "envoy.filters.network.rbac",
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
            "stat_prefix": "tcp.",
            "rules": {"action": "ALLOW", "policies": {"some": {"permissions": [{"any": true}], "principals": principals}}},
        }),
    );
    let filters = &mut resources[0]["filter_chains"][0]["filters"];
    filters.as_array_mut().unwrap().insert(0, rule);
    resources
}

fn account(name: &str) -> Value {
    let exact = format!("spiffe://cluster.local/ns/default/sa/{name}");
    json!([{"authenticated": {"principal_name": {"exact": exact}}}])
}

#[tokio::test]
async fn access_rules_hold_for_each_connection_as_they_are_when_it_comes() {
    let (address, accepted) = app(echo).await;
    let allowed = ruled(address, &account("client"));
    let pair = Pair::of(allowed.clone(), |server| outbound(server, true), true).await;
    let mut lone = connect(&pair).await;
    says(&mut lone, b"hello").await;
    let mut first = connect(&pair).await;
    says(&mut first, b"hello").await;

    pair.server.replace(ruled(address, &account("somebody")));
    assert!(is_closed(&mut first).await, "it is let in no more");
    assert!(is_closed(&mut lone).await, "nor is this");
    let mut refused = Vec::new();
    for _ in 0..4 {
        refused.push(connect(&pair).await);
    }
    for stream in &mut refused {
        assert!(is_closed(stream).await);
    }
    let accepted = accepted.load(Ordering::Relaxed);
    assert_eq!(accepted, 2, "refused connections reach nobody");

    pair.server.replace(allowed);
    let again = || async {
        let mut stream = connect(&pair).await;
        stream.write_all(b"hello").await.unwrap();
        matches!(stream.read(&mut [0; 5]).await, Ok(5))
    };
    wait_for(again).await;
    pair.stop().await;
}

#[tokio::test]
async fn a_listener_that_changes_takes_new_connections_as_it_is_now() {
    let (old, _) = app(echo).await;
    let (pair, _lone) = sharing(old).await;
    let mut first = connect(&pair).await;
    says(&mut first, b"hello").await;
    let new = greeter().await;
    pair.server.replace(inbound(new, true));
    let greeted = || async {
        let mut stream = connect(&pair).await;
        let mut word = [0; 3];
        let read = stream.read(&mut word);
        let read = tokio::time::timeout(Duration::from_millis(500), read).await;
        matches!(read, Ok(Ok(3)))
    };
    wait_for(greeted).await;
    says(&mut first, b"still here").await;
    pair.stop().await;
}

#[tokio::test]
async fn a_server_that_drains_keeps_what_is_open_and_takes_what_comes() {
    let (address, _) = app(echo).await;
    let (pair, _lone) = sharing(address).await;
    let mut first = connect(&pair).await;
    says(&mut first, b"hello").await;
    let before = made(&pair);
    let drain = pair.server.handle.drain();
    let _ = tokio::time::timeout(Duration::from_millis(200), drain).await;
    says(&mut first, b"still here").await;
    for _ in 0..20 {
        says(&mut connect(&pair).await, b"hello").await;
    }
    assert!(made(&pair) > before, "what drains carries nothing new");
    pair.stop().await;
}

#[tokio::test]
async fn a_server_that_is_gone_ends_connections_and_those_that_come() {
    let (address, _) = app(echo).await;
    let (pair, _lone) = sharing(address).await;
    let mut first = connect(&pair).await;
    says(&mut first, b"hello").await;
    let Pair { client, server } = pair;
    server.handle.shutdown().await;
    assert!(is_closed(&mut first).await);
    let another = TcpStream::connect(client.address("outbound")).await;
    assert!(is_closed(&mut another.unwrap()).await);
    client.handle.shutdown().await;
}
