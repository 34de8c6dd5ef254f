//! httpbin's answers that are of the form the path asks for: statuses, redirects, sizes, encodings, caching.

use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, ETAG, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED, LOCATION, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::mirror::{self, decoded_pairs, header};
use super::{Asked, pretty};
use crate::server::{Body, reply, text};

/// The most bytes `/bytes` and its kind give.
pub(super) const MOST_BYTES: usize = 100 << 10;
/// The most redirects one answer leads through.
const MOST_REDIRECTS: u32 = 100;

pub(super) fn answer(asked: &Asked, parts: &[&str]) -> Option<Response<Body>> {
    Some(match parts {
        ["status", codes] => status(codes),
        ["unstable"] => status("200,500"),
        ["redirect" | "relative-redirect", n] => redirect(asked, n, false),
        ["absolute-redirect", n] => redirect(asked, n, true),
        ["redirect-to"] => redirect_to(asked),
        ["response-headers"] => response_headers(asked),
        ["bytes", n] => bytes(n),
        ["range", n] => bytes(n),
        ["gzip"] => encoded(asked, "gzip"),
        ["deflate"] => encoded(asked, "deflate"),
        ["cache"] => cache(asked),
        ["cache", seconds] => match seconds.parse::<u32>() {
            Ok(seconds) => {
                let value = HeaderValue::from_str(&format!("public, max-age={seconds}"));
                with(
                    pretty(StatusCode::OK, &mirror::get(asked)),
                    CACHE_CONTROL,
                    value.ok(),
                )
            }
            Err(_) => bad("not a number of seconds"),
        },
        ["etag", etag] => etagged(asked, etag),
        ["base64", text] | ["base64", "decode", text] => decoded(text),
        ["base64", "encode", value] => text(StatusCode::OK, URL_SAFE.encode(value)),
        ["uuid"] => pretty(StatusCode::OK, &json!({ "uuid": uuid() })),
        _ => return None,
    })
}

fn bad(problem: &'static str) -> Response<Body> {
    text(StatusCode::BAD_REQUEST, format!("{problem}\n"))
}

fn with(
    mut response: Response<Body>,
    name: HeaderName,
    value: Option<HeaderValue>,
) -> Response<Body> {
    if let Some(value) = value {
        response.headers_mut().insert(name, value);
    }
    response
}

/// A number nobody can foresee: each `RandomState` has keys of its own. For samples only.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// One of `200,503:0.5` by weight.
fn status(codes: &str) -> Response<Body> {
    let mut choices = Vec::new();
    for choice in codes.split(',') {
        let (code, weight) = choice.split_once(':').unwrap_or((choice, "1"));
        let parsed = (code.trim().parse::<u16>(), weight.trim().parse::<f64>());
        match parsed {
            (Ok(code @ 200..=599), Ok(weight)) if weight.is_finite() && weight >= 0.0 => {
                choices.push((code, weight));
            }
            _ => return bad("not a list of statuses from 200 to 599"),
        }
    }
    let total: f64 = choices.iter().map(|(_, weight)| weight).sum();
    // 53 bits are what a float holds.
    let mut point = (random() >> 11) as f64 / (1u64 << 53) as f64 * total;
    let mut chosen = choices.first().map_or(200, |(code, _)| *code);
    for (code, weight) in choices {
        chosen = code;
        if point < weight {
            break;
        }
        point -= weight;
    }
    status_response(StatusCode::from_u16(chosen).unwrap_or(StatusCode::OK))
}

fn status_response(status: StatusCode) -> Response<Body> {
    let response = match status {
        StatusCode::IM_A_TEAPOT => text(status, "I'm a teapot!\n"),
        status => text(status, ""),
    };
    match status.as_u16() {
        301 | 302 | 303 | 305 | 307 | 308 => with(
            response,
            LOCATION,
            Some(HeaderValue::from_static("/redirect/1")),
        ),
        401 => {
            let challenge = HeaderValue::from_static("Basic realm=\"Fake Realm\"");
            with(response, WWW_AUTHENTICATE, Some(challenge))
        }
        _ => response,
    }
}

fn redirect(asked: &Asked, n: &str, absolute: bool) -> Response<Body> {
    let Some(n) = n
        .parse::<u32>()
        .ok()
        .filter(|n| (1..=MOST_REDIRECTS).contains(n))
    else {
        return bad("not a number of redirects");
    };
    let kind = if absolute {
        "absolute-redirect"
    } else {
        "relative-redirect"
    };
    let path = if n == 1 {
        "/get".to_owned()
    } else {
        format!("/{kind}/{}", n - 1)
    };
    let location = match absolute {
        true => {
            let url = mirror::url(asked);
            let base = url
                .find("://")
                .and_then(|at| url[at + 3..].find('/').map(|end| at + 3 + end));
            format!("{}{path}", base.map_or("", |end| &url[..end]))
        }
        false => path,
    };
    with(
        text(StatusCode::FOUND, ""),
        LOCATION,
        HeaderValue::from_str(&location).ok(),
    )
}

