//! Format strings to operations: `%OPERATOR(parameters):length%` and what lies between.
//!
//! Every error carries the byte offset of what is wrong, so that a diagnostic can point at it.
//! Source: Envoy 1.40 substitution formatter documentation.

use std::sync::Arc;

use http::HeaderName;
use serde_json::Value;

use super::context::{Content, Expression, HeaderKey, HeaderSource, MetadataSource, Side};
use super::format::{FilterState, Header, Op, Operation};
use super::time::{self, TimeFormat};

mod operators;

use operators::{Operator, operator};

/// What operators take from the machine rather than from a request. The caller reads the environment.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// For `%HOSTNAME%`.
    pub hostname: &'a str,
    /// For `%ENVIRONMENT(NAME)%`.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// For `%CEL(EXPRESSION)%`: compiles an expression, or says why it is none.
    pub expression: &'a dyn Fn(&str) -> Result<Expression, String>,
    /// For `%FILE_CONTENT(PATH)%`: the content of a file; `None` if it cannot be read.
    pub file: &'a dyn Fn(&str) -> Option<Arc<dyn Content>>,
}

impl Default for Environment<'_> {
    /// No host name and no variables.
    fn default() -> Self {
        Environment {
            hostname: "",
            variable: &|_| None,
            expression: &|_| Err("expressions are not known here".to_owned()),
            file: &|_| None,
        }
    }
}

/// Why a format string is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {position}: {kind}")]
pub struct FormatError {
    /// Byte offset in the format string.
    pub position: usize,
    /// What is wrong there.
    pub kind: FormatErrorKind,
}

/// What is wrong in a format string.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatErrorKind {
    /// A `%` that begins no operator. A literal one is written `%%`.
    #[error("`%` begins no operator (write `%%` for a percent sign)")]
    StrayPercent,
    /// The operator does not exist.
    #[error("unknown operator `{0}`")]
    UnknownOperator(String),
    /// Envoy has the operator, this data plane does not.
    #[error("operator `{0}` is not supported")]
    Unsupported(String),
    /// The operator needs parameters in parentheses.
    #[error("operator `{0}` needs parameters in parentheses")]
    MissingParameters(String),
    /// The operator takes none.
    #[error("operator `{0}` takes no parameters")]
    UnexpectedParameters(String),
    /// The operator takes no `:length`.
    #[error("operator `{0}` takes no length")]
    UnexpectedLength(String),
    /// The length is not a number that fits.
    #[error("length `{0}` is out of range")]
    InvalidLength(String),
    /// The expression is none, or asks for something that is not known.
    #[error("operator `{operator}`: {problem}")]
    InvalidExpression {
        /// The operator's name.
        operator: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The parameters do not mean anything to the operator.
    #[error("operator `{operator}`: {problem}")]
    InvalidParameters {
        /// The operator's name.
        operator: String,
        /// What is wrong with them.
        problem: &'static str,
    },
}

/// A command as it is written.
struct Command<'a> {
    name: &'a str,
    parameters: Option<&'a str>,
    length: Option<&'a str>,
    /// Bytes from the opening to the closing `%`.
    len: usize,
}

/// Compiles `format`.
pub(crate) fn operations(
    format: &str,
    environment: &Environment<'_>,
) -> Result<Box<[Op]>, FormatError> {
    let mut ops: Vec<Op> = Vec::new();
    let mut literal = String::new();
    let mut position = 0;
    while let Some(at) = format[position..].find('%') {
        literal.push_str(&format[position..position + at]);
        position += at;
        if format[position..].starts_with("%%") {
            literal.push('%');
            position += 2;
            continue;
        }
        let fail = |kind| FormatError { position, kind };
        let command = command(&format[position..]).ok_or(fail(FormatErrorKind::StrayPercent))?;
        push_literal(&mut ops, &mut literal);
        ops.push(compile(&command, environment).map_err(fail)?);
        position += command.len;
    }
    literal.push_str(&format[position..]);
    push_literal(&mut ops, &mut literal);
    Ok(ops.into())
}

