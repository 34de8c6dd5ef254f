//! Envoy's matchers (`type.matcher.v3`), compiled: strings, regular expressions, headers, query parameters, values, fractions.
//!
//! Nothing here allocates while matching, but for headers that were sent more than once (their values are joined).

mod header;
mod value;

pub use header::{HeaderKey, HeaderMatch, HeaderMatcher, QueryMatcher, query_parameter};
pub use value::{DoubleMatch, MetadataMatcher, ValueMatcher};

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

/// Bytes a compiled regular expression may take. Envoy bounds programs by count (`re2.max_program_size.error_level`); this is
/// the `regex` crate's unit, generous enough for the largest expression a user writes by hand.
const REGEX_SIZE_LIMIT: usize = 1 << 20;
/// Longest expression that is compiled at all, in bytes.
const REGEX_TEXT_LIMIT: usize = 16 << 10;

/// A regular expression that must match the whole text, as all of Envoy's do.
#[derive(Clone, Debug)]
pub struct FullRegex {
    regex: Regex,
    source: Box<str>,
}

/// Why a regular expression was refused.
#[derive(Debug, thiserror::Error)]
pub enum RegexError {
    /// It is longer than an expression may be.
    #[error("regular expression of {length} bytes is longer than {REGEX_TEXT_LIMIT}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It cannot be compiled.
    #[error("invalid regular expression {expression:?}")]
    Invalid {
        /// The expression.
        expression: String,
        /// What the compiler said.
        source: regex::Error,
    },
}

impl FullRegex {
    /// Compiles an expression in RE2's syntax.
    ///
    /// # Errors
    /// It is not valid, or would take too much memory.
    pub fn new(expression: &str) -> Result<Self, RegexError> {
        Ok(Self {
            regex: build(&format!("^(?:{expression})$"), expression)?,
            source: expression.into(),
        })
    }

    /// Whether the whole of `text` matches. Bytes that are not UTF-8 count as a character each that no expression names: were they never to
    /// match, a rule that denies `guest.*` would let `guest\xff` pass (CVE-2026-73552).
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
            || std::str::from_utf8(text).is_err()
                && self
                    .regex
                    .is_match(String::from_utf8_lossy(text).as_bytes())
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

/// A regular expression with a substitution (`RegexMatchAndSubstitute`), which replaces every match anywhere in the text.
#[derive(Clone, Debug)]
pub struct RegexRewrite {
    regex: Regex,
    replacement: Vec<u8>,
}

impl RegexRewrite {
    /// Compiles an expression and a substitution in RE2's form (`\1` for a group, `\0` for all).
    ///
    /// # Errors
    /// The expression is not valid, or would take too much memory.
    pub fn new(expression: &str, substitution: &str) -> Result<Self, RegexError> {
        Ok(Self {
            regex: build(expression, expression)?,
            replacement: re2_substitution(substitution),
        })
    }

