//! Compiled format strings: a list of operations, each of which appends its value to the line.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::context::{
    Address, AddressField, Content, Expression, FilterStateForm, HeaderKey, HeaderSource,
    LogContext, LogValue, MetadataSource, NumberField, Side, TextField, TimePoint, ValueForm,
};
use super::escape;
use super::parse::{self, Environment, FormatError};
use super::time::{TimeFormat, write_unsigned};

/// What stands for a value that is not set.
const UNSET: &[u8] = b"-";

/// A compiled format string.
#[derive(Clone, Debug)]
pub struct TextFormat {
    ops: Box<[Op]>,
    omit_empty_values: bool,
}

impl TextFormat {
    /// Compiles `format`. With `omit_empty_values` nothing stands for what is not set, else `-` does.
    ///
    /// # Errors
    /// An operator is not known or not used rightly; the error says where.
    pub fn parse(
        format: &str,
        omit_empty_values: bool,
        environment: &Environment<'_>,
    ) -> Result<TextFormat, FormatError> {
        Ok(TextFormat {
            ops: parse::operations(format, environment)?,
            omit_empty_values,
        })
    }

    /// Appends the line for `context`.
    pub fn write<C: LogContext + ?Sized>(&self, context: &C, out: &mut Vec<u8>) {
        write_text(&self.ops, self.omit_empty_values, context, out);
    }
}

/// Appends the values of `ops` as text.
pub(crate) fn write_text<C: LogContext + ?Sized>(
    ops: &[Op],
    omit_empty_values: bool,
    context: &C,
    out: &mut Vec<u8>,
) {
    for op in ops {
        if let Operation::Literal(text) = &op.operation {
            out.extend_from_slice(text.as_bytes());
            continue;
        }
        let start = out.len();
        match op.append(context, ValueForm::Text, out) {
            Some(_) => escape::text(out, start),
            None if omit_empty_values => {}
            None => out.extend_from_slice(UNSET),
        }
    }
}

/// An operation and the length its value is cut to, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) operation: Operation,
    pub(crate) max_length: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Literal(Box<str>),
    /// A value that does not depend on the request.
    Constant(Box<str>),
    Text(TextField),
    Number(NumberField),
    Elapsed {
        from: Option<TimePoint>,
        to: TimePoint,
        unit_nanoseconds: u32,
    },
    Address(AddressField, AddressPart),
    Flags {
        long: bool,
    },
    Header(Header),
    Time {
        source: TimeSource,
        local: bool,
        format: TimeFormat,
    },
    PeerCertTime {
        side: Side,
        end: bool,
        format: TimeFormat,
    },
    CodeDetails {
        allow_whitespace: bool,
    },
    GrpcStatus(GrpcForm),
    Metadata {
        source: MetadataSource,
        namespace: Box<str>,
        path: Box<[Box<str>]>,
    },
    FilterState {
        side: Side,
        key: Box<str>,
        form: FilterState,
    },
    QueryParam(Box<str>),
    /// The query as it came.
    Query,
    /// The hosts that were tried, by their names or addresses.
    Attempted {
        name: bool,
        part: AddressPart,
    },
    /// A random UUID.
    UniqueId,
    /// The value of an expression; whether it keeps its type in JSON.
    Expression {
        expression: Expression,
        typed: bool,
    },
    /// The first of these that has a value.
    Coalesce(Box<[Op]>),
    Content(Arc<dyn Content>),
}

#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) source: HeaderSource,
    pub(crate) main: HeaderKey,
    pub(crate) alternative: Option<HeaderKey>,
    /// Cut the value at its first `?`.
    pub(crate) without_query: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum AddressPart {
    Whole,
    WithoutPort,
    Port,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum TimeSource {
    Start,
    Emit,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum GrpcForm {
    Camel,
    Snake,
    Number,
}

#[derive(Clone, Debug)]
pub(crate) enum FilterState {
    Plain,
    Typed,
    Field(Box<str>),
}

impl FilterState {
    fn borrowed(&self) -> FilterStateForm<'_> {
        match self {
            FilterState::Plain => FilterStateForm::Plain,
            FilterState::Typed => FilterStateForm::Typed,
            FilterState::Field(name) => FilterStateForm::Field(name),
        }
    }
}

/// What an operation appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    Text,
    /// Something that JSON can hold as it is: a number, a boolean, a tree.
    Json,
}

