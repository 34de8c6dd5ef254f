//! What a client's TLS connection holds at a gateway once it has carried large bodies and is idle, in bytes of the heap.
//!
//! A budget here may go down. One that has to go up is a decision, made in the commit that raises it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/heap.rs"]
mod heap;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use heap::{Held, opt_out};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;
use support::{cluster, filter, hcm, listener, route_to, start_with};

/// Connections that are held at once.
const MANY: usize = 50;
/// Requests on each of them, and the bytes of their answers: more than any buffer.
const REQUESTS: usize = 3;
const BODY: usize = 512 * 1024;
/// Bytes of the heap for one idle TLS connection, what is beside it towards the application included.
const EACH: i64 = 20_000;

type Client = StreamOwned<ClientConnection, TcpStream>;

/// An application that answers everything with a large body.
fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        opt_out();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                opt_out();
                let body = vec![b'x'; BODY];
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer) {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n");
                    // The proxy may have gone by now.
                    let sent = stream.write_all(head.as_bytes());
                    if sent.and_then(|()| stream.write_all(&body)).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn connect(proxy: SocketAddr, config: &Arc<ClientConfig>) -> Client {
    let name = "gateway.example".try_into().unwrap();
    let tls = ClientConnection::new(Arc::clone(config), name).unwrap();
    StreamOwned::new(tls, TcpStream::connect(proxy).unwrap())
}

fn request(client: &mut Client) {
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: gateway.example\r\n\r\n")
        .unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let mut read = Vec::new();
    let body_at = loop {
        let n = client.read(&mut buffer).unwrap();
        assert!(n > 0, "the connection was closed");
        read.extend_from_slice(&buffer[..n]);
        if let Some(at) = read.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let mut left = BODY - (read.len() - body_at);
    while left > 0 {
        let n = client.read(&mut buffer).unwrap();
        assert!(n > 0, "the body ended early");
        left -= n;
    }
}

/// Connections that have carried requests, all at the same time.
fn clients(proxy: SocketAddr, config: &Arc<ClientConfig>, count: usize) -> Vec<Client> {
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let config = Arc::clone(config);
            std::thread::spawn(move || {
                opt_out();
                let mut client = connect(proxy, &config);
                (0..REQUESTS).for_each(|_| request(&mut client));
                client
            })
        })
        .collect();
    threads.into_iter().map(|t| t.join().unwrap()).collect()
}

async fn held_by(proxy: SocketAddr, config: &Arc<ClientConfig>, count: usize) -> Vec<Client> {
    let config = Arc::clone(config);
    let work = move || {
        opt_out();
        clients(proxy, &config, count)
    };
    let clients = tokio::task::spawn_blocking(work).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    clients
}

#[tokio::test(flavor = "current_thread")]
async fn idle_tls_connections_at_a_gateway_give_back_what_their_load_needed() {
    opt_out();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["gateway.example".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let chain = json!({
        "filters": [hcm(route_to("app", json!({})), json!({}))],
        "transport_socket": filter("envoy.transport_sockets.tls", json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificates": [{
                "certificate_chain": {"inline_string": certificate.pem()},
                "private_key": {"inline_string": key.serialize_pem()},
            }]},
        })),
    });
    let resources = vec![
        listener("gateway", json!([chain])),
        cluster("app", &[application()], json!({})),
    ];
    let gateway = start_with(resources, None, |config| config.concurrency = 1).await;
    let address = gateway.address("gateway");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    // What is made once is made before the count begins.
    let first = held_by(address, &config, 1).await;
    let before = Held::now();
    let held = held_by(address, &config, MANY).await;
    let more = Held::now().since(&before);
    let many = i64::try_from(MANY).unwrap();
    more.print(many);
    let each = more.bytes / many;
    println!("{each} bytes for each of {MANY} connections, budget {EACH}");
    assert!(each <= EACH, "{each} bytes, the budget is {EACH}");
    drop((first, held));
}
