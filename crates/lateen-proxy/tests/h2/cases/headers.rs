//! Messages that are malformed (RFC 9113 section 8.1.1): a server resets the stream.

use super::super::frames::{END_STREAM, indexed, literal};
use super::super::wire::Step::{Answer, StreamError};
use super::{Case, PROTOCOL_ERROR, case, data, get, open, post, send, whole, with};

const PROTOCOL: &[u32] = &[PROTOCOL_ERROR];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = [pseudo_headers(), lengths()].concat();
    cases.extend(fields());
    cases
}

fn malformed(section: &'static str, name: &'static str, block: Vec<u8>) -> Case {
    case(
        section,
        name,
        [send([whole(1, &block)]), StreamError(1, PROTOCOL)],
    )
}

fn fields() -> Vec<Case> {
    vec![
        malformed("8.2.1", "an upper-case name", with(&[(b"X-Test", b"1")])),
        malformed("8.2.1", "a name with a space", with(&[(b"x test", b"1")])),
        malformed(
            "8.2.1",
            "a value with a line break",
            with(&[(b"x-test", b"1\r\nx-other: 2")]),
        ),
        malformed(
            "8.2.2",
            "connection",
            with(&[(b"connection", b"keep-alive")]),
        ),
        malformed(
            "8.2.2",
            "keep-alive",
            with(&[(b"keep-alive", b"timeout=5")]),
        ),
        malformed(
            "8.2.2",
            "proxy-connection",
            with(&[(b"proxy-connection", b"keep-alive")]),
        ),
        malformed(
            "8.2.2",
            "transfer-encoding",
            with(&[(b"transfer-encoding", b"chunked")]),
        ),
        malformed("8.2.2", "upgrade", with(&[(b"upgrade", b"websocket")])),
        malformed(
            "8.2.2",
            "te other than trailers",
            with(&[(b"te", b"trailers, deflate")]),
        ),
        case(
            "8.2.2",
            "te: trailers",
            [send([whole(1, &with(&[(b"te", b"trailers")]))]), Answer(1)],
        ),
    ]
}

fn pseudo_headers() -> Vec<Case> {
    let (method, scheme, path) = (indexed(2), indexed(6), indexed(4));
    let authority = literal(b":authority", b"a.example");
    let of = |parts: &[&Vec<u8>]| parts.iter().flat_map(|part| part.iter().copied()).collect();
    vec![
        malformed("8.3", "an unknown pseudo-header", with(&[(b":test", b"1")])),
        malformed(
            "8.3",
            "a response's pseudo-header",
            with(&[(b":status", b"200")]),
        ),
        case(
            "8.3",
            "a pseudo-header among the trailers",
            [
                send([
                    open(1, &post()),
                    data(1, 0, b"x"),
                    whole(1, &literal(b":method", b"POST")),
                ]),
                StreamError(1, PROTOCOL),
            ],
        ),
        malformed(
            "8.3",
            "a pseudo-header after a header",
            of(&[
                &method,
                &scheme,
                &literal(b"x-test", b"1"),
                &path,
                &authority,
            ]),
        ),
        malformed(
            "8.3.1",
            "an empty path",
            of(&[&method, &scheme, &literal(b":path", b""), &authority]),
        ),
        malformed("8.3.1", "no method", of(&[&scheme, &path, &authority])),
        malformed("8.3.1", "no scheme", of(&[&method, &path, &authority])),
        malformed("8.3.1", "no path", of(&[&method, &scheme, &authority])),
        malformed(
            "8.3.1",
            "two methods",
            of(&[&method, &method, &scheme, &path, &authority]),
        ),
        malformed(
            "8.3.1",
            "two schemes",
            of(&[&method, &scheme, &scheme, &path, &authority]),
        ),
        malformed(
            "8.3.1",
            "two paths",
            of(&[&method, &scheme, &path, &path, &authority]),
        ),
        malformed("8.5", "CONNECT with a path", {
            of(&[&literal(b":method", b"CONNECT"), &path, &authority])
        }),
    ]
}

fn lengths() -> Vec<Case> {
    let long = |length: &[u8]| [post(), literal(b"content-length", length)].concat();
    let cut =
        |name, frames: &[Vec<u8>]| case("8.1.1", name, [send(frames), StreamError(1, PROTOCOL)]);
    vec![
        cut(
            "less content than was said",
            &[open(1, &long(b"2")), data(1, END_STREAM, b"x")],
        ),
        cut(
            "more content than was said",
            &[open(1, &long(b"1")), data(1, END_STREAM, b"xy")],
        ),
        cut(
            "less content in several frames",
            &[
                open(1, &long(b"9")),
                data(1, 0, b"x"),
                data(1, END_STREAM, b"y"),
            ],
        ),
        cut("a length without content", &[whole(1, &long(b"1"))]),
        case(
            "8.1.1",
            "a length of 0 without content",
            [
                send([whole(
                    1,
                    &[get(), literal(b"content-length", b"0")].concat(),
                )]),
                Answer(1),
            ],
        ),
    ]
}
