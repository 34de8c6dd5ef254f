//! Diagnostics as text, in the form compilers use: what, where with the line and a caret, help, effect.
//!
//! Text from files is shown without control characters: a manifest must not be able to talk to the terminal.

use std::fmt::Write as _;

use super::{Diagnostic, Severity};
use crate::span::FileSpan;

/// How text is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether to use terminal colours.
    pub color: bool,
}

/// Longest piece of a source line that is shown, in characters: one-line JSON would fill the screen.
const MAX_LINE: usize = 120;
/// How much of a cut line stands before the caret.
const BEFORE_CARET: usize = 40;

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const CYAN: &str = "\x1b[1;36m";
const BLUE: &str = "\x1b[1;34m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

/// `diagnostic` as text that ends with a newline. `source` is the text of the file its span is in, if it is at hand.
pub fn render(diagnostic: &Diagnostic, source: Option<&str>, style: Style) -> String {
    let (word, color) = match diagnostic.severity {
        Severity::Error => ("error", RED),
        Severity::Warning => ("warning", YELLOW),
        Severity::Info => ("note", CYAN),
    };
    let paint = Paint { style };
    let mut out = String::new();
    let head = format!("{word}[{}]", diagnostic.code);
    let message = format!(": {}", printable(&diagnostic.message));
    let _ = writeln!(
        out,
        "{}{}",
        paint.with(color, &head),
        paint.with(BOLD, &message)
    );
    let gutter = diagnostic
        .span
        .as_ref()
        .map_or(1, |span| span.line.to_string().len());
    if let Some(span) = &diagnostic.span {
        place(&mut out, span, gutter, paint);
        if let Some(line) = source.and_then(|text| line_of(text, span)) {
            snippet(&mut out, line, span, gutter, color, paint);
        }
    }
    notes(&mut out, diagnostic, gutter, paint);
    out
}

#[derive(Clone, Copy)]
struct Paint {
    style: Style,
}

impl Paint {
    fn with(self, color: &str, text: &str) -> String {
        if self.style.color {
            format!("{color}{text}{RESET}")
        } else {
            text.to_owned()
        }
    }
}

fn place(out: &mut String, span: &FileSpan, gutter: usize, paint: Paint) {
    let arrow = paint.with(BLUE, &format!("{:gutter$}-->", ""));
    let _ = match (span.line, span.column) {
        (0, _) => writeln!(out, "{arrow} {}", printable(&span.path)), // all of a file
        (line, column) => writeln!(out, "{arrow} {}:{line}:{column}", printable(&span.path)),
    };
}

/// The line a span starts in.
fn line_of<'a>(text: &'a str, span: &FileSpan) -> Option<&'a str> {
    let offset = span.offset as usize;
    let start = text.get(..offset)?.rfind('\n').map_or(0, |at| at + 1);
    let rest = text.get(start..)?;
    let line = rest.find('\n').map_or(rest, |end| &rest[..end]);
    Some(line.strip_suffix('\r').unwrap_or(line))
}

fn snippet(
    out: &mut String,
    line: &str,
    span: &FileSpan,
    gutter: usize,
    color: &str,
    paint: Paint,
) {
    let before = (span.column as usize).saturating_sub(1);
    let total = line.chars().count();
    let start_byte = line
        .char_indices()
        .nth(before)
        .map_or(line.len(), |(at, _)| at);
    let marked = &line[start_byte..];
    let end_byte = (span.len as usize).min(marked.len());
    let width = marked
        .char_indices()
        .take_while(|(at, _)| *at < end_byte)
        .count()
        .max(1);

    let skip = if total > MAX_LINE {
        before.saturating_sub(BEFORE_CARET)
    } else {
        0
    };
    let shown: String = line
        .chars()
        .skip(skip)
        .take(MAX_LINE)
        .map(printable_char)
        .collect();
    let (lead, tail) = (
        if skip > 0 { "…" } else { "" },
        if total > skip + MAX_LINE { "…" } else { "" },
    );
    let indent = before - skip + lead.chars().count();
    let carets = "^".repeat(width.min(MAX_LINE.saturating_sub(before - skip)).max(1));

    let bar = paint.with(BLUE, "|");
    let number = paint.with(BLUE, &format!("{:>gutter$}", span.line));
    let _ = writeln!(out, "{:gutter$} {bar}", "");
    let _ = writeln!(out, "{number} {bar} {lead}{shown}{tail}");
    let _ = writeln!(
        out,
        "{:gutter$} {bar} {:indent$}{}",
        "",
        "",
        paint.with(color, &carets)
    );
}

