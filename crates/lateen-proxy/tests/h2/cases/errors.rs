//! Frames that are malformed, too long, of the wrong stream, or out of order.

use super::super::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, literal,
};
use super::super::wire::Step::{self, Closed, ConnectionError, Settled, StreamError};
use super::{
    COMPRESSION_ERROR, Case, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, PADDED, PRIORITY,
    PROTOCOL_ERROR, PUSH_PROMISE, case, continuation, data, get, open, post, priority, send,
    setting, whole,
};

const PROTOCOL: &[u32] = &[PROTOCOL_ERROR];
const SIZE: &[u32] = &[FRAME_SIZE_ERROR];
const FLOW: &[u32] = &[FLOW_CONTROL_ERROR];

pub(super) fn cases() -> Vec<Case> {
    [
        preface(),
        sizes(),
        order(),
        of_streams(),
        settings(),
        windows(),
    ]
    .concat()
}

fn refused(
    section: &'static str,
    name: &'static str,
    frames: &[Vec<u8>],
    codes: &'static [u32],
) -> Case {
    case(section, name, [send(frames), ConnectionError(codes)])
}

fn preface() -> Vec<Case> {
    let hand = |name, bytes: &[u8], then: &[Step]| Case {
        by_hand: true,
        ..case(
            "3.4",
            name,
            [&[Step::Send(bytes.to_vec())][..], then].concat(),
        )
    };
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let empty = frame(SETTINGS, 0, 0, &[]);
    vec![
        hand("a preface", &[&hello[..], &empty].concat(), &[Settled]),
        hand(
            "a preface that is wrong",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX INVALID",
            &[ConnectionError(PROTOCOL)],
        ),
        hand(
            "no preface at all",
            b"INVALID CONNECTION PREFACE\r\n\r\n",
            &[Closed],
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let long = vec![b'x'; 16_385];
    vec![
        case(
            "4.2",
            "DATA beyond the frame size",
            [
                send([open(1, &post()), data(1, END_STREAM, &long)]),
                StreamError(1, SIZE),
            ],
        ),
        refused(
            "4.2",
            "HEADERS beyond the frame size",
            &[whole(1, &[get(), long.clone()].concat())],
            SIZE,
        ),
        refused(
            "6.3",
            "PRIORITY of 4 bytes",
            &[frame(PRIORITY, 0, 1, &[0; 4])],
            SIZE,
        ),
        refused(
            "6.4",
            "RST_STREAM of 3 bytes",
            &[open(1, &post()), frame(RST_STREAM, 0, 1, &[0; 3])],
            SIZE,
        ),
        refused(
            "6.5",
            "SETTINGS of 3 bytes",
            &[frame(SETTINGS, 0, 0, &[0; 3])],
            SIZE,
        ),
        refused(
            "6.5",
            "an acknowledgement with a payload",
            &[frame(SETTINGS, 1, 0, &[0])],
            SIZE,
        ),
        refused(
            "6.7",
            "PING of 6 bytes",
            &[frame(PING, 0, 0, &[0; 6])],
            SIZE,
        ),
        refused(
            "6.9",
            "WINDOW_UPDATE of 3 bytes",
            &[frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1])],
            SIZE,
        ),
        refused(
            "6.1",
            "DATA with more padding than bytes",
            &[
                open(1, &post()),
                data(1, END_STREAM | PADDED, &[6, b'x', 0]),
            ],
            PROTOCOL,
        ),
        refused(
            "6.2",
            "HEADERS with more padding than bytes",
            &[frame(
                HEADERS,
                END_STREAM | END_HEADERS | PADDED,
                1,
                &[&[200][..], &get()].concat(),
            )],
            PROTOCOL,
        ),
    ]
}