fn push_literal(ops: &mut Vec<Op>, literal: &mut String) {
    if !literal.is_empty() {
        let text = std::mem::take(literal).into_boxed_str();
        ops.push(Op {
            operation: Operation::Literal(text),
            max_length: None,
        });
    }
}

/// Takes a command from the front of `text`, which begins with `%`.
fn command(text: &str) -> Option<Command<'_>> {
    let name_char = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let after_percent = &text[1..];
    let name_len = after_percent.find(|c| !name_char(c))?;
    let name = &after_percent[..name_len];
    if name.is_empty() {
        return None;
    }
    let rest = &after_percent[name_len..];
    let end = |rest: &str| text.len() - rest.len();
    if let Some(inside) = rest.strip_prefix('(') {
        // Parameters may hold `)` and `%` themselves: they end at the first `)` that ends the command.
        for (at, _) in inside.match_indices(')') {
            if let Some((length, rest)) = tail(&inside[at + 1..]) {
                let parameters = Some(&inside[..at]);
                return Some(Command {
                    name,
                    parameters,
                    length,
                    len: end(rest),
                });
            }
        }
        return None;
    }
    let (length, rest) = tail(rest)?;
    Some(Command {
        name,
        parameters: None,
        length,
        len: end(rest),
    })
}

/// The optional `:length` and the closing `%` at the front of `text`.
fn tail(text: &str) -> Option<(Option<&str>, &str)> {
    if let Some(rest) = text.strip_prefix('%') {
        return Some((None, rest));
    }
    let (length, rest) = text.strip_prefix(':')?.split_once('%')?;
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    digits.then_some((Some(length), rest))
}

fn compile(command: &Command<'_>, environment: &Environment<'_>) -> Result<Op, FormatErrorKind> {
    let name = || command.name.to_owned();
    let operator =
        operator(command.name).ok_or_else(|| FormatErrorKind::UnknownOperator(name()))?;
    let (parameters, length) = operator.syntax();
    match (parameters, command.parameters) {
        (operators::Parameters::None, Some(_)) => {
            return Err(FormatErrorKind::UnexpectedParameters(name()));
        }
        (operators::Parameters::Required, None | Some("")) => {
            return Err(FormatErrorKind::MissingParameters(name()));
        }
        _ => {}
    }
    let max_length = match command.length {
        None => None,
        Some(_) if !length => return Err(FormatErrorKind::UnexpectedLength(name())),
        Some(text) => {
            let parsed = text.parse::<u32>();
            Some(parsed.map_err(|_| FormatErrorKind::InvalidLength(text.to_owned()))? as usize)
        }
    };
    let parameters = command.parameters.unwrap_or_default();
    let operation =
        operation(operator, parameters, environment).map_err(|problem| match problem {
            Problem::Unsupported => FormatErrorKind::Unsupported(name()),
            Problem::Parameters(problem) => FormatErrorKind::InvalidParameters {
                operator: name(),
                problem,
            },
            Problem::Expression(problem) => FormatErrorKind::InvalidExpression {
                operator: name(),
                problem,
            },
        })?;
    Ok(Op {
        operation,
        max_length,
    })
}

enum Problem {
    Unsupported,
    Parameters(&'static str),
    Expression(String),
}

impl From<&'static str> for Problem {
    fn from(problem: &'static str) -> Problem {
        Problem::Parameters(problem)
    }
}

