//! Small HTTP requests to admin interfaces, over a unix socket or loopback.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Longest wait for an answer. A config dump of 10,000 services takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer that is read, in bytes.
const LARGEST: usize = 1 << 30;

/// Where an admin interface listens.
#[derive(Clone, Debug)]
pub(crate) enum Admin {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl std::fmt::Display for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// Sends a request without a body and returns the answer's body; an answer other than 2xx is an error.
pub(crate) fn request(admin: &Admin, method: &str, path: &str) -> Result<Bytes> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime")?;
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, connect_and_send(admin, method, path))
            .await
            .with_context(|| format!("{admin} did not answer within {PATIENCE:?}"))?
    })
}

async fn connect_and_send(admin: &Admin, method: &str, path: &str) -> Result<Bytes> {
    match admin {
        Admin::Unix(socket) => {
            let stream = UnixStream::connect(socket).await;
            send(
                stream.with_context(|| format!("connecting to {admin}"))?,
                method,
                path,
            )
            .await
        }
        Admin::Tcp(address) => {
            let stream = TcpStream::connect(address).await;
            send(
                stream.with_context(|| format!("connecting to {admin}"))?,
                method,
                path,
            )
            .await
        }
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: &str,
    path: &str,
) -> Result<Bytes> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .context("starting HTTP")?;
    // Ends with the runtime of `request`; its errors are the sender's errors.
    tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .body(Full::<Bytes>::default())
        .context("building the request")?;
    let response = sender
        .send_request(request)
        .await
        .context("sending the request")?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body
        .map_err(|e| anyhow::anyhow!("reading the answer: {e}"))?
        .to_bytes();
    if !status.is_success() {
        bail!(
            "{method} {path} answered {status}: {}",
            String::from_utf8_lossy(&body).trim()
        );
    }
    Ok(body)
}
