//! HTTP/1 on the wire, the same towards clients and hosts: bodies in chunks, writing messages, how names were spelt.
//!
//! What a head means, and what its connection does next, is each side's own: [`crate::http::h1`] and [`crate::upstream::h1`].

pub(crate) mod chunked;
pub(crate) mod names;
pub(crate) mod outgoing;
pub(crate) mod spelling;

use http::{HeaderName, HeaderValue, StatusCode};

use self::spelling::{Speller, Spelling};

/// Where the empty line ends that ends a head, if it is there; `from` is where to look from. Lines may end in LF alone, as they may for
/// Envoy (RFC 9112 section 2.2).
pub(crate) fn end_of_head(buffer: &[u8], from: usize) -> Option<usize> {
    let rest = buffer.get(from..)?;
    memchr::memchr_iter(b'\n', rest).find_map(|at| match rest.get(at + 1..)? {
        [b'\n', ..] => Some(from + at + 2),
        [b'\r', b'\n', ..] => Some(from + at + 3),
        _ => None,
    })
}

/// The length a field states: digits and nothing else, no sign, no list, no space inside.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    let (first, rest) = value.split_first()?;
    rest.iter().try_fold(digit(*first)?, |length, byte| {
        length.checked_mul(10)?.checked_add(digit(*byte)?)
    })
}

fn digit(byte: u8) -> Option<u64> {
    byte.is_ascii_digit().then(|| u64::from(byte - b'0'))
}

/// Whether answers with a status have no body (RFC 9110 section 6.4.1).
pub(crate) fn is_bodiless(status: StatusCode) -> bool {
    is_without_length(status) || status == StatusCode::NOT_MODIFIED
}

/// Whether answers with a status state no length (RFC 9110 section 8.6).
pub(crate) fn is_without_length(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT
}

/// Encodes fields, spelt as they came if that is known. Names and values hold no line ends, by their types.
pub(crate) fn fields<'h>(
    out: &mut Vec<u8>,
    fields: impl Iterator<Item = (&'h HeaderName, &'h HeaderValue)>,
    spelling: Option<&Spelling>,
) {
    let mut speller = spelling.map(Speller::new);
    // Not a `for` loop: what is chained together is passed over faster from within.
    fields.for_each(|(name, value)| {
        match speller.as_mut().and_then(|speller| speller.next(name)) {
            Some(spelt) => out.extend_from_slice(spelt),
            None => out.extend_from_slice(name.as_str().as_bytes()),
        }
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    });
}

/// Encodes a number in decimal.
pub(crate) fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The line that begins a chunk: its size in hexadecimal digits.
pub(crate) fn chunk_size(size: usize) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    let mut out = Vec::with_capacity(digits as usize + 2);
    for at in (0..digits).rev() {
        out.push(DIGITS[(size >> (at * 4)) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_with_its_first_empty_line() {
        assert_eq!(end_of_head(b"a\r\n\r\nb", 0), Some(5));
        assert_eq!(end_of_head(b"a\n\nb", 0), Some(3));
        assert_eq!(end_of_head(b"a\n\r\n", 0), Some(4));
        assert_eq!(end_of_head(b"a\r\nb\r\n\r", 0), None);
        assert_eq!(end_of_head(b"a\r\nb\r\n\r\n", 4), Some(8));
    }

    #[test]
    fn a_length_is_digits_that_fit() {
        for length in [0, 7, 10, 4096, u64::MAX] {
            let stated = length.to_string();
            assert_eq!(content_length(stated.as_bytes()), Some(length));
        }
        for none in [
            "",
            "+1",
            "-1",
            "1 ",
            " 1",
            "1,1",
            "0x1",
            "18446744073709551616",
        ] {
            assert_eq!(content_length(none.as_bytes()), None, "{none:?}");
        }
    }

    #[test]
    fn a_chunk_says_its_size_in_hexadecimal() {
        for size in [0, 1, 15, 16, 4096, 65_535, usize::MAX] {
            assert_eq!(chunk_size(size), format!("{size:x}\r\n").as_bytes());
        }
    }

    #[test]
    fn numbers_are_written_whole() {
        for number in [0, 7, 10, 4096, u64::MAX] {
            let mut out = Vec::new();
            decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
