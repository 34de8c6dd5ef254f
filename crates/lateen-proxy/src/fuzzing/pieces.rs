//! What is read of a stream must not depend on where the network cuts it: whoever sits before or behind this proxy sees other cuts, and
//! what two parties read differently is what smuggling is made of.

use std::fmt::Debug;

use bytes::{Buf, BytesMut};

use crate::codec::chunked::{Chunked, Step};
use crate::codec::outgoing::Length;
use crate::http::h1 as server;
use crate::http::head::Head;
use crate::inspect::{self, Verdict};
use crate::metadata_exchange;
use crate::node;
use crate::upstream::h1 as client;

/// Inputs up to this long are cut at every byte as well.
const SHORT: usize = 512;

/// Ways to cut: whole, in two, in three, and byte by byte if that is not too much.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let sizes = [bytes.len() / 2 + 1, bytes.len() / 3 + 1];
    let single = (bytes.len() <= SHORT).then_some(1);
    sizes
        .into_iter()
        .chain(single)
        .map(|size| bytes.chunks(size).collect())
}

/// Heads of requests, taken as far as a request is before it is decided about.
///
/// What is no request may be refused before its head ends, or when it does; so each is given an end.
pub(super) fn requests(bytes: &[u8]) {
    let bytes = &[bytes, b"\r\n\r\n"].concat()[..];
    for chunked_length in [false, true] {
        let (whole, refused) = server::heads(&[bytes], chunked_length);
        for pieces in cuts(bytes) {
            let (cut, cut_refused) = server::heads(&pieces, chunked_length);
            assert_eq!(refused, cut_refused, "a cut makes a request bad, or good");
            assert_eq!(
                format!("{whole:?}"),
                format!("{cut:?}"),
                "a cut makes it another request"
            );
        }
        for came in whole {
            if let Some(head) = Head::read(came) {
                let _ = head.uri(false);
                let _ = head.uri(true);
            }
        }
    }
}

/// A host's bytes as responses to requests of each kind.
pub(super) fn responses(bytes: &[u8]) {
    for (head, upgrade) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut buffer = BytesMut::from(bytes);
        while let Some(framing) = client::parse_response(&mut buffer, head, upgrade) {
            if framing.is_some_and(|length| !skip(&mut buffer, length)) {
                break;
            }
        }
    }
}

/// Takes a body out of a buffer; whether it was whole.
fn skip(buffer: &mut BytesMut, length: Length) -> bool {
    match length {
        Length::Exact(bytes) => match usize::try_from(bytes) {
            Ok(bytes) if bytes <= buffer.len() => {
                buffer.advance(bytes);
                true
            }
            _ => false,
        },
        Length::Chunked => decoded(&[&buffer.split()], buffer).end.is_some(),
        Length::UntilClose => false,
    }
}

/// What a body in chunks comes to.
#[derive(Debug, PartialEq)]
struct Decoded {
    data: Vec<u8>,
    /// The names and values of its trailers, once it has ended.
    end: Option<String>,
    error: Option<&'static str>,
}

fn decoded(pieces: &[&[u8]], rest: &mut BytesMut) -> Decoded {
    let (mut body, mut buffer) = (Chunked::new(), BytesMut::new());
    let mut decoded = Decoded {
        data: Vec::new(),
        end: None,
        error: None,
    };
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while decoded.end.is_none() && decoded.error.is_none() {
            match body.decode(&mut buffer) {
                Ok(Step::NeedMore) => break,
                Ok(Step::Data(data)) => decoded.data.extend_from_slice(&data),
                Ok(Step::End(trailers)) => decoded.end = Some(format!("{trailers:?}")),
                Err(error) => decoded.error = Some(error),
            }
        }
    }
    *rest = buffer;
    decoded
}

/// A body in chunks.
pub(super) fn chunks(bytes: &[u8]) {
    let (mut rest, mut cut_rest) = (BytesMut::new(), BytesMut::new());
    let whole = decoded(&[bytes], &mut rest);
    for pieces in cuts(bytes) {
        let cut = decoded(&pieces, &mut cut_rest);
        assert_eq!(whole, cut, "a cut makes it another body");
        if whole.end.is_some() {
            assert_eq!(rest, cut_rest, "a cut moves the body's end");
        }
    }
}

/// What is certain of a beginning stays so, whatever follows.
fn stays<T: Debug + PartialEq>(bytes: &[u8], undecided: &T, parse: impl Fn(&[u8]) -> T) {
    let whole = parse(bytes);
    for pieces in cuts(bytes) {
        let mut end = 0;
        for piece in pieces {
            end += piece.len();
            let now = parse(&bytes[..end]);
            if now != *undecided {
                assert_eq!(now, whole, "the first {end} bytes say otherwise");
                break;
            }
        }
    }
}

/// A TLS client's first flight.
pub(super) fn client_hello(bytes: &[u8]) {
    stays(bytes, &Verdict::NeedMore, inspect::client_hello::parse);
}

/// The beginning of a connection that may be HTTP.
pub(super) fn http_preface(bytes: &[u8]) {
    stays(bytes, &Verdict::NeedMore, inspect::http::parse);
}

/// A PROXY protocol header. It never reaches beyond the bytes there are, and what is written of its addresses says the same.
pub(super) fn proxy_protocol(bytes: &[u8]) {
    use lateen_traffic::cluster::ProxyVersion;
    stays(bytes, &Verdict::NeedMore, inspect::proxy_protocol::parse);
    let Verdict::Found(header) = inspect::proxy_protocol::parse(bytes) else {
        return;
    };
    assert!(header.length <= bytes.len(), "a header beyond its bytes");
    if header.addresses.is_some() {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let written = inspect::proxy_protocol::write(version, header.addresses);
            let Verdict::Found(again) = inspect::proxy_protocol::parse(&written) else {
                panic!("what was written cannot be read");
            };
            assert_eq!(again.addresses, header.addresses);
        }
    }
}

/// What a peer says of itself over TCP.
pub(super) fn introduction(bytes: &[u8]) {
    use metadata_exchange::Front;
    stays(bytes, &Front::More, metadata_exchange::front);
    if let Front::Frame(length) = metadata_exchange::front(bytes) {
        let _ = node::read_told(metadata_exchange::told(&bytes[..length]));
    }
}
