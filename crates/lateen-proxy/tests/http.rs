//! HTTP through the proxy on loopback: versions, bodies, trailers, upgrades, retries, timeouts, local replies, reloads.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn hop(routes: Value, clusters: Vec<Value>) -> Vec<Value> {
    let mut list = vec![listener(
        "in",
        json!([{"filters": [hcm(routes, json!({}))]}]),
    )];
    list.extend(clusters);
    list
}

#[tokio::test]
async fn a_request_goes_through_with_envoys_headers() {
    let address = backend(|request| async move {
        assert_eq!(request.headers()["host"], "test.example");
        assert_eq!(request.headers()["x-forwarded-proto"], "http");
        assert_eq!(request.headers()["x-request-id"].len(), 36);
        assert!(!request.headers().contains_key("keep-alive"));
        text(format!("{} {}", request.method(), request.uri()))
    })
    .await;
    let proxy = start(hop(
        route_to("up", json!({})),
        vec![cluster("up", &[address], json!({}))],
    ))
    .await;
    let (status, headers, body) = get(proxy.address("in"), "/a?b=c").await;
    assert_eq!((status, body.as_str()), (200, "GET /a?b=c"));
    assert_eq!(headers["server"], "envoy");
    assert!(headers.contains_key("x-envoy-upstream-service-time"));
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn a_kept_connection_carries_many_requests_and_bodies() {
    let address = backend(|request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text(format!("{}", body.len()))
    })
    .await;
    let proxy = start(hop(
        route_to("up", json!({})),
        vec![cluster("up", &[address], json!({}))],
    ))
    .await;
    let mut sender = client(proxy.address("in")).await;
    for size in [0, 1, 70_000, 3, 2_000_000] {
        let body = Full::new(Bytes::from(vec![b'x'; size]));
        let request = Request::post("/").header("host", "a").body(body).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            size.to_string()
        );
    }
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn http2_and_trailers_pass_both_ways() {
    let address = backend(|request| async move {
        let collected = request.into_body().collect().await.unwrap();
        let got = collected
            .trailers()
            .is_some_and(|t| t.contains_key("x-client-trailer"));
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("x-got", if got { "yes" } else { "no" }.parse().unwrap());
        let frames = [
            Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x02hi"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        Response::builder()
            .header("content-type", "application/grpc")
            .body(body.boxed())
            .unwrap()
    })
    .await;
    let proxy = start(hop(
        route_to("up", json!({})),
        vec![cluster("up", &[address], http2())],
    ))
    .await;
    let stream = TcpStream::connect(proxy.address("in")).await.unwrap();
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(driver);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-client-trailer", "1".parse().unwrap());
    let frames: [Result<_, std::convert::Infallible>; 2] = [
        Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x01a"))),
        Ok(Frame::trailers(trailers)),
    ];
    let request = Request::post(proxy.url("in", "/svc/Method"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(futures_util::stream::iter(frames)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().unwrap().clone();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-got"]),
        (&"0".parse().unwrap(), &"yes".parse().unwrap())
    );
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn grpc_callers_get_grpc_answers_from_the_proxy() {
    let proxy = start(hop(route_to("gone", json!({})), vec![])).await;
    let request = Request::post("/x")
        .header("host", "a")
        .header("content-type", "application/grpc")
        .body(Full::default())
        .unwrap();
    let (status, headers, _) = send(proxy.address("in"), request).await;
    assert_eq!(
        (status, &headers["grpc-status"]),
        (200, &"14".parse().unwrap())
    );
    let (status, _, body) = get(proxy.address("in"), "/").await;
    assert_eq!((status, body.as_str()), (503, ""));
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn a_websocket_echoes() {
    let address = backend(|mut request| async move {
        assert_eq!(request.headers()["upgrade"], "websocket");
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("upgrade", "websocket")
            .header("connection", "upgrade")
            .body(Full::default().boxed())
            .unwrap()
    })
    .await;
    let upgrades = json!({"upgrade_configs": [{"upgrade_type": "websocket"}]});
    let manager = hcm(route_to("up", json!({})), upgrades);
    let proxy = start(vec![
        listener("in", json!([{"filters": [manager]}])),
        listener(
            "plain",
            json!([{"filters": [hcm(route_to("up", json!({})), json!({}))]}]),
        ),
        cluster("up", &[address], json!({})),
    ])
    .await;
    let ask = |address| async move {
        let request = Request::get("/ws")
            .header("host", "a")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .body(Full::<Bytes>::default())
            .unwrap();
        client(address).await.send_request(request).await.unwrap()
    };
    let response = ask(proxy.address("in")).await;
    assert_eq!(response.status(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    for word in ["hello", "again"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut back = vec![0; word.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, word.as_bytes());
    }
    assert_eq!(ask(proxy.address("plain")).await.status(), 403);
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn a_failing_host_is_tried_again_on_another() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let flaky = backend(move |request| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let status = if call < 2 { 503 } else { 200 };
            Response::builder()
                .status(status)
                .body(Full::new(body).boxed())
                .unwrap()
        }
    })
    .await;
    let retry = json!({"retry_policy": {"retry_on": "5xx", "num_retries": 3}});
    let proxy = start(hop(
        route_to("up", retry),
        vec![cluster("up", &[flaky], json!({}))],
    ))
    .await;
    let request = Request::post("/")
        .header("host", "a")
        .body(Full::new(Bytes::from_static(b"payload")))
        .unwrap();
    let (status, _, body) = send(proxy.address("in"), request).await;
    assert_eq!(
        (status, body.as_str(), calls.load(Ordering::SeqCst)),
        (200, "payload", 3)
    );
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn a_host_that_refuses_is_worded_as_envoy_does() {
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let proxy = start(hop(
        route_to("up", json!({})),
        vec![cluster("up", &[dead], json!({}))],
    ))
    .await;
    let (status, _, body) = get(proxy.address("in"), "/").await;
    assert_eq!(status, 503);
    assert!(
        body.starts_with(
            "upstream connect error or disconnect/reset before headers. reset reason: "
        ),
        "{body}"
    );
    let unmatched = json!([{"match": {"prefix": "/only"}, "route": {"cluster": "up"}}]);
    proxy.replace(hop(unmatched, vec![cluster("up", &[], json!({}))]));
    wait_for(|| async { get(proxy.address("in"), "/").await.0 == 404 }).await;
    let (status, _, body) = get(proxy.address("in"), "/only").await;
    assert_eq!((status, body.as_str()), (503, "no healthy upstream"));
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn timeouts_answer_504_and_try_timeouts_try_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let slow = backend(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(Duration::from_secs(30)).await;
            text("late")
        }
    })
    .await;
    let routes = json!([
        {"match": {"prefix": "/try"}, "route": {"cluster": "up", "timeout": "0s",
            "retry_policy": {"retry_on": "reset", "num_retries": 1, "per_try_timeout": "0.1s"}}},
        {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0.1s"}},
    ]);
    let proxy = start(hop(routes, vec![cluster("up", &[slow], json!({}))])).await;
    let (status, _, body) = get(proxy.address("in"), "/").await;
    assert_eq!((status, body.as_str()), (504, "upstream request timeout"));
    assert_eq!(calls.swap(0, Ordering::SeqCst), 1);
    let (status, _, body) = get(proxy.address("in"), "/try").await;
    assert_eq!((status, body.as_str()), (504, "upstream request timeout"));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn a_connection_closed_between_requests_is_replaced() {
    // Answers one request per connection, and closes it a moment later without a word.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await;
                let _ = stream.read(&mut buffer).await; // the next request is never answered
            });
        }
    });
    let proxy = start(hop(
        route_to("up", json!({})),
        vec![cluster("up", &[address], json!({}))],
    ))
    .await;
    let mut sender = client(proxy.address("in")).await;
    for _ in 0..20 {
        sender.ready().await.unwrap();
        let request = Request::get("/")
            .header("host", "a")
            .body(Full::default())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
    }
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn access_rules_refuse_and_direct_responses_answer() {
    let rbac = filter(
        "envoy.filters.http.rbac",
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "DENY", "policies": {"ns[default]-policy[no-admin]-rule[0]": {
                "permissions": [{"url_path": {"path": {"prefix": "/admin"}}}],
                "principals": [{"any": true}],
            }}},
        }),
    );
    let router = filter("envoy.filters.http.router", json!({"@type": ROUTER}));
    let routes = json!([{"match": {"prefix": "/"}, "direct_response": {"status": 418, "body": {"inline_string": "teapot"}}}]);
    let manager = hcm(
        routes,
        json!({"http_filters": [rbac, router], "normalize_path": true, "merge_slashes": true}),
    );
    let proxy = start(vec![listener("in", json!([{"filters": [manager]}]))]).await;
    assert_eq!(get(proxy.address("in"), "/x").await.2, "teapot");
    for path in ["/admin", "/x/../admin", "//admin/y", "/%61dmin"] {
        let (status, _, body) = get(proxy.address("in"), path).await;
        assert_eq!(
            (status, body.as_str()),
            (403, "RBAC: access denied"),
            "{path}"
        );
    }
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn reloads_under_load_fail_no_request() {
    let one = backend(|_| async { text("one") }).await;
    let two = backend(|_| async { text("two") }).await;
    let configuration = |n: usize| {
        let weights = json!([
            {"name": "one", "weight": 10 + n}, {"name": "two", "weight": 90 - n},
        ]);
        let routes = json!([{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": weights}, "timeout": "0s"}}]);
        let stat = json!({"stat_prefix": format!("generation-{n}")});
        vec![
            listener("in", json!([{"filters": [hcm(routes, stat)]}])),
            cluster(
                "one",
                &[one],
                json!({"connect_timeout": format!("{}s", 1 + n)}),
            ),
            cluster("two", &[two], json!({})),
        ]
    };
    let proxy = start(configuration(0)).await;
    let address = proxy.address("in");
    let stop = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..8)
        .map(|_| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut sender = client(address).await;
                let mut done = 0;
                while stop.load(Ordering::SeqCst) == 0 {
                    sender.ready().await.expect("the connection was kept");
                    let request = Request::get("/")
                        .header("host", "a")
                        .body(Full::default())
                        .unwrap();
                    let response = sender.send_request(request).await.expect("an answer");
                    assert_eq!(response.status(), 200);
                    response.into_body().collect().await.expect("a whole body");
                    done += 1;
                }
                done
            })
        })
        .collect();
    for n in 1..30 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        proxy.replace(configuration(n));
    }
    stop.store(1, Ordering::SeqCst);
    let mut total = 0;
    for task in load {
        total += task.await.unwrap();
    }
    assert!(total > 100, "only {total} requests");
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn draining_says_goodbye_and_ends() {
    let address = backend(|_| async { text("ok") }).await;
    let proxy = start(hop(
        route_to("up", json!({})),
        vec![cluster("up", &[address], json!({}))],
    ))
    .await;
    let mut sender = client(proxy.address("in")).await;
    let ask = || {
        Request::get("/")
            .header("host", "a")
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    sender
        .send_request(ask())
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    // The idle connection is closed, a new one is served once with `connection: close`.
    let ((), late) = tokio::join!(proxy.handle.drain(), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client(proxy.address("in"))
            .await
            .send_request(ask())
            .await
            .unwrap()
    });
    assert_eq!(late.headers()["connection"], "close");
    // The client learns of it when it comes to run.
    wait_for(|| async { sender.is_closed() }).await;
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn the_admin_interface_shows_what_runs() {
    let address = backend(|_| async { text("ok") }).await;
    let proxy = start(hop(
        route_to("up", json!({})),
        vec![cluster("up", &[address], json!({}))],
    ))
    .await;
    get(proxy.address("in"), "/").await;
    let admin = proxy.handle.admin_address().unwrap();
    assert_eq!(get(admin, "/ready").await.2, "LIVE\n");
    let (_, _, dump) = get(admin, "/config_dump?include_eds").await;
    let dump: Value = serde_json::from_str(&dump).unwrap();
    let parsed: Result<lateen_envoy::pb::envoy::admin::v3::ConfigDump, _> =
        lateen_envoy::json::from_value(dump);
    assert_eq!(parsed.unwrap().configs.len(), 6);
    let (_, _, stats) = get(admin, "/stats").await;
    assert!(stats.contains("cluster.up.upstream_rq_total: 1"), "{stats}");
    assert!(
        get(admin, "/stats/prometheus")
            .await
            .2
            .contains("envoy_cluster_upstream_rq_total")
    );
    assert!(
        get(admin, "/clusters")
            .await
            .2
            .contains(&format!("up::{address}::health_flags::healthy"))
    );
    assert!(get(admin, "/listeners").await.2.starts_with("in::127.0.1."));
    assert_eq!(get(admin, "/nothing").await.0, 404);
    assert_eq!(get(admin, "/quitquitquit").await.0, 405);
    for page in [
        "/help",
        "/certs",
        "/memory",
        "/server_info",
        "/clusters?format=json",
        "/listeners?format=json",
        "/stats?format=json",
    ] {
        assert_eq!(get(admin, page).await.0, 200, "{page}");
    }
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn proxies_introduce_their_workloads_to_each_other_and_to_nobody_else() {
    let exchange = |discovery: &str, propagation: &str| {
        filter(
            "istio.peer_metadata",
            json!({
                "@type": "type.googleapis.com/io.istio.http.peer_metadata.Config",
                discovery: [{"istio_headers": {}}],
                propagation: [{"istio_headers": {}}],
            }),
        )
    };
    let stats = filter(
        "istio.stats",
        json!({"@type": "type.googleapis.com/stats.PluginConfig"}),
    );
    let router = filter("envoy.filters.http.router", json!({"@type": ROUTER}));
    let workload = |name: &'static str| {
        move |config: &mut lateen_proxy::ProxyConfig| {
            let metadata =
                json!({"WORKLOAD_NAME": name, "NAMESPACE": "default", "LABELS": {"app": name}});
            config.node.metadata = metadata.as_object().map(lateen_envoy::struct_from_json);
        }
    };
    let app = backend(|request| async move {
        let introduced = request.headers().contains_key("x-envoy-peer-metadata");
        text(format!("introduced: {introduced}"))
    })
    .await;
    let inbound = json!({"http_filters": [exchange("downstream_discovery", "downstream_propagation"), stats, router]});
    let mut listener_in = listener(
        "in",
        json!([{"filters": [hcm(route_to("app", json!({})), inbound)]}]),
    );
    merge(&mut listener_in, json!({"traffic_direction": "INBOUND"}));
    let server = start_with(
        vec![listener_in, cluster("app", &[app], json!({}))],
        None,
        workload("server"),
    )
    .await;
    let outbound = json!({"http_filters": [exchange("upstream_discovery", "upstream_propagation"), stats, router]});
    let mut listener_out = listener(
        "out",
        json!([{"filters": [hcm(route_to("up", json!({})), outbound)]}]),
    );
    merge(&mut listener_out, json!({"traffic_direction": "OUTBOUND"}));
    let up = cluster("up", &[server.address("in")], json!({}));
    let caller = start_with(vec![listener_out, up], None, workload("caller")).await;

    let (status, headers, body) = get(caller.address("out"), "/").await;
    assert_eq!((status, body.as_str()), (200, "introduced: false"));
    assert!(!headers.contains_key("x-envoy-peer-metadata"));
    let ends = [
        ("source_workload", "caller"),
        ("destination_workload", "server"),
        ("response_code", "200"),
    ];
    let at_server = [&ends[..], &[("reporter", "destination")]].concat();
    let at_caller = [
        &ends[..],
        &[("reporter", "source"), ("destination_app", "server")],
    ]
    .concat();
    assert_eq!(
        server
            .handle
            .metrics()
            .counter("istio_requests_total", &at_server),
        1
    );
    assert_eq!(
        caller
            .handle
            .metrics()
            .counter("istio_requests_total", &at_caller),
        1
    );
    caller.handle.shutdown().await;
    server.handle.shutdown().await;
}

#[tokio::test]
async fn clients_that_go_away_leave_nothing_behind() {
    let slow = backend(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        text("late")
    })
    .await;
    let proxy = start(hop(
        route_to("up", json!({})),
        vec![cluster("up", &[slow], json!({}))],
    ))
    .await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(proxy.address("in")).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gauge = |name: &str| match proxy.handle.metrics().value(name, &[]) {
        Some(lateen_telemetry::metrics::Value::Gauge(value)) => value,
        other => panic!("{name}: {other:?}"),
    };
    let active = [
        "envoy_cluster_upstream_rq_active",
        "envoy_cluster_upstream_cx_active",
        "envoy_http_downstream_rq_active",
        "envoy_http_downstream_cx_active",
        "envoy_listener_downstream_cx_active",
    ];
    wait_for(|| async { active.iter().all(|name| gauge(name) == 0) }).await;
    proxy.handle.shutdown().await;
}