fn operation(
    operator: Operator,
    parameters: &str,
    environment: &Environment<'_>,
) -> Result<Operation, Problem> {
    Ok(match operator {
        Operator::Text(field) => Operation::Text(field),
        Operator::Number(field) => Operation::Number(field),
        Operator::Elapsed(from, to) => Operation::Elapsed {
            from,
            to,
            unit_nanoseconds: 1_000_000,
        },
        Operator::Address(field, part) => Operation::Address(field, part),
        Operator::Flags { long } => Operation::Flags { long },
        Operator::Header(source) => Operation::Header(header(source, parameters)?),
        Operator::RequestWithoutQuery => Operation::Header(Header {
            without_query: true,
            ..header(HeaderSource::Request, parameters)?
        }),
        Operator::Time { source, local } => Operation::Time {
            source,
            local,
            format: time_format(parameters, time::DEFAULT)?,
        },
        Operator::PeerCertTime { side, end } => Operation::PeerCertTime {
            side,
            end,
            format: time_format(parameters, time::CERTIFICATE)?,
        },
        Operator::CodeDetails => match parameters {
            "" => Operation::CodeDetails {
                allow_whitespace: false,
            },
            "ALLOW_WHITESPACES" => Operation::CodeDetails {
                allow_whitespace: true,
            },
            _ => return Err("only ALLOW_WHITESPACES is understood".into()),
        },
        Operator::CommonDuration => operators::common_duration(parameters)?,
        Operator::GrpcStatus => Operation::GrpcStatus(operators::grpc_form(parameters)?),
        Operator::GrpcStatusNumber => Operation::GrpcStatus(super::format::GrpcForm::Number),
        Operator::MetadataOf(source) => metadata(source, parameters)?,
        Operator::Metadata => {
            let (kind, rest) = parameters.split_once(':').unwrap_or((parameters, ""));
            let source = operators::metadata_source(kind)
                .ok_or("the first parameter names whose metadata is meant")?;
            metadata(source, rest)?
        }
        Operator::FilterState(side) => filter_state(side, parameters)?,
        Operator::Path => path(parameters)?,
        Operator::QueryParam => Operation::QueryParam(parameters.into()),
        Operator::Query => Operation::Query,
        Operator::Attempted { name, part } => Operation::Attempted { name, part },
        Operator::UniqueId => Operation::UniqueId,
        // Set, and without anything in it: internal listeners and custom flags are what this proxy has none of.
        Operator::Empty => Operation::Constant("".into()),
        Operator::Hostname => literal(environment.hostname),
        Operator::Environment => literal(&(environment.variable)(parameters).unwrap_or_default()),
        Operator::Expression { typed } => Operation::Expression {
            expression: (environment.expression)(parameters).map_err(Problem::Expression)?,
            typed,
        },
        Operator::Coalesce => coalesce(parameters, environment)?,
        Operator::FileContent => file(parameters, environment)?,
        Operator::Secret => return Err("secrets are not written into logs or headers".into()),
        Operator::Unsupported => return Err(Problem::Unsupported),
    })
}

/// `PATH`, or `PATH:DIRECTORY`, the directory being where Envoy watches for changes; here the file itself is looked at.
fn file(parameters: &str, environment: &Environment<'_>) -> Result<Operation, Problem> {
    let path = parameters
        .split_once(':')
        .map_or(parameters, |(path, _)| path);
    let content = (environment.file)(path).ok_or("the file cannot be read")?;
    Ok(Operation::Content(content))
}

/// Operators in JSON, of which the first that has a value is written: `{"operators": ["NAME", {"command": …, "param": …,
/// "max_length": …}]}`.
fn coalesce(parameters: &str, environment: &Environment<'_>) -> Result<Operation, Problem> {
    let config: Value =
        serde_json::from_str(parameters).map_err(|_| "the parameter is not JSON")?;
    let operators = config.get("operators").and_then(Value::as_array);
    let operators = operators.filter(|list| !list.is_empty());
    let operators = operators.ok_or("the parameter needs a list `operators` that is not empty")?;
    let each = operators
        .iter()
        .map(|entry| alternative(entry, environment));
    Ok(Operation::Coalesce(each.collect::<Result<_, _>>()?))
}

fn alternative(entry: &Value, environment: &Environment<'_>) -> Result<Op, Problem> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let name = entry.as_str().or_else(|| text("command"));
    let name = name.ok_or("each of `operators` is a name or has a `command`")?;
    if name == "COALESCE" {
        return Err("it cannot hold itself".into());
    }
    let length = entry.get("max_length").and_then(Value::as_u64);
    let length = length.map(|length| length.to_string());
    let command = Command {
        name,
        parameters: text("param"),
        length: length.as_deref(),
        len: 0,
    };
    compile(&command, environment).map_err(|error| Problem::Expression(error.to_string()))
}

