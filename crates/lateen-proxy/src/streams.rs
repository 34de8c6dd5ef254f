//! Connections that carry many messages at once, whatever their frames look like: moving the bytes, what waits to be written, what came
//! and nobody took yet, bodies on their way, and why a stream ended.
//!
//! Frames and flow control are each protocol's own: [`crate::mux`] between our own sidecars, [`crate::h2`] with anybody.

#[cfg(test)]
pub(crate) mod ends;
pub(crate) mod out;
pub(crate) mod serving;
pub(crate) mod stream;
pub(crate) mod tunnel;
pub(crate) mod upload;
pub(crate) mod wire;

use std::io;

use http::{HeaderName, header};

/// Bytes that wait to be written before bodies have to wait, too.
pub(crate) const HIGH: usize = 128 * 1024;
/// Bytes that wait to be written before nothing more is read. Bodies stop long before it: only a peer that causes frames without
/// reading any gets there.
pub(crate) const TOO_HIGH: usize = 1024 * 1024;

/// Why a stream had no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The connection was closed or broke.
    #[error("connection closed")]
    Closed,
    /// The connection broke.
    #[error("connection broke: {0}")]
    Io(io::ErrorKind),
    /// The peer gave the stream up.
    #[error("stream was reset")]
    Reset,
    /// The peer had no place for the stream and did nothing with it.
    #[error("stream was refused")]
    Refused,
    /// The peer broke a rule.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The body to be sent broke off.
    #[error("body broke off")]
    Body,
}

/// Whether a field frames a message of HTTP/1 or concerns one connection (RFC 9110 section 7.6.1).
pub(crate) fn is_of_connection(name: &HeaderName) -> bool {
    static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    *name == header::TRANSFER_ENCODING
        || *name == header::CONNECTION
        || *name == header::UPGRADE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}