impl Op {
    /// Appends the value as it is, unescaped; `None` if it is not set (then nothing was appended).
    pub(crate) fn append<C: LogContext + ?Sized>(
        &self,
        context: &C,
        form: ValueForm,
        out: &mut Vec<u8>,
    ) -> Option<Appended> {
        let start = out.len();
        let appended = self.operation.append(context, form, out)?;
        match self.max_length {
            // What has a type keeps it, and is not cut.
            Some(_) if self.operation.is_typed() && appended == Appended::Json => Some(appended),
            Some(max) if out.len() - start > max => {
                cut(out, start + max);
                Some(Appended::Text)
            }
            _ => Some(appended),
        }
    }
}

/// Cuts at `end`, or before it rather than inside a character.
fn cut(out: &mut Vec<u8>, end: usize) {
    let inside = |at: usize| {
        out.get(at)
            .is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000)
    };
    let mut at = end;
    // A character has at most three continuation bytes; more than that is no UTF-8, and cut where asked.
    while inside(at) && at > 0 && end - at < 3 {
        at -= 1;
    }
    out.truncate(if inside(at) { end } else { at });
}

impl Operation {
    /// Whether it has a value of some type, which only texts have a length of.
    const fn is_typed(&self) -> bool {
        matches!(self, Self::Expression { .. } | Self::Coalesce(_))
    }

    fn append<C: LogContext + ?Sized>(
        &self,
        context: &C,
        form: ValueForm,
        out: &mut Vec<u8>,
    ) -> Option<Appended> {
        match self {
            Operation::Literal(text) => push(text.as_bytes(), out),
            Operation::Constant(text) => push(text.as_bytes(), out),
            Operation::Text(field) => text(context, *field, out),
            Operation::Number(field) => number(context, *field, out),
            Operation::Elapsed {
                from,
                to,
                unit_nanoseconds,
            } => elapsed(context, *from, *to, *unit_nanoseconds, out),
            Operation::Address(field, part) => address(context.address(*field)?, *part, out),
            Operation::Flags { long } => flags(context, *long, out),
            Operation::Header(header) => header.append(context, out),
            Operation::Time {
                source,
                local,
                format,
            } => {
                let time = match source {
                    TimeSource::Start => context.start_time(),
                    TimeSource::Emit => context.emit_time(),
                };
                let offset = if *local {
                    context.local_offset_seconds()
                } else {
                    0
                };
                format.write(time, offset, out);
                Some(Appended::Text)
            }
            Operation::PeerCertTime { side, end, format } => {
                let (from, until) = context.peer_cert_validity(*side)?;
                format.write(if *end { until } else { from }, 0, out);
                Some(Appended::Text)
            }
            Operation::CodeDetails { allow_whitespace } => {
                let start = out.len();
                push(
                    context.text(TextField::ResponseCodeDetails)?.as_bytes(),
                    out,
                )?;
                if !allow_whitespace {
                    let written = &mut out[start..];
                    written
                        .iter_mut()
                        .filter(|b| b.is_ascii_whitespace())
                        .for_each(|b| *b = b'_');
                }
                Some(Appended::Text)
            }
            Operation::GrpcStatus(form) => grpc_status(context, *form, out),
            Operation::Metadata {
                source,
                namespace,
                path,
            } => value(context.metadata(*source, namespace, path)?, out),
            Operation::FilterState { side, key, form } => {
                value(context.filter_state(*side, key, form.borrowed())?, out)
            }
            Operation::QueryParam(name) => query_param(context, name, out),
            Operation::Query => push(query(context)?, out),
            Operation::Attempted { name, part } => attempted(context, *name, *part, out),
            Operation::UniqueId => {
                unique_id(rand::random(), out);
                Some(Appended::Text)
            }
            Operation::Expression { expression, typed } => {
                let form = if *typed { form } else { ValueForm::Text };
                let found = context.evaluate(&**expression, form)?;
                value(LogValue::Json(&found), out)
            }
            Operation::Coalesce(ops) => ops.iter().find_map(|op| op.append(context, form, out)),
            Operation::Content(content) => push(content.text().as_bytes(), out),
        }
    }
}

fn push(bytes: &[u8], out: &mut Vec<u8>) -> Option<Appended> {
    out.extend_from_slice(bytes);
    Some(Appended::Text)
}

fn text<C: LogContext + ?Sized>(
    context: &C,
    field: TextField,
    out: &mut Vec<u8>,
) -> Option<Appended> {
    // The body of a local reply is the one text that is never unset: without one it is empty.
    if field == TextField::LocalReplyBody {
        return push(context.text(field).unwrap_or_default().as_bytes(), out);
    }
    let text = context.text(field).filter(|text| !text.is_empty())?;
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    if field == TextField::RequestedServerName {
        escape::host_name(&mut out[start..]);
    }
    Some(Appended::Text)
}

