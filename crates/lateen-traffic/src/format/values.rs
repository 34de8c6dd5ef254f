//! The command operators whose values follow from the request and its connection alone.

use std::fmt::Write as _;

use super::{Command, Values};
use crate::matcher::HeaderKey;
use crate::request::RequestView;
use crate::value::Value;

/// Values of a request; the proxy adds what only it knows (upstream, times, codes) by trying its own first.
#[derive(Clone, Copy, Debug)]
pub struct RequestValues<'a> {
    /// The request.
    pub request: &'a RequestView<'a>,
    /// The protocol: `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'a str,
    /// The route's name.
    pub route_name: &'a str,
    /// The cluster's name.
    pub cluster: &'a str,
}

impl Values for RequestValues<'_> {
    fn write(&self, command: &Command, out: &mut String) -> bool {
        let connection = self.request.connection;
        let peer = self.request.peer;
        match &*command.name {
            "DOWNSTREAM_REMOTE_ADDRESS" => show(out, self.request.client),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => show(out, self.request.client.ip()),
            "DOWNSTREAM_REMOTE_PORT" => show(out, self.request.client.port()),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => show(out, connection.direct_remote),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
                show(out, connection.direct_remote.ip())
            }
            "DOWNSTREAM_LOCAL_ADDRESS" => show(out, connection.local),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => show(out, connection.local.ip()),
            "DOWNSTREAM_LOCAL_PORT" => show(out, connection.local.port()),
            "DOWNSTREAM_PEER_URI_SAN" => text(out, &peer.uri_sans.join(",")),
            "DOWNSTREAM_PEER_DNS_SAN" => text(out, &peer.dns_sans.join(",")),
            "DOWNSTREAM_PEER_SUBJECT" => text(out, peer.subject),
            "DOWNSTREAM_PEER_FINGERPRINT_256" => text(out, peer.sha256_fingerprint),
            "REQUESTED_SERVER_NAME" => text(out, connection.server_name.unwrap_or_default()),
            "PROTOCOL" => text(out, self.protocol),
            "ROUTE_NAME" => text(out, self.route_name),
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => text(out, self.cluster),
            "REQ" => self.header(&command.argument, out),
            "DYNAMIC_METADATA" => self.metadata(&command.argument, out),
            "FILTER_STATE" | "PER_REQUEST_STATE" => {
                let key = command.argument.split(':').next().unwrap_or_default();
                text(
                    out,
                    self.request.filter_state.get(key).map_or("", |value| value),
                )
            }
            _ => false,
        }
    }
}

impl RequestValues<'_> {
    /// `NAME` or `NAME?ALTERNATIVE`.
    fn header(&self, argument: &str, out: &mut String) -> bool {
        argument.split('?').take(2).any(|name| {
            let value = HeaderKey::parse(name).and_then(|key| key.value(self.request));
            value.is_some_and(|value| text(out, &String::from_utf8_lossy(&value)))
        })
    }

    /// `NAMESPACE:KEY:KEY`.
    fn metadata(&self, argument: &str, out: &mut String) -> bool {
        let mut keys = argument.split(':');
        let namespace = keys.next().unwrap_or_default();
        let path: Vec<&str> = keys.collect();
        match self.request.dynamic_metadata.get(namespace, &path) {
            Some(Value::String(value)) => text(out, value),
            Some(Value::Number(number)) => show(out, number),
            Some(Value::Bool(value)) => show(out, value),
            Some(Value::Null | Value::List(_) | Value::Struct(_)) | None => false,
        }
    }
}

fn text(out: &mut String, value: &str) -> bool {
    out.push_str(value);
    !value.is_empty()
}

fn show(out: &mut String, value: impl std::fmt::Display) -> bool {
    write!(out, "{value}").is_ok()
}
