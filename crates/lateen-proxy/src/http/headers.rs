//! What the connection manager does to headers before routing and before answering: hop-by-hop headers go, forwarding headers
//! come, internal ones of strangers are taken away.
//!
//! Source: Envoy's "HTTP header sanitizing" and its HTTP connection manager's header documentation.

pub(crate) mod client_cert;

pub(crate) use client_cert::{CLIENT_CERT, Told};

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use lateen_traffic::hcm::{HttpConnectionManager, ServerHeader};

use super::head::Head;
use super::present::Present;
use crate::tls::PeerCertificate;

pub(crate) static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) static SERVICE_TIME: HeaderName =
    HeaderName::from_static("x-envoy-upstream-service-time");
pub(crate) static ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
pub(crate) static ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
pub(crate) static DECORATOR: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");
pub(crate) static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
static INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What the names of Envoy's own headers begin with.
const ENVOY_PREFIX: &[u8] = b"x-envoy-";

/// Headers only internal clients may send. Envoy: `ConnectionManagerUtility::cleanInternalHeaders`.
const INTERNAL_ONLY: [&str; 14] = [
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-url",
    "x-envoy-hedge-on-per-try-timeout",
];
/// Headers that only the inner side of an edge may have set.
const EDGE_ONLY: [&str; 5] = [
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-original-path",
    "x-envoy-original-host",
];

/// What is known of the client's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'a> {
    /// The socket's peer, or whom the PROXY protocol named.
    pub(crate) remote: SocketAddr,
    /// Where it was going.
    pub(crate) local: SocketAddr,
    /// Its certificate.
    pub(crate) certificate: Option<&'a PeerCertificate>,
    /// What was said of it before.
    pub(crate) told: &'a Told,
    /// The proxy's own identity on this connection (`By=` of the client certificate header).
    pub(crate) own_principal: Option<&'a str>,
    /// The proxy's own address, which stands for clients on loopback.
    pub(crate) own_address: Option<IpAddr>,
}

/// Brings a request's headers into the form routing and upstreams may rely on. Returns the client's address after
/// `x-forwarded-for`.
pub(crate) fn prepare_request(
    head: &mut Head,
    manager: &HttpConnectionManager,
    client: &Client<'_>,
    fresh_request_id: impl FnOnce() -> HeaderValue,
) -> SocketAddr {
    let present = head.present;
    if present.has(Present::HOP_BY_HOP) {
        strip_hop_by_hop(&mut head.headers, head.protocol.is_some());
    }
    let forwarded = present.has(Present::FORWARDED_FOR).then_some(&head.headers);
    let (remote, internal) = client_address(forwarded, manager, client);
    let edge = manager.use_remote_address && !internal;
    if present.has(Present::ENVOYS) {
        if !internal {
            remove_all(&mut head.headers, &INTERNAL_ONLY);
            head.headers.remove(&INTERNAL);
        }
        if edge {
            remove_all(&mut head.headers, &EDGE_ONLY);
        }
    }
    forwarding_headers(head, manager, client, internal);
    if edge {
        set(
            &mut head.headers,
            &EXTERNAL_ADDRESS,
            &remote.ip().to_string(),
        );
    }
    request_id(head, manager, edge, fresh_request_id);
    let mode = (manager.forward_client_cert, manager.client_cert_details);
    let came = present.has(Present::CLIENT_CERT);
    client_cert::forward(&mut head.headers, came, mode, client);
    if let Some(via) = &manager.via {
        append(&mut head.headers, &header::VIA, via);
    }
    remote
}

/// Whether there is any header of Envoy's own. Most requests have none, and one pass over the names costs less than asking for one
/// of them.
pub(crate) fn has_envoy_headers(headers: &HeaderMap) -> bool {
    headers.keys().any(is_envoys)
}

/// Whether a header is one of Envoy's own.
pub(crate) fn is_envoys(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    // Most names are told from it by their first byte.
    name.first() == Some(&b'x') && name.starts_with(ENVOY_PREFIX)
}

/// Whether a header concerns one connection only, or says how the proxy is to read this message.
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "expect"
            | "keep-alive"
            | "proxy-connection"
    )
}

