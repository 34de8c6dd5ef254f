//! Whether metadata is well-formed. Most of what a resource has beside its name is metadata, maps of maps, which are expensive to make.

use super::wire::{Content, Reader};

/// Messages within messages, at most. The decoder allows a hundred, of which metadata itself is in a few.
const DEEPEST: u32 = 64;

/// The fields that a message has, by their numbers, from 1 on; one with others is for the decoder.
type Fields = [Kind];

enum Kind {
    Number,
    Double,
    Text,
    Bytes,
    Message(&'static Fields),
}

/// `envoy.config.core.v3.Metadata`
static METADATA: [Kind; 2] = [Kind::Message(&STRUCT_BY_NAME), Kind::Message(&ANY_BY_NAME)];
static STRUCT_BY_NAME: [Kind; 2] = [Kind::Text, Kind::Message(&STRUCT)];
static ANY_BY_NAME: [Kind; 2] = [Kind::Text, Kind::Message(&ANY)];
/// `google.protobuf.Any`
static ANY: [Kind; 2] = [Kind::Text, Kind::Bytes];
/// `google.protobuf.Struct`
static STRUCT: [Kind; 1] = [Kind::Message(&VALUE_BY_NAME)];
static VALUE_BY_NAME: [Kind; 2] = [Kind::Text, Kind::Message(&VALUE)];
/// `google.protobuf.Value`
static VALUE: [Kind; 6] = [
    Kind::Number,
    Kind::Double,
    Kind::Text,
    Kind::Number,
    Kind::Message(&STRUCT),
    Kind::Message(&LIST),
];
/// `google.protobuf.ListValue`
static LIST: [Kind; 1] = [Kind::Message(&VALUE)];

/// Whether the decoder would read this; `None` if it would not, or if that is not certain.
pub(super) fn check(encoded: &[u8]) -> Option<()> {
    check_message(&METADATA, encoded, DEEPEST)
}

fn check_message(fields: &Fields, encoded: &[u8], depth: u32) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let mut reader = Reader::new(encoded);
    while let Some(field) = reader.field()? {
        let at = usize::try_from(field.number).ok()?.checked_sub(1)?;
        match (fields.get(at)?, field.content) {
            (Kind::Number, Content::Varint(_))
            | (Kind::Double, Content::Fixed64)
            | (Kind::Bytes, Content::Bytes(_)) => {}
            (Kind::Text, Content::Bytes(bytes)) if bytes.is_ascii() => {}
            (Kind::Text, Content::Bytes(bytes)) => drop(str::from_utf8(bytes).ok()?),
            (Kind::Message(fields), Content::Bytes(bytes)) => check_message(fields, bytes, depth)?,
            _ => return None,
        }
    }
    Some(())
}
