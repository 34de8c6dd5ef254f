//! Writing blocks of fields.
//!
//! A field is remembered when it is sent a second time: identifiers and times of a single message would only push out what repeats.
//! Credentials are never remembered, so that nobody who shares the connection can find them out by how well they compress (RFC 7541
//! section 7.1).

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};

use bytes::{BufMut, BytesMut};
use foldhash::fast::FixedState;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::field::index_of;
use super::{OVERHEAD, STATIC, TABLE};

/// Fields that were sent lately, each in one place only. A power of two.
const PLACES: usize = 64;
/// Longer fields are not worth a place: what a sidecar says of itself with every message is, the longest of all that repeats.
const LONGEST: usize = 1536;

/// Writes blocks, and knows what the peer remembers.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// The newest first.
    table: VecDeque<Entry>,
    /// Fields that were ever remembered.
    count: u32,
    size: usize,
    most: usize,
    /// The least and the last size since the peer was told one.
    resized: Option<(usize, usize)>,
    lately: Box<[Lately]>,
}

#[derive(Debug)]
struct Entry {
    /// Name and value, one after the other.
    text: Box<[u8]>,
    name: usize,
}

/// A field that was sent.
#[derive(Clone, Copy, Debug, Default)]
struct Lately {
    hash: u32,
    /// Which of the fields that were remembered it is, counted from 1; 0 if it is none.
    number: u32,
}

/// How a field is written that is not in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Literal {
    Remembered,
    Plain,
    Secret,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            count: 0,
            size: 0,
            most: TABLE,
            resized: None,
            lately: Box::default(),
        }
    }
}

impl Encoder {
    /// The peer keeps a table of so many bytes from now on.
    pub(crate) fn resize(&mut self, most: usize) {
        let most = most.min(TABLE);
        if most == self.most && self.resized.is_none() {
            return;
        }
        let least = self.resized.map_or(self.most, |(least, _)| least).min(most);
        self.resized = Some((least, most));
        self.most = most;
        self.make_room(least);
    }

    /// Begins a block.
    pub(crate) fn begin(&mut self, out: &mut BytesMut) {
        if let Some((least, last)) = self.resized.take() {
            if least < last {
                integer(out, least, 5, 0x20);
            }
            integer(out, last, 5, 0x20);
        }
    }

    /// Writes `:status`.
    pub(crate) fn status(&mut self, out: &mut BytesMut, status: StatusCode) {
        let index = match status.as_u16() {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => return self.field(out, ":status", status.as_str().as_bytes()),
        };
        out.put_u8(0x80 | index);
    }

    /// Writes `:method`.
    pub(crate) fn method(&mut self, out: &mut BytesMut, method: &Method) {
        match *method {
            Method::GET => out.put_u8(0x82),
            Method::POST => out.put_u8(0x83),
            _ => self.field(out, ":method", method.as_str().as_bytes()),
        }
    }

    /// Writes `:scheme`.
    pub(crate) fn scheme(&mut self, out: &mut BytesMut, scheme: &str) {
        match scheme {
            "http" => out.put_u8(0x86),
            "https" => out.put_u8(0x87),
            _ => self.field(out, ":scheme", scheme.as_bytes()),
        }
    }

    /// Writes `:path`. What is asked of it is often particular to a request.
    pub(crate) fn path(&mut self, out: &mut BytesMut, path: &str) {
        match path {
            "/" => out.put_u8(0x84),
            _ if path.contains('?') => literal(out, Literal::Plain, ":path", path.as_bytes()),
            _ => self.field(out, ":path", path.as_bytes()),
        }
    }

    /// Writes a header.
    pub(crate) fn header(&mut self, out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
        let secret = value.is_sensitive()
            || *name == header::AUTHORIZATION
            || *name == header::COOKIE
            || *name == header::SET_COOKIE
            || *name == header::PROXY_AUTHORIZATION;
        if secret {
            return literal(out, Literal::Secret, name.as_str(), value.as_bytes());
        }
        self.field(out, name.as_str(), value.as_bytes());
    }

    /// Writes a field.
    pub(crate) fn field(&mut self, out: &mut BytesMut, name: &str, value: &[u8]) {
        let size = name.len() + value.len() + OVERHEAD;
        if size > LONGEST || size > self.most {
            return literal(out, Literal::Plain, name, value);
        }
        if self.lately.is_empty() {
            self.lately = vec![Lately::default(); PLACES].into();
        }
        let hash = hash(name.as_bytes(), value);
        let place = hash as usize % PLACES;
        let lately = self.lately[place];
        if lately.hash != hash {
            self.lately[place] = Lately { hash, number: 0 };
            return literal(out, Literal::Plain, name, value);
        }
        match self.remembered(lately.number) {
            Some((index, entry)) if entry.is(name, value) => integer(out, index, 7, 0x80),
            Some(_) => literal(out, Literal::Plain, name, value),
            None => {
                self.remember(name, value, size);
                self.lately[place].number = self.count;
                literal(out, Literal::Remembered, name, value);
            }
        }
    }

    /// A field the peer remembers, with its index.
    fn remembered(&self, number: u32) -> Option<(usize, &Entry)> {
        if number == 0 {
            return None;
        }
        let at = self.count.wrapping_sub(number) as usize;
        self.table.get(at).map(|entry| (STATIC + 1 + at, entry))
    }

    fn remember(&mut self, name: &str, value: &[u8], size: usize) {
        self.make_room(self.most - size);
        self.size += size;
        self.count = self.count.wrapping_add(1).max(1);
        self.table.push_front(Entry {
            text: [name.as_bytes(), value].concat().into(),
            name: name.len(),
        });
    }

    fn make_room(&mut self, most: usize) {
        while self.size > most {
            let Some(oldest) = self.table.pop_back() else {
                return;
            };
            self.size -= oldest.text.len() + OVERHEAD;
        }
    }
}

impl Entry {
    fn is(&self, name: &str, value: &[u8]) -> bool {
        self.text.split_at(self.name) == (name.as_bytes(), value)
    }
}

/// Collisions cost a peer that makes them nothing but its own compression.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write(name);
    hasher.write(value);
    let hash = hasher.finish() as u32;
    hash.max(1) // 0 is no field
}

fn literal(out: &mut BytesMut, how: Literal, name: &str, value: &[u8]) {
    let (prefix, first) = match how {
        Literal::Remembered => (6, 0x40),
        Literal::Plain => (4, 0),
        Literal::Secret => (4, 0x10),
    };
    match index_of(name) {
        Some(index) => integer(out, index, prefix, first),
        None => {
            out.put_u8(first);
            string(out, name.as_bytes());
        }
    }
    string(out, value);
}

fn string(out: &mut BytesMut, text: &[u8]) {
    integer(out, text.len(), 7, 0);
    out.extend_from_slice(text);
}

/// Appends an integer whose first bits are the last of a byte with others before them.
fn integer(out: &mut BytesMut, value: usize, prefix: u32, first: u8) {
    let most = (1_usize << prefix) - 1;
    if value < most {
        return out.put_u8(first | value as u8);
    }
    out.put_u8(first | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}