/// Takes away headers that concern one connection only (RFC 9110 section 7.6.1). An upgrade keeps its two.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Nominating these would let a client take away what the proxy or the next hop relies on.
        .filter(|name: &HeaderName| !is_protected(name))
        .collect();
    for name in nominated {
        if !(upgrade && name == header::UPGRADE) {
            headers.remove(name);
        }
    }
    if let Some(te) = headers.get(header::TE) {
        let trailers = te.to_str().is_ok_and(|te| {
            te.split(',')
                .any(|t| t.trim().eq_ignore_ascii_case("trailers"))
        });
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
    // The proxy answers `100-continue` itself, when it begins to read the body, as Envoy does.
    headers.remove(header::EXPECT);
    headers.remove(&KEEP_ALIVE);
    headers.remove(&PROXY_CONNECTION);
    headers.remove(header::TRANSFER_ENCODING);
    if !upgrade {
        headers.remove(header::CONNECTION);
        headers.remove(header::UPGRADE);
    }
}

/// Envoy refuses to take away what a client has no business nominating.
fn is_protected(name: &HeaderName) -> bool {
    *name == header::TE
        || *name == header::CONTENT_LENGTH
        || *name == header::AUTHORIZATION
        || name.as_str().starts_with("x-forwarded-")
        || name.as_str().starts_with("x-envoy-")
}

fn remove_all(headers: &mut HeaderMap, names: &[&'static str]) {
    for name in names {
        headers.remove(*name);
    }
}

/// Who the client is, and whether it is internal: the only address in `x-forwarded-for` (or the connection's, at the edge)
/// lies in a configured internal range. There are no headers to look at where no `x-forwarded-for` came.
fn client_address(
    headers: Option<&HeaderMap>,
    manager: &HttpConnectionManager,
    client: &Client<'_>,
) -> (SocketAddr, bool) {
    let hops = manager.xff_num_trusted_hops as usize;
    let named = if manager.use_remote_address {
        // The connection's own address will be appended, so a trusted hop is one less to go back.
        hops.checked_sub(1)
            .and_then(|back| forwarded_address(headers?, back))
    } else {
        headers.and_then(|headers| forwarded_address(headers, hops))
    };
    let address = named.map_or(client.remote, |ip| SocketAddr::new(ip, 0));
    let named = headers.map_or(0, |headers| forwarded_entries(headers).take(2).count());
    let single = named == usize::from(!manager.use_remote_address);
    let internal = single
        && manager
            .internal_addresses
            .iter()
            .any(|net| net.contains(&address.ip()));
    (address, internal)
}

/// The address that `x-forwarded-for` names so many places before its end, if it is one there.
pub(crate) fn forwarded_address(headers: &HeaderMap, back: usize) -> Option<IpAddr> {
    let entry = forwarded_entries(headers).nth(back)?;
    std::str::from_utf8(entry.trim_ascii()).ok()?.parse().ok()
}

/// What `x-forwarded-for` names, last first. As bytes: a client that begins it with something that is no text must not make what a
/// trusted hop appended unreadable.
fn forwarded_entries(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(&FORWARDED_FOR).iter().rev();
    values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','))
}

fn forwarding_headers(
    head: &mut Head,
    manager: &HttpConnectionManager,
    client: &Client<'_>,
    internal: bool,
) {
    let headers = &mut head.headers;
    let trusts_hops = manager.xff_num_trusted_hops > 0;
    if manager.use_remote_address {
        if !manager.skip_xff_append {
            // Loopback says nothing to the next hop: Envoy names itself then.
            let ip = client.remote.ip();
            let loopback = ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST;
            let named = client.own_address.filter(|_| loopback).unwrap_or(ip);
            append(headers, &FORWARDED_FOR, &named.to_string());
        }
        if !trusts_hops {
            // At the edge only the connection itself says how the client came.
            headers.remove(&FORWARDED_PROTO);
        }
    }
    match manager.scheme_override.as_deref() {
        Some("https") => head.scheme = "https",
        Some("http") => head.scheme = "http",
        _ => {}
    }
    let says = HeaderValue::from_static(head.scheme);
    if !head.present.has(Present::FORWARDED_PROTO) {
        headers.append(&FORWARDED_PROTO, says);
    } else if manager.scheme_override.is_some() {
        headers.insert(&FORWARDED_PROTO, says);
    } else {
        match headers.get(&FORWARDED_PROTO).map(HeaderValue::as_bytes) {
            Some(b"https") => head.scheme = "https",
            Some(b"http") => head.scheme = "http",
            _ => {
                headers.insert(&FORWARDED_PROTO, says);
            }
        }
    }
    if manager.append_x_forwarded_port {
        headers
            .entry(&FORWARDED_PORT)
            .or_insert_with(|| HeaderValue::from(client.local.port()));
    }
    if internal {
        headers.insert(&INTERNAL, HeaderValue::from_static("true"));
    }
}

