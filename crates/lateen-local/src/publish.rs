//! Carries connections from a port of the machine into the mesh: `--publish HOST:SERVICE:PORT`.
//!
//! The listener belongs to the machine's network and was opened before the node's namespaces were entered; connections
//! it accepts are continued from inside to a ready endpoint.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Connections carried at the same time through one listener; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 4096;
/// For one endpoint to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For an endpoint to appear, when there is none at the moment.
const ENDPOINT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between attempts to accept when the machine is out of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts and carries until the task is aborted; open connections end with it.
///
/// `endpoints` are the target's ready endpoints. They are taken in turn; one that does not accept is passed over.
///
/// # Errors
/// When the listener cannot be used at all.
pub async fn publish(
    listener: StdListener,
    endpoints: watch::Receiver<Vec<SocketAddr>>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    let mut turn = 0usize;
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((client, _)) => {
                turn = turn.wrapping_add(1);
                connections.spawn(carry(client, endpoints.clone(), turn));
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a published connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn carry(mut client: TcpStream, endpoints: watch::Receiver<Vec<SocketAddr>>, turn: usize) {
    let Some(mut server) = connect(endpoints, turn).await else {
        // Nothing to carry to: a reset tells the client more than an empty answer would.
        let _ = client.set_zero_linger();
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

async fn connect(
    mut endpoints: watch::Receiver<Vec<SocketAddr>>,
    turn: usize,
) -> Option<TcpStream> {
    let some = endpoints.wait_for(|endpoints| !endpoints.is_empty());
    let now = tokio::time::timeout(ENDPOINT_TIMEOUT, some)
        .await
        .ok()?
        .ok()?
        .clone();
    for at in 0..now.len() {
        let endpoint = now[turn.wrapping_add(at) % now.len()];
        let attempt = TcpStream::connect(endpoint);
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            return Some(stream);
        }
    }
    None
}
