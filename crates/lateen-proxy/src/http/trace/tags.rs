//! What spans say of a request: Envoy's tags, then those that are configured.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, Version};
use lateen_telemetry::access_log::Format;
use lateen_traffic::access_log::LogFormat;
use lateen_traffic::tracing::{CustomTag, TagValue};
use lateen_traffic::value::Value;

use crate::http::headers::{FORWARDED_PROTO, ORIGINAL_PATH, REQUEST_ID};
use crate::http::log::{self, Line};
use crate::http::record::Record;
use crate::net::HostAddress;

/// Tags of a span.
type Tags = Vec<(Cow<'static, str>, String)>;

/// A configured tag, with what does not depend on the request looked up.
#[derive(Debug)]
pub(super) struct Tag {
    name: Arc<str>,
    value: Source,
}

#[derive(Debug)]
enum Source {
    Fixed(Arc<str>),
    Header(HeaderName, Arc<str>),
    Metadata(Arc<str>, Vec<Arc<str>>, Arc<str>),
    Format(Format),
}

impl Tag {
    /// Prepares a tag; none for one that never has a value.
    pub(super) fn compile(tag: &CustomTag) -> Option<Self> {
        let some = |text: &Arc<str>| (!text.is_empty()).then(|| Arc::clone(text));
        let value = match &tag.value {
            TagValue::Literal(text) => Source::Fixed(some(text)?),
            TagValue::Environment(name, default) => {
                let found = std::env::var(&**name).ok().map(Arc::from);
                Source::Fixed(found.or_else(|| some(default))?)
            }
            TagValue::Header(name, default) => Source::Header(name.clone(), Arc::clone(default)),
            TagValue::Metadata(namespace, path, default) => {
                Source::Metadata(Arc::clone(namespace), path.clone(), Arc::clone(default))
            }
            TagValue::Format(text) => {
                match log::format(&LogFormat::Text(Arc::clone(text)), false) {
                    Ok(format) => Source::Format(format),
                    Err(error) => {
                        tracing::warn!(tag = %tag.name, %error, "the format of a span's tag cannot be used");
                        return None;
                    }
                }
            }
        };
        Some(Self {
            name: Arc::clone(&tag.name),
            value,
        })
    }

    fn value(&self, record: &Record) -> Option<String> {
        let found = match &self.value {
            Source::Fixed(text) => text.to_string(),
            Source::Header(name, default) => {
                let heads = record.heads.as_deref()?;
                text(&heads.request, name).unwrap_or_else(|| default.to_string())
            }
            Source::Metadata(namespace, path, default) => {
                let noted = record.noted.as_deref();
                let found = noted.and_then(|(metadata, _)| metadata.get(namespace, path));
                match found {
                    Some(Value::String(text)) => text.to_string(),
                    Some(Value::Bool(value)) => value.to_string(),
                    Some(Value::Number(number)) => number.to_string(),
                    _ => default.to_string(),
                }
            }
            Source::Format(format) => {
                let mut out = Vec::new();
                format.write(&Line::of_record(record, SystemTime::now()), &mut out);
                String::from_utf8_lossy(&out).into_owned()
            }
        };
        (!found.is_empty()).then_some(found)
    }
}

/// What the span of a request says.
pub(super) fn of_request(record: &Record, custom: &[Tag], longest_path: usize) -> Tags {
    let node = &record.connection.worker.shared.config.node;
    let zone = node.locality.as_ref().map(|locality| locality.zone.clone());
    let mut out: Tags = vec![
        ("node_id".into(), node.id.clone()),
        ("zone".into(), zone.unwrap_or_default()),
        ("http.protocol".into(), protocol(record.version).to_owned()),
        (
            "peer.address".into(),
            record.connection.facts.direct_remote.ip().to_string(),
        ),
        (
            "request_size".into(),
            record.request.bytes.get().to_string(),
        ),
        ("response_size".into(), record.response_bytes().to_string()),
    ];
    head(record, longest_path, &mut out);
    common(record, &mut out);
    out.push(("http.status_code".into(), record.status.to_string()));
    if failed(record) {
        out.push(("error".into(), "true".to_owned()));
    }
    configured(record, custom, &mut out);
    out
}

/// What is configured wins over what is always there.
fn configured(record: &Record, custom: &[Tag], out: &mut Tags) {
    for tag in custom {
        if let Some(value) = tag.value(record) {
            out.retain(|(name, _)| name != &*tag.name);
            out.push((Cow::Owned(tag.name.to_string()), value));
        }
    }
}

/// What a request's head says.
fn head(record: &Record, longest_path: usize, out: &mut Tags) {
    let Some(heads) = record.heads.as_deref() else {
        return;
    };
    let request = &heads.request;
    let named = |name: &'static str| text(request, &HeaderName::from_static(name));
    let path = text(request, &ORIGINAL_PATH).unwrap_or_else(|| heads.path.clone());
    let scheme = text(request, &FORWARDED_PROTO).unwrap_or_else(|| heads.scheme.to_owned());
    let url = format!("{scheme}://{}{}", heads.authority, cut(&path, longest_path));
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    out.push(("http.url".into(), url));
    out.push(("http.method".into(), heads.method.to_string()));
    let cluster = named("x-envoy-downstream-service-cluster");
    out.push(("downstream_cluster".into(), or_none(cluster)));
    out.push(("user_agent".into(), or_none(named("user-agent"))));
    if let Some(id) = text(request, &REQUEST_ID) {
        out.push(("guid:x-request-id".into(), id));
    }
    if let Some(id) = named("x-client-trace-id") {
        out.push(("guid:x-client-trace-id".into(), id));
    }
    if !record.is_grpc {
        return;
    }
    out.push(("grpc.path".into(), heads.path.clone()));
    out.push(("grpc.authority".into(), heads.authority.clone()));
    for (tag, header) in [
        ("grpc.content_type", "content-type"),
        ("grpc.timeout", "grpc-timeout"),
    ] {
        if let Some(value) = named(header) {
            out.push((tag.into(), value));
        }
    }
    if let Some(status) = record.grpc_status {
        out.push(("grpc.status_code".into(), status.to_string()));
    }
    let message = HeaderName::from_static("grpc-message");
    let said = text(&heads.trailers, &message).or_else(|| text(&heads.response, &message));
    if let Some(said) = said {
        out.push(("grpc.message".into(), said));
    }
}

/// What every span of a request says.
fn common(record: &Record, out: &mut Tags) {
    out.push(("component".into(), "proxy".to_owned()));
    if let Some(cluster) = &record.upstream.cluster {
        out.push(("upstream_cluster".into(), cluster.to_string()));
        let shown = cluster_shown(record).unwrap_or_else(|| cluster.to_string());
        out.push(("upstream_cluster.name".into(), shown));
    }
    out.push(("response_flags".into(), record.flags.to_string()));
}

/// The name of the cluster that statistics have.
fn cluster_shown(record: &Record) -> Option<String> {
    let name = record.upstream.cluster.as_deref()?;
    let now = &record.connection.now;
    let cluster = now.program.cluster(name)?;
    cluster.alt_stat_name.as_ref().map(ToString::to_string)
}

/// What the span of a try is called.
pub(super) fn try_name(record: &Record) -> String {
    let cluster = record.upstream.cluster.as_deref().unwrap_or_default();
    format!("router {cluster} egress")
}

/// What the span of a try says. The last one is what became of the request.
pub(super) fn of_try(
    record: &Record,
    custom: &[Tag],
    host: Option<&HostAddress>,
    is_last: bool,
) -> Tags {
    let spoken = if record.upstream.h2 {
        "HTTP/2"
    } else {
        "HTTP/1.1"
    };
    let mut out: Tags = vec![("http.protocol".into(), spoken.to_owned())];
    if let Some(host) = host {
        let address = host.to_string();
        out.push(("upstream_address".into(), address.clone()));
        out.push(("peer.address".into(), address));
    }
    common(record, &mut out);
    if is_last {
        out.push(("http.status_code".into(), record.status.to_string()));
    }
    if !is_last || failed(record) {
        out.push(("error".into(), "true".to_owned()));
    }
    configured(record, custom, &mut out);
    out
}

fn failed(record: &Record) -> bool {
    record.status == 0 || record.status >= 500 || grpc_failed(record)
}

/// Statuses of gRPC that say that the server failed, rather than that the client asked for what it cannot have.
pub(super) fn grpc_failed(record: &Record) -> bool {
    // Unknown, deadline exceeded, unimplemented, internal, unavailable, data loss.
    record.is_grpc && matches!(record.grpc_status, Some(2 | 4 | 12 | 13 | 14 | 15))
}

const fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// The beginning of a text, whole characters.
fn cut(text: &str, longest: usize) -> &str {
    let mut end = longest.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_long_path_is_cut_at_a_character() {
        assert_eq!(cut("/aé", 3), "/a");
        assert_eq!(cut("/aé", 4), "/aé");
        assert_eq!(cut("/a", 256), "/a");
    }
}
