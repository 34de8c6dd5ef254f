//! Carrying out a probe as kubelet would: HTTP, TCP or gRPC, to the pod's own address.
//!
//! Connections come from 127.0.0.6, which redirection takes for the proxy's, so that they reach the application itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Collected};
use lateen_envoy::with_causes;
use lateen_identity::tls::{ClientSettings, ClientVerification, TlsVersions, client_config};

use super::probers::{Action, AppProbers, Prober};
use super::{Answer, text};
use crate::http_client::{self, HttpError, Target};

/// The source address by which the proxy's connections to the application are known.
const SOURCE: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(127, 0, 0, 6),
    Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6),
);
/// Redirects followed, as kubelet does.
const MAX_REDIRECTS: usize = 10;
/// How much of an application's answer is passed on, in bytes; kubelet shows it in events.
const MAX_BODY: usize = 10 * 1024;

pub(super) async fn run(probers: &AppProbers, path: &str, headers: &HeaderMap) -> Answer {
    let Some(prober) = probers.probers.get(path) else {
        return text(
            StatusCode::NOT_FOUND,
            format!("no probe is configured for {path}"),
        );
    };
    let probed = tokio::time::timeout(
        prober.timeout,
        carry_out(probers.destination, prober, headers),
    )
    .await;
    probed.unwrap_or_else(|_| {
        let took = prober.timeout;
        text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("no answer within {took:?}"),
        )
    })
}

/// Carries a probe out at an address. The caller bounds the time.
pub(crate) async fn carry_out(destination: IpAddr, prober: &Prober, headers: &HeaderMap) -> Answer {
    let target = |port| {
        let source = match destination {
            IpAddr::V4(_) => IpAddr::V4(SOURCE.0),
            IpAddr::V6(_) => IpAddr::V6(SOURCE.1),
        };
        Target {
            source: Some(source),
            ..Target::plain(SocketAddr::new(destination, port))
        }
    };
    match &prober.action {
        Action::Tcp { port } => match target(*port).connect().await {
            Ok(_) => text(StatusCode::OK, ""),
            Err(error) => failure(&error),
        },
        Action::Grpc { port, service } => grpc(&target(*port), service).await,
        Action::Http {
            port,
            host,
            path,
            tls,
            headers: own,
        } => {
            let mut target = target(*port);
            if *tls {
                target.tls = insecure();
            }
            let headers = request_headers(headers, own, host.as_deref());
            http(&target, path, &headers, prober.timeout).await
        }
    }
}

/// GET, following redirects on the same host; one to elsewhere is a success, since the application answered.
async fn http(target: &Target, path: &str, headers: &HeaderMap, timeout: Duration) -> Answer {
    let mut path = path.to_owned();
    for _ in 0..=MAX_REDIRECTS {
        let sent = http_client::send(target, Method::GET, &path, headers.clone(), timeout).await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => return failure(&error),
        };
        match same_host_redirect(target, &answer) {
            Some(next) => path = next,
            None if answer.status.is_redirection() => return text(StatusCode::OK, ""),
            None => {
                return text(
                    answer.status,
                    answer.body.slice(..answer.body.len().min(MAX_BODY)),
                );
            }
        }
    }
    text(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("stopped after {MAX_REDIRECTS} redirects"),
    )
}

fn same_host_redirect(target: &Target, answer: &http_client::Answer) -> Option<String> {
    if !answer.status.is_redirection() {
        return None;
    }
    let location: Uri = answer
        .headers
        .get(header::LOCATION)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    let ours = location
        .host()
        .is_none_or(|host| host == target.address.ip().to_string());
    let same_port = location
        .port_u16()
        .is_none_or(|port| port == target.address.port());
    (ours && same_port).then(|| {
        location
            .path_and_query()
            .map_or("/", PathAndQuery::as_str)
            .to_owned()
    })
}

/// kubelet's own headers, then those of the probe. What concerns only the connection to us stays here.
fn request_headers(
    received: &HeaderMap,
    own: &[(String, String)],
    host: Option<&str>,
) -> HeaderMap {
    let connection_only = [
        header::HOST,
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::CONTENT_LENGTH,
    ];
    let mut headers = received.clone();
    for name in connection_only {
        headers.remove(name);
    }
    if let Some(host) = host.and_then(|host| host.parse().ok()) {
        headers.insert(header::HOST, host);
    }
    // A header that is written twice is sent twice, but replaces kubelet's.
    for (name, _) in own {
        headers.remove(name.as_str());
    }
    for (name, value) in own {
        let parsed = (name.parse::<HeaderName>(), value.parse::<HeaderValue>());
        if let (Ok(name), Ok(value)) = parsed {
            headers.append(name, value);
        }
    }
    headers
}

async fn grpc(target: &Target, service: &str) -> Answer {
    match crate::grpc_health::check(target, service).await {
        Ok(true) => text(StatusCode::OK, ""),
        Ok(false) => text(StatusCode::INTERNAL_SERVER_ERROR, "service is not serving"),
        Err(status) => text(StatusCode::INTERNAL_SERVER_ERROR, status.to_string()),
    }
}

/// What a failed probe says: the beginning of its answer.
pub(crate) async fn said(answer: Answer) -> String {
    let status = answer.status();
    let body = answer.into_body().collect().await;
    let body = body.map(Collected::to_bytes).unwrap_or_default();
    format!("{status}: {}", String::from_utf8_lossy(&body).trim())
}

fn failure(error: &HttpError) -> Answer {
    text(StatusCode::INTERNAL_SERVER_ERROR, with_causes(error))
}

/// kubelet does not verify certificates of probes either: the address is the pod's own.
fn insecure() -> Option<Arc<rustls::ClientConfig>> {
    client_config(ClientSettings {
        certificate: None,
        verification: ClientVerification::Insecure,
        alpn: Vec::new(),
        versions: TlsVersions::default(),
        send_sni: false,
    })
    .ok()
}
