//! Connections that clients share between names: 421 for a host that another certificate stands for (RFC 9110 section 15.5.20).

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::support::*;

struct Certificate {
    chain: String,
    key: String,
    der: rustls_pki_types::CertificateDer<'static>,
}

fn certificate(names: &[&str]) -> Certificate {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    Certificate {
        chain: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        der: made.cert.der().clone(),
    }
}

/// What serves one name with a certificate.
fn chain(name: &str, certificate: &Certificate) -> Value {
    let route = json!([{
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": name}},
    }]);
    json!({
        "name": name,
        "filter_chain_match": {"server_names": [name]},
        "filters": [hcm(route, json!({}))],
        "transport_socket": super::tls(&certificate.chain, &certificate.key),
    })
}

async fn connect(address: SocketAddr, trusted: &[&Certificate]) -> SendRequest<Empty<Bytes>> {
    let connector: TlsConnector =
        Arc::new(super::client(trusted.iter().map(|c| c.der.clone()))).into();
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("a.example").unwrap();
    let stream = connector.connect(name, tcp).await.unwrap();
    let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(driver);
    sender
}

#[tokio::test]
async fn a_host_of_another_certificate_is_asked_for_on_a_connection_of_its_own() {
    let shared = certificate(&["a.example", "c.example"]);
    let other = certificate(&["b.example"]);
    let inspector =
        "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
    let mut gateway = listener(
        "shared",
        json!([
            chain("a.example", &shared),
            chain("b.example", &other),
            chain("c.example", &shared),
        ]),
    );
    let filters = json!([filter(
        "envoy.filters.listener.tls_inspector",
        json!({"@type": inspector})
    )]);
    merge(&mut gateway, json!({"listener_filters": filters}));
    let proxy = start(vec![gateway]).await;
    let mut sender = connect(proxy.address("shared"), &[&shared]).await;
    let mut status = async |host: &str| {
        let request = Request::get(format!("https://{host}/"))
            .body(Empty::new())
            .unwrap();
        sender
            .send_request(request)
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(status("a.example").await, 200);
    assert_eq!(
        status("b.example").await,
        421,
        "another certificate stands for it"
    );
    assert_eq!(status("B.example:443").await, 421, "however it is written");
    assert_eq!(
        status("c.example").await,
        200,
        "the same certificate stands for it"
    );
    assert_eq!(status("a.example").await, 200, "the connection goes on");
    proxy.handle.shutdown().await;
}
