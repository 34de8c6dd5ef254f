//! Raw TCP, and WebSocket after its upgrade: a message goes out, as many bytes come back.
//!
//! A message of up to 16 KiB is a round trip; larger ones measure throughput. What is sent after the upgrade are bytes
//! like any other to a proxy, so no frames are made of them.

use std::rc::Rc;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Run, h1};

/// One connection, until the run ends.
pub(crate) async fn connection(run: Rc<Run>, websocket: bool) {
    while run.goes_on() {
        if let Err(error) = messages(&run, websocket).await {
            run.failed(&error);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

async fn messages(run: &Run, websocket: bool) -> Result<()> {
    let mut stream = h1::connect(&run.plan).await?;
    if websocket {
        upgrade(run, &mut stream).await?;
    }
    let message = vec![b'x'; run.plan.message];
    let mut buffer = vec![0; 256 * 1024];
    let (mut reader, mut writer) = stream.split();
    while let Some(due) = run.due().await {
        let send = async { writer.write_all(&message).await.context("sending") };
        let receive = async {
            let mut left = message.len();
            while left > 0 {
                let most = left.min(buffer.len());
                let n = reader.read(&mut buffer[..most]).await.context("reading")?;
                if n == 0 {
                    bail!("the connection was closed");
                }
                left -= n;
            }
            Ok(())
        };
        tokio::try_join!(send, receive)?;
        run.answered(due, message.len());
    }
    Ok(())
}

async fn upgrade(run: &Run, stream: &mut TcpStream) -> Result<()> {
    let request = format!(
        "GET /ws HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        run.plan.authority
    );
    stream
        .write_all(request.as_bytes())
        .await
        .context("sending")?;
    let mut head = Vec::new();
    while h1::find_end(&head).is_none() {
        if stream.read_buf(&mut head).await.context("reading")? == 0 {
            bail!("the connection was closed");
        }
    }
    if !head.starts_with(b"HTTP/1.1 101") {
        bail!(
            "the upgrade was refused: {}",
            String::from_utf8_lossy(&head)
        );
    }
    Ok(())
}
