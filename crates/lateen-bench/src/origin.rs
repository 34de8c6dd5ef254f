//! The origin server: `lateen-bench origin --http1 ADDR --http2 ADDR --tcp ADDR`.
//!
//! Answers `/N` with N bytes, gRPC calls with a message of the length asked for in the path, upgrades with an echo. It shares its
//! core with the load generator, so it does as little as a server can.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::load;
use crate::options::text;
use crate::process;

/// The largest body the origin makes.
const MOST: usize = 16 << 20;

/// The role `origin`: serves until it is killed.
///
/// # Errors
/// A port cannot be opened.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    process::join_load()?;
    let address = |name: &str| -> Result<Option<SocketAddr>> {
        text(arguments, name)
            .map(|a| a.parse().with_context(|| format!("--{name}")))
            .transpose()
    };
    let (http1, http2, tcp) = (address("http1")?, address("http2")?, address("tcp")?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let serve = async {
        if let Some(address) = http2 {
            tokio::task::spawn_local(accept(bind(address).await?, http2_connection));
        }
        if let Some(address) = tcp {
            tokio::task::spawn_local(accept(bind(address).await?, echo));
        }
        if let Some(address) = http1 {
            tokio::task::spawn_local(accept(bind(address).await?, http1_connection));
        }
        std::future::pending().await
    };
    LocalSet::new().block_on(&runtime, serve)
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}"))
}

async fn accept<F: Future<Output = Result<()>> + 'static>(
    listener: TcpListener,
    serve: fn(TcpStream) -> F,
) {
    loop {
        // A connection that is gone before it is accepted is nobody's loss.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        tokio::task::spawn_local(async move {
            // How a benchmark's connection ends is the load generator's to judge.
            let _ = serve(stream).await;
        });
    }
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n]).await?;
    }
}

async fn http1_connection(mut stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut have = 0;
    let mut known: Option<(Vec<u8>, Rc<[u8]>)> = None;
    loop {
        let n = stream.read(&mut buffer[have..]).await?;
        if n == 0 {
            return Ok(());
        }
        have += n;
        let Some(end) = load::find_end(&buffer[..have]) else {
            if have == buffer.len() {
                bail!("a head too large");
            }
            continue;
        };
        let head = &buffer[..end];
        if head
            .windows(11)
            .any(|w| w.eq_ignore_ascii_case(b"\r\nupgrade: "))
        {
            stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
                .await?;
            return echo(stream).await;
        }
        let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
        let answer = match &known {
            Some((last, answer)) if last == line => Rc::clone(answer),
            _ => {
                let answer: Rc<[u8]> = http1_answer(line)?.into();
                known = Some((line.to_vec(), Rc::clone(&answer)));
                answer
            }
        };
        buffer.copy_within(end..have, 0);
        have -= end;
        stream.write_all(&answer).await?;
    }
}

fn http1_answer(line: &[u8]) -> Result<Vec<u8>> {
    let size = size(line.split(|b| *b == b' ').nth(1).unwrap_or_default())?;
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ndate: Sat, 01 Jan 2000 00:00:00 GMT\r\ncontent-length: {size}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + size, b'x');
    Ok(answer)
}

fn size(path: &[u8]) -> Result<usize> {
    let text = std::str::from_utf8(path).context("a path")?;
    let digits = text.rsplit('/').next().unwrap_or_default();
    let size: usize = digits.parse().unwrap_or(0);
    if size > MOST {
        bail!("too much asked for");
    }
    Ok(size)
}

async fn http2_connection(stream: TcpStream) -> Result<()> {
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(10_000)
        .initial_window_size(1 << 20)
        .initial_connection_window_size(64 << 20)
        .max_send_buffer_size(4 << 20)
        .handshake::<_, Bytes>(stream)
        .await?;
    while let Some(next) = connection.accept().await {
        let (request, answer) = next?;
        tokio::task::spawn_local(async move {
            let _ = http2_answer(request, answer).await;
        });
    }
    Ok(())
}

async fn http2_answer(
    request: http::Request<h2::RecvStream>,
    mut answer: h2::server::SendResponse<Bytes>,
) -> Result<()> {
    let is_grpc = request
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let size = size(request.uri().path().as_bytes())?;
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let response = http::Response::builder().header("date", "Sat, 01 Jan 2000 00:00:00 GMT");
    if is_grpc {
        let response = response
            .header("content-type", "application/grpc")
            .body(())?;
        let mut stream = answer.send_response(response, false)?;
        stream.send_data(load::message(size), false)?;
        let status = http::HeaderValue::from_static("0");
        stream.send_trailers(http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            status,
        )]))?;
    } else {
        let response = response
            .header("content-type", "text/plain")
            .header("content-length", size)
            .body(())?;
        let mut stream = answer.send_response(response, size == 0)?;
        if size > 0 {
            stream.send_data(Bytes::from(vec![b'x'; size]), true)?;
        }
    }
    Ok(())
}
