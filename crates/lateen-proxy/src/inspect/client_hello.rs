//! The server name and protocols of a TLS ClientHello, read from the first bytes of a connection.
//!
//! A bounded reader of RFC 8446 section 4.1.2 (and its older forms): it finds SNI and ALPN and nothing else. It never
//! terminates TLS; rustls parses the same bytes again and is the one to judge them.

use super::{MAX_INSPECTED, Verdict};

/// Protocols kept from an ALPN list. Real clients offer two to five.
const MAX_PROTOCOLS: usize = 16;

/// What a ClientHello says about itself before any key is agreed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// The server name, lower case, if one was sent and is a plain ASCII host name.
    pub(crate) server_name: Option<String>,
    /// The offered application protocols, in the client's order. Not necessarily UTF-8.
    pub(crate) protocols: Vec<Vec<u8>>,
}

/// Reads a ClientHello from the start of a stream.
pub(crate) fn parse(bytes: &[u8]) -> Verdict<ClientHello> {
    // Whether the rest has come already makes no difference.
    let bytes = &bytes[..bytes.len().min(MAX_INSPECTED)];
    match handshake(bytes) {
        Handshake::NotTls => Verdict::NotThis,
        Handshake::Partial if bytes.len() >= MAX_INSPECTED => Verdict::NotThis,
        Handshake::Partial => Verdict::NeedMore,
        // A handshake message that starts like a hello but cannot be read as one is still TLS: the handshake itself will
        // refuse it with the proper alert.
        Handshake::Complete(body) => Verdict::Found(hello(&body).unwrap_or_default()),
    }
}

enum Handshake {
    NotTls,
    Partial,
    Complete(Vec<u8>),
}

/// Joins the fragments of the first handshake message, which may span several records (RFC 8446 section 5.1).
fn handshake(bytes: &[u8]) -> Handshake {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if !starts_like_a_handshake_record(rest) {
            return Handshake::NotTls;
        }
        let Some((header, after)) = rest.split_at_checked(5) else {
            return Handshake::Partial;
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > 16_384 {
            return Handshake::NotTls;
        }
        let have = &after[..length.min(after.len())];
        message.extend_from_slice(have);
        if message.first().is_some_and(|kind| *kind != 1) {
            return Handshake::NotTls;
        }
        if let Some(body) = complete(&message) {
            return Handshake::Complete(body);
        }
        if have.len() < length {
            return Handshake::Partial;
        }
        rest = &after[length..];
        if rest.is_empty() {
            return Handshake::Partial;
        }
    }
}

/// Whether the bytes so far can be the header of a handshake record: type 22, version 3.x.
fn starts_like_a_handshake_record(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|b| *b == 22) && bytes.get(1).is_none_or(|b| *b == 3)
}

/// The body of the handshake message, if all of it is there.
fn complete(message: &[u8]) -> Option<Vec<u8>> {
    let header = message.get(..4)?;
    let length =
        usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
    message.get(4..4 + length).map(<[u8]>::to_vec)
}

fn hello(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?; // legacy_version, random
    reader.vector8()?; // legacy_session_id
    reader.vector16()?; // cipher_suites
    reader.vector8()?; // legacy_compression_methods
    let mut found = ClientHello::default();
    let Some(extensions) = reader.vector16() else {
        return Some(found);
    };
    let mut extensions = Reader(extensions);
    while let Some(kind) = extensions.u16() {
        let content = extensions.vector16()?;
        match kind {
            0 => found.server_name = server_name(content),
            16 => found.protocols = protocols(content),
            _ => {}
        }
    }
    Some(found)
}

/// RFC 6066 section 3: a list of which only the `host_name` entry was ever defined.
fn server_name(content: &[u8]) -> Option<String> {
    let mut list = Reader(Reader(content).vector16()?);
    while let Some(kind) = list.u8() {
        let name = list.vector16()?;
        if kind == 0 {
            let plain =
                !name.is_empty() && name.len() <= 255 && name.iter().all(u8::is_ascii_graphic);
            return plain.then(|| String::from_utf8_lossy(name).to_ascii_lowercase());
        }
    }
    None
}

/// RFC 7301 section 3.1.
fn protocols(content: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let Some(list) = Reader(content).vector16() else {
        return found;
    };
    let mut list = Reader(list);
    while let Some(name) = list.vector8() {
        if found.len() == MAX_PROTOCOLS {
            break;
        }
        found.push(name.to_vec());
    }
    found
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let n = self.u8()?;
        self.take(usize::from(n))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let n = self.u16()?;
        self.take(usize::from(n))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    /// The first flight of a real client.
    fn real_hello(name: &str, protocols: &[&str]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        let server = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), server).unwrap();
        let mut out = Vec::new();
        client.write_tls(&mut out).unwrap();
        out
    }

    #[test]
    fn name_and_protocols_of_a_real_hello_are_found() {
        let bytes = real_hello("Reviews.default.svc", &["istio-h2", "istio", "h2"]);
        let Verdict::Found(hello) = parse(&bytes) else {
            panic!("not recognised")
        };
        assert_eq!(hello.server_name.as_deref(), Some("reviews.default.svc"));
        assert_eq!(
            hello.protocols,
            [b"istio-h2".to_vec(), b"istio".to_vec(), b"h2".to_vec()]
        );
    }

    #[test]
    fn every_proper_prefix_asks_for_more() {
        let bytes = real_hello("a.example", &["h2"]);
        for n in 0..bytes.len() {
            assert_eq!(parse(&bytes[..n]), Verdict::NeedMore, "prefix of {n}");
        }
    }

    #[test]
    fn a_hello_split_over_records_reads_the_same() {
        let bytes = real_hello("a.example", &["h2"]);
        let (header, body) = bytes.split_at(5);
        let mut split = Vec::new();
        for chunk in body.chunks(40) {
            split.extend_from_slice(&header[..3]);
            split.extend_from_slice(&u16::try_from(chunk.len()).unwrap().to_be_bytes());
            split.extend_from_slice(chunk);
        }
        assert_eq!(parse(&split), parse(&bytes));
    }

    #[test]
    fn plain_protocols_are_not_tls() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PRI * HTTP/2.0",
            b"\x16\x02\x00",
            b"\x17\x03\x03",
        ] {
            assert_eq!(parse(bytes), Verdict::NotThis);
        }
    }

    proptest! {
        #[test]
        fn no_input_panics_and_length_bounds_the_wait(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_damaged_hello_never_panics(at in 0usize..2000, value: u8) {
            let mut bytes = real_hello("reviews.default.svc", &["h2", "http/1.1"]);
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = parse(&bytes);
        }
    }
}