fn notes(out: &mut String, diagnostic: &Diagnostic, gutter: usize, paint: Paint) {
    let mut note = |word: &str, text: &str| {
        let equals = paint.with(BLUE, "=");
        let word = paint.with(BOLD, word);
        let _ = writeln!(out, "{:gutter$} {equals} {word}: {}", "", printable(text));
    };
    if let Some(resource) = &diagnostic.resource {
        let field = if diagnostic.field.is_empty() {
            resource.to_string()
        } else {
            format!("{resource}, {}", diagnostic.field)
        };
        note("in", &field);
    }
    if let Some(fix) = &diagnostic.fix {
        note("help", fix);
    }
    if !diagnostic.effect.is_empty() {
        note("effect", &diagnostic.effect);
    }
}

fn printable(text: &str) -> String {
    text.chars().map(printable_char).collect()
}

/// One column each, so that carets stay below what they point at.
fn printable_char(c: char) -> char {
    match c {
        '\t' => ' ',
        // Also the marks that reorder text, which hide what a line really says.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::ResourceRef;
    use crate::span::Span;

    fn at(text: &str, needle: &str) -> Diagnostic {
        let start = text.find(needle).unwrap();
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let span = Span {
            start: start as u32,
            end: (start + needle.len()) as u32,
            line: text[..start].matches('\n').count() as u32 + 1,
            column: text[line_start..start].chars().count() as u32 + 1,
        };
        Diagnostic::new("LAT0102", Severity::Error, "unknown field `circuitBreaker`")
            .spanned(Some(FileSpan::new("a.yaml".into(), span)))
            .on(ResourceRef {
                kind: "DestinationRule".to_owned(),
                namespace: "default".to_owned(),
                name: "reviews".to_owned(),
                ..ResourceRef::default()
            })
            .at("spec.trafficPolicy.circuitBreaker")
            .fix("did you mean `outlierDetection`?")
            .effect("the object is refused")
    }

    #[test]
    fn shows_the_line_with_a_caret() {
        let text = "spec:\n  trafficPolicy:\n    circuitBreaker:\n      x: 1\n";
        let shown = render(&at(text, "circuitBreaker"), Some(text), Style::default());
        let expected = "\
error[LAT0102]: unknown field `circuitBreaker`
 --> a.yaml:3:5
  |
3 |     circuitBreaker:
  |     ^^^^^^^^^^^^^^
  = in: DestinationRule default/reviews, spec.trafficPolicy.circuitBreaker
  = help: did you mean `outlierDetection`?
  = effect: the object is refused
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_wrong_with_a_whole_file_names_no_line() {
        let mut diagnostic = at("spec:\n", "spec");
        let span = diagnostic.span.as_mut().unwrap();
        (span.line, span.column) = (0, 0);
        let shown = render(&diagnostic, None, Style::default());
        assert_eq!(shown.lines().nth(1), Some(" --> a.yaml"));
    }

    #[test]
    fn cuts_long_lines_around_the_caret() {
        let text = format!("{}NEEDLE{}", "é".repeat(500), "x".repeat(500));
        let shown = render(&at(&text, "NEEDLE"), Some(&text), Style::default());
        let lines: Vec<&str> = shown.lines().collect();
        let (source, carets) = (lines[3], lines[4]);
        let byte = source.find("NEEDLE").unwrap();
        assert_eq!(source[..byte].chars().count(), carets.find('^').unwrap());
        assert!(source.chars().count() < 140, "{source}");
    }

    #[test]
    fn shows_no_control_characters() {
        let text = "a: \u{1b}[31mNEEDLE\u{202e}";
        let shown = render(&at(text, "NEEDLE"), Some(text), Style::default());
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
    }

    #[test]
    fn survives_a_source_that_has_changed() {
        let diagnostic = at("a\nb\nNEEDLE", "NEEDLE");
        assert!(render(&diagnostic, Some("é"), Style { color: true }).contains("a.yaml:3:1"));
    }
}
