//! JSON formats: a tree whose strings are format strings.
//!
//! A string that is one operator keeps its type (a number stays a number, unset is `null`); any other string is text.
//! Keys are written in the order of their names. Source: Envoy 1.40 `json_format`.

use serde_json::Value;

use super::context::{LogContext, ValueForm};
use super::escape;
use super::format::{Appended, Op, Operation, write_json};
use super::parse::{self, Environment, FormatError};

/// How deep a tree may be: deeper ones are no log format, and compile and print recursively.
const DEEPEST: usize = 32;

/// A compiled JSON format.
#[derive(Clone, Debug)]
pub struct JsonFormat {
    root: Node,
    omit_empty_values: bool,
}

/// Why a JSON format is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonFormatError {
    /// The root is not an object.
    #[error("a JSON log format is an object")]
    NotAnObject,
    /// The tree is too deep.
    #[error("`{path}` lies too deep")]
    TooDeep {
        /// Keys and indices from the root, joined by dots.
        path: String,
    },
    /// A format string in it is wrong.
    #[error("format string at `{path}`")]
    Format {
        /// Keys and indices from the root, joined by dots.
        path: String,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
}

#[derive(Clone, Debug)]
enum Node {
    /// Keys are ready to print: `"key":`.
    Object(Box<[(Box<str>, Node)]>),
    List(Box<[Node]>),
    Null,
    /// A literal, as JSON.
    Literal(Box<str>),
    One(Op),
    Many(Box<[Op]>),
}

impl JsonFormat {
    /// Compiles `format`. With `omit_empty_values` what is not set is left out, else it is `null` (`-` inside text).
    ///
    /// # Errors
    /// The tree is not an object, too deep, or holds a wrong format string.
    pub fn parse(
        format: &Value,
        omit_empty_values: bool,
        environment: &Environment<'_>,
    ) -> Result<JsonFormat, JsonFormatError> {
        if !format.is_object() {
            return Err(JsonFormatError::NotAnObject);
        }
        let root = node(format, &mut Vec::new(), environment)?;
        Ok(JsonFormat {
            root,
            omit_empty_values,
        })
    }

    /// Appends the line for `context`, with its line end.
    pub fn write<C: LogContext + ?Sized>(&self, context: &C, out: &mut Vec<u8>) {
        self.write_node(&self.root, context, out);
        out.push(b'\n');
    }

    /// Appends `node`; false if it holds nothing and is to be omitted (what was appended is to be taken back).
    fn write_node<C: LogContext + ?Sized>(
        &self,
        node: &Node,
        context: &C,
        out: &mut Vec<u8>,
    ) -> bool {
        match node {
            Node::Null if self.omit_empty_values => return false,
            Node::Null => out.extend_from_slice(b"null"),
            Node::Literal(json) => out.extend_from_slice(json.as_bytes()),
            Node::Object(entries) => {
                out.push(b'{');
                let entries = entries.iter().map(|(key, node)| (&**key, node));
                let any = self.write_all(entries, context, out);
                out.push(b'}');
                return any || !self.omit_empty_values;
            }
            Node::List(nodes) => {
                out.push(b'[');
                // Unlike an object, a list stays when it is empty. Source: observed of Envoy 1.40.
                self.write_all(nodes.iter().map(|node| ("", node)), context, out);
                out.push(b']');
            }
            Node::One(op) => return self.write_value(op, context, out),
            Node::Many(ops) => {
                out.push(b'"');
                let start = out.len();
                write_text_raw(ops, self.omit_empty_values, context, out);
                escape::json(out, start);
                out.push(b'"');
            }
        }
        true
    }

    fn write_all<'a, C: LogContext + ?Sized>(
        &self,
        entries: impl Iterator<Item = (&'a str, &'a Node)>,
        context: &C,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut first = true;
        for (key, node) in entries {
            let start = out.len();
            if !first {
                out.push(b',');
            }
            out.extend_from_slice(key.as_bytes());
            if self.write_node(node, context, out) {
                first = false;
            } else {
                out.truncate(start);
            }
        }
        !first
    }

    fn write_value<C: LogContext + ?Sized>(&self, op: &Op, context: &C, out: &mut Vec<u8>) -> bool {
        let quote = out.len();
        out.push(b'"');
        match op.append(context, ValueForm::Json, out) {
            Some(Appended::Text) => {
                escape::json(out, quote + 1);
                out.push(b'"');
            }
            Some(Appended::Json) => {
                out.remove(quote);
            }
            None => {
                out.truncate(quote);
                if self.omit_empty_values {
                    return false;
                }
                out.extend_from_slice(b"null");
            }
        }
        true
    }
}

/// Text inside a JSON string: control characters are left to JSON's own escapes.
fn write_text_raw<C: LogContext + ?Sized>(
    ops: &[Op],
    omit_empty_values: bool,
    context: &C,
    out: &mut Vec<u8>,
) {
    for op in ops {
        if op.append(context, ValueForm::Text, out).is_none() && !omit_empty_values {
            out.push(b'-');
        }
    }
}

fn node(
    format: &Value,
    path: &mut Vec<String>,
    environment: &Environment<'_>,
) -> Result<Node, JsonFormatError> {
    if path.len() > DEEPEST {
        return Err(JsonFormatError::TooDeep {
            path: path.join("."),
        });
    }
    match format {
        Value::Object(entries) => {
            let mut entries: Vec<(&String, &Value)> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let child = |(key, value): (&String, &Value)| {
                path.push(key.clone());
                let child = node(value, path, environment);
                path.pop();
                Ok((
                    format!("{}:", Value::from(key.as_str())).into_boxed_str(),
                    child?,
                ))
            };
            Ok(Node::Object(
                entries.into_iter().map(child).collect::<Result<_, _>>()?,
            ))
        }
        Value::Array(values) => {
            let child = |(index, value): (usize, &Value)| {
                path.push(index.to_string());
                let child = node(value, path, environment);
                path.pop();
                child
            };
            Ok(Node::List(
                values
                    .iter()
                    .enumerate()
                    .map(child)
                    .collect::<Result<_, _>>()?,
            ))
        }
        Value::String(text) => {
            let ops =
                parse::operations(text, environment).map_err(|source| JsonFormatError::Format {
                    path: path.join("."),
                    source,
                })?;
            Ok(string(ops))
        }
        Value::Null => Ok(Node::Null),
        constant => {
            let mut json = Vec::new();
            write_json(constant, &mut json);
            Ok(Node::Literal(String::from_utf8_lossy(&json).into()))
        }
    }
}

fn string(ops: Box<[Op]>) -> Node {
    match ops.into_vec().as_mut_slice() {
        [] => Node::Literal("\"\"".into()),
        [
            Op {
                operation: Operation::Literal(text),
                ..
            },
        ] => Node::Literal(Value::from(&**text).to_string().into()),
        [one] => Node::One(one.clone()),
        many => Node::Many(many.to_vec().into()),
    }
}
