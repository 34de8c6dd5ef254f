//! Istio's metadata exchange over TCP: both proxies of a connection say who they are before the first byte that is not theirs.
//!
//! Who takes part says so by ALPN (`istio-peer-exchange`), so nobody who does not is ever sent anything. Each side sends one frame: a magic
//! number, a length, and a `google.protobuf.Any` ([`crate::node`] says of what). Neither waits for the other's: the frame goes out as soon as
//! the handshake is done, in front of whatever the application says, and the reading side takes it off the front of the stream. So
//! nothing is delayed by it, whoever of the applications speaks first.
//!
//! Here is the frame and reading it; what is said is used for the labels of Istio's metrics and for nothing else: it is the peer's own word.
//!
//! Source: Istio 1.30, the network filter `metadata_exchange` of its proxy.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use lateen_telemetry::metrics::istio::Peer;
use lateen_traffic::filter::{NetworkFilter, NetworkFilterKind};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;
use tokio_util::io::poll_read_buf;

use crate::node;

/// The protocol by which peers agree on it, and the only one it is known to run under.
pub(crate) const PROTOCOL: &str = "istio-peer-exchange";

/// The first four bytes of a frame, in network byte order.
const MAGIC: u32 = 0x3D23_0467;
/// Magic number and length.
const HEADER: usize = 8;
/// The longest introduction that is read. Istio's are under two kilobytes, with all of a pod's labels a few more.
const LONGEST: usize = 64 * 1024;

/// Bytes asked for at once: most introductions.
const READ: usize = 2048;

/// Whether a filter chain, or a cluster, takes part.
pub(crate) fn takes_part(filters: &[NetworkFilter]) -> bool {
    filters.iter().any(|filter| match &filter.kind {
        NetworkFilterKind::MetadataExchange(settings) => &*settings.protocol == PROTOCOL,
        _ => false,
    })
}

/// The frame that carries an introduction.
pub(crate) fn frame(told: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER + told.len());
    frame.put_u32(MAGIC);
    frame.put_u32(u32::try_from(told.len()).expect("a node's metadata is no gigabytes"));
    frame.put_slice(told);
    frame.freeze()
}

/// What the other side said of itself. It never leaves its worker; that it could is what upgrades of HTTP ask of a stream.
#[derive(Debug, Default)]
pub(crate) struct Introduction {
    heard: OnceLock<Option<Peer>>,
    settled: Notify,
}

impl Introduction {
    /// Who the peer says it is; `None` if it said nothing, or has not yet.
    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.heard.get()?.as_ref()
    }

    /// Returns once the peer has said who it is, or something else.
    pub(crate) async fn settled(&self) {
        while self.heard.get().is_none() {
            self.settled.notified().await;
        }
    }

    fn settle(&self, peer: Option<Peer>) {
        if self.heard.set(peer).is_ok() {
            self.settled.notify_waiters();
        }
    }
}

/// The reading side of a stream whose peer introduces itself.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    introduction: Arc<Introduction>,
    /// What was read of the frame.
    seen: BytesMut,
    /// What came behind it, or is not one, and belongs to the application.
    rest: Bytes,
}

/// What bytes at the front of a stream are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Front {
    /// A frame that is not whole yet, or may become one.
    More,
    /// A frame of so many bytes.
    Frame(usize),
    /// Something else: the peer did not introduce itself.
    Other,
    /// A frame longer than any that is read.
    TooLong,
}

/// Looks at the front of a stream.
pub(crate) fn front(seen: &[u8]) -> Front {
    let magic = MAGIC.to_be_bytes();
    let have = seen.len().min(magic.len());
    if seen[..have] != magic[..have] {
        return Front::Other;
    }
    let Some(length) = seen.get(magic.len()..HEADER) else {
        return Front::More;
    };
    let length = length.try_into().map_or(0, u32::from_be_bytes) as usize;
    match length {
        _ if length > LONGEST => Front::TooLong,
        _ if seen.len() < HEADER + length => Front::More,
        _ => Front::Frame(HEADER + length),
    }
}

/// What a whole frame carries.
pub(crate) fn told(frame: &[u8]) -> &[u8] {
    frame.get(HEADER..).unwrap_or_default()
}

impl Listening {
    /// Where what the peer says can be learned.
    pub(crate) fn introduction(&self) -> &Arc<Introduction> {
        &self.introduction
    }

    /// Puts bytes that were read back in front.
    pub(crate) fn unread(&mut self, bytes: &Bytes) {
        self.rest = [&bytes[..], &self.rest[..]].concat().into();
    }

    /// Reads what is the application's.
    pub(crate) fn poll_read<S: AsyncRead>(
        &mut self,
        mut stream: Pin<&mut S>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() && self.introduction.heard.get().is_none() {
            self.seen.reserve(READ);
            let read = ready!(poll_read_buf(stream.as_mut(), cx, &mut self.seen))?;
            if read == 0 {
                self.end(None); // whatever came belongs to the application, which sees the end after it
                break;
            }
            match front(&self.seen) {
                Front::More => {}
                Front::Other => self.end(None),
                Front::Frame(length) => {
                    let frame = self.seen.split_to(length);
                    self.end(node::read_told(told(&frame)));
                }
                Front::TooLong => {
                    self.introduction.settle(None);
                    let reason = "the peer's introduction is longer than any that is read";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, reason)));
                }
            }
        }
        if self.rest.is_empty() {
            return stream.poll_read(cx, buf);
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        if self.rest.is_empty() {
            self.rest = Bytes::new(); // lets go of the buffer
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, peer: Option<Peer>) {
        self.rest = std::mem::take(&mut self.seen).freeze();
        self.introduction.settle(peer);
    }
}

#[cfg(test)]
mod tests;
