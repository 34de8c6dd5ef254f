//! The access log: Envoy's formats compiled once, run per request against a borrowed context, written by one thread.
//!
//! [`TextFormat`] and [`JsonFormat`] compile format strings and JSON trees with Envoy's command operators; an unknown
//! operator is an error that names its position. Formatting appends to a buffer the caller reuses and allocates
//! nothing on its way. [`Sink`] writes files and standard output behind a bounded queue; lines that do not fit are
//! dropped and counted, and no worker ever waits.
//!
//! It does not decide what is logged (access-log filters) and speaks no gRPC access-log service.
//! Source: Envoy 1.40, access logging and substitution formatter documentation.

mod context;
mod escape;
mod format;
mod istio;
mod json;
mod parse;
mod sink;
mod time;

pub use context::{
    Address, AddressField, Attempted, Content, Expression, FilterStateForm, HeaderKey,
    HeaderSource, LogContext, LogValue, MetadataSource, NumberField, Side, TextField, TimePoint,
    TlsField, ValueForm,
};
pub use format::TextFormat;
pub use istio::{ENVOY_TEXT_FORMAT, ISTIO_TEXT_FORMAT, istio_json_format};
pub use json::{JsonFormat, JsonFormatError};
pub use parse::{Environment, FormatError, FormatErrorKind};
pub use sink::{LogWriter, Sink, SinkOptions, SinkStats};

/// A compiled format of either form.
#[derive(Clone, Debug)]
pub enum Format {
    /// A format string.
    Text(TextFormat),
    /// A JSON tree.
    Json(JsonFormat),
}

impl Format {
    /// Appends the line for `context`. A text format ends its own line; a JSON line is ended here.
    pub fn write<C: LogContext + ?Sized>(&self, context: &C, out: &mut Vec<u8>) {
        match self {
            Format::Text(format) => format.write(context, out),
            Format::Json(format) => format.write(context, out),
        }
    }
}

#[cfg(test)]
mod tests;
