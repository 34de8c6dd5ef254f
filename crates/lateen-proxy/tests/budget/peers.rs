//! Hosts and clients whose own allocations are not counted, each on threads of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::CertificateDer;

use crate::allocations::{opt_out, so_far};

/// Exchanges that are counted, and those before them.
const MANY: u32 = 500;
const FIRST: u32 = 50;

/// A host that answers every head with `answer`, or echoes if that is empty.
pub(crate) fn host(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        opt_out();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                opt_out();
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    let echo = if answer.is_empty() {
                        &buffer[..n]
                    } else {
                        answer
                    };
                    // The proxy may have gone by now.
                    if stream.write_all(echo).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// A host that answers every call over HTTP/2 with a message and trailers.
pub(crate) fn grpc_host() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        opt_out();
        let runtime = runtime();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(answer_calls(stream));
            }
        });
    });
    address
}

async fn answer_calls(stream: tokio::net::TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((mut request, mut respond))) = connection.accept().await {
        tokio::task::spawn_local(async move {
            while let Some(Ok(data)) = request.body_mut().data().await {
                // The stream may be over.
                let _ = request
                    .body_mut()
                    .flow_control()
                    .release_capacity(data.len());
            }
            let head = Response::builder().header("content-type", "application/grpc");
            let mut body = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            body.send_data(Bytes::from_static(MESSAGE), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            body.send_trailers(trailers).unwrap();
        });
    }
}

/// A gRPC message of three bytes.
const MESSAGE: &[u8] = b"\0\0\0\0\x03abc";

/// Allocations of the proxy for each of many exchanges on one connection, the first ones left out. An answer ends with `end`.
pub(crate) fn per_exchange(mut stream: impl Read + Write, question: &[u8], end: &[u8]) -> f64 {
    let mut buffer = vec![0; 64 * 1024];
    let mut exchange = || {
        stream.write_all(question).unwrap();
        stream.flush().unwrap();
        let mut have = 0;
        while !buffer[..have].ends_with(end) {
            let n = stream.read(&mut buffer[have..]).unwrap();
            have += n;
            let read = String::from_utf8_lossy(&buffer[..have]);
            assert!(n > 0, "the proxy closed: {read}");
            let is_refused = read.starts_with("HTTP/1.1 ") && !read.starts_with("HTTP/1.1 200");
            assert!(!is_refused, "{read}");
        }
    };
    (0..FIRST).for_each(|_| exchange());
    let before = so_far();
    (0..MANY).for_each(|_| exchange());
    (so_far() - before) as f64 / f64::from(MANY)
}

/// A connection to a listener.
pub(crate) fn plain(proxy: SocketAddr) -> TcpStream {
    TcpStream::connect(proxy).unwrap()
}

/// A TLS connection to a listener that shows this certificate.
pub(crate) fn tls(proxy: SocketAddr, certificate: CertificateDer<'static>) -> impl Read + Write {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "gateway.example".try_into().unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(client, plain(proxy))
}

/// Allocations of the proxy for each of many requests on one HTTP/2 connection, the first ones left out.
pub(crate) fn per_request_h2(proxy: SocketAddr) -> f64 {
    over_h2(proxy, || {
        let request = Request::get("http://a.example/path").header("user-agent", "test");
        (request.body(()).unwrap(), None)
    })
}

/// The same of calls of one message each way.
pub(crate) fn per_call(proxy: SocketAddr) -> f64 {
    over_h2(proxy, || {
        let request = Request::post("http://a.example/package.Service/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        (request.body(()).unwrap(), Some(MESSAGE))
    })
}

fn over_h2(proxy: SocketAddr, next: impl Fn() -> (Request<()>, Option<&'static [u8]>)) -> f64 {
    let runtime = runtime();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let stream = tokio::net::TcpStream::connect(proxy).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut before = 0;
        for at in 0..MANY + FIRST {
            if at == FIRST {
                before = so_far();
            }
            let (request, message) = next();
            let (response, mut upload) = sender.send_request(request, message.is_none()).unwrap();
            if let Some(message) = message {
                upload.send_data(Bytes::from_static(message), true).unwrap();
            }
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            let mut body = response.into_body();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            let trailers = body.trailers().await.unwrap();
            assert_eq!(trailers.is_some(), message.is_some(), "{trailers:?}");
        }
        (so_far() - before) as f64 / f64::from(MANY)
    })
}
