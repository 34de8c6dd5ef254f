//! What one request is done with and the next one needs again: buffers that messages are read to and written from, and maps of headers.
//!
//! A worker takes them from here and gives them back, so that a request makes none of its own. Few are kept, and only of the usual size; and
//! once a second all of them go back to the allocator ([`forget`]), for making some anew each second costs nothing and an idle worker is
//! to hold nothing.

use std::cell::RefCell;

use bytes::BytesMut;
use http::HeaderMap;

/// Of each kind, at most.
const MOST: usize = 128;
/// The largest buffer that is kept.
const MOST_BYTES: usize = 6 * 1024;
/// The largest map that is kept: places, of some hundred bytes each.
const MOST_HEADERS: usize = 48;
/// Room in a map that is made for keeping.
const USUAL_HEADERS: usize = 12;

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare::new()) };
}

struct Spare {
    buffers: Vec<Vec<u8>>,
    reads: Vec<BytesMut>,
    maps: Vec<HeaderMap>,
}

impl Spare {
    const fn new() -> Self {
        Self {
            buffers: Vec::new(),
            reads: Vec::new(),
            maps: Vec::new(),
        }
    }
}

/// An empty buffer with room for so many bytes.
pub(crate) fn buffer(room: usize) -> Vec<u8> {
    match SPARE.with_borrow_mut(|spare| spare.buffers.pop()) {
        Some(mut buffer) => {
            buffer.reserve(room);
            buffer
        }
        None => Vec::with_capacity(room),
    }
}

/// A buffer is needed no more.
pub(crate) fn keep_buffer(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > MOST_BYTES {
        return;
    }
    buffer.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.buffers.len() < MOST {
            spare.buffers.push(buffer);
        }
    });
}

/// An empty buffer to read to. It has room once nothing that was read to it before is held any more.
pub(crate) fn read_buffer() -> BytesMut {
    let spare = SPARE.with_borrow_mut(|spare| spare.reads.pop());
    spare.unwrap_or_default()
}

/// A buffer that was read to is needed no more; parts of it may still be.
pub(crate) fn keep_read_buffer(mut buffer: BytesMut) {
    if buffer.capacity() == 0 || buffer.capacity() > MOST_BYTES {
        return;
    }
    buffer.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.reads.len() < MOST {
            spare.reads.push(buffer);
        }
    });
}

/// An empty map with room for so many headers.
pub(crate) fn headers(room: usize) -> HeaderMap {
    match SPARE.with_borrow_mut(|spare| spare.maps.pop()) {
        Some(map) if map.capacity() >= room => map,
        _ => HeaderMap::with_capacity(room.max(USUAL_HEADERS)),
    }
}

/// A map is needed no more.
pub(crate) fn keep_headers(mut map: HeaderMap) {
    if map.capacity() == 0 || map.capacity() > MOST_HEADERS {
        return;
    }
    map.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.maps.len() < MOST {
            spare.maps.push(map);
        }
    });
}

/// Gives everything back to the allocator.
pub(crate) fn forget() {
    SPARE.with_borrow_mut(|spare| *spare = Spare::new());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_is_empty_and_used_again() {
        let mut first = buffer(100);
        first.extend_from_slice(b"secret");
        let at = first.as_ptr();
        keep_buffer(first);
        let second = buffer(50);
        assert!(second.is_empty() && second.as_ptr() == at);
        let mut first = read_buffer();
        first.reserve(100);
        first.extend_from_slice(b"headbody");
        let at = first.as_ptr();
        let head = first.split_to(4).freeze();
        keep_read_buffer(first);
        drop(head);
        let mut second = read_buffer();
        second.reserve(100);
        assert!(second.is_empty() && second.as_ptr() == at);
        let mut map = headers(3);
        map.insert("a", http::HeaderValue::from_static("b"));
        keep_headers(map);
        assert!(headers(3).is_empty());
        assert!(SPARE.with_borrow(|spare| spare.maps.is_empty()));
    }

    #[test]
    fn large_ones_and_more_than_so_many_are_not_kept() {
        keep_buffer(Vec::with_capacity(MOST_BYTES + 1));
        keep_headers(HeaderMap::with_capacity(MOST_HEADERS * 4));
        assert!(SPARE.with_borrow(|spare| spare.buffers.is_empty() && spare.maps.is_empty()));
        for _ in 0..=MOST {
            keep_buffer(Vec::with_capacity(10));
            keep_headers(HeaderMap::with_capacity(3));
        }
        let kept = SPARE.with_borrow(|spare| (spare.buffers.len(), spare.maps.len()));
        assert_eq!(kept, (MOST, MOST));
        forget();
        assert!(SPARE.with_borrow(|spare| spare.buffers.is_empty() && spare.maps.is_empty()));
    }
}
