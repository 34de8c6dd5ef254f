//! Matchers over structured values (`ValueMatcher`, `MetadataMatcher`).

use std::fmt;
use std::sync::Arc;

use super::StringMatcher;
use crate::value::{Metadata, Value};

/// `type.matcher.v3.ValueMatcher`.
#[derive(Clone, Debug)]
pub enum ValueMatcher {
    /// `null_match`.
    Null,
    /// `double_match`.
    Double(DoubleMatch),
    /// `string_match`.
    String(StringMatcher),
    /// `bool_match`.
    Bool(bool),
    /// `present_match`.
    Present(bool),
    /// `list_match.one_of`.
    AnyOf(Box<ValueMatcher>),
    /// `or_match`.
    Or(Vec<ValueMatcher>),
}

/// `type.matcher.v3.DoubleMatcher`.
#[derive(Clone, Copy, Debug)]
pub enum DoubleMatch {
    /// This very number.
    Exact(f64),
    /// A number in `start..end`.
    Range {
        /// First number in the range.
        start: f64,
        /// First number after the range.
        end: f64,
    },
}

impl ValueMatcher {
    /// Whether a value matches; `None` is a value that is not there.
    pub fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Or(any), _) => any.iter().any(|matcher| matcher.matches(value)),
            (Self::Present(wanted), _) => value.is_some() == *wanted,
            (_, None) => false,
            (Self::Null, Some(value)) => matches!(value, Value::Null),
            (Self::Double(matcher), Some(Value::Number(number))) => matcher.matches(*number),
            (Self::String(matcher), Some(Value::String(text))) => matcher.matches(text.as_bytes()),
            (Self::Bool(wanted), Some(Value::Bool(found))) => wanted == found,
            (Self::AnyOf(matcher), Some(Value::List(items))) => {
                items.iter().any(|item| matcher.matches(Some(item)))
            }
            _ => false,
        }
    }
}

/// What is wanted, as in `= "admin" or = "editor"`. Whether it may stand in a list is not said: a claim may be either.
impl fmt::Display for ValueMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Double(DoubleMatch::Exact(number)) => write!(f, "= {number}"),
            Self::Double(DoubleMatch::Range { start, end }) => write!(f, "in {start}..{end}"),
            Self::String(matcher) => matcher.fmt(f),
            Self::Bool(wanted) => write!(f, "= {wanted}"),
            Self::Present(true) => f.write_str("present"),
            Self::Present(false) => f.write_str("absent"),
            Self::AnyOf(inner) => inner.fmt(f),
            Self::Or(any) => {
                let mut texts: Vec<String> = any.iter().map(ToString::to_string).collect();
                texts.dedup();
                f.write_str(&texts.join(" or "))
            }
        }
    }
}

impl DoubleMatch {
    fn matches(self, number: f64) -> bool {
        match self {
            #[expect(clippy::float_cmp, reason = "the matcher is defined as equality")]
            Self::Exact(want) => number == want,
            Self::Range { start, end } => (start..end).contains(&number),
        }
    }
}

/// `type.matcher.v3.MetadataMatcher`.
#[derive(Clone, Debug)]
pub struct MetadataMatcher {
    /// The metadata namespace.
    pub namespace: Arc<str>,
    /// The keys from the namespace down.
    pub path: Vec<Arc<str>>,
    /// The condition.
    pub value: ValueMatcher,
    /// The result is turned around.
    pub invert: bool,
}

impl MetadataMatcher {
    /// Whether the metadata matches.
    pub fn matches(&self, metadata: &Metadata) -> bool {
        self.value
            .matches(metadata.get(&self.namespace, &self.path))
            != self.invert
    }
}
