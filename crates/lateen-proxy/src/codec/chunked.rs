//! The chunked transfer coding (RFC 9112 section 7.1), decoded as strictly as it is defined: a line ends with CR LF and nothing
//! else, sizes are hexadecimal digits alone. What two parties could read differently is refused, not guessed.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Bytes of chunk extensions accepted over one body; they mean nothing and are only skipped.
const MOST_EXTENSIONS: usize = 16 * 1024;
/// Bytes of trailers.
const MOST_TRAILER_BYTES: usize = 16 * 1024;
/// Trailer fields.
const MOST_TRAILERS: usize = 64;
/// Digits of a chunk's size; sixteen fill a `u64`.
const MOST_DIGITS: u8 = 16;

/// A body being decoded.
#[derive(Debug)]
pub(crate) struct Chunked {
    state: State,
    /// Of the size being read, then bytes left of the chunk.
    size: u64,
    digits: u8,
    extensions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    End,
}

/// What a buffer gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// More has to be read.
    NeedMore,
    /// Bytes of the body.
    Data(Bytes),
    /// The end, with trailers if there were any.
    End(Option<HeaderMap>),
}

impl Chunked {
    /// At the beginning of a body.
    pub(crate) const fn new() -> Self {
        Self {
            state: State::Size,
            size: 0,
            digits: 0,
            extensions: 0,
        }
    }

    /// Takes the next part out of a buffer.
    ///
    /// # Errors
    /// The coding is broken, in a word for the log.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Step, &'static str> {
        loop {
            match self.state {
                State::Data => {
                    if buffer.is_empty() {
                        return Ok(Step::NeedMore);
                    }
                    let left = usize::try_from(self.size).unwrap_or(usize::MAX);
                    let data = buffer.split_to(left.min(buffer.len())).freeze();
                    self.size -= data.len() as u64;
                    if self.size == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok(Step::Data(data));
                }
                State::Trailers => return self.trailers(buffer),
                State::End => return Ok(Step::End(None)),
                _ => {
                    let Some(byte) = buffer.first().copied() else {
                        return Ok(Step::NeedMore);
                    };
                    buffer.advance(1);
                    self.frame(byte)?;
                }
            }
        }
    }

    /// Takes one byte of what stands between the data.
    fn frame(&mut self, byte: u8) -> Result<(), &'static str> {
        self.state = match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digit(byte)?;
                State::Size
            }
            (State::Size, _) if self.digits == 0 => return Err("chunk without a size"),
            (State::Size | State::Extension, b'\r') => State::SizeLf,
            (State::Size, b';' | b' ' | b'\t') => State::Extension,
            (State::Extension, b'\t' | 0x20..=0x7e | 0x80..) => {
                self.extensions += 1;
                if self.extensions > MOST_EXTENSIONS {
                    return Err("too many chunk extensions");
                }
                State::Extension
            }
            (State::SizeLf, b'\n') => {
                self.digits = 0;
                if self.size == 0 {
                    State::Trailers
                } else {
                    State::Data
                }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::Size, _) => return Err("bad chunk size"),
            (State::Extension, _) => return Err("bad chunk extension"),
            _ => return Err("chunk without its line end"),
        };
        Ok(())
    }

    fn digit(&mut self, byte: u8) -> Result<(), &'static str> {
        if self.digits == 0 {
            self.size = 0;
        }
        self.digits += 1;
        if self.digits > MOST_DIGITS {
            return Err("chunk size too large");
        }
        let digit = char::from(byte).to_digit(16).unwrap_or(0);
        self.size = (self.size << 4) | u64::from(digit);
        Ok(())
    }

    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Step, &'static str> {
        if buffer.starts_with(b"\r\n") {
            buffer.advance(2);
            self.state = State::End;
            return Ok(Step::End(None));
        }
        let end = buffer.windows(4).position(|w| w == b"\r\n\r\n");
        let Some(end) = end else {
            if buffer.len() > MOST_TRAILER_BYTES {
                return Err("trailers too large");
            }
            return Ok(Step::NeedMore);
        };
        let block = buffer.split_to(end + 4);
        self.state = State::End;
        let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
        let parsed = httparse::parse_headers(&block, &mut fields);
        let Ok(httparse::Status::Complete((_, fields))) = parsed else {
            return Err("bad trailers");
        };
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "bad trailer")?;
            let value = HeaderValue::from_bytes(field.value).map_err(|_| "bad trailer")?;
            if !is_framing(&name) {
                trailers.append(name, value);
            }
        }
        Ok(Step::End(Some(trailers)))
    }
}

