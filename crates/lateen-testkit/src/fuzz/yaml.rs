//! The front end: no input panics, and every finding points inside its file.

use lateen_api::diagnostic::{Style, render};
use lateen_api::{Parsed, SourceFile, parse_file, validate};

use super::Seen;

/// Parses, validates and renders.
pub(super) fn check(text: &str) -> Seen {
    read(text).1
}

/// As [`check`], and gives what was read.
pub(super) fn read(text: &str) -> (Parsed, Seen) {
    let parsed = parse_file(&SourceFile::new("fuzz.yaml", text), "default");
    let everything = parsed.resources.iter().chain(&parsed.refused);
    let mut all: Vec<_> = parsed.diagnostics.clone();
    all.extend(everything.flat_map(validate));
    let mut seen = Seen::default();
    for diagnostic in &all {
        let rendered = render(diagnostic, Some(text), Style::default());
        if rendered.contains('\u{1b}') {
            seen.broken = Some(format!("control characters in {rendered:?}"));
        }
        if let Some(span) = &diagnostic.span {
            let (start, end) = (span.offset as usize, (span.offset + span.len) as usize);
            if !text.is_char_boundary(start) || !text.is_char_boundary(end) {
                seen.broken = Some(format!("a place outside the file: {diagnostic:?}"));
            }
        }
        seen.codes.push(diagnostic.code);
    }
    (parsed, seen)
}
