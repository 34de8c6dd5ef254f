//! HTTP/1.1 with keep-alive: the least code that notices a wrong answer.

use std::rc::Rc;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Plan, Run};

/// One connection: requests until the run ends, a new connection after a failure.
pub(crate) async fn connection(run: Rc<Run>) {
    while run.goes_on() {
        if let Err(error) = requests(&run).await {
            run.failed(&error);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

async fn requests(run: &Run) -> Result<()> {
    let mut stream = connect(&run.plan).await?;
    let request = head(&run.plan);
    let mut buffer = vec![0; 256 * 1024];
    while let Some(due) = run.due().await {
        let bytes = exchange(&mut stream, &request, &mut buffer).await?;
        run.answered(due, bytes);
    }
    Ok(())
}

/// Sends a request and reads its answer to the end; the length of the answer's body.
///
/// # Errors
/// The answer is not what was asked for, or the connection breaks.
pub(crate) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &[u8],
    buffer: &mut [u8],
) -> Result<usize> {
    stream.write_all(request).await.context("sending")?;
    stream.flush().await.context("sending")?;
    response(stream, buffer).await
}

/// A connection to the target.
///
/// # Errors
/// It cannot be made.
pub(crate) async fn connect(plan: &Plan) -> Result<TcpStream> {
    let stream = TcpStream::connect(plan.target)
        .await
        .context("connecting")?;
    stream.set_nodelay(true).context("setting TCP_NODELAY")?;
    Ok(stream)
}

/// The bytes of a request.
pub(crate) fn head(plan: &Plan) -> Vec<u8> {
    let extra = plan
        .header
        .as_ref()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .unwrap_or_default();
    format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\nuser-agent: bench\r\naccept: */*\r\n{extra}\r\n",
        plan.path, plan.authority
    )
    .into_bytes()
}

/// Reads one response to its end and returns the length of its body.
async fn response<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut [u8]) -> Result<usize> {
    let mut have = 0;
    let (body_at, length) = loop {
        let n = stream.read(&mut buffer[have..]).await.context("reading")?;
        if n == 0 {
            bail!("the connection was closed");
        }
        have += n;
        if let Some(end) = find_end(&buffer[..have]) {
            break (end, content_length(&buffer[..end])?);
        }
    };
    let mut left = (body_at + length).saturating_sub(have);
    while left > 0 {
        let most = left.min(buffer.len());
        let n = stream.read(&mut buffer[..most]).await.context("reading")?;
        if n == 0 {
            bail!("the body ended early");
        }
        left -= n;
    }
    Ok(length)
}

/// Where the head ends.
pub(crate) fn find_end(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map(|at| at + 4)
}

fn content_length(head: &[u8]) -> Result<usize> {
    if !head.starts_with(b"HTTP/1.1 200") {
        let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
        bail!("answered {}", String::from_utf8_lossy(line));
    }
    const NAME: &[u8] = b"content-length:";
    for line in head.split(|b| *b == b'\n') {
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            let text = std::str::from_utf8(&line[NAME.len()..]).context("content-length")?;
            return text.trim().parse().context("content-length");
        }
    }
    bail!("an answer without content-length")
}
