//! What any client may do, and has to be served.

use super::super::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, literal,
};
use super::super::wire::Step::{Alive, Answer, Data, End, Padded, Pong, Settled};
use super::{
    Case, PADDED, WITH_PRIORITY, case, continuation, data, get, open, post, priority, request,
    send, setting, whole, with,
};

const PINGED: [u8; 8] = *b"pingpong";

pub(super) fn cases() -> Vec<Case> {
    [
        messages(),
        frames(),
        priorities(),
        control(),
        updates(),
        windows(),
        tolerance(),
        unknown_reasons(),
        late_and_early(),
    ]
    .concat()
}

fn messages() -> Vec<Case> {
    let answered = [Answer(1), End(1)];
    vec![
        case(
            "8.1",
            "GET",
            [[send([whole(1, &get())])].as_slice(), &answered].concat(),
        ),
        case(
            "8.1",
            "HEAD",
            [
                send([whole(
                    1,
                    &[&literal(b":method", b"HEAD")[..], &get()[1..]].concat(),
                )]),
                Answer(1),
            ],
        ),
        case(
            "8.1",
            "POST",
            [
                send([open(1, &post()), data(1, END_STREAM, b"text")]),
                Answer(1),
                End(1),
            ],
        ),
        case(
            "8.1",
            "POST with trailers",
            [
                send([
                    open(1, &post()),
                    data(1, 0, b"text"),
                    whole(1, &literal(b"x-checksum", b"1")),
                ]),
                Answer(1),
                End(1),
            ],
        ),
        case(
            "5.1",
            "several requests at once",
            [
                send([whole(1, &get()), whole(3, &get()), whole(5, &get())]),
                Alive,
                send([whole(7, &get())]),
                Answer(7),
            ],
        ),
    ]
}

fn frames() -> Vec<Case> {
    let padded = |bytes: &[u8]| [&[3][..], bytes, &[0; 3]].concat();
    let weighted = [&[0, 0, 0, 0, 15][..], &get()].concat();
    vec![
        case(
            "6.1",
            "DATA",
            [
                send([open(1, &post()), data(1, END_STREAM, b"x")]),
                Answer(1),
            ],
        ),
        case(
            "6.1",
            "several DATA",
            [
                send([
                    open(1, &post()),
                    data(1, 0, b"x"),
                    data(1, 0, b"y"),
                    data(1, END_STREAM, b"z"),
                ]),
                Answer(1),
            ],
        ),
        case(
            "6.1",
            "DATA with padding",
            [
                send([
                    open(1, &post()),
                    data(1, END_STREAM | PADDED, &padded(b"x")),
                ]),
                Answer(1),
            ],
        ),
        case(
            "6.1",
            "padding of more than a window",
            [
                send([open(1, &post())]),
                Padded(1, 1200),
                send([data(1, END_STREAM, b"x")]),
                Answer(1),
                End(1),
            ],
        ),
        case(
            "6.2",
            "HEADERS with padding",
            [
                send([frame(
                    HEADERS,
                    END_STREAM | END_HEADERS | PADDED,
                    1,
                    &padded(&get()),
                )]),
                Answer(1),
            ],
        ),
        case(
            "6.2",
            "HEADERS with priority",
            [
                send([frame(
                    HEADERS,
                    END_STREAM | END_HEADERS | WITH_PRIORITY,
                    1,
                    &weighted,
                )]),
                Answer(1),
            ],
        ),
    ]
}

fn priorities() -> Vec<Case> {
    vec![
        case(
            "6.3",
            "PRIORITY of weight 1",
            [send([priority(1, 0, 0)]), Alive],
        ),
        case(
            "6.3",
            "PRIORITY of weight 256",
            [send([priority(1, 0, 255)]), Alive],
        ),
        case(
            "6.3",
            "PRIORITY with a dependency",
            [send([priority(1, 3, 10)]), Alive],
        ),
        case(
            "6.3",
            "exclusive PRIORITY",
            [send([priority(1, 0x8000_0003, 10)]), Alive],
        ),
        case(
            "6.3",
            "PRIORITY of an idle stream before a lower one",
            [send([priority(5, 0, 255), whole(3, &get())]), Answer(3)],
        ),
    ]
}

fn control() -> Vec<Case> {
    vec![
        case(
            "6.4",
            "RST_STREAM",
            [
                send([
                    open(1, &post()),
                    frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()),
                ]),
                Alive,
            ],
        ),
        case("6.5", "SETTINGS", [send([setting(3, 100)]), Settled]),
        case(
            "6.7",
            "PING",
            [send([frame(PING, 0, 0, &PINGED)]), Pong(PINGED)],
        ),
        case(
            "6.8",
            "GOAWAY",
            [
                send([whole(1, &get()), frame(GOAWAY, 0, 0, &[0; 8])]),
                Answer(1),
            ],
        ),
    ]
}

fn updates() -> Vec<Case> {
    vec![
        case(
            "6.9",
            "WINDOW_UPDATE of the connection",
            [
                send([
                    frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
                    whole(1, &get()),
                ]),
                Answer(1),
            ],
        ),
        case(
            "6.9",
            "WINDOW_UPDATE of a stream",
            [
                send([
                    whole(1, &get()),
                    frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()),
                ]),
                Answer(1),
            ],
        ),
        case("6.10", "CONTINUATION", [send(in_parts(2)), Answer(1)]),
        case(
            "6.10",
            "several CONTINUATION",
            [send(in_parts(4)), Answer(1)],
        ),
    ]
}

