//! JSON as it is, where YAML is not quite its superset: tabs between tokens, surrogate escapes, keys over 1,024 bytes.
//!
//! The text is known to be valid when it comes here (`serde_json` has read it), so that tokens can be taken one after
//! another; they go to the same builder as YAML's events.

use granit_parser::{Event, ScalarStyle, StructureStyle};
use serde::de::IgnoredAny;

use super::builder::Builder;
use super::{Chunk, Document};
use crate::span::Span;

/// The one document of `chunk`, if it is JSON.
pub(crate) fn document(chunk: &Chunk<'_>) -> Option<Document> {
    let text = chunk.text;
    if !text.trim_start().starts_with(['{', '['])
        || serde_json::from_str::<IgnoredAny>(text).is_err()
    {
        return None;
    }
    let mut builder = Builder::new(chunk);
    let mut place = Place::default();
    while let Some(token) = next_token(text, &mut place) {
        let start = place.at;
        let column = place.column(text);
        place.at += token.len();
        let span = Span {
            start: chunk.start + start as u32,
            end: chunk.start + place.at as u32,
            line: chunk.line + place.line,
            column,
        };
        if let Some(event) = event(token)
            && let Err(problem) = builder.event(event, span)
        {
            return Some(builder.finish(Some(problem)));
        }
    }
    Some(builder.finish(None))
}

#[derive(Default)]
struct Place {
    at: usize,
    line: u32,
    /// Characters of this line before the byte `counted`; kept so that a long line is counted once.
    column: u32,
    counted: usize,
}

impl Place {
    /// The column at `at`, from 1.
    fn column(&mut self, text: &str) -> u32 {
        self.column += text[self.counted..self.at].chars().count() as u32;
        self.counted = self.at;
        self.column + 1
    }
}

/// The token at `place`, after any white space.
fn next_token<'a>(text: &'a str, place: &mut Place) -> Option<&'a str> {
    let bytes = text.as_bytes();
    while let Some(byte) = bytes
        .get(place.at)
        .filter(|byte| byte.is_ascii_whitespace())
    {
        place.at += 1;
        if *byte == b'\n' {
            place.line += 1;
            place.column = 0;
            place.counted = place.at;
        }
    }
    let rest = &bytes[place.at..];
    let len = match rest.first()? {
        b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
        b'"' => string_len(rest),
        _ => rest
            .iter()
            .position(|byte| byte.is_ascii_whitespace() || b",:]}".contains(byte))
            .unwrap_or(rest.len()),
    };
    text.get(place.at..place.at + len)
}

/// Length of the string literal that `rest` starts with, quotes included.
fn string_len(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn event(token: &str) -> Option<Event<'_>> {
    Some(match token {
        "{" => Event::MappingStart(StructureStyle::Flow, 0, None),
        "}" => Event::MappingEnd,
        "[" => Event::SequenceStart(StructureStyle::Flow, 0, None),
        "]" => Event::SequenceEnd,
        "," | ":" => return None,
        _ if token.starts_with('"') => {
            let text: String = serde_json::from_str(token).unwrap_or_default();
            Event::Scalar(text.into(), ScalarStyle::DoubleQuoted, 0, None)
        }
        _ => Event::Scalar(token.into(), ScalarStyle::Plain, 0, None),
    })
}