fn number<C: LogContext + ?Sized>(
    context: &C,
    field: NumberField,
    out: &mut Vec<u8>,
) -> Option<Appended> {
    // Envoy prints 0 for sizes and codes that it does not know.
    write_unsigned(context.number(field).unwrap_or(0), out);
    Some(Appended::Json)
}

fn elapsed<C: LogContext + ?Sized>(
    context: &C,
    from: Option<TimePoint>,
    to: TimePoint,
    unit_nanoseconds: u32,
    out: &mut Vec<u8>,
) -> Option<Appended> {
    let from = match from {
        None => Duration::ZERO,
        Some(point) => context.time_point(point)?,
    };
    let to = context.time_point(to)?;
    // With independent half-close an answer may end before its request: such a duration is negative.
    let (sign, between) = match to.checked_sub(from) {
        Some(between) => ("", between),
        None => ("-", from - to),
    };
    out.extend_from_slice(sign.as_bytes());
    let units = between.as_nanos() / u128::from(unit_nanoseconds);
    write_unsigned(u64::try_from(units).unwrap_or(u64::MAX), out);
    Some(Appended::Json)
}

fn address(address: Address<'_>, part: AddressPart, out: &mut Vec<u8>) -> Option<Appended> {
    use std::io::Write as _;
    let ip = match address {
        Address::Ip(ip) => ip,
        // Only an IP address has parts.
        Address::Other(name) => {
            return match part {
                AddressPart::Port => None,
                _ if name.is_empty() => None,
                _ => push(name.as_bytes(), out),
            };
        }
    };
    // Writing to a `Vec` cannot fail.
    let _ = match part {
        AddressPart::Whole => match ip {
            SocketAddr::V4(ip) => {
                ipv4(*ip.ip(), out);
                out.push(b':');
                write_unsigned(u64::from(ip.port()), out);
                Ok(())
            }
            // Without the scope id, which `Display` of the whole would add.
            SocketAddr::V6(ip) => write!(out, "[{}]:{}", ip.ip(), ip.port()),
        },
        AddressPart::WithoutPort => write!(out, "{}", ip.ip()),
        AddressPart::Port => {
            write_unsigned(u64::from(ip.port()), out);
            return Some(Appended::Json);
        }
    };
    Some(Appended::Text)
}

/// `Display` of an address pads and checks more than a log line needs.
fn ipv4(ip: Ipv4Addr, out: &mut Vec<u8>) {
    for (index, octet) in ip.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        write_unsigned(u64::from(octet), out);
    }
}

fn flags<C: LogContext + ?Sized>(context: &C, long: bool, out: &mut Vec<u8>) -> Option<Appended> {
    let flags = context.response_flags();
    if flags.is_empty() {
        // Unlike other values, an empty set of flags is a value: `-` even where empty values are omitted.
        return push(UNSET, out);
    }
    match long {
        true => flags.write_long(out),
        false => flags.write_short(out),
    }
    Some(Appended::Text)
}

impl Header {
    fn append<C: LogContext + ?Sized>(&self, context: &C, out: &mut Vec<u8>) -> Option<Appended> {
        let alternative = || context.header(self.source, self.alternative.as_ref()?);
        let mut value = context
            .header(self.source, &self.main)
            .or_else(alternative)?;
        if self.without_query
            && let Some(at) = value.iter().position(|byte| *byte == b'?')
        {
            value = &value[..at];
        }
        push(value, out)
    }
}

fn value(value: LogValue<'_>, out: &mut Vec<u8>) -> Option<Appended> {
    match value {
        LogValue::Text(text) => push(text.as_bytes(), out),
        LogValue::Json(serde_json::Value::String(text)) => push(text.as_bytes(), out),
        LogValue::Json(serde_json::Value::Null) => None,
        LogValue::Json(json) => {
            write_json(json, out);
            Some(Appended::Json)
        }
        LogValue::Bool(value) => {
            out.extend_from_slice(if value { b"true" } else { b"false" });
            Some(Appended::Json)
        }
        LogValue::Number(number) if !number.is_finite() => None,
        LogValue::Number(number) => {
            write_number(number, out);
            Some(Appended::Json)
        }
    }
}

