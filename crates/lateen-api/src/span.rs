//! Where things stand in a file.

use std::sync::Arc;

use serde::Serialize;

/// A range of a file's bytes, with the line and column where it starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
    /// Line of the first byte, from 1.
    pub line: u32,
    /// Column of the first byte, in characters, from 1.
    pub column: u32,
}

impl Span {
    /// Length in bytes.
    pub fn len(&self) -> u32 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A [`Span`] in a named file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileSpan {
    /// The file's path as the user gave it.
    pub path: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// First byte, from 0.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

impl FileSpan {
    /// Puts `span` into the file `path`.
    pub fn new(path: Arc<str>, span: Span) -> Self {
        Self {
            path,
            line: span.line,
            column: span.column,
            offset: span.start,
            len: span.len(),
        }
    }
}

/// A file's name and text; what the front end reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceFile {
    /// As the user gave it; only shown, never opened.
    pub path: Arc<str>,
    /// The whole text.
    pub text: Arc<str>,
}

impl SourceFile {
    /// A file from its parts.
    pub fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }
}
