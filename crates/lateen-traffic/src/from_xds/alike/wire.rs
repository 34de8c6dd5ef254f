//! Fields of a message as they lie in its bytes. Whatever the decoder may refuse is none, and so are groups, which nobody writes.

/// The fields of a message that are still to be read.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// A field.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) number: u32,
    pub(super) content: Content<'a>,
    whole: &'a [u8],
    tag_length: usize,
}

/// What is in a field, by its wire type.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Field<'a> {
    /// All of it.
    pub(super) fn whole(&self) -> &'a [u8] {
        self.whole
    }

    /// Its tag.
    pub(super) fn tag(&self) -> &'a [u8] {
        self.whole.get(..self.tag_length).unwrap_or_default()
    }

    /// All but its tag.
    pub(super) fn after_tag(&self) -> &'a [u8] {
        self.whole.get(self.tag_length..).unwrap_or_default()
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(encoded: &'a [u8]) -> Self {
        Self { rest: encoded }
    }

    /// The next field; `Some(None)` after the last.
    #[inline]
    pub(super) fn field(&mut self) -> Option<Option<Field<'a>>> {
        let whole = self.rest;
        match whole {
            [] => Some(None),
            // Nearly all are texts and messages of less than 128 bytes, with a number of less than 16.
            [tag @ 8..0x80, length @ ..0x80, rest @ ..] if tag & 7 == 2 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(*length))?;
                self.rest = rest;
                Some(Some(Field {
                    number: u32::from(tag >> 3),
                    content: Content::Bytes(bytes),
                    whole: whole.get(..2 + bytes.len())?,
                    tag_length: 1,
                }))
            }
            _ => self.any_field().map(Some),
        }
    }

    fn any_field(&mut self) -> Option<Field<'a>> {
        let from = self.rest;
        let tag = u32::try_from(self.varint()?).ok()?;
        let tag_length = from.len() - self.rest.len();
        let content = match tag & 7 {
            0 => Content::Varint(self.varint()?),
            1 => self.bytes(8).map(|_| Content::Fixed64)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Content::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Content::Fixed32)?,
            _ => return None,
        };
        let number = Some(tag >> 3).filter(|number| *number != 0)?;
        let whole = from.get(..from.len() - self.rest.len())?;
        Some(Field {
            number,
            content,
            whole,
            tag_length,
        })
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    fn varint(&mut self) -> Option<u64> {
        let (first, rest) = self.rest.split_first()?;
        if *first < 0x80 {
            self.rest = rest;
            return Some(u64::from(*first));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (at, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                self.rest = self.rest.get(at + 1..)?;
                // Of the tenth byte one bit is left.
                return (at < 9 || *byte < 2).then_some(value);
            }
        }
        None
    }
}
