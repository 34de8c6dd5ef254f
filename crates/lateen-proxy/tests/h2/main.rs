//! HTTP/2 conformance: what RFC 9113 and RFC 7541 ask of a server, asked of our listeners frame by frame, and what they ask of a
//! client, asked of our proxy by hosts ([`hosts`]).
//!
//! [`cases`] is a table: the section, what is sent, what has to come back. Every case runs on a connection of its own, against a listener in
//! plain text (prior knowledge, as a sidecar's) and one behind TLS with ALPN (as a gateway's). An error of a stream may be one of the
//! connection instead (RFC 9113 section 5.4). Every demand of h2spec's is among them, and held to what h2spec holds a server to.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod cases;
mod hosts;
mod misdirected;
mod wire;

#[path = "../attacks/frames.rs"]
#[allow(dead_code, reason = "another test uses the rest")]
mod frames;
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use cases::Case;

/// A connection, with or without TLS.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How a listener is reached.
#[derive(Clone)]
enum Door {
    Plain(SocketAddr),
    Tls(SocketAddr, tokio_rustls::TlsConnector),
}

impl Door {
    async fn open(&self) -> Box<dyn Io> {
        match self {
            Self::Plain(address) => Box::new(TcpStream::connect(*address).await.unwrap()),
            Self::Tls(address, connector) => {
                let tcp = TcpStream::connect(*address).await.unwrap();
                let name = ServerName::try_from("a.example").unwrap();
                let stream = connector.connect(name, tcp).await.unwrap();
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                Box::new(stream)
            }
        }
    }
}

fn chain(extra: Value) -> Value {
    let manager = json!({"http2_protocol_options": {
        "max_concurrent_streams": cases::STREAMS, "initial_stream_window_size": 65_535,
    }});
    let mut chain = json!({"filters": [hcm(route_to("up", json!({})), manager)]});
    merge(&mut chain, extra);
    json!([chain])
}

/// TLS with a certificate, and HTTP/2 by ALPN.
fn tls(chain: &str, key: &str) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [{
                    "certificate_chain": {"inline_string": chain},
                    "private_key": {"inline_string": key},
                }],
            },
        },
    })
}

/// A client that trusts these certificates and speaks HTTP/2.
fn client(
    trusted: impl IntoIterator<Item = rustls_pki_types::CertificateDer<'static>>,
) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A listener behind TLS with a certificate made for it, and what connects to it.
fn gateway() -> (Value, rustls::ClientConfig) {
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    let socket = tls(&made.cert.pem(), &made.signing_key.serialize_pem());
    let chain = chain(json!({"transport_socket": socket}));
    (
        listener("gateway", chain),
        client([made.cert.der().clone()]),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_keep_to_the_rules_of_http2() {
    let began = Instant::now();
    let backend = backend(|request| async move {
        let body = http_body_util::BodyExt::collect(request.into_body()).await;
        assert!(
            body.is_ok() || body.is_err(),
            "read, whatever becomes of it"
        );
        text("hello")
    })
    .await;
    let (gateway, client) = gateway();
    let proxy = start(vec![
        listener("sidecar", chain(json!({}))),
        gateway,
        cluster("up", &[backend], json!({})),
    ])
    .await;
    let doors = [
        ("sidecar", Door::Plain(proxy.address("sidecar"))),
        (
            "gateway",
            Door::Tls(proxy.address("gateway"), Arc::new(client).into()),
        ),
    ];
    let filter = std::env::var("CASES").unwrap_or_default();
    let mut tasks = Vec::new();
    for (at, door) in doors {
        for case in cases::all() {
            let name = format!("{at} {} {}", case.section, case.name);
            if name.contains(&filter) {
                tasks.push((name, tokio::spawn(run(case, door.clone()))));
            }
        }
    }
    let count = tasks.len();
    let mut failed = Vec::new();
    for (name, task) in tasks {
        if let Err(reason) = task.await.unwrap() {
            failed.push(format!("FAIL {name}: {reason}"));
        }
    }
    let seconds = began.elapsed().as_secs_f32();
    eprintln!(
        "h2: {} passed, {} failed, {seconds:.1} s",
        count - failed.len(),
        failed.len()
    );
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    proxy.handle.shutdown().await;
}

/// Runs a case; what came instead of what had to.
async fn run(case: Case, door: Door) -> Result<(), String> {
    let mut wire = wire::Wire::new(door.open().await);
    if !case.by_hand {
        wire.greet().await?;
    }
    for (at, step) in case.steps.iter().enumerate() {
        wire.step(step)
            .await
            .map_err(|reason| format!("step {}: {reason}", at + 1))?;
    }
    Ok(())
}
