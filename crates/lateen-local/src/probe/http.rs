//! One GET request, as a kubelet's, in plain text or over TLS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use lateen_identity::tls::{ClientSettings, ClientVerification, TlsVersions, client_config};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Whom to ask.
pub(super) struct Target<'a> {
    pub(super) pod: IpAddr,
    /// Another host than the pod.
    pub(super) host: Option<&'a str>,
    pub(super) port: u16,
    pub(super) tls: bool,
}

/// Whether the answer's status is from 200 to 399. Redirects are not followed: a redirect is an answer.
pub(super) async fn get(target: &Target<'_>, path: &str, headers: &[(String, String)]) -> bool {
    let stream = match target.host {
        Some(host) => TcpStream::connect((host, target.port)).await,
        None => TcpStream::connect((target.pod, target.port)).await,
    };
    let request = request(target.pod, target.port, path, headers);
    let (Ok(stream), Some(request)) = (stream, request) else {
        return false;
    };
    if !target.tls {
        return ask(stream, request).await;
    }
    let Some(config) = insecure() else {
        return false;
    };
    let name = ServerName::IpAddress(target.pod.into());
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => ask(stream, request).await,
        Err(_) => false,
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> bool {
    let Ok((mut sender, connection)) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await
    else {
        return false;
    };
    let answer = async move {
        let answer = sender.send_request(request).await;
        answer.is_ok_and(|a| (200..400).contains(&a.status().as_u16()))
    };
    // The connection ends when its sender and the answer are dropped: no task is left behind.
    tokio::join!(answer, connection).0
}

/// A kubelet verifies no certificate of a probe.
fn insecure() -> Option<Arc<ClientConfig>> {
    client_config(ClientSettings {
        certificate: None,
        verification: ClientVerification::Insecure,
        alpn: Vec::new(),
        versions: TlsVersions::default(),
        send_sni: false,
    })
    .ok()
}

fn request(
    pod: IpAddr,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> Option<Request<Empty<Bytes>>> {
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let mut request = Request::get(path).body(Empty::new()).ok()?;
    let all = request.headers_mut();
    let authority = SocketAddr::new(pod, port).to_string();
    all.insert(header::HOST, HeaderValue::from_str(&authority).ok()?);
    all.insert(
        header::USER_AGENT,
        HeaderValue::from_static("kube-probe/1.35"),
    );
    all.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    all.insert(header::CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        all.insert(name, HeaderValue::from_str(value).ok()?);
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A server with a certificate nobody signed, which answers one request with `status`.
    async fn server(status: &'static str) -> u16 {
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else {
                return;
            };
            let _ = stream.read(&mut [0; 1024]).await;
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        });
        port
    }

    async fn asked(port: u16, tls: bool) -> bool {
        let target = Target {
            pod: IpAddr::from([127, 0, 0, 1]),
            host: None,
            port,
            tls,
        };
        get(&target, "/healthz", &[]).await
    }

    #[tokio::test]
    async fn an_https_probe_looks_at_the_status_and_not_at_the_certificate() {
        assert!(asked(server("204 No Content").await, true).await);
        assert!(!asked(server("503 Service Unavailable").await, true).await);
    }

    #[tokio::test]
    async fn a_plain_probe_of_a_tls_server_fails() {
        assert!(!asked(server("204 No Content").await, false).await);
    }
}
