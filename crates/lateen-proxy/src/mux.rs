//! One connection for many requests, or for many TCP connections, between two of our own sidecars.
//!
//! Between two proxies that both know it, HTTP/1 requests to one host share connections instead of having one each, and so do TCP
//! connections: what becomes ready together is written, encrypted and read together, which is most of what a hop costs. It is agreed on
//! by ALPN ([`Carries::alpn`]) inside the mesh's mutual TLS and nowhere else; a peer that does not know it picks one of Istio's protocols and
//! nothing changes for it.
//!
//! Messages are those of HTTP/1.1: what a head may hold, how requests are balanced, retried, counted and logged is the same with and
//! without. A TCP connection is a stream whose heads are empty; the server's says that the connection is let in. Frames are described at
//! [`frame`], heads at [`head`]; [`link`] is the state of a connection that its streams share, and [`crate::streams`] moves its bytes. Who
//! calls is [`crate::upstream::mux`], who answers `crate::http::mux` or `crate::connection::carried`. See `docs/decisions`.

pub(crate) mod frame;
pub(crate) mod head;
pub(crate) mod introduction;
pub(crate) mod link;

#[cfg(test)]
mod tests;

use crate::streams::tunnel;
use crate::streams::wire::{Link as _, Taken};

pub(crate) use crate::streams::Error;

/// The names it is agreed on by. Another format gets another name.
const HTTP_ALPN: &str = "lateen-mux/2";
const TCP_ALPN: &str = "lateen-tcp/1";

/// What the streams of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// HTTP/1 requests.
    Http,
    /// TCP connections.
    Tcp,
}

/// A TCP connection as a stream of another.
pub(crate) type Tunnel = tunnel::Tunnel<link::Incoming, link::Outgoing>;

impl Carries {
    /// The name it is agreed on by.
    pub(crate) const fn alpn(self) -> &'static str {
        match self {
            Self::Http => HTTP_ALPN,
            Self::Tcp => TCP_ALPN,
        }
    }

    /// What was agreed on, if it is either.
    pub(crate) fn agreed(alpn: Option<&[u8]>) -> Option<Self> {
        [Self::Http, Self::Tcp]
            .into_iter()
            .find(|carries| alpn == Some(carries.alpn().as_bytes()))
    }
}

/// Streams of one connection at a time. Constant: there is nothing to negotiate.
pub(crate) const MOST_STREAMS: usize = 128;
/// Bytes of a body that may be under way to a reader that does not take them.
pub(crate) const WINDOW: u32 = 256 * 1024;
/// The same of a TCP connection whose reader keeps up, so that distance does not make it slow: 80 MiB a second at 50 ms.
const MOST_WINDOW: u32 = 4 * 1024 * 1024;

/// Reads bytes as a server does that answers nothing: frames, the heads in them and what they do to streams.
pub(crate) fn fuzz(bytes: &[u8]) {
    for carries in [Carries::Http, Carries::Tcp] {
        fuzz_one(carries, bytes);
    }
}

fn fuzz_one(carries: Carries, bytes: &[u8]) {
    let link = link::Link::new(link::Side::Server, carries);
    let mut read = bytes::BytesMut::new();
    let mut begun = Vec::new();
    // In two pieces, since a frame may come in several.
    for piece in bytes.chunks(bytes.len() / 2 + 1) {
        read.extend_from_slice(piece);
        loop {
            match link.take(&mut read) {
                Ok(Taken::Begun(stream)) => begun.push(stream),
                Ok(Taken::Frame) => {}
                Ok(Taken::More) => break,
                Err(_) => return,
            }
        }
    }
    for link::Begun { head, .. } in begun {
        let _ = head::response(head.clone(), 100, link.heard());
        let _ = head::request(head, 100, link.heard());
    }
}