/// A request's head over so many frames.
fn in_parts(count: usize) -> Vec<Vec<u8>> {
    let block = with(&[(b"x-a", b"a"), (b"x-b", b"b")]);
    let parts: Vec<&[u8]> = block.chunks(block.len().div_ceil(count)).collect();
    let mut out = vec![frame(HEADERS, END_STREAM, 1, parts[0])];
    for (at, part) in parts.iter().enumerate().skip(1) {
        let flags = if at + 1 == parts.len() {
            END_HEADERS
        } else {
            0
        };
        out.push(frame(CONTINUATION, flags, 1, part));
    }
    out
}

fn windows() -> Vec<Case> {
    vec![
        case(
            "6.9.1",
            "an initial window of 1",
            [
                send([setting(4, 1)]),
                Settled,
                send([whole(1, &get())]),
                Data(1, 1),
            ],
        ),
        case(
            "6.9.2",
            "the initial window grows after HEADERS",
            [
                send([setting(4, 0)]),
                Settled,
                send([whole(1, &get())]),
                Answer(1),
                send([setting(4, 1)]),
                Data(1, 1),
            ],
        ),
        case(
            "6.9.2",
            "a window below zero",
            [
                send([setting(4, 3)]),
                Settled,
                send([whole(1, &get())]),
                Data(1, 3),
                send([setting(4, 2)]),
                Settled,
                send([frame(WINDOW_UPDATE, 0, 1, &2_u32.to_be_bytes())]),
                Data(1, 1),
            ],
        ),
        case(
            "6.5.3",
            "the last of several values counts",
            [
                send([frame(
                    SETTINGS,
                    0,
                    0,
                    &[0, 4, 0, 0, 0, 100, 0, 4, 0, 0, 0, 1],
                )]),
                Settled,
                send([whole(1, &get())]),
                Data(1, 1),
            ],
        ),
        case(
            "6.5.3",
            "settings are acknowledged",
            [send([frame(SETTINGS, 0, 0, &[])]), Settled],
        ),
    ]
}

/// What is not known, or says nothing any more, is disregarded.
fn tolerance() -> Vec<Case> {
    let reserved = |mut frame: Vec<u8>| {
        frame[5] |= 0x80;
        frame
    };
    vec![
        case(
            "4.1",
            "a frame of unknown type",
            [send([frame(0x16, 0, 0, &[0; 8])]), Alive],
        ),
        case(
            "4.1",
            "undefined flags",
            [send([frame(PING, 0x16, 0, &PINGED)]), Pong(PINGED)],
        ),
        case(
            "4.1",
            "the reserved bit",
            [send([reserved(frame(PING, 0, 0, &PINGED))]), Pong(PINGED)],
        ),
        case(
            "4.2",
            "DATA of 16384 bytes",
            [
                send([open(1, &post()), data(1, END_STREAM, &[b'x'; 16_384])]),
                Answer(1),
            ],
        ),
        case(
            "5.5",
            "an unknown extension",
            [send([frame(0xff, 0, 0, b"unknown")]), Alive],
        ),
        case(
            "6.5.2",
            "an unknown setting",
            [send([setting(0xff, 1)]), Settled, Alive],
        ),
        case(
            "6.7",
            "PING that is an answer",
            [
                send([frame(PING, 1, 0, b"invalid!"), frame(PING, 0, 0, &PINGED)]),
                Pong(PINGED),
            ],
        ),
    ]
}

fn unknown_reasons() -> Vec<Case> {
    vec![
        case(
            "7",
            "GOAWAY for an unknown reason",
            [
                // With no stream under way the connection may end at once (section 6.8).
                send([
                    open(1, &post()),
                    frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]),
                ]),
                send([data(1, END_STREAM, b"x")]),
                Answer(1),
            ],
        ),
        case(
            "7",
            "RST_STREAM for an unknown reason",
            [
                send([
                    open(1, &post()),
                    frame(RST_STREAM, 0, 1, &0xff_u32.to_be_bytes()),
                ]),
                Alive,
            ],
        ),
    ]
}

/// Frames that may still come for a stream that has ended, or has not begun.
fn late_and_early() -> Vec<Case> {
    vec![
        case(
            "5.1",
            "PRIORITY of an idle stream",
            [send([priority(1, 0, 1), whole(1, &get())]), Answer(1)],
        ),
        case(
            "5.1",
            "WINDOW_UPDATE of a half-closed stream",
            [
                send([
                    whole(1, &get()),
                    frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()),
                ]),
                Answer(1),
                Alive,
            ],
        ),
        case(
            "5.1",
            "PRIORITY of a half-closed stream",
            [
                send([whole(1, &get()), priority(1, 0, 1)]),
                Answer(1),
                Alive,
            ],
        ),
        case(
            "5.1",
            "RST_STREAM of a half-closed stream",
            [
                send([
                    whole(1, &get()),
                    frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()),
                ]),
                Alive,
            ],
        ),
        case(
            "5.1",
            "PRIORITY of a closed stream",
            [
                send([whole(1, &get())]),
                Answer(1),
                End(1),
                send([priority(1, 0, 1)]),
                Alive,
            ],
        ),
        case(
            "5.3.1",
            "HEADERS whose priority is of no meaning any more",
            [
                send([frame(
                    HEADERS,
                    END_STREAM | END_HEADERS | WITH_PRIORITY,
                    1,
                    &[&[0x80, 0, 0, 3, 255][..], &request(2)].concat(),
                )]),
                Answer(1),
            ],
        ),
        case(
            "6.10",
            "an empty CONTINUATION",
            [
                send([
                    frame(HEADERS, END_STREAM, 1, &get()),
                    continuation(1, END_HEADERS, &[]),
                ]),
                Answer(1),
            ],
        ),
    ]
}
