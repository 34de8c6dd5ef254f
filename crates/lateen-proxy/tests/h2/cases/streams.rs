//! Streams: their states, their numbers, and frames that do not fit these.

use super::super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, WINDOW_UPDATE, frame,
};
use super::super::wire::Step::{Answer, ConnectionError, End, Send, StreamError};
use super::{
    Case, PROTOCOL_ERROR, REFUSED_STREAM, STREAM_CLOSED, STREAMS, WITH_PRIORITY, case,
    continuation, data, get, open, post, priority, send, whole,
};

const CLOSED: &[u32] = &[STREAM_CLOSED, PROTOCOL_ERROR];
const PROTOCOL: &[u32] = &[PROTOCOL_ERROR];

pub(super) fn cases() -> Vec<Case> {
    [idle(), half_closed(), closed(), numbers(), priorities()].concat()
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

fn idle() -> Vec<Case> {
    let refused = || ConnectionError(PROTOCOL);
    vec![
        case(
            "5.1",
            "DATA on an idle stream",
            [send([data(1, END_STREAM, b"x")]), refused()],
        ),
        case(
            "5.1",
            "RST_STREAM on an idle stream",
            [send([reset(1)]), refused()],
        ),
        case(
            "5.1",
            "WINDOW_UPDATE on an idle stream",
            [
                send([frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())]),
                refused(),
            ],
        ),
        case(
            "5.1",
            "CONTINUATION on an idle stream",
            [send([continuation(1, END_HEADERS, &get())]), refused()],
        ),
    ]
}

/// The client's side of a stream has ended.
fn half_closed() -> Vec<Case> {
    vec![
        case(
            "5.1",
            "DATA on a half-closed stream",
            [
                send([whole(1, &get()), data(1, END_STREAM, b"x")]),
                StreamError(1, &[STREAM_CLOSED]),
            ],
        ),
        case(
            "5.1",
            "HEADERS on a half-closed stream",
            [
                send([whole(1, &get()), whole(1, &get())]),
                StreamError(1, &[STREAM_CLOSED]),
            ],
        ),
        case(
            "5.1",
            "CONTINUATION on a half-closed stream",
            [
                send([whole(1, &get()), continuation(1, END_HEADERS, &get())]),
                ConnectionError(CLOSED),
            ],
        ),
    ]
}

fn closed() -> Vec<Case> {
    let after_reset = |bytes: Vec<u8>| Send([open(1, &post()), reset(1), bytes].concat());
    let ended = || [send([whole(1, &get())]), Answer(1), End(1)];
    let after_end = |bytes: Vec<u8>, expected| {
        let mut steps = ended().to_vec();
        steps.extend([Send(bytes), expected]);
        steps
    };
    vec![
        case(
            "5.1",
            "DATA after RST_STREAM",
            [
                after_reset(data(1, 0, b"x")),
                StreamError(1, &[STREAM_CLOSED]),
            ],
        ),
        case(
            "5.1",
            "HEADERS after RST_STREAM",
            [
                after_reset(whole(1, &get())),
                StreamError(1, &[STREAM_CLOSED]),
            ],
        ),
        case(
            "5.1",
            "CONTINUATION after RST_STREAM",
            [
                after_reset(continuation(1, END_HEADERS, &get())),
                ConnectionError(CLOSED),
            ],
        ),
        case(
            "5.1",
            "DATA on a closed stream",
            after_end(data(1, 0, b"x"), StreamError(1, &[STREAM_CLOSED])),
        ),
        case(
            "5.1",
            "HEADERS on a closed stream",
            after_end(whole(1, &get()), ConnectionError(&[STREAM_CLOSED])),
        ),
        case(
            "5.1",
            "CONTINUATION on a closed stream",
            after_end(
                continuation(1, END_HEADERS, &get()),
                ConnectionError(CLOSED),
            ),
        ),
    ]
}

fn numbers() -> Vec<Case> {
    let too_many: Vec<Vec<u8>> = (0..=STREAMS).map(|n| open(n * 2 + 1, &post())).collect();
    vec![
        case(
            "5.1.1",
            "an even stream",
            [send([whole(2, &get())]), ConnectionError(PROTOCOL)],
        ),
        case(
            "5.1.1",
            "a stream before the last one",
            [
                send([whole(5, &get()), whole(3, &get())]),
                ConnectionError(CLOSED),
            ],
        ),
        case(
            "5.1.2",
            "more streams than are allowed",
            [
                send(too_many),
                StreamError(STREAMS * 2 + 1, &[PROTOCOL_ERROR, REFUSED_STREAM]),
            ],
        ),
    ]
}

/// RFC 9113 leaves priorities to whoever still wants them; what contradicts itself is refused as RFC 7540 asks.
fn priorities() -> Vec<Case> {
    let own = [&[0, 0, 0, 1, 255][..], &get()].concat();
    vec![
        case(
            "5.3.1",
            "HEADERS that depend on themselves",
            [
                send([frame(
                    HEADERS,
                    END_STREAM | END_HEADERS | WITH_PRIORITY,
                    1,
                    &own,
                )]),
                StreamError(1, PROTOCOL),
            ],
        ),
        case(
            "5.3.1",
            "PRIORITY that depends on itself",
            [send([priority(2, 2, 255)]), StreamError(2, PROTOCOL)],
        ),
        case(
            "6.1",
            "DATA on a stream that was never opened",
            [
                send([frame(DATA, END_STREAM, 3, b"x")]),
                ConnectionError(CLOSED),
            ],
        ),
        case(
            "6.10",
            "CONTINUATION without HEADERS",
            [
                send([frame(CONTINUATION, END_HEADERS, 1, &[])]),
                ConnectionError(PROTOCOL),
            ],
        ),
    ]
}
