//! The discovery protocol: messages, names and streams beyond measure, rejections without end, a client that never reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lateen_envoy::TypeUrl;
use lateen_envoy::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use lateen_envoy::pb::google::rpc::Status as Rejection;
use tonic::Code;

use crate::plane::{Plane, Stream, ask, first, is_served, node};

/// What an honest client may have to wait while somebody attacks: seconds on a machine that is busy, not minutes.
const BOUND: Duration = Duration::from_secs(10);

fn sidecar(namespace: &str) -> lateen_envoy::pb::envoy::config::core::v3::Node {
    node("sidecar", "web", namespace, &[])
}

/// Class: messages beyond measure. More than 16 MiB ends the stream unread, and only that.
#[tokio::test]
async fn an_oversize_message_ends_its_stream_alone() {
    let plane = Plane::start("").await;
    let token = plane.token("foo", "web");
    let name = "x".repeat(17 << 20);
    let request = first(sidecar("foo"), TypeUrl::ClusterLoadAssignment, &[&name]);
    let refused = ask(plane.secure(None), Some(&token), request)
        .await
        .unwrap_err();
    // The message is refused by its length, before there is a stream to tell so.
    assert!(
        matches!(refused, Code::OutOfRange | Code::Aborted | Code::Internal),
        "{refused:?}"
    );
    let name = "x".repeat(5000);
    let request = first(sidecar("foo"), TypeUrl::ClusterLoadAssignment, &[&name]);
    let refused = ask(plane.secure(None), Some(&token), request).await;
    assert_eq!(refused, Err(Code::InvalidArgument));
    is_served(&plane, "foo").await;
}

/// Class: handshakes that never end, from one address. Limits: 64 of an address and 256 at a time, each of 5 s. Outcome: further ones of that
/// address are closed, everybody else is served.
#[tokio::test]
async fn handshakes_that_never_end_keep_nobody_waiting() {
    let plane = Plane::start("").await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        // Ours are from the address that the control plane has; these are from another.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        silent.push(socket.connect((plane.ip, 15012).into()).await.unwrap());
    }
    let took = is_served(&plane, "foo").await;
    assert!(took < BOUND, "{took:?}");
    let mut last = silent.pop().unwrap();
    let mut nothing = [0; 1];
    let closed = tokio::io::AsyncReadExt::read(&mut last, &mut nothing);
    let closed = tokio::time::timeout(Duration::from_secs(4), closed).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
}

/// Class: subscription to a million names, in one message and in many. It ends the stream at 100,000 names of a type.
#[tokio::test]
async fn a_million_names_are_too_many() {
    let plane = Plane::start("").await;
    let token = plane.token("foo", "web");
    let names: Vec<String> = (0..1_000_000).map(|n| n.to_string()).collect();
    let mut request = first(sidecar("foo"), TypeUrl::ClusterLoadAssignment, &[]);
    request.resource_names_subscribe.clone_from(&names);
    let refused = ask(plane.secure(None), Some(&token), request).await;
    assert_eq!(refused, Err(Code::InvalidArgument));

    let request = first(sidecar("foo"), TypeUrl::ClusterLoadAssignment, &["0"]);
    let mut stream = Stream::open(plane.secure(None), Some(&token), request)
        .await
        .unwrap();
    let requests = stream.requests.clone();
    let asking = tokio::spawn(async move {
        for chunk in names.chunks(40_000) {
            let more = DeltaDiscoveryRequest {
                type_url: TypeUrl::ClusterLoadAssignment.as_str().to_owned(),
                resource_names_subscribe: chunk.to_vec(),
                ..DeltaDiscoveryRequest::default()
            };
            if requests.send(more).await.is_err() {
                return;
            }
        }
    });
    let ended = loop {
        match stream.next().await {
            Ok(_) => {}
            Err(status) => break status.code(),
        }
    };
    assert_eq!(ended, Code::InvalidArgument);
    drop(stream);
    asking.await.unwrap();
    is_served(&plane, "bar").await;
}

/// Class: stream floods. One workload has 32 streams at most, and opening more keeps nobody else waiting.
#[tokio::test]
async fn a_flood_of_streams_keeps_nobody_else_waiting() {
    let plane = Plane::start("").await;
    let token = plane.token("foo", "web");
    let mut open = Vec::new();
    let mut refused = 0;
    for number in 0..60 {
        // Several connections, as a connection has a limit of its own; several names, as a node may be renamed.
        let node = node("sidecar", &format!("invented-{number}"), "foo", &[]);
        let request = first(node, TypeUrl::Listener, &[]);
        let mut stream = Stream::open(plane.secure(None), Some(&token), request)
            .await
            .unwrap();
        match stream.next().await {
            Ok(_) => open.push(stream),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                refused += 1;
            }
        }
    }
    assert!(open.len() <= 40, "{} are open", open.len());
    assert!(refused >= 20, "{refused} were refused");
    let took = is_served(&plane, "bar").await;
    assert!(took < BOUND, "{took:?}");
}

