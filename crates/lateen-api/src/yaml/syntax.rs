//! What a parser's complaint means to the person who wrote the file.

use granit_parser::{ErrorKind, ScanError};

use super::{Chunk, Problem};
use crate::diagnostic::codes;
use crate::span::Span;

/// The parser's `error`, with the likely cause where it can be told.
pub(crate) fn explain(chunk: &Chunk<'_>, error: &ScanError) -> Problem {
    let at = chunk.span(error.marker(), error.marker());
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => return super::builder::too_deep(at),
        ErrorKind::UnknownAnchor => {
            return Problem::new(codes::ALIAS, at, "this alias refers to no anchor above it")
                .with_fix("quote the value if it only happens to start with `*`");
        }
        _ => {}
    }
    if let Some(problem) = template(chunk, at) {
        return problem;
    }
    let line = line_text(chunk, at.line);
    if let Some(column) = indentation_tab(line) {
        let span = Span {
            column,
            ..on_line(chunk, at.line, column as usize - 1)
        };
        return Problem::new(codes::SYNTAX, span, "a tab is used for indentation")
            .with_fix("YAML allows only spaces there; replace the tab with spaces");
    }
    let problem = Problem::new(
        codes::SYNTAX,
        at,
        format!("not valid YAML: {}", error.info()),
    );
    match hint(line, error.kind()) {
        Some(fix) => problem.with_fix(fix),
        None => problem,
    }
}

/// What to say of a Helm template's action at `span`.
pub(crate) fn unfilled_template(span: Span) -> Problem {
    let message = "this is a template, not YAML: `{{ … }}` has not been filled in";
    Problem::new(codes::TEMPLATE, span, message)
        .with_fix("render it first, for example with `helm template`")
}

/// A Helm template's action, if that is why the text is no YAML.
fn template(chunk: &Chunk<'_>, at: Span) -> Option<Problem> {
    let (mut start, mut number) = (0, chunk.line);
    for line in chunk.text.split_inclusive('\n') {
        // The parser stops at or soon after the first action; one far below is not the cause.
        if number > at.line + 1 {
            return None;
        }
        let action = line.find("{{").filter(|from| line[*from..].contains("}}"));
        if let Some(from) = action.filter(|from| !line[..*from].contains(['"', '\'', '#'])) {
            let column = line[..from].chars().count() as u32 + 1;
            let first = chunk.start + (start + from) as u32;
            let span = Span {
                start: first,
                end: first + 2,
                line: number,
                column,
            };
            return Some(unfilled_template(span));
        }
        start += line.len();
        number += 1;
    }
    None
}

fn line_text<'a>(chunk: &Chunk<'a>, line: u32) -> &'a str {
    chunk
        .text
        .lines()
        .nth(line.saturating_sub(chunk.line) as usize)
        .unwrap_or("")
}

/// A span of one byte on `line`, `offset` bytes from its start.
fn on_line(chunk: &Chunk<'_>, line: u32, offset: usize) -> Span {
    let skipped: usize = chunk
        .text
        .split_inclusive('\n')
        .take(line.saturating_sub(chunk.line) as usize)
        .map(str::len)
        .sum();
    let start = chunk.start + (skipped + offset) as u32;
    Span {
        start,
        end: start + 1,
        line,
        column: offset as u32 + 1,
    }
}

/// Column of the first tab in a line's indentation.
fn indentation_tab(line: &str) -> Option<u32> {
    let indentation = line.len() - line.trim_start_matches([' ', '\t', '-']).len();
    line[..indentation].find('\t').map(|at| at as u32 + 1)
}

fn hint(line: &str, kind: &ErrorKind) -> Option<String> {
    if matches!(
        kind,
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement
    ) {
        let fix = "check the indentation, and quote a value that holds `: `, as in key: \"a: b\"";
        return Some(fix.to_owned());
    }
    let text = line.trim_start().trim_start_matches("- ");
    let value = text
        .split_once(": ")
        .map_or(text, |(_, value)| value)
        .trim_start();
    if let Some(first @ ('*' | '&' | '@' | '`' | '%' | '!')) = value.chars().next() {
        return Some(format!(
            "a value that starts with `{first}` has to be quoted"
        ));
    }
    let of_layout = matches!(
        kind,
        ErrorKind::ExpectedBlockMappingKey
            | ErrorKind::ExpectedBlockSequenceEntry
            | ErrorKind::SimpleKeyExpected
            | ErrorKind::InvalidSimpleKey
            | ErrorKind::InvalidIndentation
            | ErrorKind::MappingKeyNotAllowed
    );
    let fix = "check that this line is indented like its neighbours and has a `:` after its key";
    of_layout.then(|| fix.to_owned())
}
