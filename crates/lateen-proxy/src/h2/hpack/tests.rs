//! The examples of RFC 7541 appendix C, and that what is written is read.

use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use proptest::prelude::*;

use super::field::Name;
use super::{Decoder, Encoder, Field};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter_map(|b| char::from(b).to_digit(16).map(|d| d as u8))
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// A field as text.
fn shown(field: &Field) -> String {
    match field {
        Field::Authority(value) => format!(":authority: {value}"),
        Field::Method(value) => format!(":method: {value}"),
        Field::Path(value) => format!(":path: {value}"),
        Field::Protocol(value) => format!(":protocol: {}", String::from_utf8_lossy(value)),
        Field::Scheme(value) => format!(":scheme: {value}"),
        Field::Status(value) => format!(":status: {}", value.as_str()),
        Field::Header(name, value) => format!("{name}: {}", value.to_str().unwrap()),
        Field::Malformed(name) => format!("malformed {name:?}"),
    }
}

fn read(decoder: &mut Decoder, block: &[u8]) -> Vec<String> {
    let mut fields = Vec::new();
    decoder
        .decode(block, |field, _| fields.push(shown(&field)))
        .unwrap();
    fields
}

#[track_caller]
fn decodes(blocks: &[(&str, &[&str])]) {
    let mut decoder = Decoder::default();
    for (block, fields) in blocks {
        assert_eq!(read(&mut decoder, &hex(block)), *fields);
    }
}

const REQUESTS: [&[&str]; 3] = [
    &[
        ":method: GET",
        ":scheme: http",
        ":path: /",
        ":authority: www.example.com",
    ],
    &[
        ":method: GET",
        ":scheme: http",
        ":path: /",
        ":authority: www.example.com",
        "cache-control: no-cache",
    ],
    &[
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ],
];

#[test]
fn requests_of_appendix_c3_are_read() {
    decodes(&[
        (
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            REQUESTS[0],
        ),
        ("8286 84be 5808 6e6f 2d63 6163 6865", REQUESTS[1]),
        (
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            REQUESTS[2],
        ),
    ]);
}

#[test]
fn requests_of_appendix_c4_in_huffman_code_are_read() {
    decodes(&[
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", REQUESTS[0]),
        ("8286 84be 5886 a8eb 1064 9cbf", REQUESTS[1]),
        (
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            REQUESTS[2],
        ),
    ]);
}

#[test]
fn single_fields_of_appendix_c2_are_read() {
    let key = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    decodes(&[(key, &["custom-key: custom-header"])]);
    decodes(&[(
        "040c 2f73 616d 706c 652f 7061 7468",
        &[":path: /sample/path"],
    )]);
    let secret = "1008 7061 7373 776f 7264 0673 6563 7265 74";
    decodes(&[(secret, &["password: secret"])]);
    decodes(&[("82", &[":method: GET"])]);
}

#[test]
fn what_is_no_block_is_refused() {
    for block in [
        "80",
        "be",
        "7f 7f 01 78",
        "82 20",
        "3f e2 1f",
        "7f ff ff ff ff ff ff ff",
        "00 06 78",
        "00 81 18 01 61",
        "40",
    ] {
        let mut decoder = Decoder::default();
        assert!(decoder.decode(&hex(block), |_, _| ()).is_err(), "{block}");
    }
}

#[test]
fn what_is_pushed_out_is_forgotten() {
    let mut decoder = Decoder::default();
    let field = |n: usize| {
        let mut block = vec![0x40, 3];
        block.extend_from_slice(format!("x-{n}").as_bytes());
        block.extend_from_slice(&[0x7f, 0x80 | 0x49, 0x0f]); // 127 + 73 + 15 * 128
        block.extend(std::iter::repeat_n(b'v', 127 + 73 + 15 * 128));
        block
    };
    assert_eq!(read(&mut decoder, &field(1)).len(), 1);
    assert!(read(&mut decoder, &[0xbe])[0].starts_with("x-1: v"));
    read(&mut decoder, &field(2));
    assert!(read(&mut decoder, &[0xbe])[0].starts_with("x-2: v"));
    assert!(
        decoder.decode(&[0xbf], |_, _| ()).is_err(),
        "4096 bytes hold one of them"
    );
}

