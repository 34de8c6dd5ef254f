//! YAML text to trees: documents, anchors, merge keys, limits, and what is wrong with the text.
//!
//! A file is cut at its `---` lines first, so that a syntax error costs one document. Within a document the parser's
//! events become a [`Node`]; nothing here knows about kinds or fields.

mod builder;
mod json;
mod syntax;

use granit_parser::{Event, Marker, Options, Parser};

use crate::diagnostic::{Severity, codes};
use crate::span::Span;
use crate::tree::Node;
use builder::Builder;

/// Files larger than this are not read. etcd holds 1.5 MiB per object; this is room for thousands of them.
pub(crate) const MAX_TEXT: usize = 64 << 20;

/// One document of a file.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// Its root; empty if nothing (or only comments) is in it. After a syntax error: what came before.
    pub(crate) root: Node,
    /// What is wrong with its text. Any error makes the document unusable.
    pub(crate) problems: Vec<Problem>,
}

/// Something wrong with the text.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) code: &'static str,
    pub(crate) severity: Severity,
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) fix: Option<String>,
}

impl Problem {
    pub(crate) fn new(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            span,
            message: message.into(),
            fix: None,
        }
    }

    /// Whether it makes the document unusable.
    pub(crate) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Whether it ended the reading of the document.
    pub(crate) fn is_fatal(&self) -> bool {
        self.is_error() && ![codes::DUPLICATE_KEY, codes::BAD_KEY].contains(&self.code)
    }

    pub(crate) fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// Reads every document of `text`.
pub(crate) fn documents(text: &str) -> Vec<Document> {
    if text.len() > MAX_TEXT {
        let message = format!("the file has more than {} MiB", MAX_TEXT >> 20);
        let problem = Problem::new(
            codes::LIMIT,
            Span {
                line: 1,
                column: 1,
                ..Span::default()
            },
            message,
        );
        return vec![Document {
            root: Node::default(),
            problems: vec![problem],
        }];
    }
    let mut documents = Vec::new();
    for chunk in chunks(text) {
        read_chunk(&chunk, &mut documents);
    }
    documents
}

/// The text between two `---` lines, and where it starts in the file.
#[derive(Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) text: &'a str,
    start: u32,
    line: u32,
}

impl<'a> Chunk<'a> {
    fn new(text: &'a str, start: usize, line: u32) -> Self {
        Self {
            text,
            start: start as u32,
            line,
        }
    }

    /// The byte at a marker, within the chunk.
    fn byte(&self, marker: &Marker) -> u32 {
        marker
            .byte_offset()
            .unwrap_or(marker.index())
            .min(self.text.len()) as u32
    }

    fn span(&self, start: &Marker, end: &Marker) -> Span {
        let (from, to) = (self.byte(start), self.byte(end));
        Span {
            start: self.start + from,
            end: self.start + to.max(from),
            line: self.line + (start.line() as u32).saturating_sub(1),
            column: start.col() as u32 + 1,
        }
    }

    /// The chunk's text from a span's start.
    fn text_from(&self, span: Span) -> &str {
        self.text
            .get((span.start - self.start) as usize..)
            .unwrap_or("")
    }

    /// The chunk's text up to a span's start.
    fn text_before(&self, span: Span) -> &str {
        self.text
            .get(..(span.start - self.start) as usize)
            .unwrap_or("")
    }
}

/// Cuts at lines that start with `---`: YAML forbids such a line inside a document, whatever it is part of. Text before
/// the first one that holds only comments and directives is dropped.
fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let bom = if text.starts_with('\u{feff}') {
        '\u{feff}'.len_utf8()
    } else {
        0
    };
    let mut chunks = Vec::new();
    let (mut start, mut start_line) = (bom, 1);
    let (mut at, mut line) = (bom, 1);
    for part in text[bom..].split_inclusive('\n') {
        if is_document_start(part) && at > start {
            push_chunk(&mut chunks, &text[start..at], start, start_line);
            (start, start_line) = (at, line);
        }
        at += part.len();
        line += 1;
    }
    push_chunk(&mut chunks, &text[start..], start, start_line);
    chunks
}

fn push_chunk<'a>(chunks: &mut Vec<Chunk<'a>>, text: &'a str, start: usize, line: u32) {
    let says_nothing = text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "---" || line == "..."
    });
    if !says_nothing {
        chunks.push(Chunk::new(text, start, line));
    }
}

fn is_document_start(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn read_chunk(chunk: &Chunk<'_>, documents: &mut Vec<Document>) {
    if let Some(document) = json::document(chunk) {
        documents.push(document);
        return;
    }
    let mut options = Options::default();
    options.flow_nesting_limit = builder::MAX_DEPTH + 1;
    options.block_nesting_limit = builder::MAX_DEPTH + 1;
    let mut parser = Parser::new_from_str_with_options(chunk.text, options);
    let mut builder = Builder::new(chunk);
    loop {
        let (event, span) = match parser.next_event() {
            None => break,
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                documents.push(builder.finish(Some(syntax::explain(chunk, &error))));
                return;
            }
        };
        let span = chunk.span(&span.start, &span.end);
        match event {
            Event::DocumentEnd => {
                documents.push(builder.finish(None));
                builder = Builder::new(chunk);
            }
            Event::StreamEnd => break,
            event => {
                if let Err(problem) = builder.event(event, span) {
                    documents.push(builder.finish(Some(problem)));
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
