//! The table: what is asked of a server, by the section that says so.

mod errors;
mod headers;
mod hpack;
mod streams;
mod usual;

use super::frames::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, frame};
use super::frames::{indexed, literal};
use super::wire::Step;

/// Streams that the listeners allow at a time.
pub(crate) const STREAMS: u32 = 100;

pub(crate) const PRIORITY: u8 = 2;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const STREAM_CLOSED: u32 = 5;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const COMPRESSION_ERROR: u32 = 9;

/// One demand.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The section.
    pub(crate) section: &'static str,
    /// What is special about it.
    pub(crate) name: &'static str,
    /// What is done, in order.
    pub(crate) steps: Vec<Step>,
    /// The preface is among the steps.
    pub(crate) by_hand: bool,
}

fn case(section: &'static str, name: &'static str, steps: impl IntoIterator<Item = Step>) -> Case {
    Case {
        section,
        name,
        steps: steps.into_iter().collect(),
        by_hand: false,
    }
}

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    [
        usual::cases(),
        streams::cases(),
        errors::cases(),
        headers::cases(),
        hpack::cases(),
    ]
    .concat()
}

/// Sends frames.
fn send(frames: impl AsRef<[Vec<u8>]>) -> Step {
    Step::Send(frames.as_ref().concat())
}

/// Pseudo-headers of a request with a method that is indexed: 2 is GET, 3 is POST.
fn request(method: usize) -> Vec<u8> {
    [
        indexed(method),
        indexed(6),
        indexed(4),
        literal(b":authority", b"a.example"),
    ]
    .concat()
}

fn get() -> Vec<u8> {
    request(2)
}

fn post() -> Vec<u8> {
    request(3)
}

/// A request's head with fields of its own after the pseudo-headers.
fn with(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = get();
    for (name, value) in fields {
        out.extend(literal(name, value));
    }
    out
}

/// A whole request without a body.
fn whole(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, block)
}

/// The head of a request whose body follows.
fn open(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, block)
}

fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, bytes)
}

fn continuation(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(CONTINUATION, flags, stream, block)
}

/// `SETTINGS` with one setting.
fn setting(id: u16, value: u32) -> Vec<u8> {
    let mut payload = id.to_be_bytes().to_vec();
    payload.extend(value.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

/// `PRIORITY`: what a stream depends on, and its weight.
fn priority(stream: u32, on: u32, weight: u8) -> Vec<u8> {
    let mut payload = on.to_be_bytes().to_vec();
    payload.push(weight);
    frame(PRIORITY, 0, stream, &payload)
}