/// A backend whose every answer goes on in parts, one every tenth of a second, without end.
async fn endless() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                let mut sent = stream.write_all(head).await;
                while sent.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    sent = stream.write_all(b"4\r\npart\r\n").await;
                }
            });
        }
    });
    address
}

/// Decision 0006: a request under way goes on under the rules it began with, until its own time is over; the next one on a connection
/// that was open before, and every new one, is judged by the new rules.
#[tokio::test]
async fn a_rule_that_comes_to_deny_holds_for_the_next_request_and_not_for_one_under_way() {
    let parts = endless().await;
    let quick = backend(|_| async { text("quick") }).await;
    let resources = |denied: &str| {
        let rules = filter(
            "envoy.filters.http.rbac",
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
                "rules": {"action": "DENY", "policies": {"some": {
                    "permissions": [{"url_path": {"path": {"prefix": denied}}}],
                    "principals": [{"any": true}],
                }}},
            }),
        );
        let router = filter("envoy.filters.http.router", json!({"@type": ROUTER}));
        let routes = json!([
            {"match": {"prefix": "/parts/short"}, "route": {"cluster": "parts", "timeout": "0s", "max_stream_duration": {"max_stream_duration": "3s"}}},
            {"match": {"prefix": "/parts"}, "route": {"cluster": "parts", "timeout": "0s"}},
            {"match": {"prefix": "/"}, "route": {"cluster": "quick"}},
        ]);
        let manager = hcm(routes, json!({"http_filters": [rules, router]}));
        vec![
            listener("in", json!([{"filters": [manager]}])),
            cluster("parts", &[parts], json!({})),
            cluster("quick", &[quick], json!({})),
        ]
    };
    let proxy = start(resources("/nothing")).await;
    let address = proxy.address("in");
    let begin = |path: &'static str| async move {
        let mut sender = client(address).await;
        let request = Request::get(path).header("host", "a").body(Full::default());
        let response = sender.send_request(request.unwrap()).await.unwrap();
        (response.status(), response.into_body(), sender)
    };
    let (status, mut long, _open) = begin("/parts/long").await;
    assert_eq!(status, StatusCode::OK);
    let (_, mut short, _open_too) = begin("/parts/short").await;
    let (status, body, mut idle) = begin("/quick").await;
    assert_eq!(status, StatusCode::OK);
    body.collect().await.unwrap();

    proxy.replace(resources("/"));
    wait_for(|| async { get(address, "/quick").await.0 == 403 }).await;
    let request = Request::get("/quick")
        .header("host", "a")
        .body(Full::default());
    let next = idle.send_request(request.unwrap()).await.unwrap();
    assert_eq!(next.status(), StatusCode::FORBIDDEN);
    assert_eq!(begin("/parts/long").await.0, StatusCode::FORBIDDEN);
    // What was under way still gets its parts …
    for _ in 0..5 {
        assert!(long.frame().await.unwrap().is_ok());
    }
    // … and ends when its own time is over.
    let ends = async { while let Some(Ok(_)) = short.frame().await {} };
    let ended = tokio::time::timeout(Duration::from_secs(15), ends).await;
    assert!(ended.is_ok(), "a stream whose time is limited ends");
    assert!(long.frame().await.unwrap().is_ok());
    proxy.handle.shutdown().await;
}

