//! Messages that are alike but for what decides nothing.
//!
//! Of what a sidecar is told nearly all is compiled only to know whether it is to be refused. In a large mesh most of it differs in names,
//! addresses and metadata, and none of these can be a reason once they are well-formed. So each message's likeness is taken: its
//! bytes without those, which are checked as they lie. A message whose likeness is that of one that compiled compiles, too, and need not be.
//!
//! **Invariant:** what is left out of a likeness is checked as the decoder and the compiler would, and beyond that decides nothing but by being
//! empty or not. What is malformed, or unusual in any way, has no likeness: it is compiled, which says what is wrong with it.

mod metadata;
mod shapes;
mod wire;

use std::collections::HashMap;
use std::net::IpAddr;

use foldhash::fast::FixedState;

use self::wire::{Content, Field, Reader};

/// Likenesses that are kept at most.
const MOST: usize = 256;
/// Ends a message in a likeness, where no tag is 0.
const END: u8 = 0;

/// What is left out of the likeness of a message, by the numbers of its fields.
type Shape = [Part];

/// A field that is not as it came in a likeness.
#[derive(Debug)]
struct Part {
    number: u32,
    times: Times,
    kind: Kind,
}

/// How often a field may be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    /// Once: what the decoder makes of two is nobody's business here.
    Once,
    /// Any number of times.
    Many,
    /// Any number of times, and one that is like the one before adds nothing.
    Each,
}

/// What a field is.
#[derive(Debug)]
enum Kind {
    /// A text that is handed on, whatever it says.
    Text,
    /// One that whoever asks is told, and may refuse.
    Told(Told),
    /// An IP address.
    Address,
    /// A port's number.
    Port,
    /// `envoy.config.core.v3.Metadata`: nothing in it is a reason to refuse.
    Metadata,
    /// A message of which something is left out.
    Message(&'static Shape),
    /// An `Any` with the type URL of such a message; as it came if it is another.
    Packed(&'static str, &'static Shape),
}

/// A text that whoever asks is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The name of a cluster.
    Cluster,
    /// The name of a cluster's endpoints.
    Service,
    /// A domain of a virtual host.
    Domain,
}

/// Likenesses of messages of one type that compiled, with what is known of all that are like them.
#[derive(Debug)]
pub(crate) struct Alike<T> {
    shape: &'static Shape,
    known: HashMap<Vec<u8>, T, FixedState>,
    /// The likeness of the message that was asked for last; empty if it has none.
    last: Vec<u8>,
    /// How often a message was like another.
    hits: usize,
}

impl<T> Alike<T> {
    fn of(shape: &'static Shape) -> Self {
        Self {
            shape,
            known: HashMap::default(),
            last: Vec::new(),
            hits: 0,
        }
    }

    /// Of `envoy.config.cluster.v3.Cluster`.
    pub(crate) fn clusters() -> Self {
        Self::of(shapes::CLUSTER)
    }

    /// Of `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    pub(crate) fn assignments() -> Self {
        Self::of(shapes::ASSIGNMENT)
    }

    /// Of `envoy.config.route.v3.VirtualHost`.
    pub(crate) fn hosts() -> Self {
        Self::of(shapes::HOST)
    }

    /// What is known of a message because one like it compiled, in the same `circumstances`. `tell` hears its texts, whether there is one or
    /// not, and says whether they are as they should be.
    pub(crate) fn find<'a>(
        &mut self,
        encoded: &'a [u8],
        circumstances: u32,
        tell: &mut dyn FnMut(Told, &'a str) -> bool,
    ) -> Option<&T> {
        self.last.clear();
        // Where all are different it is not worth looking.
        if self.known.len() >= MOST && self.hits < MOST {
            return None;
        }
        self.last.extend_from_slice(&circumstances.to_le_bytes());
        let likeness = &mut self.last;
        if take(self.shape, encoded, &mut Taking { likeness, tell }).is_none() {
            self.last.clear();
            return None;
        }
        let known = self.known.get(&self.last)?;
        self.hits += 1;
        Some(known)
    }

    /// The message that was asked for last compiled; what is known of those that are like it.
    pub(crate) fn learn(&mut self, known: T) {
        if !self.last.is_empty() && self.known.len() < MOST {
            self.known.insert(std::mem::take(&mut self.last), known);
        }
    }
}

