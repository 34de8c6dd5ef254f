//! Servers that mean ill: upstreams and authorizers. Who asks them is no client's fault, so the answer is the proxy's own and the next
//! request is served.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::*;

/// A server that answers whatever it reads, on each connection, with these bytes again and again until nobody takes them.
async fn babbling(head: Vec<u8>, again: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (head, again) = (head.clone(), again.clone());
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                let asked = stream.read(&mut buffer).await;
                if !matches!(asked, Ok(1..)) || stream.write_all(&head).await.is_err() {
                    return;
                }
                // 64 MiB at most: more than any limit here, and an end for a test that fails.
                for _ in 0..(64 << 20) / again.len().max(1) {
                    if again.is_empty() || stream.write_all(&again).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn status(address: SocketAddr) -> u16 {
    let request = Request::get("/").header("host", "a.example");
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let (status, _, _): (u16, http::HeaderMap, String) =
        tokio::time::timeout(Duration::from_secs(10), send(address, request))
            .await
            .expect("an answer in time");
    status
}

/// Class: an upstream whose answer never begins. Limits: 32 interim responses, 60 KiB and 100 fields of a head. Outcome: 502 or 503, and
/// the connection to it ends.
#[tokio::test]
async fn an_upstream_whose_head_never_ends_is_not_waited_for() {
    let interim = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".to_vec();
    let begun = b"HTTP/1.1 200 OK\r\n".to_vec();
    for (what, head, again) in [
        ("interim responses", Vec::new(), interim),
        ("fields", begun.clone(), b"x: y\r\n".to_vec()),
        ("one field", begun, vec![b'a'; 4096]),
        ("nothing that is HTTP", Vec::new(), vec![0; 4096]),
    ] {
        let proxy = guarded(babbling(head, again).await, json!({})).await;
        let status = status(proxy.address("in")).await;
        assert!(matches!(status, 502 | 503), "{what}: {status}");
        proxy.handle.shutdown().await;
    }
}

/// A proxy that asks this authorizer about everything.
async fn asking(authorizer: SocketAddr) -> Running {
    let (upstream, _) = recorder(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let ext_authz = filter(
        "envoy.filters.http.ext_authz",
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "http_service": {"server_uri": {"uri": "http://authz", "cluster": "authz", "timeout": "3s"}},
        }),
    );
    let router = filter("envoy.filters.http.router", json!({"@type": ROUTER}));
    let manager = hcm(
        route_to("up", json!({})),
        json!({"http_filters": [ext_authz, router]}),
    );
    start(vec![
        listener("in", json!([{"filters": [manager]}])),
        cluster("up", &[upstream], json!({})),
        cluster("authz", &[authorizer], json!({})),
    ])
    .await
}

/// Class: an authorizer whose answer has no end, or is none. Limits: 1 MiB of an answer, a head as any upstream's. Outcome: nobody is
/// let in, although the status says 200.
#[tokio::test]
async fn an_authorizer_whose_answer_has_no_end_lets_nobody_in() {
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let chunk = [&b"10000\r\n"[..], &vec![b'a'; 0x10000], b"\r\n"].concat();
    let long = b"HTTP/1.1 200 OK\r\ncontent-length: 1048577\r\n\r\n".to_vec();
    let fields = "x: y\r\n".repeat(200);
    let many = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n").into_bytes();
    for (what, head, again) in [
        ("chunks without end", chunked.clone(), chunk),
        ("a body that is too long", long, vec![b'a'; 65536]),
        ("a chunk that is none", chunked, b"zzzz\r\n".to_vec()),
        ("too many fields", many, Vec::new()),
    ] {
        let proxy = asking(babbling(head, again).await).await;
        assert_eq!(status(proxy.address("in")).await, 403, "{what}");
        proxy.handle.shutdown().await;
    }
    let good = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
    let proxy = asking(babbling(good, Vec::new()).await).await;
    assert_eq!(status(proxy.address("in")).await, 200);
    proxy.handle.shutdown().await;
}