#[test]
fn a_malformed_field_does_not_upset_the_table() {
    let mut decoder = Decoder::default();
    // "X-A: b" is remembered, and its place counts.
    let fields = read(&mut decoder, b"\x40\x03X-A\x01b\x40\x03x-b\x01c");
    assert_eq!(fields, ["malformed Malformed", "x-b: c"]);
    assert_eq!(
        read(&mut decoder, &[0xbe, 0xbf]),
        ["x-b: c", "malformed Malformed"]
    );
    // The name of a field whose value is none may be referred to.
    let fields = read(&mut decoder, b"\x40\x03x-c\x01\x00\x7e\x01d");
    assert_eq!(
        fields,
        [
            format!(
                "malformed {:?}",
                Name::Header(HeaderName::from_static("x-c"))
            ),
            "x-c: d".to_owned()
        ]
    );
}

/// A response's block.
fn block(encoder: &mut Encoder, fields: &[(HeaderName, HeaderValue)]) -> BytesMut {
    let mut out = BytesMut::new();
    encoder.begin(&mut out);
    encoder.status(&mut out, StatusCode::OK);
    for (name, value) in fields {
        encoder.header(&mut out, name, value);
    }
    out
}

#[test]
fn what_repeats_is_a_byte_from_the_third_time_on() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let fields = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        ),
        (header::SERVER, HeaderValue::from_static("istio-envoy")),
    ];
    let lengths: Vec<usize> = (0..4)
        .map(|_| {
            let block = block(&mut encoder, &fields);
            let expected = [
                ":status: 200",
                "content-type: application/grpc",
                "server: istio-envoy",
            ];
            assert_eq!(read(&mut decoder, &block), expected);
            block.len()
        })
        .collect();
    assert!(lengths[1] > 30);
    assert_eq!(lengths[2..], [3, 3]);
}

#[test]
fn what_a_sidecar_says_of_itself_is_a_byte_when_it_repeats() {
    let mut encoder = Encoder::default();
    let mut lengths = |length: usize| {
        let name = HeaderName::from_static("x-envoy-peer-metadata");
        let value = HeaderValue::from_str(&"m".repeat(length)).unwrap();
        let fields = [(name, value)];
        [(); 3].map(|()| block(&mut encoder, &fields).len())
    };
    assert_eq!(lengths(1000)[2], 2);
    let long = lengths(2000);
    assert!(long.iter().all(|length| *length > 2000), "{long:?}");
}

#[test]
fn credentials_are_never_remembered() {
    let mut encoder = Encoder::default();
    for name in [header::AUTHORIZATION, header::COOKIE, header::SET_COOKIE] {
        let fields = [(name, HeaderValue::from_static("secret"))];
        for _ in 0..4 {
            let block = block(&mut encoder, &fields);
            assert_eq!(block[1] & 0xf0, 0x10, "never indexed: {block:?}");
            assert!(block.ends_with(b"secret"));
        }
    }
}

proptest! {
    /// Any fields, several times over one connection, with tables of any size.
    #[test]
    fn what_is_written_is_read(
        blocks in proptest::collection::vec(
            (
                proptest::option::of(0_usize..5000),
                proptest::collection::vec(("[a-z]{1,3}", "[ -~]{0,40}"), 0..12),
            ),
            1..30,
        ),
    ) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for (size, fields) in blocks {
            if let Some(size) = size {
                encoder.resize(size);
            }
            let mut out = BytesMut::new();
            encoder.begin(&mut out);
            encoder.method(&mut out, &Method::PUT);
            encoder.path(&mut out, "/a");
            let mut expected = vec![":method: PUT".to_owned(), ":path: /a".to_owned()];
            for (name, value) in &fields {
                let name: HeaderName = name.parse().unwrap();
                encoder.header(&mut out, &name, &HeaderValue::from_str(value).unwrap());
                expected.push(format!("{name}: {value}"));
            }
            prop_assert_eq!(read(&mut decoder, &out), expected);
        }
    }

    #[test]
    fn nothing_makes_it_panic(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..4)) {
        let mut decoder = Decoder::default();
        for block in blocks {
            if decoder.decode(&block, |_, _| ()).is_err() {
                break;
            }
        }
    }
}
