//! Making what a peer sent safe to print: no control character reaches a log line, and JSON stays JSON.
//!
//! Works on the tail of the output, where a value was just written, and copies only if something must change.

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Replaces control characters in `out[start..]` by `\n`, `\r` or `\xNN`, so that a value can neither end the line nor
/// drive a terminal. A tab and a backslash stay as they are (Envoy's parser lets no other control character in).
pub(crate) fn text(out: &mut Vec<u8>, start: usize) {
    rewrite(
        out,
        start,
        |byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f,
        |byte, out| match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            byte => {
                out.extend_from_slice(b"\\x");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        },
    );
}

/// Makes `out[start..]` the inside of a JSON string. What is not UTF-8 is read as Latin-1, as Envoy does.
pub(crate) fn json(out: &mut Vec<u8>, start: usize) {
    let first_escaped = if std::str::from_utf8(&out[start..]).is_ok() {
        0xff
    } else {
        0x80
    };
    let offends =
        |byte: u8| byte < 0x20 || byte >= first_escaped || matches!(byte, b'"' | b'\\' | 0x7f);
    rewrite(out, start, offends, |byte, out| match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x0c => out.extend_from_slice(b"\\f"),
        byte => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    });
}

/// Replaces what cannot be in a host name by `_`, as Envoy does with the server name a client asks for.
/// Source: Envoy CVE-2024-45808.
pub(crate) fn host_name(out: &mut [u8]) {
    for byte in out {
        if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*' | b':')) {
            *byte = b'_';
        }
    }
}

fn rewrite(
    out: &mut Vec<u8>,
    start: usize,
    offends: impl Fn(u8) -> bool,
    replace: impl Fn(u8, &mut Vec<u8>),
) {
    let Some(first) = out[start..].iter().position(|byte| offends(*byte)) else {
        return;
    };
    let tail = out.split_off(start + first);
    for byte in tail {
        if offends(byte) {
            replace(byte, out);
        } else {
            out.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_end_its_line() {
        let mut out = b"ok\n".to_vec();
        out.extend_from_slice(b"a\r\nb\x1b[31m\x7f\\");
        text(&mut out, 3);
        assert_eq!(out, b"ok\na\\r\\nb\\x1b[31m\\x7f\\");
    }

    #[test]
    fn a_json_value_is_read_back_as_it_was() {
        let value = "quote \" backslash \\ \n\r\t\u{8}\u{c}\u{1}\u{7f} ü 😀";
        let mut out = value.as_bytes().to_vec();
        json(&mut out, 0);
        let quoted = format!("\"{}\"", String::from_utf8(out).unwrap());
        assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), value);
    }

    #[test]
    fn bytes_that_are_no_text_still_make_json() {
        let mut out = b"\xff\"".to_vec();
        json(&mut out, 0);
        assert_eq!(String::from_utf8(out).unwrap(), "\\u00ff\\\"");
    }
}