/// A block of headers is of one piece.
fn order() -> Vec<Case> {
    let begun = || frame(HEADERS, END_STREAM, 1, &get());
    let rest = |stream| continuation(stream, END_HEADERS, &[]);
    vec![
        refused(
            "4.3",
            "a block that is none",
            &[whole(1, &[0x44, 0x84, 0xff, 0x53, 0xa9])],
            &[COMPRESSION_ERROR],
        ),
        refused(
            "4.3",
            "PRIORITY within a block",
            &[begun(), priority(1, 0, 1), rest(1)],
            PROTOCOL,
        ),
        refused(
            "4.3",
            "HEADERS of another stream within a block",
            &[begun(), whole(3, &get())],
            PROTOCOL,
        ),
        refused(
            "5.5",
            "an extension within a block",
            &[begun(), frame(0xff, 0, 0, b"x"), rest(1)],
            PROTOCOL,
        ),
        refused(
            "6.2",
            "PRIORITY after HEADERS without an end",
            &[begun(), priority(1, 0, 255)],
            PROTOCOL,
        ),
        refused(
            "6.10",
            "DATA within a block",
            &[begun(), data(1, END_STREAM, b"x")],
            PROTOCOL,
        ),
        refused(
            "6.10",
            "CONTINUATION after the end of the block",
            &[whole(1, &get()), rest(1)],
            PROTOCOL,
        ),
        refused(
            "6.10",
            "CONTINUATION after a CONTINUATION that ended the block",
            &[begun(), rest(1), rest(1)],
            PROTOCOL,
        ),
        refused(
            "6.10",
            "CONTINUATION after DATA",
            &[open(1, &post()), data(1, 0, b"x"), rest(1)],
            PROTOCOL,
        ),
        refused(
            "6.10",
            "CONTINUATION of another stream",
            &[begun(), rest(3)],
            PROTOCOL,
        ),
        case(
            "8.1",
            "a second HEADERS without END_STREAM",
            [
                send([
                    open(1, &post()),
                    frame(HEADERS, END_HEADERS, 1, &literal(b"x-more", b"1")),
                ]),
                StreamError(1, PROTOCOL),
            ],
        ),
    ]
}

/// Frames of the connection on a stream, and the other way round.
fn of_streams() -> Vec<Case> {
    vec![
        refused(
            "6.1",
            "DATA of no stream",
            &[data(0, END_STREAM, b"x")],
            PROTOCOL,
        ),
        refused("6.2", "HEADERS of no stream", &[whole(0, &get())], PROTOCOL),
        refused(
            "6.3",
            "PRIORITY of no stream",
            &[priority(0, 1, 1)],
            PROTOCOL,
        ),
        refused(
            "6.4",
            "RST_STREAM of no stream",
            &[frame(RST_STREAM, 0, 0, &[0; 4])],
            PROTOCOL,
        ),
        refused(
            "6.5",
            "SETTINGS of a stream",
            &[frame(SETTINGS, 0, 1, &[])],
            PROTOCOL,
        ),
        refused(
            "6.7",
            "PING of a stream",
            &[frame(PING, 0, 1, &[0; 8])],
            PROTOCOL,
        ),
        refused(
            "6.8",
            "GOAWAY of a stream",
            &[frame(GOAWAY, 0, 1, &[0; 8])],
            PROTOCOL,
        ),
        refused(
            "6.10",
            "CONTINUATION of no stream",
            &[frame(CONTINUATION, END_HEADERS, 0, &get())],
            PROTOCOL,
        ),
        refused(
            "8.4",
            "PUSH_PROMISE of a client",
            &[frame(
                PUSH_PROMISE,
                END_HEADERS,
                1,
                &[&[0, 0, 0, 2][..], &get()].concat(),
            )],
            PROTOCOL,
        ),
        refused(
            "5.4.1",
            "PING that is malformed",
            &[frame(PING, 0, 3, &[0; 8])],
            PROTOCOL,
        ),
        case(
            "5.4.1",
            "the connection is closed after an error",
            [
                send([frame(PING, 0, 3, &[0; 8])]),
                ConnectionError(PROTOCOL),
                Closed,
            ],
        ),
    ]
}

fn settings() -> Vec<Case> {
    vec![
        refused("6.5.2", "ENABLE_PUSH of 2", &[setting(2, 2)], PROTOCOL),
        refused(
            "6.5.2",
            "a window that is too large",
            &[setting(4, 0x8000_0000)],
            FLOW,
        ),
        refused(
            "6.5.2",
            "a frame size that is too small",
            &[setting(5, 16_383)],
            PROTOCOL,
        ),
        refused(
            "6.5.2",
            "a frame size that is too large",
            &[setting(5, 16_777_216)],
            PROTOCOL,
        ),
        refused(
            "6.9.2",
            "a window above the most",
            &[setting(4, 0xffff_ffff)],
            FLOW,
        ),
    ]
}

fn windows() -> Vec<Case> {
    let most = 0x7fff_ffff_u32.to_be_bytes();
    let update = |stream, by: &[u8]| frame(WINDOW_UPDATE, 0, stream, by);
    vec![
        refused(
            "6.9",
            "WINDOW_UPDATE by nothing",
            &[update(0, &[0; 4])],
            PROTOCOL,
        ),
        case(
            "6.9",
            "WINDOW_UPDATE of a stream by nothing",
            [
                send([open(1, &post()), update(1, &[0; 4])]),
                StreamError(1, PROTOCOL),
            ],
        ),
        refused(
            "6.9.1",
            "the connection's window overflows",
            &[update(0, &most), update(0, &most)],
            FLOW,
        ),
        case(
            "6.9.1",
            "a stream's window overflows",
            [
                send([open(1, &post()), update(1, &most), update(1, &most)]),
                StreamError(1, FLOW),
            ],
        ),
    ]
}