/// What never changes is text. Like Envoy, what is not there is `-` even where empty values are omitted.
fn literal(text: &str) -> Operation {
    Operation::Constant(if text.is_empty() {
        "-".into()
    } else {
        text.into()
    })
}

fn header(source: HeaderSource, parameters: &str) -> Result<Header, Problem> {
    let (main, alternative) = match parameters.split_once('?') {
        None => (parameters, None),
        Some((_, alternative)) if alternative.contains('?') => {
            return Err("only one alternative header is allowed".into());
        }
        Some((main, alternative)) => (main, Some(alternative)),
    };
    let alternative = alternative.map(header_key).transpose()?;
    Ok(Header {
        source,
        main: header_key(main)?,
        alternative,
        without_query: false,
    })
}

fn header_key(name: &str) -> Result<HeaderKey, Problem> {
    let lower = name.to_ascii_lowercase();
    Ok(match lower.as_str() {
        ":method" => HeaderKey::Method,
        ":scheme" => HeaderKey::Scheme,
        ":authority" | "host" => HeaderKey::Authority,
        ":path" => HeaderKey::Path,
        ":protocol" => HeaderKey::Protocol,
        ":status" => HeaderKey::Status,
        name => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => HeaderKey::Name(name),
            Err(_) => return Err("not a header name".into()),
        },
    })
}

fn time_format(parameters: &str, default: &str) -> Result<TimeFormat, Problem> {
    let format = if parameters.is_empty() {
        default
    } else {
        parameters
    };
    if format.contains(['\n', '\r', '\0']) {
        return Err("a time format cannot hold a newline".into());
    }
    TimeFormat::parse(format).map_err(|_| "unknown specifier in the time format".into())
}

fn metadata(source: MetadataSource, parameters: &str) -> Result<Operation, Problem> {
    let mut parts = parameters.split(':');
    let namespace = parts.next().filter(|namespace| !namespace.is_empty());
    let namespace = namespace.ok_or("a metadata namespace is needed")?.into();
    Ok(Operation::Metadata {
        source,
        namespace,
        path: parts.map(Box::from).collect(),
    })
}

fn filter_state(side: Side, parameters: &str) -> Result<Operation, Problem> {
    let mut parts = parameters.splitn(3, ':');
    let key = parts
        .next()
        .filter(|key| !key.is_empty())
        .ok_or("a key is needed")?;
    let form = match (parts.next(), parts.next()) {
        (None | Some("" | "TYPED"), None) => FilterState::Typed,
        (Some("PLAIN"), None) => FilterState::Plain,
        (Some("FIELD"), Some(field)) if !field.is_empty() => FilterState::Field(field.into()),
        _ => return Err("the form is PLAIN, TYPED or FIELD:name".into()),
    };
    Ok(Operation::FilterState {
        side,
        key: key.into(),
        form,
    })
}

/// `PATH(WQ|NQ:ORIG|PATH|ORIG_OR_PATH)`.
fn path(parameters: &str) -> Result<Operation, Problem> {
    let (query, which) = parameters.split_once(':').unwrap_or((parameters, ""));
    let with_query = match query {
        "" | "WQ" => true,
        "NQ" => false,
        _ => return Err("the first parameter is WQ or NQ".into()),
    };
    let original = HeaderKey::Name(HeaderName::from_static("x-envoy-original-path"));
    let (main, alternative) = match which {
        "ORIG" => (original, None),
        "PATH" => (HeaderKey::Path, None),
        "" | "ORIG_OR_PATH" => (original, Some(HeaderKey::Path)),
        _ => return Err("the second parameter is ORIG, PATH or ORIG_OR_PATH".into()),
    };
    let source = HeaderSource::Request;
    Ok(Operation::Header(Header {
        source,
        main,
        alternative,
        without_query: !with_query,
    }))
}
