//! `tcp-echo-server PORTS PREFIX`: answers every line with the prefix and the line.
//!
//! Source: Istio 1.30 `samples/tcp-echo`.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::RunError;
use crate::options::port;
use crate::server::listen;

/// The longest line that is echoed whole; a longer one is echoed in parts of this size.
const LONGEST_LINE: u64 = 1 << 20;

pub(crate) async fn run(arguments: &[String], stop: CancellationToken) -> Result<u8, RunError> {
    let [ports, prefix] = arguments else {
        return Err(RunError::Usage(
            "usage: tcp-echo PORT[,PORT…] PREFIX".to_owned(),
        ));
    };
    let ports: Vec<u16> = ports.split(',').map(port).collect::<Result<_, _>>()?;
    let listeners = ports
        .into_iter()
        .map(listen)
        .collect::<Result<Vec<_>, _>>()?;
    serve(listeners, prefix, stop).await;
    Ok(0)
}

pub(crate) async fn serve(listeners: Vec<TcpListener>, prefix: &str, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    let prefix: Arc<str> = prefix.into();
    for listener in listeners {
        if let Ok(address) = listener.local_addr() {
            println!("listening on {address}, prefix: {prefix}");
        }
        tasks.spawn(accept(listener, Arc::clone(&prefix), stop.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

async fn accept(listener: TcpListener, prefix: Arc<str>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let stop = stop.clone();
                    let prefix = Arc::clone(&prefix);
                    connections.spawn(async move {
                        // A connection that breaks concerns only its client.
                        let _ = echo(stream, &prefix, stop).await;
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn echo(stream: TcpStream, prefix: &str, stop: CancellationToken) -> std::io::Result<()> {
    let _ = stream.set_nodelay(true);
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        line.extend_from_slice(prefix.as_bytes());
        line.push(b' ');
        let mut limited = (&mut reader).take(LONGEST_LINE);
        let read = tokio::select! {
            () = stop.cancelled() => return writer.shutdown().await,
            read = limited.read_until(b'\n', &mut line) => read?,
        };
        // Like the original, a last line without its end is not answered.
        if read == 0 || (line.last() != Some(&b'\n') && (read as u64) < LONGEST_LINE) {
            return writer.shutdown().await;
        }
        writer.write_all(&line).await?;
    }
}
