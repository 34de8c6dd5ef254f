//! httpbin's answers that take time: delays, drips and streams.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::json;

use super::mirror::{self, decoded_pairs};
use super::shape::{MOST_BYTES, noise};
use super::{Asked, Flavor, pretty};
use crate::server::{Body, text};

/// The longest wait that a request may ask for.
const LONGEST: Duration = Duration::from_secs(10);
/// The most lines of `/stream`.
const MOST_LINES: usize = 100;

pub(super) async fn answer(asked: &Asked, parts: &[&str]) -> Option<Response<Body>> {
    Some(match parts {
        ["delay", delay] => match duration(delay) {
            Some(delay) => {
                tokio::time::sleep(delay.min(LONGEST)).await;
                pretty(StatusCode::OK, &mirror::whole(asked))
            }
            None => bad("not a delay"),
        },
        ["drip"] => drip(asked).await,
        ["stream", lines] => match lines.parse::<usize>() {
            Ok(lines) => stream_lines(asked, lines.min(MOST_LINES)),
            Err(_) => bad("not a number of lines"),
        },
        ["stream-bytes", n] => match n.parse::<usize>() {
            Ok(n) => {
                let bytes = Bytes::from(noise(n.min(MOST_BYTES)));
                let chunks: Vec<Bytes> =
                    bytes.chunks(10 << 10).map(Bytes::copy_from_slice).collect();
                streamed(
                    StatusCode::OK,
                    "application/octet-stream",
                    stream::iter(chunks),
                )
            }
            Err(_) => bad("not a number of bytes"),
        },
        _ => return None,
    })
}

fn bad(problem: &'static str) -> Response<Body> {
    text(StatusCode::BAD_REQUEST, format!("{problem}\n"))
}

/// Seconds, or a number with a unit: `2`, `0.5`, `500ms`, `2s`.
fn duration(text: &str) -> Option<Duration> {
    let (number, scale) = if let Some(number) = text.strip_suffix("ms") {
        (number, 1e-3)
    } else {
        (text.strip_suffix('s').unwrap_or(text), 1.0)
    };
    let number: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(number * scale).ok()
}

/// `numbytes` stars over `duration`, after `delay`, with status `code`.
async fn drip(asked: &Asked) -> Response<Body> {
    let pairs = decoded_pairs(asked.head.uri.query().unwrap_or_default());
    let given = |name: &str| {
        pairs
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let default = if asked.flavor == Flavor::Go {
        "2s"
    } else {
        "2"
    };
    let over = duration(given("duration").unwrap_or(default));
    let delay = duration(given("delay").unwrap_or(default));
    let count = given("numbytes").unwrap_or("10").parse::<usize>().ok();
    let code = given("code").unwrap_or("200").parse::<u16>().ok();
    let code = code.filter(|code| (200..600).contains(code));
    let status = code.and_then(|code| StatusCode::from_u16(code).ok());
    let (Some(over), Some(delay), Some(count), Some(status)) = (over, delay, count, status) else {
        return bad("not a duration, delay, number of bytes or status");
    };
    let count = count.min(MOST_BYTES);
    let pause = over.min(LONGEST) / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    tokio::time::sleep(delay.min(LONGEST)).await;
    let drops = stream::iter(0..count).then(move |_| async move {
        tokio::time::sleep(pause).await;
        Bytes::from_static(b"*")
    });
    streamed(status, "application/octet-stream", drops)
}

/// The request as JSON, once per line, each with its number.
fn stream_lines(asked: &Asked, count: usize) -> Response<Body> {
    let answer = mirror::get(asked);
    let lines = (0..count).map(move |id| {
        let mut line = answer.clone();
        line["id"] = json!(id);
        Bytes::from(format!("{line}\n"))
    });
    streamed(StatusCode::OK, "application/json", stream::iter(lines))
}

fn streamed(
    status: StatusCode,
    content_type: &'static str,
    chunks: impl Stream<Item = Bytes> + Send + 'static,
) -> Response<Body> {
    let frames = chunks.map(|chunk| Ok::<_, io::Error>(Frame::data(chunk)));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
