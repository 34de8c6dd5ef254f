//! Clusters on loopback: names, ejection of failing hosts, circuit breakers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use support::*;

fn hop(cluster: Value) -> Vec<Value> {
    vec![
        listener(
            "in",
            json!([{"filters": [hcm(route_to("up", json!({})), json!({}))]}]),
        ),
        cluster,
    ]
}

#[tokio::test]
async fn names_are_resolved_off_the_workers() {
    let address = backend(|_| async { text("ok") }).await;
    let mut named = cluster(
        "up",
        &[address],
        json!({"type": "STRICT_DNS", "dns_lookup_family": "V4_ONLY"}),
    );
    let endpoint = &mut named["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    endpoint["address"]["socket_address"]["address"] = json!("localhost");
    let proxy = start(hop(named)).await;
    wait_for(|| async { get(proxy.address("in"), "/").await.0 == 200 }).await;
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn a_host_that_keeps_failing_is_left_out() {
    let bad = backend(|_| async {
        Response::builder()
            .status(503)
            .body(Full::default().boxed())
            .unwrap()
    })
    .await;
    let good = backend(|_| async { text("ok") }).await;
    let outlier = json!({"outlier_detection": {
        "consecutive_5xx": 3, "base_ejection_time": "60s", "max_ejection_percent": 100,
    }});
    let proxy = start(hop(cluster("up", &[bad, good], outlier))).await;
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(get(proxy.address("in"), "/").await.0 == 503);
    }
    assert_eq!(failed, 3, "three failures in a row, then none");
    let admin = proxy.handle.admin_address().unwrap();
    let (_, _, clusters) = get(admin, "/clusters").await;
    assert!(
        clusters.contains(&format!("up::{bad}::health_flags::/failed_outlier_check")),
        "{clusters}"
    );
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn an_open_circuit_breaker_refuses_at_once() {
    let under_way = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (counted, peak) = (Arc::clone(&under_way), Arc::clone(&most));
    let slow = backend(move |_| {
        let (counted, peak) = (Arc::clone(&counted), Arc::clone(&peak));
        async move {
            peak.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(200)).await;
            counted.fetch_sub(1, Ordering::SeqCst);
            text("ok")
        }
    })
    .await;
    let breaker = json!({"circuit_breakers": {"thresholds": [{"max_requests": 2}]}});
    let proxy = start(hop(cluster("up", &[slow], breaker))).await;
    let address = proxy.address("in");
    let calls: Vec<_> = (0..10).map(|_| tokio::spawn(get(address, "/"))).collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    let (served, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|a| a.0 == 200);
    assert_eq!((served.len(), most.load(Ordering::SeqCst)), (2, 2));
    for (status, headers, body) in refused {
        assert_eq!(status, 503);
        assert_eq!(headers["x-envoy-overloaded"], "true");
        assert!(body.ends_with("reset reason: overflow"), "{body}");
    }
    assert_eq!(get(address, "/").await.0, 200);
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn requests_wait_for_the_only_connection_there_may_be() {
    let address = backend(|_| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        text("ok")
    })
    .await;
    let breaker = json!({"circuit_breakers": {"thresholds": [{"max_connections": 1, "max_pending_requests": 100}]}});
    let proxy = start_with(hop(cluster("up", &[address], breaker)), None, |config| {
        config.concurrency = 1
    })
    .await;
    let at = proxy.address("in");
    let calls: Vec<_> = (0..10).map(|_| tokio::spawn(get(at, "/"))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().0, 200);
    }
    let metrics = proxy.handle.metrics();
    assert_eq!(
        metrics.counter("envoy_cluster_upstream_cx_total", &[("cluster_name", "up")]),
        1
    );
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn a_pooled_connection_takes_no_request_after_its_time() {
    for http2 in [false, true] {
        let address = backend(|_| async { text("ok") }).await;
        let protocol = match http2 {
            true => json!({"http2_protocol_options": {}}),
            false => json!({"http_protocol_options": {}}),
        };
        let options = json!({"typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": H2,
                "common_http_protocol_options": {"max_connection_duration": "2s"},
                "explicit_http_config": protocol,
            },
        }});
        let alone = |config: &mut lateen_proxy::ProxyConfig| config.concurrency = 1;
        let proxy = start_with(hop(cluster("up", &[address], options)), None, alone).await;
        let made = || {
            let labels = [("cluster_name", "up")];
            let metrics = proxy.handle.metrics();
            metrics.counter("envoy_cluster_upstream_cx_total", &labels)
        };
        for _ in 0..3 {
            assert_eq!(get(proxy.address("in"), "/").await.0, 200);
        }
        assert_eq!(made(), 1, "kept while it is young");
        // HTTP/2 connections are looked at once a second.
        tokio::time::sleep(Duration::from_millis(4500)).await;
        assert_eq!(get(proxy.address("in"), "/").await.0, 200);
        assert_eq!(made(), 2);
        proxy.handle.shutdown().await;
    }
}

/// A port that nobody listens on.
fn refusing() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn two_of_three_hosts_may_be_gone_before_anybody_says_so() {
    let slow = backend(|_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        text("ok")
    })
    .await;
    let hosts = [refusing(), slow, refusing()];
    // As Istio's default has it.
    let retries = json!({"retry_policy": {
        "retry_on": "connect-failure,refused-stream", "num_retries": 2,
        "host_selection_retry_max_attempts": "5",
        "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
        }}],
    }});
    let unbounded = json!({"lb_policy": "LEAST_REQUEST", "circuit_breakers": {"thresholds": [{"max_retries": 4_294_967_295_u32}]}});
    let cluster = cluster("up", &hosts, unbounded);
    let proxy = start(vec![
        listener(
            "in",
            json!([{"filters": [hcm(route_to("up", retries), json!({}))]}]),
        ),
        cluster,
    ])
    .await;
    let address = proxy.address("in");
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..100 {
        asked.spawn(async move { get(address, "/").await.0 });
    }
    let answers = asked.join_all().await;
    let failed = answers.iter().filter(|status| **status != 200).count();
    assert_eq!(failed, 0, "of {}", answers.len());
    proxy.handle.shutdown().await;
}
