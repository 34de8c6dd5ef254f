//! Reading blocks of fields.

use std::collections::VecDeque;

use super::field::{Entry, Field, Name, known};
use super::{STATIC, TABLE, huffman};

/// Bytes of an integer after its prefix: enough for 28 bits, which is more than any block has bytes.
const MOST_BYTES: u32 = 4;

/// A block that cannot be read: the connection's tables are not the same any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unreadable block of fields")]
pub(crate) struct Unreadable;

/// Reads blocks, and remembers what the peer wants remembered: at most [`TABLE`] bytes of it.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The newest first.
    table: VecDeque<Entry>,
    size: usize,
    /// What the peer uses of the table.
    most: usize,
    /// Strings that had to be decoded.
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            most: TABLE,
            name: Vec::new(),
            value: Vec::new(),
        }
    }
}

impl Decoder {
    /// Reads a block and hands out its fields with what each of them counts.
    ///
    /// # Errors
    /// It is none, after which the connection is of no use.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        mut field: impl FnMut(Field, usize),
    ) -> Result<(), Unreadable> {
        let block = &mut block;
        let mut begun = false;
        while let [first, ..] = **block {
            if first & 0xe0 == 0x20 {
                let most = integer(block, 5).filter(|most| *most <= TABLE && !begun);
                self.resize(most.ok_or(Unreadable)?);
                continue;
            }
            begun = true;
            if first & 0x80 != 0 {
                let index = integer(block, 7).ok_or(Unreadable)?;
                let entry = self.entry(index).ok_or(Unreadable)?;
                field(entry.field.clone(), entry.size);
                continue;
            }
            let remember = first & 0x40 != 0;
            let prefix = if remember { 6 } else { 4 };
            let entry = self.literal(block, prefix).ok_or(Unreadable)?;
            if remember {
                field(entry.field.clone(), entry.size);
                self.remember(entry);
            } else {
                field(entry.field, entry.size);
            }
        }
        if self.name.capacity().max(self.value.capacity()) > TABLE {
            (self.name, self.value) = (Vec::new(), Vec::new()); // not kept for an idle connection
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Option<&Entry> {
        if index <= STATIC {
            return known(index);
        }
        self.table.get(index - STATIC - 1)
    }

    fn literal(&mut self, block: &mut &[u8], prefix: u32) -> Option<Entry> {
        let index = integer(block, prefix)?;
        let (name, length) = match index {
            0 => {
                let name = string(block, &mut self.name)?;
                (Name::read(name), name.len())
            }
            index => {
                let entry = self.entry(index)?;
                (entry.field.name(), entry.name_length)
            }
        };
        let value = string(block, &mut self.value)?;
        Some(Entry::new(name, length, value))
    }

    fn remember(&mut self, entry: Entry) {
        // One that is larger than the table empties it (RFC 7541 section 4.4).
        self.make_room(self.most.saturating_sub(entry.size));
        if entry.size <= self.most {
            self.size += entry.size;
            self.table.push_front(entry);
        }
    }

    fn resize(&mut self, most: usize) {
        self.most = most;
        self.make_room(most);
    }

    fn make_room(&mut self, most: usize) {
        while self.size > most {
            let Some(oldest) = self.table.pop_back() else {
                return;
            };
            self.size -= oldest.size;
        }
    }
}

/// An integer whose first bits are the last of the next byte (RFC 7541 section 5.1).
fn integer(from: &mut &[u8], prefix: u32) -> Option<usize> {
    let (first, mut rest) = from.split_first()?;
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(*first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first()?;
            rest = after;
            if shift == 7 * MOST_BYTES {
                return None;
            }
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *from = rest;
    Some(value)
}

/// A string, where it lies or in `room` if it had to be decoded.
fn string<'r, 'b: 'r>(from: &mut &'b [u8], room: &'r mut Vec<u8>) -> Option<&'r [u8]> {
    let coded = from.first()? & 0x80 != 0;
    let length = integer(from, 7)?;
    let (text, rest) = from.split_at_checked(length)?;
    *from = rest;
    if !coded {
        return Some(text);
    }
    room.clear();
    huffman::decode(text, room)?;
    Some(room)
}
