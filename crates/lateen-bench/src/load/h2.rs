//! HTTP/2 with prior knowledge, and gRPC unary calls over it.

use std::rc::Rc;

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;

use super::{Run, h1};

/// One connection with its streams, until the run ends.
pub(crate) async fn connection(run: Rc<Run>, grpc: bool) {
    while run.goes_on() {
        if let Err(error) = streams(&run, grpc).await {
            run.failed(&error);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

async fn streams(run: &Rc<Run>, grpc: bool) -> Result<()> {
    let tcp = h1::connect(&run.plan).await?;
    let (sender, driver) = h2::client::Builder::new()
        .initial_window_size(16 << 20)
        .initial_connection_window_size(64 << 20)
        .handshake::<_, Bytes>(tcp)
        .await
        .context("HTTP/2 handshake")?;
    let driver = tokio::task::spawn_local(driver);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..run.plan.streams {
        tasks.spawn_local(requests(Rc::clone(run), sender.clone(), grpc));
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a stream's task")??;
    }
    driver.abort();
    Ok(())
}

async fn requests(run: Rc<Run>, mut sender: SendRequest<Bytes>, grpc: bool) -> Result<()> {
    let message = message(run.plan.message);
    while let Some(due) = run.due().await {
        let bytes = one(&run, &mut sender, grpc.then(|| message.clone())).await?;
        run.answered(due, bytes);
    }
    Ok(())
}

async fn one(run: &Run, sender: &mut SendRequest<Bytes>, message: Option<Bytes>) -> Result<usize> {
    let uri = format!("http://{}{}", run.plan.authority, run.plan.path);
    let mut request = Request::builder().uri(uri).header("user-agent", "bench");
    if message.is_some() {
        request = request
            .method("POST")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
    }
    if let Some((name, value)) = &run.plan.header {
        request = request.header(name, value);
    }
    let request = request.body(()).context("a request")?;
    std::future::poll_fn(|cx| sender.poll_ready(cx))
        .await
        .context("waiting for a stream")?;
    let (response, mut body) = sender
        .send_request(request, message.is_none())
        .context("sending")?;
    let is_grpc = message.is_some();
    if let Some(message) = message {
        body.send_data(message, true).context("sending a message")?;
    }
    let response = response.await.context("waiting for an answer")?;
    if response.status() != 200 {
        bail!("answered {}", response.status());
    }
    let mut stream = response.into_body();
    let mut bytes = 0;
    while let Some(data) = stream.data().await {
        let data = data.context("reading")?;
        bytes += data.len();
        stream
            .flow_control()
            .release_capacity(data.len())
            .context("releasing")?;
    }
    if is_grpc {
        let trailers = stream.trailers().await.context("reading trailers")?;
        let status = trailers.as_ref().and_then(|t| t.get("grpc-status"));
        if status.is_none_or(|status| status != "0") {
            bail!("gRPC status {status:?}");
        }
    }
    Ok(bytes)
}

/// A gRPC message: a flag, a length, the bytes.
pub(crate) fn message(size: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + size);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    bytes.put_bytes(b'x', size);
    bytes.freeze()
}
