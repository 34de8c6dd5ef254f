//! Heads and trailers: what fields mean together, and which ones a message may have (RFC 9113 section 8).

use bytes::{Bytes, BytesMut};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use super::hpack::{Encoder, Field};
use crate::codec;
use crate::spare;
use crate::streams::is_of_connection;
use crate::upstream::plain::Plain;

/// What a head may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of all fields, decoded (RFC 9113 section 10.5.1: with 32 more for each).
    pub(crate) bytes: usize,
    /// Fields.
    pub(crate) fields: usize,
}

/// `:protocol` of an extended CONNECT, beside a request's head.
#[derive(Clone, Debug)]
pub(crate) struct Protocol(pub(crate) String);

/// A request's head.
#[derive(Debug)]
pub(crate) struct RequestHead {
    /// `:method`.
    pub(crate) method: Method,
    /// Scheme, authority and path, as far as there are any.
    pub(crate) target: Uri,
    /// `:protocol`, which is text.
    pub(crate) protocol: Option<Bytes>,
    /// Everything else.
    pub(crate) headers: HeaderMap,
}

/// Why there is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It has more bytes than are taken.
    TooLarge,
    /// It has more fields than are taken.
    TooMany,
    /// It breaks a rule.
    Malformed(&'static str),
}

/// The fields of a block, as they come.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    protocol: Option<Bytes>,
    status: Option<StatusCode>,
    headers: HeaderMap,
    /// The length the message states.
    length: Option<u64>,
    bytes: usize,
    count: usize,
    refused: Option<Refused>,
}

impl Fields {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self {
            headers: spare::headers(16),
            ..Self::default()
        }
    }

    /// The length the message states.
    pub(crate) const fn length(&self) -> Option<u64> {
        self.length
    }

    /// Takes the next field, which counts so much.
    pub(crate) fn take(&mut self, field: Field, size: usize, limits: Limits) {
        self.bytes += size;
        if self.refused.is_some() {
            return;
        }
        if self.bytes > limits.bytes {
            self.refused = Some(Refused::TooLarge);
            return;
        }
        if let Err(refused) = self.add(field, limits) {
            self.refused = Some(refused);
        }
    }

    fn add(&mut self, field: Field, limits: Limits) -> Result<(), Refused> {
        let (name, value) = match field {
            Field::Header(name, value) => (name, value),
            Field::Malformed(_) => return Err(Refused::Malformed("field")),
            pseudo => return self.add_pseudo(pseudo),
        };
        self.count += 1;
        if self.count > limits.fields {
            return Err(Refused::TooMany);
        }
        if is_of_connection(&name) || (name == header::TE && value != "trailers") {
            return Err(Refused::Malformed("field of a connection"));
        }
        if name == header::CONTENT_LENGTH {
            let length = codec::content_length(value.as_bytes());
            let length = length.filter(|_| self.length.is_none());
            self.length = Some(length.ok_or(Refused::Malformed("content-length"))?);
        }
        self.headers.append(name, value);
        Ok(())
    }

    fn add_pseudo(&mut self, field: Field) -> Result<(), Refused> {
        let twice = match field {
            _ if self.count > 0 => true,
            Field::Method(method) => self.method.replace(method).is_some(),
            Field::Scheme(scheme) => self.scheme.replace(scheme).is_some(),
            Field::Authority(authority) => self.authority.replace(authority).is_some(),
            Field::Path(path) => self.path.replace(path).is_some(),
            Field::Protocol(protocol) => self.protocol.replace(protocol).is_some(),
            Field::Status(status) => self.status.replace(status).is_some(),
            Field::Header(..) | Field::Malformed(_) => true,
        };
        if twice {
            return Err(Refused::Malformed("pseudo-header"));
        }
        Ok(())
    }

    /// A request's head.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn into_request(self) -> Result<RequestHead, Refused> {
        const WRONG: Refused = Refused::Malformed("pseudo-headers of a request");
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let method = self.method.ok_or(WRONG)?;
        let plain_connect = method == Method::CONNECT && self.protocol.is_none();
        let complete = if plain_connect {
            self.scheme.is_none() && self.path.is_none() && self.authority.is_some()
        } else {
            self.scheme.is_some() && self.path.is_some()
        };
        let extended = self.protocol.is_none() || method == Method::CONNECT;
        if !complete || !extended || self.status.is_some() {
            return Err(WRONG);
        }
        let mut parts = http::uri::Parts::default();
        // A URI has no scheme without an authority; which one counts is the connection's in any case.
        parts.scheme = self.scheme.filter(|_| self.authority.is_some());
        parts.authority = self.authority;
        parts.path_and_query = self.path;
        Ok(RequestHead {
            method,
            target: Uri::from_parts(parts).map_err(|_| WRONG)?,
            protocol: self.protocol,
            headers: self.headers,
        })
    }

    /// A response's head.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn into_response(self) -> Result<(StatusCode, HeaderMap), Refused> {
        let of_request = self.method.is_some()
            || self.scheme.is_some()
            || self.authority.is_some()
            || self.path.is_some()
            || self.protocol.is_some();
        match (self.refused, self.status) {
            (Some(refused), _) => Err(refused),
            (None, Some(status)) if !of_request && status.as_u16() != 101 => {
                Ok((status, self.headers))
            }
            _ => Err(Refused::Malformed("pseudo-headers of a response")),
        }
    }

    /// Trailers.
    ///
    /// # Errors
    /// They are none.
    pub(crate) fn into_trailers(self) -> Result<HeaderMap, Refused> {
        if self.status.is_some() || self.method.is_some() {
            return Err(Refused::Malformed("pseudo-header among trailers"));
        }
        let others = self.scheme.is_some() || self.authority.is_some();
        if others || self.path.is_some() || self.protocol.is_some() {
            return Err(Refused::Malformed("pseudo-header among trailers"));
        }
        match self.refused {
            Some(refused) => Err(refused),
            None => Ok(self.headers),
        }
    }
}