/// Class: the same without a credential: whoever may not come in takes nobody's turn.
#[tokio::test]
async fn strangers_take_no_turns() {
    let plane = Plane::start("").await;
    let channel = plane.secure(None);
    for _ in 0..400 {
        let request = first(sidecar("foo"), TypeUrl::Listener, &[]);
        assert_eq!(
            ask(channel.clone(), None, request).await,
            Err(Code::Unauthenticated)
        );
    }
    // 200 turns at once and 100 a second are what there is for all.
    let took = is_served(&plane, "foo").await;
    assert!(took < BOUND, "{took:?}");
}

/// Class: NACK storms. What a client rejects is not sent again, its requests are read at a bounded rate, and others are pushed to.
#[tokio::test]
async fn a_storm_of_rejections_delays_nobody_elses_push() {
    let plane = Plane::start("").await;
    let token = plane.token("foo", "web");
    let request = first(sidecar("foo"), TypeUrl::Cluster, &[]);
    let mut stream = Stream::open(plane.secure(None), Some(&token), request)
        .await
        .unwrap();
    let nonce = stream.next().await.unwrap().nonce;
    let requests = stream.requests.clone();
    let sent = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&sent);
    let storm = tokio::spawn(async move {
        let rejection = DeltaDiscoveryRequest {
            type_url: TypeUrl::Cluster.as_str().to_owned(),
            response_nonce: nonce,
            error_detail: Some(Rejection {
                code: 13,
                message: "no ".repeat(1000),
                ..Rejection::default()
            }),
            ..DeltaDiscoveryRequest::default()
        };
        while requests.send(rejection.clone()).await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let other = plane.token("bar", "web");
    let request = first(sidecar("bar"), TypeUrl::Cluster, &[]);
    let mut honest = Stream::open(plane.secure(None), Some(&other), request)
        .await
        .unwrap();
    honest.until(|_| true).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    plane.write("new.yaml", &service("new", "bar"));
    let seen = honest
        .until(|response| {
            response
                .resources
                .iter()
                .any(|one| one.name.contains("new.bar"))
        })
        .await;
    let took = seen - began;
    assert!(took < BOUND, "{took:?}");
    // The first thousand pass at once, then a hundred a second: the rest waits in the client.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (sent, elapsed) = (sent.load(Ordering::Relaxed), began.elapsed());
    let again = tokio::time::timeout(Duration::from_millis(200), stream.answers.message()).await;
    if let Ok(Ok(Some(response))) = again {
        let names: Vec<_> = response
            .resources
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert!(
            names.iter().all(|name| name.contains("new.bar")),
            "sent again: {names:?}"
        );
    }
    storm.abort();
    // What the windows of the connection hold on top is bounded, too.
    let bound = 3000.0 + 100.0 * elapsed.as_secs_f64();
    assert!(f64::from(sent) < bound, "{sent} were read in {elapsed:?}");
}

fn service(name: &str, namespace: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{clusterIP: 10.96.1.1, ports: [{{name: http, port: 80}}]}}\n"
    )
}

/// Class: slow readers. A client that takes nothing is not waited for by others.
#[tokio::test]
async fn a_client_that_never_reads_delays_nobody_elses_push() {
    let plane = Plane::start("").await;
    let token = plane.token("foo", "web");
    let request = first(sidecar("foo"), TypeUrl::Cluster, &[]);
    let silent = Stream::open(plane.secure(None), Some(&token), request)
        .await
        .unwrap();
    let other = plane.token("bar", "web");
    let request = first(sidecar("bar"), TypeUrl::Cluster, &[]);
    let mut honest = Stream::open(plane.secure(None), Some(&other), request)
        .await
        .unwrap();
    honest.until(|_| true).await;
    for number in 0..5 {
        let name = format!("new{number}");
        let began = Instant::now();
        plane.write("new.yaml", &service(&name, "bar"));
        let wanted = format!("{name}.bar");
        let fits =
            |response: &lateen_envoy::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse| {
                response
                    .resources
                    .iter()
                    .any(|one| one.name.contains(&wanted))
            };
        let took = honest.until(fits).await - began;
        assert!(took < BOUND, "{took:?}");
    }
    drop(silent);
}