/// Appends `json` as Envoy prints a `google.protobuf.Value`: its numbers are floats, and whole ones have no fraction.
pub(crate) fn write_json(json: &serde_json::Value, out: &mut Vec<u8>) {
    use serde_json::Value;
    match json {
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => write_number(float, out),
            None => out.extend_from_slice(number.to_string().as_bytes()),
        },
        Value::Array(values) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_json(value, out);
            }
            out.push(b']');
        }
        Value::Object(entries) => {
            out.push(b'{');
            for (index, (key, value)) in entries.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_quoted(key, out);
                out.push(b':');
                write_json(value, out);
            }
            out.push(b'}');
        }
        Value::String(text) => write_quoted(text, out),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Null => out.extend_from_slice(b"null"),
    }
}

fn write_quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    escape::json(out, start);
    out.push(b'"');
}

/// Appends a finite number; `Display` of a float prints no fraction of a whole one, and no exponent.
fn write_number(number: f64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    // Writing to a `Vec` cannot fail.
    let _ = write!(out, "{number}");
}

/// Names of gRPC statuses, as Envoy spells them. Source: Envoy 1.40 `GRPC_STATUS`.
const GRPC_STATUS: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

fn grpc_status<C: LogContext + ?Sized>(
    context: &C,
    form: GrpcForm,
    out: &mut Vec<u8>,
) -> Option<Appended> {
    let status = context.number(NumberField::GrpcStatus)?;
    let names = usize::try_from(status)
        .ok()
        .and_then(|index| GRPC_STATUS.get(index));
    match (form, names) {
        (GrpcForm::Number, _) => {
            write_unsigned(status, out);
            return Some(Appended::Json);
        }
        (GrpcForm::Camel, Some((camel, _))) => out.extend_from_slice(camel.as_bytes()),
        (GrpcForm::Snake, Some((_, snake))) => out.extend_from_slice(snake.as_bytes()),
        (_, None) => write_unsigned(status, out),
    }
    Some(Appended::Text)
}

fn query_param<C: LogContext + ?Sized>(
    context: &C,
    name: &str,
    out: &mut Vec<u8>,
) -> Option<Appended> {
    let query = query(context)?;
    let parameters = query.split(|byte| *byte == b'&');
    let mut values = parameters.filter_map(|parameter| {
        let at = parameter.iter().position(|byte| *byte == b'=');
        let (key, value) = parameter.split_at(at.unwrap_or(parameter.len()));
        (key == name.as_bytes()).then(|| value.strip_prefix(b"=").unwrap_or(value))
    });
    percent_decode(values.next()?, out);
    Some(Appended::Text)
}

/// The query of the request's path.
fn query<C: LogContext + ?Sized>(context: &C) -> Option<&[u8]> {
    let path = context.header(HeaderSource::Request, &HeaderKey::Path)?;
    let at = path.iter().position(|byte| *byte == b'?')?;
    path[at + 1..].split(|byte| *byte == b'#').next()
}

/// The hosts that were tried, in their order, with commas.
fn attempted<C: LogContext + ?Sized>(
    context: &C,
    by_name: bool,
    part: AddressPart,
    out: &mut Vec<u8>,
) -> Option<Appended> {
    let start = out.len();
    for host in (0..).map_while(|index| context.attempted(index)) {
        if out.len() > start {
            out.push(b',');
        }
        match host.name.filter(|_| by_name) {
            Some(name) => {
                let bare = name.rsplit_once(':').map_or(name, |(host, _)| host);
                let name = match part {
                    AddressPart::WithoutPort => bare,
                    AddressPart::Whole | AddressPart::Port => name,
                };
                out.extend_from_slice(name.as_bytes());
            }
            None => drop(address(host.address, part, out)),
        }
    }
    (out.len() > start).then_some(Appended::Text)
}

/// A version 4 UUID (RFC 9562) of random bits.
fn unique_id(random: u128, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let [version, variant] = [0x4_u128 << 76, 0x8_u128 << 60];
    let bits = random & !(0xf << 76) & !(0xc << 60) | version | variant;
    let text = format!("{bits:032x}");
    // Writing to a `Vec` cannot fail.
    let _ = write!(
        out,
        "{}-{}-{}-{}-{}",
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..]
    );
}

/// Appends `value` with `%XX` replaced by the byte; an incomplete one stays as it is.
fn percent_decode(value: &[u8], out: &mut Vec<u8>) {
    let digit = |at: usize| {
        value
            .get(at)
            .and_then(|byte| char::from(*byte).to_digit(16))
    };
    let mut at = 0;
    while let Some(byte) = value.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
}
