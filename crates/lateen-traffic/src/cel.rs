//! Expressions of the Common Expression Language over attributes of requests, as access-log filters have them.
//!
//! A part of CEL: constants, attributes, comparisons, logic, arithmetic, lists, `in`, `has`, the conditional, and the usual functions on
//! texts. No macros over lists, no maps, no times. What is not known is refused when it is parsed, never ignored. An attribute that is
//! not there is an error, which `&&` and `||` absorb where the other side decides, and which makes the whole false at the end.
//! Source: the CEL specification; Envoy's attributes.

mod eval;
mod parse;

use std::borrow::Cow;
use std::sync::Arc;

use crate::matcher::FullRegex;

/// Longest expression, in bytes.
const MAX_LENGTH: usize = 8 * 1024;
/// How deep an expression may nest: what reads and evaluates it recurses.
const MAX_DEPTH: usize = 32;

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Expression {
    source: Arc<str>,
    root: Node,
}

/// Why an expression was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at byte {at} of the expression")]
pub struct CelError {
    /// Where.
    pub at: usize,
    /// What is wrong.
    pub message: String,
}

/// A value of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum CelValue<'a> {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Double(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<CelValue<'a>>),
}

/// Who knows the values of attributes.
pub trait Attributes {
    /// The value at a path (`["request", "headers", "x-a"]`); `None` if there is none.
    fn get<'a>(&'a self, path: &[Cow<'_, str>]) -> Option<CelValue<'a>>;
}

/// What attributes begin with. Anything else is a typo.
const ROOTS: [&str; 12] = [
    "request",
    "response",
    "source",
    "destination",
    "connection",
    "upstream",
    "xds",
    "metadata",
    "filter_state",
    "node",
    "downstream_peer",
    "upstream_peer",
];

#[derive(Clone, Debug)]
enum Node {
    Constant(CelValue<'static>),
    Path(Vec<Step>),
    Has(Vec<Step>),
    Not(Box<Node>),
    Negative(Box<Node>),
    Binary(Operator, Box<(Node, Node)>),
    Conditional(Box<(Node, Node, Node)>),
    List(Vec<Node>),
    Call(Function, Vec<Node>),
    Matches(Box<Node>, FullRegex),
}

#[derive(Clone, Debug)]
enum Step {
    Key(Arc<str>),
    Computed(Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Size,
    Text,
    Int,
    Double,
    StartsWith,
    EndsWith,
    Contains,
    LowerAscii,
    UpperAscii,
}

impl Expression {
    /// Parses an expression.
    ///
    /// # Errors
    /// It is none, it is too long or too deep, or it asks for something that is not known here.
    pub fn parse(source: &str) -> Result<Self, CelError> {
        if source.len() > MAX_LENGTH {
            return Err(CelError {
                at: MAX_LENGTH,
                message: format!("longer than {MAX_LENGTH} bytes"),
            });
        }
        Ok(Self {
            source: source.into(),
            root: parse::parse(source)?,
        })
    }

    /// Whether it holds. What is no truth value, or cannot be evaluated, does not.
    pub fn holds(&self, attributes: &dyn Attributes) -> bool {
        matches!(
            eval::evaluate(&self.root, attributes),
            Some(CelValue::Bool(true))
        )
    }

    /// Its value as a text; none if it cannot be evaluated, or is a list.
    pub fn text(&self, attributes: &dyn Attributes) -> Option<String> {
        Some(match eval::evaluate(&self.root, attributes)? {
            CelValue::Null => "null".to_owned(),
            CelValue::Bool(value) => value.to_string(),
            CelValue::Int(number) => number.to_string(),
            CelValue::Double(number) => number.to_string(),
            CelValue::Text(text) => text.into_owned(),
            CelValue::List(_) => return None,
        })
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

#[cfg(test)]
mod tests;
