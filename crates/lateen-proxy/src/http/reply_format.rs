//! How the connection manager wants the proxy's own answers to look (`local_reply_config`): another status, another text, a format.
//!
//! Compiled once per connection manager; what an answer says by itself is [`super::local_reply`]'s business.

use http::{HeaderValue, StatusCode, header};
use lateen_telemetry::access_log::Format;
use lateen_traffic::access_log::{LogFilter, LogFormat};
use lateen_traffic::hcm;
use lateen_traffic::headers::HeaderMutations;

use super::filters::CommandValues;
use super::local_reply::LocalReply;
use super::log::{self, Line};
use super::record::Record;

/// All that is configured.
#[derive(Debug, Default)]
pub(crate) struct ReplyFormats {
    mappers: Vec<Mapper>,
    body: Option<BodyFormat>,
}

#[derive(Debug)]
struct Mapper {
    filter: LogFilter,
    status: Option<StatusCode>,
    body: Option<String>,
    format: Option<BodyFormat>,
    headers: HeaderMutations,
}

#[derive(Debug)]
struct BodyFormat {
    format: Format,
    content_type: HeaderValue,
}

impl ReplyFormats {
    /// Compiles the settings. A format that cannot be used leaves the text as it is, which the log says once.
    pub(crate) fn compile(from: &hcm::LocalReply) -> Self {
        let mappers = from.mappers.iter().map(|mapper| Mapper {
            filter: mapper.filter.clone(),
            status: mapper
                .status
                .and_then(|code| StatusCode::from_u16(code).ok()),
            body: mapper.body.as_ref().and_then(|source| {
                let bytes = crate::secrets::read(source).ok()?;
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }),
            format: mapper.body_format.as_ref().and_then(BodyFormat::compile),
            headers: mapper.headers.clone(),
        });
        Self {
            mappers: mappers.collect(),
            body: from.body_format.as_ref().and_then(BodyFormat::compile),
        }
    }

    /// Whether answers stay as they are.
    pub(crate) fn is_empty(&self) -> bool {
        self.mappers.is_empty() && self.body.is_none()
    }

    /// Makes an answer what it is to be: the first mapper that fits, then the format.
    pub(crate) fn apply(&self, record: &mut Record, reply: &mut LocalReply) {
        record.status = reply.status.as_u16();
        let mapper = self
            .mappers
            .iter()
            .find(|mapper| Line::of_reply(record, &reply.body).is_wanted_by(&mapper.filter));
        if let Some(mapper) = mapper {
            reply.status = mapper.status.unwrap_or(reply.status);
            record.status = reply.status.as_u16();
            if let Some(body) = &mapper.body {
                reply.body = body.clone().into();
            }
            mapper.add_headers(record, reply);
        }
        let format = mapper.and_then(|mapper| mapper.format.as_ref());
        if let Some(format) = format.or(self.body.as_ref()) {
            let mut body = Vec::new();
            format
                .format
                .write(&Line::of_reply(record, &reply.body), &mut body);
            reply.body = String::from_utf8_lossy(&body).into_owned().into();
            reply
                .headers
                .insert(header::CONTENT_TYPE, format.content_type.clone());
        }
    }
}

impl Mapper {
    fn add_headers(&self, record: &Record, reply: &mut LocalReply) {
        if self.headers.is_empty() {
            return;
        }
        let before = (*reply.headers).clone();
        Line::of_reply(record, "").with_view(|view| {
            let Some(view) = view else { return };
            let values = CommandValues {
                view,
                connection: &record.connection,
                record,
                response: Some((reply.status, &before)),
            };
            self.headers.apply(&mut reply.headers, &values);
        });
    }
}

impl BodyFormat {
    fn compile(from: &hcm::BodyFormat) -> Option<Self> {
        let by_kind = match from.format {
            LogFormat::Json(_) => "application/json",
            LogFormat::Default | LogFormat::Text(_) => "text/plain",
        };
        let content_type = from.content_type.as_deref().unwrap_or(by_kind);
        match log::format(&from.format, false) {
            Ok(format) => Some(Self {
                format,
                content_type: HeaderValue::from_str(content_type)
                    .unwrap_or_else(|_| HeaderValue::from_static("text/plain")),
            }),
            Err(error) => {
                tracing::warn!(%error, "the format of local replies cannot be used");
                None
            }
        }
    }
}