/// Writes a request's head.
pub(crate) fn put_request(
    encoder: &mut Encoder,
    out: &mut BytesMut,
    parts: &http::request::Parts,
    length: Option<u64>,
) {
    encoder.begin(out);
    encoder.method(out, &parts.method);
    let uri = &parts.uri;
    let protocol = parts.extensions.get::<Protocol>();
    if parts.method != Method::CONNECT || protocol.is_some() {
        encoder.scheme(out, uri.scheme_str().unwrap_or("http"));
        encoder.path(out, uri.path_and_query().map_or("/", |path| path.as_str()));
    }
    if let Some(authority) = uri.authority() {
        encoder.field(out, ":authority", authority.as_str().as_bytes());
    }
    if let Some(protocol) = protocol {
        encoder.field(out, ":protocol", protocol.0.as_bytes());
    }
    put_headers(encoder, out, &parts.headers);
    put_length(encoder, out, length);
}

/// Writes a request's head from its parts.
pub(crate) fn put_plain(
    encoder: &mut Encoder,
    out: &mut BytesMut,
    plain: &Plain<'_>,
    length: Option<u64>,
) {
    encoder.begin(out);
    encoder.method(out, plain.method);
    encoder.scheme(out, plain.scheme);
    encoder.path(out, plain.target.as_str());
    encoder.field(out, ":authority", plain.host.as_bytes());
    let mut states_length = false;
    for (name, value) in plain.fields() {
        states_length |= *name == header::CONTENT_LENGTH;
        put_header(encoder, out, name, value);
    }
    put_length(encoder, out, length.filter(|_| !states_length));
}

/// Writes a response's head.
pub(crate) fn put_response(
    encoder: &mut Encoder,
    out: &mut BytesMut,
    (status, headers): (StatusCode, &HeaderMap),
    date: &HeaderValue,
    length: Option<u64>,
) {
    encoder.begin(out);
    encoder.status(out, status);
    put_headers(encoder, out, headers);
    if !headers.contains_key(header::DATE) {
        encoder.header(out, &header::DATE, date);
    }
    put_length(encoder, out, length);
}

/// Writes trailers.
pub(crate) fn put_trailers(encoder: &mut Encoder, out: &mut BytesMut, trailers: &HeaderMap) {
    encoder.begin(out);
    put_headers(encoder, out, trailers);
}

fn put_headers(encoder: &mut Encoder, out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        put_header(encoder, out, name, value);
    }
}

fn put_header(encoder: &mut Encoder, out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    // HTTP/1's own are told otherwise here, and `host` is `:authority`.
    if !is_of_connection(name) && *name != header::HOST {
        encoder.header(out, name, value);
    }
}

fn put_length(encoder: &mut Encoder, out: &mut BytesMut, length: Option<u64>) {
    if let Some(length) = length {
        let mut text = Vec::with_capacity(20);
        codec::decimal(&mut text, length);
        encoder.field(out, "content-length", &text);
    }
}
