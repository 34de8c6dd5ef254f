//! Copying bytes both ways between two streams, with half-close and an idle timeout.
//!
//! One side ending its direction is passed on as a shutdown and the other direction goes on (RFC 9293 section 3.6 half-close);
//! some protocols answer only after it. No byte moving either way for the idle time ends both.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

/// One buffer per direction. A TLS record carries at most 16 KiB, so a larger buffer would not be filled by one read.
const BUFFER: usize = 16 * 1024;

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

/// Copies until both directions have ended, one of them fails, or nothing moves for `idle`.
///
/// Cancelling (dropping) it closes nothing by itself; the streams are the caller's.
pub(crate) async fn bidirectional<A, B>(
    a: A,
    b: B,
    idle: Option<Duration>,
    moved: &Transferred,
) -> Ended
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut a_read, mut a_write) = tokio::io::split(a);
    let (mut b_read, mut b_write) = tokio::io::split(b);
    let activity = Cell::new(Instant::now());
    let forward = async {
        match one_way(&mut a_read, &mut b_write, &moved.forward, &activity).await {
            Ok(()) => Ok(()),
            Err(Side::Read(error)) => Err(Ended::First(error)),
            Err(Side::Write(error)) => Err(Ended::Second(error)),
        }
    };
    let back = async {
        match one_way(&mut b_read, &mut a_write, &moved.back, &activity).await {
            Ok(()) => Ok(()),
            Err(Side::Read(error)) => Err(Ended::Second(error)),
            Err(Side::Write(error)) => Err(Ended::First(error)),
        }
    };
    let both = async {
        match futures_util::future::try_join(forward, back).await {
            Ok(_) => Ended::Closed,
            Err(ended) => ended,
        }
    };
    tokio::select! {
        ended = both => ended,
        () = idle_since(&activity, idle) => Ended::Idle,
    }
}

enum Side {
    Read(io::Error),
    Write(io::Error),
}

async fn one_way<R, W>(
    reader: &mut R,
    writer: &mut W,
    moved: &Cell<u64>,
    activity: &Cell<Instant>,
) -> Result<(), Side>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    // On the heap, because two of them in a future would make every connection's task 32 KiB larger.
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = match reader.read(&mut buffer).await {
            Ok(0) => break,
            Ok(n) => n,
            // Peers often close TLS without close_notify; to the other side that is an end of stream.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(Side::Read(error)),
        };
        activity.set(Instant::now());
        writer.write_all(&buffer[..n]).await.map_err(Side::Write)?;
        writer.flush().await.map_err(Side::Write)?;
        activity.set(Instant::now());
        moved.set(moved.get() + n as u64);
    }
    match writer.shutdown().await {
        Ok(()) => Ok(()),
        // The other side went away first; its own direction reports it if that matters.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        Err(error) => Err(Side::Write(error)),
    }
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
    use tokio::io::duplex;

    use super::*;

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