/// Fields that say how a message is framed or routed, which a trailer must not (RFC 9110 section 6.5.1).
fn is_framing(name: &HeaderName) -> bool {
    use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
    [
        CONNECTION,
        CONTENT_LENGTH,
        HOST,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ]
    .contains(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes pieces as they would arrive.
    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, Option<HeaderMap>, usize), &'static str> {
        let mut decoder = Chunked::new();
        let mut buffer = BytesMut::new();
        let mut body = Vec::new();
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer)? {
                    Step::NeedMore => break,
                    Step::Data(data) => body.extend_from_slice(&data),
                    Step::End(trailers) => return Ok((body, trailers, buffer.len())),
                }
            }
        }
        Err("incomplete")
    }

    #[test]
    fn a_body_is_put_together_and_what_follows_is_left() {
        let (body, trailers, left) =
            decode(&[b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\nHTTP"]).unwrap();
        assert_eq!(
            (body.as_slice(), trailers, left),
            (&b"hello world"[..], None, 4)
        );
    }

    #[test]
    fn trailers_are_read_and_those_about_framing_dropped() {
        let (_, trailers, _) =
            decode(&[b"1\r\nx\r\n0\r\ngrpc-status: 0\r\ncontent-length: 9\r\n\r\n"]).unwrap();
        let trailers = trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert!(!trailers.contains_key("content-length"));
    }

    #[test]
    fn what_two_parties_could_read_differently_is_refused() {
        for bytes in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"\r\n0\r\n\r\n",
            b";a\r\n0\r\n\r\n",
            b"5;a\nb\r\nhello\r\n0\r\n\r\n",
            b"10000000000000005\r\nhello\r\n0\r\n\r\n",
            b"5\r\rhello\r\n0\r\n\r\n",
            b"0\r\nbad header\r\n\r\n",
            b"0\r\n folded: x\r\n\r\n",
        ] {
            let text = String::from_utf8_lossy(bytes);
            assert!(decode(&[bytes]).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn what_has_no_meaning_is_bounded() {
        let endless = [b"5;".to_vec(), vec![b'a'; MOST_EXTENSIONS + 1]].concat();
        assert_eq!(decode(&[&endless]), Err("too many chunk extensions"));
        let endless = [b"0\r\na: ".to_vec(), vec![b'a'; MOST_TRAILER_BYTES]].concat();
        assert_eq!(decode(&[&endless]), Err("trailers too large"));
        let many = |number: usize| format!("0\r\n{}\r\n", "a: b\r\n".repeat(number));
        assert!(decode(&[many(MOST_TRAILERS).as_bytes()]).is_ok());
        assert!(decode(&[many(MOST_TRAILERS + 1).as_bytes()]).is_err());
        let digits = format!("{}\r\n", "0".repeat(usize::from(MOST_DIGITS) + 1));
        assert!(decode(&[digits.as_bytes()]).is_err());
    }

    proptest! {
        #[test]
        fn where_reads_end_makes_no_difference(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::vec(1_usize..9, 1..80),
        ) {
            let mut encoded = Vec::new();
            for chunk in &chunks {
                encoded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                encoded.extend_from_slice(chunk);
                encoded.extend_from_slice(b"\r\n");
            }
            encoded.extend_from_slice(b"0\r\n\r\n");
            let mut pieces = Vec::new();
            let mut rest = encoded.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            let (body, trailers, left) = decode(&pieces).unwrap();
            prop_assert_eq!(body, chunks.concat());
            prop_assert_eq!((trailers, left), (None, 0));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[&bytes]);
        }
    }
}
