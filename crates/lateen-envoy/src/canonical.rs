//! Deterministic encoding: equal messages make equal bytes.
//!
//! `envoy-types` holds map fields in `HashMap`s, so encoding a message with a map twice may give two byte strings, and a
//! resource's version, which is a hash of its bytes, would change with nothing changed. This module sorts the entries of
//! encoded maps. Nested [`Any`](crate::pb::google::protobuf::Any) values are bytes to it: they are sorted when they are packed.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::descriptor;

/// Sorts the map entries in the encoding of a message of the type `full_name`.
///
/// Messages that hold no map at any depth come back untouched, as do unknown types and bytes that are no valid encoding.
pub(crate) fn canonical(full_name: &str, encoded: Vec<u8>) -> Vec<u8> {
    let Some(&layout) = LAYOUTS.by_name.get(full_name) else {
        return encoded;
    };
    sorted(layout, &encoded, MAX_DEPTH).unwrap_or(encoded)
}

/// How deep messages may nest; prost's own limit when decoding.
const MAX_DEPTH: usize = 100;

/// The fields of a message through which a map is reached; other fields need no look inside.
#[derive(Debug, Default)]
struct Layout {
    fields: BTreeMap<u32, Inside>,
}

#[derive(Clone, Copy, Debug)]
enum Inside {
    /// A map. Its values may be messages with a layout of their own, in field 2 of the entry.
    Map(Option<usize>),
    /// A message, or several.
    Message(usize),
}

#[derive(Debug)]
struct Layouts {
    layouts: Vec<Layout>,
    /// Looked up only, never iterated.
    by_name: HashMap<String, usize>,
}

static LAYOUTS: LazyLock<Layouts> = LazyLock::new(|| {
    let messages: Vec<_> = descriptor::pool()
        .all_messages()
        .filter(|m| !m.is_map_entry())
        .collect();
    let reaching = reaching_maps(&messages);
    let kept: Vec<_> = messages
        .iter()
        .filter(|m| reaching.contains_key(m.full_name()))
        .collect();
    let by_name: HashMap<_, _> = kept
        .iter()
        .enumerate()
        .map(|(at, m)| (m.full_name().to_owned(), at))
        .collect();
    let layouts = kept.iter().map(|m| layout(m, &by_name)).collect();
    Layouts { layouts, by_name }
});

/// The messages from which a map can be reached, by a fixed point over the fields' types.
fn reaching_maps(messages: &[MessageDescriptor]) -> BTreeMap<String, ()> {
    let mut reaching = BTreeMap::new();
    loop {
        let before = reaching.len();
        for message in messages {
            let reaches = message.fields().any(|field| {
                field.is_map()
                    || message_of(&field).is_some_and(|m| reaching.contains_key(m.full_name()))
            });
            if reaches {
                reaching.insert(message.full_name().to_owned(), ());
            }
        }
        if reaching.len() == before {
            return reaching;
        }
    }
}

fn layout(message: &MessageDescriptor, by_name: &HashMap<String, usize>) -> Layout {
    let known = |m: MessageDescriptor| by_name.get(m.full_name()).copied();
    let inside = |field: &FieldDescriptor| {
        let of = message_of(field)?;
        if field.is_map() {
            return Some(Inside::Map(
                message_of(&of.map_entry_value_field()).and_then(known),
            ));
        }
        known(of).map(Inside::Message)
    };
    Layout {
        fields: message
            .fields()
            .filter_map(|f| Some((f.number(), inside(&f)?)))
            .collect(),
    }
}

fn message_of(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(message) => Some(message),
        _ => None,
    }
}

/// `None` if the bytes are no valid encoding.
fn sorted(layout: usize, mut bytes: &[u8], depth: usize) -> Option<Vec<u8>> {
    let depth = depth.checked_sub(1)?;
    let fields = &LAYOUTS.layouts[layout].fields;
    let mut out = Vec::with_capacity(bytes.len());
    let mut entries = Entries::default();
    while !bytes.is_empty() {
        let field = take_field(&mut bytes)?;
        match (fields.get(&field.number), field.payload) {
            (Some(Inside::Map(value)), Some(payload)) => {
                let entry = match value {
                    Some(value) => sorted_entry(*value, payload, depth)?,
                    None => payload.to_vec(),
                };
                entries.add(field.number, entry, &mut out);
            }
            (Some(Inside::Message(inner)), Some(payload)) => {
                entries.flush(&mut out);
                let inner = sorted(*inner, payload, depth)?;
                put_bytes(field.number, &inner, &mut out);
            }
            _ => {
                entries.flush(&mut out);
                out.extend_from_slice(field.raw);
            }
        }
    }
    entries.flush(&mut out);
    Some(out)
}

