//! The attributes of a finished request or connection that CEL expressions see, by Envoy's names.
//!
//! Source: Envoy's documentation of attributes. Times, the WebAssembly and node attributes are not there.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::HeaderMap;

use super::Finished;
use crate::cel::{Attributes, CelValue};
use crate::matcher::HeaderKey;
use crate::value::Value;

impl Attributes for Finished<'_> {
    fn get<'a>(&'a self, path: &[Cow<'_, str>]) -> Option<CelValue<'a>> {
        let path: Vec<&str> = path.iter().map(|step| &**step).collect();
        match path.as_slice() {
            ["request", rest @ ..] => self.request(rest),
            ["response", rest @ ..] => self.response(rest),
            ["source", what] => address(self.more.connection?.remote, what),
            ["destination", what] => address(self.more.connection?.local, what),
            ["upstream", what] => address(self.more.upstream?, what),
            ["connection", what] => self.connection(what),
            ["xds", "cluster_name"] => named(self.more.cluster),
            ["xds", "route_name"] => named(self.more.route),
            ["metadata", "filter_metadata", namespace, rest @ ..] => {
                value(self.request?.dynamic_metadata.get(namespace, rest)?)
            }
            ["filter_state", key] => named(self.request?.filter_state.get(*key)?),
            _ => None,
        }
    }
}

impl Finished<'_> {
    fn request(&self, path: &[&str]) -> Option<CelValue<'_>> {
        let request = self.request?;
        let header = |name: &str| {
            let found = HeaderKey::parse(name)?.value(request)?;
            Some(CelValue::Text(
                String::from_utf8_lossy(&found).into_owned().into(),
            ))
        };
        match path {
            ["path"] => named(request.path),
            ["url_path"] => named(request.path_only()),
            ["query"] => Some(CelValue::Text(request.query().into())),
            ["host"] => named(request.authority),
            ["scheme"] => named(request.scheme),
            ["method"] => named(request.method),
            ["protocol"] => named(self.more.protocol),
            ["referer"] => header("referer"),
            ["useragent"] => header("user-agent"),
            ["id"] => header("x-request-id"),
            ["headers", name] => header(name),
            ["size"] => int(self.more.request_bytes),
            // CEL's durations are not known here; milliseconds are what other filters compare, too.
            ["duration"] => int(self.duration_ms),
            _ => None,
        }
    }

    fn response(&self, path: &[&str]) -> Option<CelValue<'_>> {
        match path {
            ["code"] => (self.status > 0).then(|| CelValue::Int(i64::from(self.status))),
            ["code_details"] => named(self.more.details),
            ["grpc_status"] => self.grpc_status.map(|code| CelValue::Int(i64::from(code))),
            ["size"] => int(self.more.response_bytes),
            ["headers", name] => response_header(self.more.response?, name),
            _ => None,
        }
    }

    fn connection(&self, what: &str) -> Option<CelValue<'_>> {
        let peer = &self.more.peer;
        let connection = self.more.connection;
        match what {
            "mtls" => Some(CelValue::Bool(peer.is_tls && peer.presented)),
            "requested_server_name" => named(connection?.server_name?),
            "uri_san_peer_certificate" => named(peer.uri_sans.first()?),
            "dns_san_peer_certificate" => named(peer.dns_sans.first()?),
            "subject_peer_certificate" => named(peer.subject),
            "sha256_peer_certificate_digest" => named(peer.sha256_fingerprint),
            _ => None,
        }
    }
}

fn response_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<CelValue<'a>> {
    let found = headers.get(name)?;
    Some(CelValue::Text(String::from_utf8_lossy(found.as_bytes())))
}

fn address<'a>(address: SocketAddr, what: &str) -> Option<CelValue<'a>> {
    match what {
        "address" => Some(CelValue::Text(address.to_string().into())),
        "port" => Some(CelValue::Int(i64::from(address.port()))),
        _ => None,
    }
}

fn named(text: &str) -> Option<CelValue<'_>> {
    (!text.is_empty()).then_some(CelValue::Text(Cow::Borrowed(text)))
}

fn int<'a>(number: u64) -> Option<CelValue<'a>> {
    i64::try_from(number).ok().map(CelValue::Int)
}

fn value(found: &Value) -> Option<CelValue<'_>> {
    Some(match found {
        Value::Null => CelValue::Null,
        Value::Number(number) => CelValue::Double(*number),
        Value::String(text) => CelValue::Text(Cow::Borrowed(text)),
        Value::Bool(value) => CelValue::Bool(*value),
        Value::List(items) => CelValue::List(items.iter().map(value).collect::<Option<_>>()?),
        Value::Struct(_) => return None,
    })
}