fn parameter(asked: &Asked, name: &str) -> Option<String> {
    let pairs = decoded_pairs(asked.head.uri.query().unwrap_or_default());
    pairs
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

fn redirect_to(asked: &Asked) -> Response<Body> {
    let status = parameter(asked, "status_code").and_then(|code| code.parse::<u16>().ok());
    let status = status
        .filter(|code| (300..400).contains(code))
        .unwrap_or(302);
    let Some(url) = parameter(asked, "url").and_then(|url| HeaderValue::from_str(&url).ok()) else {
        return bad("the parameter `url` is missing or no header value");
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
    with(text(status, ""), LOCATION, Some(url))
}

fn response_headers(asked: &Asked) -> Response<Body> {
    let pairs = decoded_pairs(asked.head.uri.query().unwrap_or_default());
    let mut response = pretty(StatusCode::OK, &mirror::args(asked));
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) else {
            return bad("not a header");
        };
        // These frame the body that is really sent.
        if name != http::header::CONTENT_LENGTH && name != http::header::TRANSFER_ENCODING {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// `length` bytes that look random.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = random() | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64: enough to be incompressible.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn bytes(n: &str) -> Response<Body> {
    match n.parse::<usize>() {
        Ok(n) => reply(
            StatusCode::OK,
            "application/octet-stream",
            noise(n.min(MOST_BYTES)),
        ),
        Err(_) => bad("not a number of bytes"),
    }
}

fn encoded(asked: &Asked, encoding: &'static str) -> Response<Body> {
    let mut answer = mirror::get(asked);
    let mark = if encoding == "gzip" {
        "gzipped"
    } else {
        "deflated"
    };
    answer[mark] = Value::Bool(true);
    let plain = serde_json::to_vec_pretty(&answer).unwrap_or_default();
    let compressed = match encoding {
        "gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&plain).and_then(|()| encoder.finish())
        }
        _ => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&plain).and_then(|()| encoder.finish())
        }
    };
    match compressed {
        Ok(body) => with(
            reply(StatusCode::OK, "application/json", body),
            CONTENT_ENCODING,
            Some(HeaderValue::from_static(encoding)),
        ),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "compression failed\n"),
    }
}

fn cache(asked: &Asked) -> Response<Body> {
    let headers = &asked.head.headers;
    if headers.contains_key(IF_MODIFIED_SINCE) || headers.contains_key(IF_NONE_MATCH) {
        return text(StatusCode::NOT_MODIFIED, "");
    }
    let etag = HeaderValue::from_str(&format!("\"{:016x}\"", random()));
    let response = with(pretty(StatusCode::OK, &mirror::get(asked)), ETAG, etag.ok());
    let modified = HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT");
    with(response, LAST_MODIFIED, Some(modified))
}

fn etagged(asked: &Asked, etag: &str) -> Response<Body> {
    let quoted = format!("\"{etag}\"");
    let names = |list: &str| {
        list.split(',').map(str::trim).any(|one| {
            let one = one.strip_prefix("W/").unwrap_or(one);
            one == "*" || one == quoted || one == etag
        })
    };
    let headers = &asked.head.headers;
    let none_match = header(headers, IF_NONE_MATCH.as_str());
    let matching = header(headers, IF_MATCH.as_str());
    let response = if !none_match.is_empty() && names(none_match) {
        text(StatusCode::NOT_MODIFIED, "")
    } else if !matching.is_empty() && !names(matching) {
        text(StatusCode::PRECONDITION_FAILED, "")
    } else {
        pretty(StatusCode::OK, &mirror::get(asked))
    };
    with(response, ETAG, HeaderValue::from_str(&quoted).ok())
}

fn decoded(value: &str) -> Response<Body> {
    let decoders = [&STANDARD, &URL_SAFE, &URL_SAFE_NO_PAD];
    match decoders
        .into_iter()
        .find_map(|engine| engine.decode(value).ok())
    {
        Some(bytes) => reply(StatusCode::OK, "text/html; charset=utf-8", bytes),
        None => bad("not base64"),
    }
}

fn uuid() -> String {
    let (high, low) = (random(), random());
    // Version 4, variant 1. Source: RFC 9562, section 5.4.
    let high = (high & 0xffff_ffff_ffff_0fff) | 0x4000;
    let low = (low & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}