    /// The text with every match replaced. Bytes that stop being UTF-8 become replacement characters.
    pub fn replace(&self, text: &str) -> String {
        let bytes = self
            .regex
            .replace_all(text.as_bytes(), self.replacement.as_slice());
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn build(pattern: &str, expression: &str) -> Result<Regex, RegexError> {
    if expression.len() > REGEX_TEXT_LIMIT {
        return Err(RegexError::TooLong {
            length: expression.len(),
        });
    }
    let invalid = |source| RegexError::Invalid {
        expression: expression.to_owned(),
        source,
    };
    // An unbalanced `)` could otherwise close the group that anchors the expression.
    Regex::new(expression).map_err(invalid)?;
    RegexBuilder::new(pattern)
        .size_limit(REGEX_SIZE_LIMIT)
        .dfa_size_limit(REGEX_SIZE_LIMIT)
        .build()
        .map_err(invalid)
}

/// Translates `\1` to `${1}` and keeps a literal `$` literal.
fn re2_substitution(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'$' => out.extend_from_slice(b"$$"),
            b'\\' => match bytes.next() {
                Some(digit @ b'0'..=b'9') => out.extend_from_slice(&[b'$', b'{', digit, b'}']),
                Some(b'$') => out.extend_from_slice(b"$$"),
                Some(other) => out.push(other),
                None => out.push(b'\\'),
            },
            _ => out.push(byte),
        }
    }
    out
}

/// `type.matcher.v3.StringMatcher`.
#[derive(Clone, Debug)]
pub struct StringMatcher {
    pattern: StringPattern,
    ignore_case: bool,
}

/// What a [`StringMatcher`] compares with.
#[derive(Clone, Debug)]
pub enum StringPattern {
    /// The whole text.
    Exact(Box<str>),
    /// How it begins.
    Prefix(Box<str>),
    /// How it ends.
    Suffix(Box<str>),
    /// A part of it.
    Contains(Box<str>),
    /// A regular expression over the whole text. `ignore_case` has no effect on it.
    Regex(FullRegex),
}

impl StringMatcher {
    /// A matcher over a pattern.
    pub fn new(pattern: StringPattern, ignore_case: bool) -> Self {
        Self {
            pattern,
            ignore_case,
        }
    }

    /// A case-sensitive matcher of one text.
    pub fn exact(text: &str) -> Self {
        Self::new(StringPattern::Exact(text.into()), false)
    }

    /// The pattern.
    pub fn pattern(&self) -> &StringPattern {
        &self.pattern
    }

    /// Whether the text matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        let fold = self.ignore_case;
        match &self.pattern {
            StringPattern::Exact(want) => equal(text, want.as_bytes(), fold),
            StringPattern::Prefix(want) => text
                .get(..want.len())
                .is_some_and(|head| equal(head, want.as_bytes(), fold)),
            StringPattern::Suffix(want) => text
                .len()
                .checked_sub(want.len())
                .is_some_and(|start| equal(&text[start..], want.as_bytes(), fold)),
            StringPattern::Contains(want) => contains(text, want.as_bytes(), fold),
            StringPattern::Regex(regex) => regex.is_match(text),
        }
    }
}

impl fmt::Display for StringMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pattern {
            StringPattern::Exact(text) => write!(f, "= {text:?}"),
            StringPattern::Prefix(text) => write!(f, "beginning with {text:?}"),
            StringPattern::Suffix(text) => write!(f, "ending with {text:?}"),
            StringPattern::Contains(text) => write!(f, "containing {text:?}"),
            StringPattern::Regex(regex) => write!(f, "matching {:?}", regex.as_str()),
        }?;
        if self.ignore_case {
            f.write_str(" in any case")
        } else {
            Ok(())
        }
    }
}

fn equal(a: &[u8], b: &[u8], fold: bool) -> bool {
    if fold {
        a.eq_ignore_ascii_case(b)
    } else {
        a == b
    }
}

fn contains(text: &[u8], part: &[u8], fold: bool) -> bool {
    part.is_empty()
        || text
            .windows(part.len())
            .any(|window| equal(window, part, fold))
}

/// A share of all events: `type.v3.FractionalPercent`, or a runtime percentage's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    /// How many …
    pub numerator: u32,
    /// … of how many: 100, 10 000 or 1 000 000.
    pub denominator: u32,
}

impl Fraction {
    /// Everything.
    pub const ALL: Self = Self {
        numerator: 100,
        denominator: 100,
    };
    /// Nothing.
    pub const NONE: Self = Self {
        numerator: 0,
        denominator: 100,
    };

    /// Whether it is everything.
    pub const fn is_all(self) -> bool {
        self.numerator >= self.denominator
    }

    /// Whether a random number falls into the share, by Envoy's rule (`random % denominator < numerator`).
    pub fn hit(self, random: u64) -> bool {
        random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

#[cfg(test)]
mod tests;