/// A map entry: the key in field 1, the value in field 2 of a message with `layout`.
fn sorted_entry(layout: usize, mut bytes: &[u8], depth: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    while !bytes.is_empty() {
        let field = take_field(&mut bytes)?;
        match field {
            Field {
                number: 2,
                payload: Some(payload),
                ..
            } => {
                put_bytes(2, &sorted(layout, payload, depth)?, &mut out);
            }
            _ => out.extend_from_slice(field.raw),
        }
    }
    Some(out)
}

/// Entries of one map field, which encoders write in a row.
#[derive(Default)]
struct Entries {
    number: u32,
    entries: Vec<Vec<u8>>,
}

impl Entries {
    fn add(&mut self, number: u32, entry: Vec<u8>, out: &mut Vec<u8>) {
        if number != self.number {
            self.flush(out);
            self.number = number;
        }
        self.entries.push(entry);
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        self.entries.sort_unstable();
        for entry in self.entries.drain(..) {
            put_bytes(self.number, &entry, out);
        }
    }
}

struct Field<'a> {
    number: u32,
    /// Key and value as they stand.
    raw: &'a [u8],
    /// The value of a length-delimited field.
    payload: Option<&'a [u8]>,
}

fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<Field<'a>> {
    let start = *bytes;
    let (number, wire) = decode_key(bytes).ok()?;
    let (skip, delimited) = match wire {
        WireType::Varint => {
            decode_varint(bytes).ok()?;
            (0, false)
        }
        WireType::SixtyFourBit => (8, false),
        WireType::ThirtyTwoBit => (4, false),
        WireType::LengthDelimited => (usize::try_from(decode_varint(bytes).ok()?).ok()?, true),
        // Groups are proto2 only; nothing we encode has them.
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    let (payload, rest) = bytes.split_at_checked(skip)?;
    *bytes = rest;
    let raw = &start[..start.len() - rest.len()];
    Some(Field {
        number,
        raw,
        payload: delimited.then_some(payload),
    })
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use prost::{Message, Name};

    use crate::pb::envoy::config::cluster::v3::Cluster;
    use crate::pb::envoy::config::core::v3::Metadata;
    use crate::{pack, struct_from_json, unpack};

    fn metadata() -> Metadata {
        let fields: serde_json::Map<_, _> = (0..40)
            .map(|i| {
                (
                    format!("key{i}"),
                    serde_json::json!({ "a": i, "b": { "c": [1, { "d": 2, "e": 3 }] } }),
                )
            })
            .collect();
        let namespaces = ["istio", "envoy.lb", "a", "b", "c", "d"];
        Metadata {
            filter_metadata: namespaces
                .iter()
                .map(|name| ((*name).to_owned(), struct_from_json(&fields)))
                .collect(),
            ..Metadata::default()
        }
    }

    #[test]
    fn equal_messages_with_maps_make_equal_bytes() {
        let cluster = || Cluster {
            name: "c".to_owned(),
            metadata: Some(metadata()),
            ..Cluster::default()
        };
        let first = pack(&cluster());
        assert_ne!(
            cluster().encode_to_vec(),
            cluster().encode_to_vec(),
            "hash maps are not sorted by themselves"
        );
        for _ in 0..8 {
            assert_eq!(first, pack(&cluster()));
        }
        assert_eq!(unpack::<Cluster>(&first).unwrap(), cluster());
    }

    #[test]
    fn bytes_that_are_no_message_stay_as_they_are() {
        for bytes in [vec![0xff; 3], vec![0x0a, 0xff, 0xff], vec![0x0b]] {
            assert_eq!(
                super::canonical(&Metadata::full_name(), bytes.clone()),
                bytes
            );
        }
    }
}
