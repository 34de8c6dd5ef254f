//! Copying bytes both ways between two streams, with half-close and an idle timeout.
//!
//! One side ending its direction is passed on as a shutdown and the other direction goes on (RFC 9293 section 3.6 half-close);
//! some protocols answer only after it. No byte moving either way for the idle time ends both.
//!
//! A direction begins with a small buffer, which suits questions and answers. One that fills it is a transfer: between two plain sockets
//! its bytes then stay in the kernel (`splice(2)`), else the buffer grows.

mod one_way;

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use self::one_way::{OneWay, Side};
use crate::doze::Doze;

/// Bytes that moved, readable while copying goes on (for periodic reports) and after.
#[derive(Debug, Default)]
pub(crate) struct Transferred {
    /// From the first stream to the second: received from downstream.
    pub(crate) forward: Cell<u64>,
    /// From the second stream to the first: sent to downstream.
    pub(crate) back: Cell<u64>,
}

/// How a copy ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Both directions reached their end.
    Closed,
    /// The first stream (downstream) failed.
    First(io::Error),
    /// The second stream (upstream) failed.
    Second(io::Error),
    /// Nothing moved for the idle time.
    Idle,
}

/// A stream that bytes are copied from and to.
pub(crate) trait Carrier: AsyncRead + AsyncWrite + Unpin {
    /// The socket, if its bytes are the stream's bytes and none of them was read ahead.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

/// Copies until both directions have ended, one of them fails, or nothing moves for `idle`.
///
/// Cancelling (dropping) it closes nothing by itself; the streams are the caller's.
pub(crate) async fn bidirectional<A: Carrier, B: Carrier>(
    mut a: A,
    mut b: B,
    idle: Option<Duration>,
    moved: &Transferred,
) -> Ended {
    let activity = Cell::new(Instant::now());
    let (mut forward, mut back) = (OneWay::new(), OneWay::new());
    // Both directions in one task, each with both streams at hand: no lock, no channel.
    let both = std::future::poll_fn(|cx| {
        let went = match forward.poll(cx, &mut a, &mut b, &moved.forward, &activity) {
            Poll::Ready(Err(Side::Read(error))) => return Poll::Ready(Ended::First(error)),
            Poll::Ready(Err(Side::Write(error))) => return Poll::Ready(Ended::Second(error)),
            other => other.is_ready(),
        };
        let came = match back.poll(cx, &mut b, &mut a, &moved.back, &activity) {
            Poll::Ready(Err(Side::Read(error))) => return Poll::Ready(Ended::Second(error)),
            Poll::Ready(Err(Side::Write(error))) => return Poll::Ready(Ended::First(error)),
            other => other.is_ready(),
        };
        if went && came {
            Poll::Ready(Ended::Closed)
        } else {
            Poll::Pending
        }
    });
    let mut idle = Doze::new(Box::pin(idle_since(&activity, idle)));
    let mut both = pin!(both);
    std::future::poll_fn(|cx| match both.as_mut().poll(cx) {
        Poll::Pending if idle.is_done(cx) => Poll::Ready(Ended::Idle),
        moved => moved,
    })
    .await
}

/// Returns once nothing happened for `idle`; never if there is no limit.
async fn idle_since(activity: &Cell<Instant>, idle: Option<Duration>) {
    let Some(idle) = idle.filter(|d| !d.is_zero()) else {
        return std::future::pending().await;
    };
    loop {
        let deadline = activity.get() + idle;
        if Instant::now() >= deadline {
            return;
        }
        sleep_until(deadline).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpListener;

    use std::pin::Pin;
    use std::task::Context;

    use tokio::io::ReadBuf;

    use super::*;

    impl Carrier for DuplexStream {}

    impl Carrier for TcpStream {
        fn socket(&self) -> Option<&TcpStream> {
            Some(self)
        }
    }

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (connected, listener.accept().await.unwrap().0)
    }

    /// Sends megabytes one way with questions and answers before and after, and compares every byte.
    async fn transfer<A: Carrier, B: Carrier>(
        (mut client, downstream): (TcpStream, A),
        (upstream, mut server): (B, TcpStream),
    ) {
        let sent: Vec<u8> = (0..5_000_000_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let moved = Transferred::default();
        let copy = bidirectional(downstream, upstream, None, &moved);
        let send = async {
            for _ in 0..20 {
                client.write_all(b"ping").await.unwrap();
                assert_eq!(client.read_u32().await.unwrap(), 7);
            }
            client.write_all(&sent).await.unwrap();
            for _ in 0..100 {
                client.write_all(b"pong").await.unwrap();
                assert_eq!(client.read_u32().await.unwrap(), 7);
            }
            client.shutdown().await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), 9);
        };
        let receive = async {
            for _ in 0..20 {
                server.read_u32().await.unwrap();
                server.write_u32(7).await.unwrap();
            }
            let mut received = vec![0; sent.len()];
            server.read_exact(&mut received).await.unwrap();
            assert!(received == sent, "bytes were changed on their way");
            for _ in 0..100 {
                server.read_u32().await.unwrap();
                server.write_u32(7).await.unwrap();
            }
            assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
            server.write_u8(9).await.unwrap();
            drop(server);
        };
        let (ended, (), ()) = tokio::join!(copy, send, receive);
        assert!(matches!(ended, Ended::Closed));
        assert_eq!(moved.forward.get(), 5_000_000 + 120 * 4);
        assert_eq!(moved.back.get(), 120 * 4 + 1);
    }

    #[tokio::test]
    async fn transfers_between_sockets_keep_every_byte_in_order() {
        transfer(sockets().await, sockets().await).await;
    }

    #[tokio::test]
    async fn transfers_that_cannot_be_spliced_keep_every_byte_in_order() {
        struct Opaque(TcpStream);
        impl Carrier for Opaque {}
        impl AsyncRead for Opaque {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_read(cx, buf)
            }
        }
        impl AsyncWrite for Opaque {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.0).poll_write(cx, buf)
            }
            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_flush(cx)
            }
            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_shutdown(cx)
            }
        }
        let (client, downstream) = sockets().await;
        transfer((client, Opaque(downstream)), sockets().await).await;
    }

    #[tokio::test]
    async fn a_half_closed_direction_lets_the_other_finish() {
        let (mut client, downstream) = duplex(64);
        let (upstream, mut server) = duplex(64);
        let moved = Transferred::default();
        let copy = bidirectional(downstream, upstream, None, &moved);
        let talk = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = Vec::new();
            server.read_to_end(&mut asked).await.unwrap();
            server.write_all(b"answer!").await.unwrap();
            drop(server);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            (asked, answer)
        };
        let (ended, (asked, answer)) = tokio::join!(copy, talk);
        assert!(matches!(ended, Ended::Closed));
        assert_eq!(
            (asked.as_slice(), answer.as_slice()),
            (&b"question"[..], &b"answer!"[..])
        );
        assert_eq!((moved.forward.get(), moved.back.get()), (8, 7));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_traffic_keeps_it() {
        let (mut client, downstream) = duplex(64);
        let (upstream, mut server) = duplex(64);
        let moved = Transferred::default();
        let copy = bidirectional(downstream, upstream, Some(Duration::from_secs(10)), &moved);
        let start = Instant::now();
        let talk = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                client.write_all(b"x").await.unwrap();
                server.read_u8().await.unwrap();
            }
        };
        let (ended, ()) = tokio::join!(copy, talk);
        assert!(matches!(ended, Ended::Idle));
        assert!(start.elapsed() >= Duration::from_secs(34));
    }
}
