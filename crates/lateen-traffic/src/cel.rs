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
use crate::value::Value;

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

    /// Its value as Envoy prints it in a log: numbers in six digits, of lists their type alone. None if it cannot be evaluated.
    pub fn print(&self, attributes: &dyn Attributes) -> Option<String> {
        Some(match eval::evaluate(&self.root, attributes)? {
            CelValue::Null => "NULL".to_owned(),
            CelValue::Bool(value) => value.to_string(),
            CelValue::Int(number) => number.to_string(),
            CelValue::Double(number) => six_digits(number),
            CelValue::Text(text) => text.into_owned(),
            CelValue::List(_) => "CelList value".to_owned(),
        })
    }

    /// Its value with its type; none if it cannot be evaluated.
    pub fn value(&self, attributes: &dyn Attributes) -> Option<Value> {
        eval::evaluate(&self.root, attributes).map(|value| typed(&value))
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

fn typed(value: &CelValue<'_>) -> Value {
    match value {
        CelValue::Null => Value::Null,
        CelValue::Bool(value) => Value::Bool(*value),
        #[expect(
            clippy::cast_precision_loss,
            reason = "numbers of metadata and JSON are floats, as with Envoy"
        )]
        CelValue::Int(number) => Value::Number(*number as f64),
        CelValue::Double(number) => Value::Number(*number),
        CelValue::Text(text) => Value::String(text.as_ref().into()),
        CelValue::List(list) => Value::List(list.iter().map(typed).collect()),
    }
}

/// A number as C++ streams print it: six digits, with an exponent where it is below -4 or above 5.
fn six_digits(number: f64) -> String {
    if !number.is_finite() || number == 0.0 {
        return number.to_string().to_lowercase();
    }
    let scientific = format!("{number:.5e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    match exponent {
        -4..=5 => {
            let places = usize::try_from(5 - exponent).unwrap_or(0);
            trim(&format!("{number:.places$}"))
        }
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
        }
    }
}

#[cfg(test)]
mod tests;
