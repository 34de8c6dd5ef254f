//! Reading and writing a socket without the C library between.
//!
//! Its `send` and `recv` are points at which a thread may be cancelled: each call sets a mark before and takes it back after, two atomic
//! operations that nobody here has a use for. Readiness is tokio's, treated as tokio treats it.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Writes once; how much was written.
pub(super) fn poll_send(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        let once = |moved: &mut Option<usize>| {
            let sent = rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?;
            *moved = Some(sent);
            Ok(sent < bytes.len())
        };
        if let Some(sent) = once_ready(socket, Interest::WRITABLE, once)? {
            return Poll::Ready(Ok(sent));
        }
    }
}

/// Reads once into `room`, and hands on what came; how much it was.
pub(super) fn poll_recv(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    room: &mut [MaybeUninit<u8>],
    mut take: impl FnMut(&[u8]),
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let once = |moved: &mut Option<usize>| {
            let all = room.len();
            let ((came, _), _) = rustix::net::recv(socket, &mut *room, RecvFlags::empty())?;
            take(came);
            *moved = Some(came.len());
            Ok(!came.is_empty() && came.len() < all)
        };
        if let Some(came) = once_ready(socket, Interest::READABLE, once)? {
            return Poll::Ready(Ok(came));
        }
    }
}

/// Makes a call on a socket that was ready; none if it is no longer. The call says how much it moved, and whether that was all there was to
/// move: the socket will tell when there is more, and need not be asked for it before.
fn once_ready(
    socket: &TcpStream,
    interest: Interest,
    call: impl FnOnce(&mut Option<usize>) -> io::Result<bool>,
) -> io::Result<Option<usize>> {
    let mut moved = None;
    let tried = socket.try_io(interest, || {
        if call(&mut moved)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    match tried {
        Err(error) if moved.is_none() && error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(moved),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap());
        let (one, other) = tokio::join!(one, listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    async fn recv(socket: &TcpStream, room: usize) -> io::Result<Vec<u8>> {
        let mut room = vec![MaybeUninit::uninit(); room];
        let mut all = Vec::new();
        poll_fn(|cx| poll_recv(socket, cx, &mut room, |came| all.extend_from_slice(came))).await?;
        Ok(all)
    }

    #[tokio::test]
    async fn what_is_written_is_read_in_any_pieces_to_the_end() {
        let (one, other) = pair().await;
        let sent = poll_fn(|cx| poll_send(&one, cx, b"question"))
            .await
            .unwrap();
        assert_eq!(sent, 8);
        assert_eq!(recv(&other, 3).await.unwrap(), b"que");
        assert_eq!(recv(&other, 5).await.unwrap(), b"stion");
        let waits = std::time::Duration::from_millis(20);
        let more = tokio::time::timeout(waits, recv(&other, 5)).await;
        assert!(more.is_err(), "there is no more yet");
        poll_fn(|cx| poll_send(&one, cx, b"!")).await.unwrap();
        assert_eq!(recv(&other, 5).await.unwrap(), b"!");
        drop(one);
        assert_eq!(recv(&other, 5).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_full_socket_takes_more_once_it_was_read() {
        let (one, other) = pair().await;
        let block = vec![7; 1 << 20];
        let (most, mut written, mut read) = (64 << 20, 0, 0);
        let write = async {
            while written < most {
                written += poll_fn(|cx| poll_send(&one, cx, &block)).await.unwrap();
            }
        };
        let read_all = async {
            while read < most {
                read += recv(&other, 1 << 16).await.unwrap().len();
            }
        };
        tokio::join!(write, read_all);
        assert!(read >= most && written >= most);
    }

    #[tokio::test]
    async fn a_connection_that_broke_is_an_error() {
        let (one, other) = pair().await;
        poll_fn(|cx| poll_send(&one, cx, b"unread")).await.unwrap();
        // Bytes that nobody read make closing a reset.
        other.readable().await.unwrap();
        drop(other);
        assert!(recv(&one, 5).await.is_err());
    }
}