struct Taking<'a, 'b> {
    likeness: &'b mut Vec<u8>,
    tell: &'b mut dyn FnMut(Told, &'a str) -> bool,
}

/// Takes the likeness of a message: of each field its tag, and what follows from the kind of the field or its bytes as they came, so that no two
/// different messages run together.
fn take<'a>(shape: &Shape, encoded: &'a [u8], to: &mut Taking<'a, '_>) -> Option<()> {
    let mut reader = Reader::new(encoded);
    let mut met = 0_u32;
    let mut before = to.likeness.len();
    while let Some(field) = reader.field()? {
        let Some(at) = shape.iter().position(|part| part.number == field.number) else {
            to.likeness.extend_from_slice(field.whole());
            continue;
        };
        let (part, bit) = (shape.get(at)?, 1 << at);
        if part.times == Times::Once && met & bit != 0 {
            return None;
        }
        met |= bit;
        let begin = to.likeness.len();
        to.likeness.extend_from_slice(field.tag());
        take_field(&part.kind, &field, to)?;
        let is_again =
            part.times == Times::Each && to.likeness.get(before..begin) == to.likeness.get(begin..);
        match is_again {
            true => to.likeness.truncate(begin),
            false => before = begin,
        }
    }
    Some(())
}

fn take_field<'a>(kind: &Kind, field: &Field<'a>, to: &mut Taking<'a, '_>) -> Option<()> {
    match (kind, field.content) {
        (Kind::Text, Content::Bytes(bytes)) => take_text(bytes, to).map(drop),
        (Kind::Told(what), Content::Bytes(bytes)) => {
            let text = take_text(bytes, to)?;
            (to.tell)(*what, text).then_some(())
        }
        (Kind::Address, Content::Bytes(bytes)) => {
            let address = str::from_utf8(bytes).ok()?.parse::<IpAddr>();
            address.ok().map(drop)
        }
        (Kind::Port, Content::Varint(number)) => u16::try_from(number).ok().map(drop),
        (Kind::Metadata, Content::Bytes(bytes)) => metadata::check(bytes),
        (Kind::Message(shape), Content::Bytes(bytes)) => take_message(shape, bytes, to),
        (Kind::Packed(url, shape), Content::Bytes(bytes)) => {
            let inner = unpacked(bytes, url);
            to.likeness.push(u8::from(inner.is_some()));
            match inner {
                Some(inner) => take_message(shape, inner, to)?,
                None => to.likeness.extend_from_slice(field.after_tag()),
            }
            Some(())
        }
        _ => None,
    }
}

fn take_text<'a>(bytes: &'a [u8], to: &mut Taking<'a, '_>) -> Option<&'a str> {
    to.likeness.push(u8::from(!bytes.is_empty()));
    str::from_utf8(bytes).ok()
}

fn take_message<'a>(shape: &Shape, bytes: &'a [u8], to: &mut Taking<'a, '_>) -> Option<()> {
    take(shape, bytes, to)?;
    to.likeness.push(END);
    Some(())
}

/// The message in an `Any` with this type URL that says nothing else.
fn unpacked<'a>(any: &'a [u8], url: &str) -> Option<&'a [u8]> {
    let mut reader = Reader::new(any);
    let fields = [reader.field()??, reader.field()??];
    match fields.map(|field| (field.number, field.content)) {
        [(1, Content::Bytes(found)), (2, Content::Bytes(inner))] => {
            (found == url.as_bytes() && reader.field()?.is_none()).then_some(inner)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
