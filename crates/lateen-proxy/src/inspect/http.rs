//! Whether a plain-text connection speaks HTTP/1 or HTTP/2, from its first bytes.
//!
//! Envoy's `http_inspector` parses with its codec until the request line is complete. Here the request line itself is
//! judged: a token, a space, a target without blanks, a space, `HTTP/1.`.

use super::{MAX_INSPECTED, Verdict};

/// The connection preface of HTTP/2 (RFC 9113 section 3.4).
pub(crate) const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest method that is taken for HTTP. The longest registered one is `UPDATEREDIRECTREF`, 17 bytes.
const MAX_METHOD: usize = 32;
/// Longest method and target that are taken for HTTP. With a version behind them they are within [`MAX_INSPECTED`], so that it does not
/// matter in what pieces a line comes. Envoy: 64 KiB.
const MAX_LINE: usize = MAX_INSPECTED - 16;

/// The version of HTTP a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    /// `HTTP/1.0`.
    Http10,
    /// `HTTP/1.1`.
    Http11,
    /// HTTP/2 with prior knowledge.
    Http2,
}

impl HttpVersion {
    /// The application protocol Envoy's inspector sets for filter-chain matching.
    pub(crate) const fn application_protocol(self) -> &'static str {
        match self {
            Self::Http10 => "http/1.0",
            Self::Http11 => "http/1.1",
            Self::Http2 => "h2c",
        }
    }
}

/// Judges the start of a stream.
pub(crate) fn parse(bytes: &[u8]) -> Verdict<HttpVersion> {
    let preface = bytes.len().min(H2_PREFACE.len());
    if bytes[..preface] == H2_PREFACE[..preface] {
        // `PRI` is not an HTTP/1 method, so a shared prefix of four bytes decides.
        return if bytes.len() >= H2_PREFACE.len() {
            Verdict::Found(HttpVersion::Http2)
        } else {
            Verdict::NeedMore
        };
    }
    match bytes {
        b"\r" => Verdict::NeedMore,
        _ => request_line(skip_blank_line(bytes)),
    }
}

/// RFC 9112 section 2.2: at least one empty line before the request line is to be ignored.
fn skip_blank_line(bytes: &[u8]) -> &[u8] {
    bytes
        .strip_prefix(b"\r\n")
        .or_else(|| bytes.strip_prefix(b"\n"))
        .unwrap_or(bytes)
}

fn request_line(bytes: &[u8]) -> Verdict<HttpVersion> {
    let mut parts = bytes.splitn(3, |b| *b == b' ');
    let method = parts.next().unwrap_or_default();
    if method.len() > MAX_METHOD || !method.iter().copied().all(is_token) {
        return Verdict::NotThis;
    }
    let Some(target) = parts.next() else {
        return Verdict::NeedMore;
    };
    if method.is_empty() || target.iter().any(|b| *b <= b' ' || *b == 0x7f) {
        return Verdict::NotThis;
    }
    if method.len() + target.len() > MAX_LINE {
        return Verdict::NotThis;
    }
    let Some(version) = parts.next() else {
        return Verdict::NeedMore;
    };
    if target.is_empty() {
        return Verdict::NotThis;
    }
    match version {
        v if v.starts_with(b"HTTP/1.1") => Verdict::Found(HttpVersion::Http11),
        v if v.starts_with(b"HTTP/1.0") => Verdict::Found(HttpVersion::Http10),
        v if b"HTTP/1.1".starts_with(v) || b"HTTP/1.0".starts_with(v) => Verdict::NeedMore,
        _ => Verdict::NotThis,
    }
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn request_lines_are_recognised() {
        assert_eq!(
            parse(b"GET /a?b HTTP/1.1\r\nhost: x"),
            Verdict::Found(HttpVersion::Http11)
        );
        assert_eq!(
            parse(b"\r\nBREW /pot HTTP/1.0\r\n"),
            Verdict::Found(HttpVersion::Http10)
        );
        assert_eq!(parse(H2_PREFACE), Verdict::Found(HttpVersion::Http2));
    }

    #[test]
    fn prefixes_ask_for_more() {
        for bytes in [
            &b""[..],
            b"G",
            b"GET ",
            b"GET /x",
            b"GET /x ",
            b"GET /x HTTP/1.",
            b"PRI * HT",
            b"\r",
            b"\r\n",
        ] {
            assert_eq!(parse(bytes), Verdict::NeedMore, "{bytes:?}");
        }
    }

    #[test]
    fn a_long_line_is_judged_the_same_whole_and_in_pieces() {
        for (length, expected) in [
            (MAX_LINE - 3, Verdict::Found(HttpVersion::Http11)),
            (MAX_LINE - 2, Verdict::NotThis),
        ] {
            let line = format!("GET {} HTTP/1.1\r\n", "/".repeat(length));
            let bytes = line.as_bytes();
            assert_eq!(parse(bytes), expected);
            let pieces = (1..bytes.len()).step_by(7).chain([bytes.len()]);
            let mut verdicts = pieces.map(|end| parse(&bytes[..end]));
            let first = verdicts.find(|verdict| *verdict != Verdict::NeedMore);
            assert_eq!(first, Some(expected));
        }
    }

    #[test]
    fn other_protocols_are_not_http() {
        for bytes in [
            &b"\x16\x03\x01"[..],
            b"*1\r\n$4\r\nPING\r\n",
            b"SSH-2.0-x\r\n",
            b"GET  HTTP/1.1",
            b"A B C",
        ] {
            assert_eq!(parse(bytes), Verdict::NotThis, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_longer_prefix_never_takes_back_a_verdict(line in "[A-Z]{1,8} /[a-z]{0,20} HTTP/1\\.[01]\r\n", cut in 0usize..40) {
            let bytes = line.as_bytes();
            let cut = cut.min(bytes.len());
            prop_assert!(parse(&bytes[..cut]) == Verdict::NeedMore || parse(&bytes[..cut]) == parse(bytes));
        }
    }
}
