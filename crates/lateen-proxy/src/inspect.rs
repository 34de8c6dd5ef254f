//! What a connection is, judged by its first bytes: TLS, HTTP/1, HTTP/2, or something else.
//!
//! The answers are those of Envoy's `tls_inspector` and `http_inspector` listener filters. The parsers look at a prefix that
//! only grows, say whether it is enough, and never keep more than they are given; they do no I/O and never fail, because bytes
//! that are not of a protocol are simply another protocol.

pub(crate) mod client_hello;
pub(crate) mod http;
pub(crate) mod proxy_protocol;

/// Bytes of a first flight that are looked at before giving up. Envoy's `tls_inspector` reads at most 16 KiB + record header;
/// post-quantum key shares make hellos of 1.5 to 2 KiB usual, so this leaves ample room.
pub(crate) const MAX_INSPECTED: usize = 16 * 1024;

/// What a parser can say about a prefix of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<T> {
    /// The bytes so far are of the protocol but not enough to say what was asked.
    NeedMore,
    /// The protocol was recognised.
    Found(T),
    /// Whatever follows, this is not the protocol.
    NotThis,
}
