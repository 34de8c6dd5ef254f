//! Envoy's command operators (`%REQ(x)%`, `%DOWNSTREAM_REMOTE_ADDRESS%`, …) in header values, bodies and log lines: parsed once,
//! then written by whoever knows the values.

mod values;

use std::borrow::Cow;
use std::sync::Arc;

pub use values::RequestValues;

/// A text with command operators, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Command(Command),
}

/// One command operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Which one: `REQ`, `START_TIME`, …
    pub name: Arc<str>,
    /// What is between its parentheses; empty if it has none.
    pub argument: Arc<str>,
    /// Longest value, in bytes.
    pub max_length: Option<usize>,
}

/// Why a format was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `%` without its partner.
    #[error("command operator at byte {at} does not end with %")]
    Unterminated {
        /// Where it begins.
        at: usize,
    },
    /// Something between `%` that is no operator.
    #[error("invalid command operator {text:?}")]
    Invalid {
        /// What stands there.
        text: String,
    },
}

/// Who knows the values of command operators.
pub trait Values {
    /// Appends the value of a command; `false`, and nothing appended, if there is none.
    fn write(&self, command: &Command, out: &mut String) -> bool;
}

impl Format {
    /// Parses a text with command operators; `%%` is a percent sign.
    ///
    /// # Errors
    /// An operator is not closed, or is none.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('%') {
            literal.push_str(&rest[..start]);
            let after = &rest[start + 1..];
            if let Some(escaped) = after.strip_prefix('%') {
                literal.push('%');
                rest = escaped;
                continue;
            }
            let unterminated = || FormatError::Unterminated {
                at: text.len() - rest.len() + start,
            };
            let end = command_end(after).ok_or_else(unterminated)?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::Command(Command::parse(&after[..end])?));
            rest = &after[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(Self { parts })
    }

    /// A text without operators.
    pub fn literal(text: &str) -> Self {
        Self {
            parts: vec![Part::Literal(text.into())],
        }
    }

    /// The text, if it has no operators.
    pub fn as_literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The text with its operators replaced. One without a value gives nothing if it stands alone, `-` among other text, as
    /// Envoy's header formatter does.
    pub fn render<'f>(&'f self, values: &dyn Values) -> Cow<'f, str> {
        if let Some(text) = self.as_literal() {
            return Cow::Borrowed(text);
        }
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Command(command) => command.append(values, &mut out, self.parts.len() == 1),
            }
        }
        Cow::Owned(out)
    }

    /// The operators in it.
    pub fn commands(&self) -> impl Iterator<Item = &Command> {
        self.parts.iter().filter_map(|part| match part {
            Part::Command(command) => Some(command),
            Part::Literal(_) => None,
        })
    }
}

/// Where the closing `%` is: the first outside of parentheses.
fn command_end(text: &str) -> Option<usize> {
    let mut in_argument = false;
    text.bytes().position(|byte| {
        in_argument = match byte {
            b'(' => true,
            b')' => false,
            _ => in_argument,
        };
        byte == b'%' && !in_argument
    })
}

impl Command {
    fn parse(text: &str) -> Result<Self, FormatError> {
        let invalid = || FormatError::Invalid {
            text: text.to_owned(),
        };
        let (head, max_length) = match text.rsplit_once(':') {
            Some((head, digits))
                if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                (head, Some(digits.parse().map_err(|_| invalid())?))
            }
            _ => (text, None),
        };
        let (name, argument) = match head.split_once('(') {
            Some((name, argument)) => (name, argument.strip_suffix(')').ok_or_else(invalid)?),
            None => (head, ""),
        };
        let valid = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
        if !valid {
            return Err(invalid());
        }
        Ok(Self {
            name: name.into(),
            argument: argument.into(),
            max_length,
        })
    }

    fn append(&self, values: &dyn Values, out: &mut String, alone: bool) {
        let start = out.len();
        if !values.write(self, out) {
            out.truncate(start);
            if !alone {
                out.push('-');
            }
            return;
        }
        let limit = self
            .max_length
            .map_or(out.len(), |max| start.saturating_add(max));
        while out.len() > limit {
            out.pop();
        }
    }
}

#[cfg(test)]
mod tests;