fn request_id(
    head: &mut Head,
    manager: &HttpConnectionManager,
    edge: bool,
    fresh: impl FnOnce() -> HeaderValue,
) {
    if !manager.generate_request_id {
        return;
    }
    if !head.present.has(Present::REQUEST_ID) {
        head.headers.append(&REQUEST_ID, fresh());
        return;
    }
    match head.headers.entry(&REQUEST_ID) {
        header::Entry::Occupied(mut id) => {
            if edge && !manager.preserve_external_request_id {
                id.insert(fresh());
            }
        }
        header::Entry::Vacant(none) => {
            none.insert(fresh());
        }
    }
}

/// Prepares response headers for the client.
pub(crate) fn prepare_response(
    headers: &mut HeaderMap,
    status: StatusCode,
    manager: &HttpConnectionManager,
    request_id: Option<&HeaderValue>,
    server: &HeaderValue,
) {
    strip_hop_by_hop(headers, status == StatusCode::SWITCHING_PROTOCOLS);
    match manager.server_header {
        ServerHeader::Overwrite => {
            headers.insert(header::SERVER, server.clone());
        }
        ServerHeader::AppendIfAbsent => {
            headers
                .entry(header::SERVER)
                .or_insert_with(|| server.clone());
        }
        ServerHeader::PassThrough => {}
    }
    if let Some(via) = &manager.via {
        append(headers, &header::VIA, via);
    }
    if manager.always_set_request_id_in_response
        && let Some(id) = request_id
    {
        headers.insert(&REQUEST_ID, id.clone());
    }
}

/// Numbers whose values are remembered by a thread. A power of two.
const NUMBERS: usize = 64;

thread_local! {
    static KNOWN: RefCell<[Option<(u64, HeaderValue)>; NUMBERS]> =
        const { RefCell::new([const { None }; NUMBERS]) };
}

/// A number as a value. Times in milliseconds are mostly one of a few, which are then not written and allocated again.
pub(crate) fn number(number: u64) -> HeaderValue {
    KNOWN.with_borrow_mut(|known| {
        let place = &mut known[(number % NUMBERS as u64) as usize];
        if let Some((there, value)) = place
            && *there == number
        {
            return value.clone();
        }
        let value = HeaderValue::from(number);
        *place = Some((number, value.clone()));
        value
    })
}

/// Sets a header, leaving out a value that is not one.
pub(crate) fn set(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Adds to a list-valued header, in one line as Envoy does.
pub(crate) fn append(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    let joined = match headers.get(name) {
        Some(there) if !there.is_empty() => {
            let all: Vec<&[u8]> = headers
                .get_all(name)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect();
            [all.join(&b","[..]).as_slice(), b",", value.as_bytes()].concat()
        }
        _ => value.as_bytes().to_vec(),
    };
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(name, value);
    }
}

/// The two digits of each byte.
static HEXADECIMAL: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut all = [[0; 2]; 256];
    let mut byte = 0;
    while byte < all.len() {
        all[byte] = [digits[byte >> 4], digits[byte & 0xf]];
        byte += 1;
    }
    all
};

/// A random UUID (version 4), as Envoy's `x-request-id`.
pub(crate) fn random_uuid(random: u128) -> HeaderValue {
    /// Where the digits of each byte stand, between the dashes.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let mut text = [b'-'; 36];
    for (byte, at) in bits.to_be_bytes().into_iter().zip(PLACES) {
        [text[at], text[at + 1]] = HEXADECIMAL[usize::from(byte)];
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bits_make_a_uuid_of_version_4() {
        for (random, expected) in [
            (0, "00000000-0000-4000-8000-000000000000"),
            (u128::MAX, "ffffffff-ffff-4fff-bfff-ffffffffffff"),
            (
                0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
                "01234567-89ab-4def-8123-456789abcdef",
            ),
        ] {
            assert_eq!(random_uuid(random), expected);
        }
    }
}
