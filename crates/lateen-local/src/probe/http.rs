//! One GET request, as a kubelet's.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Whether the answer's status is from 200 to 399. Redirects are not followed: a redirect is an answer.
pub(super) async fn get(
    pod: IpAddr,
    host: Option<&str>,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> bool {
    let stream = match host {
        Some(host) => TcpStream::connect((host, port)).await,
        None => TcpStream::connect((pod, port)).await,
    };
    let (Ok(stream), Some(request)) = (stream, request(pod, port, path, headers)) else {
        return false;
    };
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
