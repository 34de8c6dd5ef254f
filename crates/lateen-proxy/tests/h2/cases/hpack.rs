//! Header compression (RFC 7541): every form of a field is read, and what is no form refused.

use super::super::frames::{indexed, literal, remembered};
use super::super::wire::Step::{Answer, ConnectionError};
use super::{COMPRESSION_ERROR, Case, case, get, send, whole};

/// `custom-key` and `custom-value` in Huffman code (RFC 7541 appendix C.4.3).
const HUFFMAN_CUSTOM: &[u8] = &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f];
const HUFFMAN_VALUE: &[u8] = &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf];

const COMPRESSION: &[u32] = &[COMPRESSION_ERROR];

/// First bytes of a literal: remembered, not indexed, never indexed.
const FORMS: [(&str, u8, u8); 3] = [
    ("with indexing", 0x40, 0x3f),
    ("without indexing", 0x00, 0x0f),
    ("never indexed", 0x10, 0x0f),
];

pub(super) fn cases() -> Vec<Case> {
    [well_formed(), literals(), malformed()].concat()
}

fn served(section: &'static str, name: &'static str, blocks: &[Vec<u8>]) -> Case {
    let mut steps = Vec::new();
    for (at, block) in (0..).zip(blocks) {
        steps.extend([send([whole(at * 2 + 1, block)]), Answer(at * 2 + 1)]);
    }
    case(section, name, steps)
}

fn well_formed() -> Vec<Case> {
    let sized = |sizes: &[u8]| [sizes, &get()[..]].concat();
    vec![
        served("6.1 (HPACK)", "indexed fields", &[get()]),
        served(
            "6.1 (HPACK)",
            "a field that was remembered",
            &[
                [get(), remembered(b"x-custom", b"value")].concat(),
                [get(), indexed(62)].concat(),
            ],
        ),
        served(
            "6.3 (HPACK)",
            "a change of the table's size",
            &[sized(&[0x20])],
        ),
        served(
            "6.3 (HPACK)",
            "two changes of the table's size",
            &[sized(&[0x20, 0x3f, 0x61])],
        ),
        served(
            "4.3 (HPACK)",
            "what was remembered is forgotten when the table shrinks",
            &[
                [get(), remembered(b"x-custom", b"value")].concat(),
                [
                    vec![0x20, 0x3f, 0xe1, 0x1f],
                    get(),
                    remembered(b"x-a", b"b"),
                ]
                .concat(),
                [get(), indexed(62)].concat(),
            ],
        ),
    ]
}

/// A literal in each form, with a name from the table or of its own, in Huffman code or not.
fn literals() -> Vec<Case> {
    const NAMES: [[&str; 3]; 4] = [
        [
            "a literal with indexing",
            "a literal without indexing",
            "a literal that is never indexed",
        ],
        [
            "a literal in Huffman code with indexing",
            "a literal in Huffman code without indexing",
            "a literal in Huffman code that is never indexed",
        ],
        [
            "a literal of a new name with indexing",
            "a literal of a new name without indexing",
            "a literal of a new name that is never indexed",
        ],
        [
            "a literal of a new name in Huffman code with indexing",
            "a literal of a new name in Huffman code without indexing",
            "a literal of a new name in Huffman code that is never indexed",
        ],
    ];
    let coded = |bytes: &[u8]| [&[0x80 | u8::try_from(bytes.len()).unwrap()][..], bytes].concat();
    let plain = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()][..], bytes].concat();
    let mut out = Vec::new();
    for (at, (_, first, most)) in FORMS.iter().enumerate() {
        // 58 is user-agent; it takes a byte of its own where the prefix has four bits.
        let indexed_name = match *most {
            0x3f => vec![first | 58],
            most => vec![first | most, 58 - most],
        };
        let fields = [
            [indexed_name.clone(), plain(b"value")].concat(),
            [indexed_name, coded(HUFFMAN_VALUE)].concat(),
            [vec![*first], plain(b"x-custom"), plain(b"value")].concat(),
            [vec![*first], coded(HUFFMAN_CUSTOM), coded(HUFFMAN_VALUE)].concat(),
        ];
        for (names, field) in NAMES.iter().zip(fields) {
            out.push(served("6.2 (HPACK)", names[at], &[[get(), field].concat()]));
        }
    }
    out
}

fn malformed() -> Vec<Case> {
    let refused = |section, name, field: &[u8]| {
        case(
            section,
            name,
            [
                send([whole(1, &[&get()[..], field].concat())]),
                ConnectionError(COMPRESSION),
            ],
        )
    };
    let coded = |value: &[u8]| {
        let length = 0x80 | u8::try_from(value.len()).unwrap();
        [&[0, 6][..], b"x-test", &[length], value].concat()
    };
    vec![
        refused("2.3.3 (HPACK)", "an index beyond the table", &indexed(70)),
        refused(
            "2.3.3 (HPACK)",
            "a name beyond the table",
            &[0x7f, 0x7f, 0x01, b'x'],
        ),
        refused("4.2 (HPACK)", "a change of size after a field", &[0x20]),
        refused(
            "5.2 (HPACK)",
            "padding of more than 7 bits",
            &coded(&[0x1c, 0x64, 0xff, 0xff, 0xff]),
        ),
        refused("5.2 (HPACK)", "padding of zeros", &coded(&[0x18])),
        refused(
            "5.2 (HPACK)",
            "the end of strings within one",
            &coded(&[0xff, 0xff, 0xff, 0xff, 0x1c]),
        ),
        refused("6.1 (HPACK)", "the index 0", &[0x80]),
        case(
            "6.3 (HPACK)",
            "a table larger than is allowed",
            [
                send([whole(1, &[&[0x3f, 0xe1, 0x7f][..], &get()].concat())]),
                ConnectionError(COMPRESSION),
            ],
        ),
        refused(
            "5.1 (HPACK)",
            "an integer without end",
            &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ),
        refused(
            "5.2 (HPACK)",
            "a literal longer than the block",
            &literal(b"x-test", b"value")[..12],
        ),
    ]
}