/// `max_requests_per_connection`, which over HTTP/2 ends a connection gracefully on either side.
#[tokio::test]
async fn http2_connections_carry_so_many_requests_and_no_more() {
    let address = backend(|_| async { text("here") }).await;
    let mut once = http2();
    once["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
        ["common_http_protocol_options"] = json!({"max_requests_per_connection": 2});
    let manager = json!({"common_http_protocol_options": {"max_requests_per_connection": 3}});
    let resources = vec![
        listener(
            "in",
            json!([{"filters": [hcm(route_to("up", json!({})), manager)]}]),
        ),
        cluster("up", &[address], once),
    ];
    // Each worker has connections of its own; with one, they can be counted.
    let proxy = start_with(resources, None, |config| config.concurrency = 1).await;
    for connection in 1..=2_u64 {
        let stream = TcpStream::connect(proxy.address("in")).await.unwrap();
        let (mut sender, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        let driver = tokio::spawn(driver);
        for _ in 0..3 {
            let request = Request::get(proxy.url("in", "/"))
                .body(Full::<Bytes>::default())
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, "here");
        }
        // The proxy said that it takes no more, and ends it.
        let ended = tokio::time::timeout(Duration::from_secs(20), driver).await;
        assert!(ended.unwrap().unwrap().is_ok());
        let made = proxy
            .handle
            .metrics()
            .value("envoy_cluster_upstream_cx_total", &[]);
        let Some(lateen_telemetry::metrics::Value::Counter(made)) = made else {
            panic!("{made:?}");
        };
        assert_eq!(made, (connection * 3).div_ceil(2), "two requests each");
    }
    proxy.handle.shutdown().await;
}
