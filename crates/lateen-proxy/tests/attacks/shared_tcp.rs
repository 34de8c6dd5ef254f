//! TCP connections that share one between two of our own sidecars (decision 0013), with a peer that has a good certificate and means ill.

use std::sync::atomic::{AtomicUsize, Ordering};

use support::identity::Root;

use super::exchange::inbound;
use super::shared::{DATA, HEAD, Peer, REFUSED, RESET, WINDOW, frame};
use super::*;

const ALPN: &str = "lateen-tcp/1";

/// A sidecar, and an application that reads nothing and counts who is connected.
struct Server {
    root: Root,
    proxy: Running,
    connected: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> Self {
        let connected = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connected);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    counter.fetch_add(1, Ordering::Relaxed);
                    // Who goes away is noticed, though nothing is read.
                    while stream.write_all(b".").await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    counter.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        let root = Root::new();
        let identity = Some(root.workload("server"));
        let proxy = start_with(inbound(app, true), identity, |config| {
            config.concurrency = 1
        })
        .await;
        Self {
            root,
            proxy,
            connected,
        }
    }

    async fn peer(&self) -> Peer {
        let identity = self.root.workload("client");
        let peer = Peer::connect(&self.proxy, &identity, ALPN).await;
        peer.introduced().await
    }

    async fn has(&self, connected: usize) {
        let end = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let now = self.connected.load(Ordering::Relaxed);
            if now == connected {
                return;
            }
            let left = std::time::Instant::now() < end;
            assert!(left, "{now} are connected, not {connected}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Another peer is served, after which nobody is left.
    async fn end(self) {
        let mut other = self.peer().await;
        other.send(&frame(HEAD, 0, 1, b"")).await;
        let accepted = other.next().await;
        assert_eq!(accepted, Some((HEAD, false, 1, Vec::new())));
        drop(other);
        self.has(0).await;
        self.proxy.handle.shutdown().await;
    }
}

/// Class: frames out of their order. Outcome: the end of that connection, of what it carried, and of nothing else.
#[tokio::test]
async fn forged_frames_end_the_connection_and_what_it_carries() {
    let server = Server::start().await;
    let forged = [
        frame(DATA, 0, 5, b"of nobody"),
        frame(HEAD, 0, 1, b""),
        frame(WINDOW, 0, 1, &u32::MAX.to_be_bytes()),
        frame(WINDOW, 0, 1, &0_u32.to_be_bytes()),
        frame(99, 0, 1, b""),
    ];
    for bytes in forged {
        let mut peer = server.peer().await;
        peer.send(&frame(HEAD, 0, 1, b"")).await;
        server.has(1).await;
        assert!(peer.is_ended_by(&bytes).await);
        server.has(0).await;
    }
    server.end().await;
}

/// Class: more than was asked for. Limit: 256 KiB of a connection that nobody reads from. Outcome: the end of all that the connection carries.
#[tokio::test]
async fn what_nobody_reads_is_held_back() {
    let server = Server::start().await;
    let mut peer = server.peer().await;
    peer.send(&frame(HEAD, 0, 1, b"")).await;
    let part = frame(DATA, 0, 1, &[0; 64 * 1024]);
    let mut parts = 0;
    while parts < 10_000 && peer.send(&part).await {
        parts += 1;
    }
    assert!(parts < 10_000, "what nobody reads has no end");
    server.has(0).await;
    server.end().await;
}

/// Class: more connections than there is room for. Limit: 128 on a shared one. Outcome: the rest is refused, and what is open goes on.
#[tokio::test]
async fn connections_beyond_the_limit_are_refused() {
    let server = Server::start().await;
    let mut peer = server.peer().await;
    let all: Vec<u8> = (1..=200).flat_map(|n| frame(HEAD, 0, n, b"")).collect();
    peer.send(&all).await;
    let mut refused = Vec::new();
    while refused.len() < 72 {
        if let (REFUSED, _, stream, _) = peer.next().await.unwrap() {
            refused.push(stream);
        }
    }
    assert_eq!(refused, (129..=200).collect::<Vec<_>>());
    server.has(128).await;
    drop(peer);
    server.end().await;
}

/// Class: connections that are taken back at once. Outcome: nothing is left of them, in the proxy or at the application.
#[tokio::test]
async fn connections_that_are_taken_back_leave_nothing() {
    let server = Server::start().await;
    let mut peer = server.peer().await;
    for n in 1..=2_000 {
        let both = [frame(HEAD, 0, n, b""), frame(RESET, 1, n, b"")].concat();
        assert!(peer.send(&both).await);
    }
    // As long as they are on their way out there is no room; then one that stays is the only one.
    for n in 2_001.. {
        peer.send(&frame(HEAD, 0, n, b"")).await;
        let answer = loop {
            match peer.next().await.unwrap() {
                (kind, _, stream, _) if stream == n => break kind,
                _ => {}
            }
        };
        if answer == HEAD {
            break;
        }
        assert!(n < 2_500, "there is no room");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.has(1).await;
    drop(peer);
    server.end().await;
}
