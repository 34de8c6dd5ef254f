//! A request's head inside the proxy, the same for HTTP/1 and HTTP/2.

use std::net::SocketAddr;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
use lateen_telemetry::ResponseFlag;
use lateen_traffic::request::FilterState;
use lateen_traffic::value::Metadata;
use lateen_traffic::{ConnectionInfo, PeerTls, RequestView};

use super::client::ClientHead;
use super::local_reply::LocalReply;
use super::present::Present;
use crate::h2::head::Protocol;

/// A request's head: pseudo-headers as fields, everything else in `headers`.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// `:method`.
    pub(crate) method: Method,
    /// `:scheme`: `http` or `https`.
    pub(crate) scheme: &'static str,
    /// `:authority`, or the `Host` header.
    pub(crate) authority: String,
    /// `:path` with its query; empty for a CONNECT without one.
    pub(crate) path: String,
    /// `:protocol` of an extended CONNECT, or the `upgrade` token of HTTP/1.1.
    pub(crate) protocol: Option<String>,
    /// The version the client speaks.
    pub(crate) version: Version,
    /// Everything else, without `Host`.
    pub(crate) headers: HeaderMap,
    /// What was among them, and `Host`, when the head came.
    pub(crate) present: Present,
    /// What the HTTP library keeps of the head beside it: the case of header names, where that is to be preserved.
    pub(crate) extensions: http::Extensions,
    /// Path and host as they came.
    pub(crate) verbatim: Verbatim,
}

/// What goes on as it came unless something changed it: it need not be checked and copied again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verbatim {
    path: Option<PathAndQuery>,
    host: Option<HeaderValue>,
}

/// What is wrong with a head, as Envoy's response code details name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl Malformed {
    /// The answer to it.
    pub(crate) fn reply(self) -> LocalReply {
        match self.0 {
            UNKNOWN_CODING => LocalReply::new(
                StatusCode::NOT_IMPLEMENTED,
                "Not Implemented",
                UNKNOWN_CODING,
            )
            .flagged(ResponseFlag::DownstreamProtocolError),
            MISSING_HOST => LocalReply::new(StatusCode::BAD_REQUEST, "", MISSING_HOST),
            details => LocalReply::bad_request(details),
        }
    }
}

/// Neither a `Host` nor an authority; Envoy answers it without a body.
const MISSING_HOST: &str = "missing_host_header";
/// A transfer coding other than `chunked`.
const UNKNOWN_CODING: &str = "http1.invalid_transfer_encoding";

/// A body that was transformed on the way would be passed on without saying so, and a list of codings is what request smuggling is made
/// of: only `chunked`, once, is taken. (A length beside it is looked at when the head is read, and the body is framed anew in any case.)
fn plain_framing(version: Version, headers: &HeaderMap, present: Present) -> Result<(), Malformed> {
    if !present.has(Present::TRANSFER_ENCODING) {
        return Ok(());
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let plain = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(one), None) => one.as_bytes().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    };
    if plain || version == Version::HTTP_2 {
        return Ok(()); // HTTP/2 has no such header: its head would have been refused
    }
    Err(Malformed(UNKNOWN_CODING))
}

impl Head {
    /// Takes a head apart. `secure` says whether the client's connection is TLS, `present` what the head holds.
    ///
    /// # Errors
    /// There is no host or more than one, or it holds bytes a host cannot.
    pub(crate) fn take(
        came: ClientHead,
        present: Present,
        secure: bool,
    ) -> Result<Box<Self>, Malformed> {
        let mut headers = came.headers;
        plain_framing(came.version, &headers, present)?;
        if came.version == Version::HTTP_2 {
            join_cookies(&mut headers);
        }
        let host = only_host(came.host, &mut headers, present)?;
        let (authority, host) = authority(&came.uri, host)?;
        let h2_protocol = came
            .extensions
            .get::<Protocol>()
            .map(|protocol| protocol.0.clone());
        let asked = present.has(Present::UPGRADE).then_some(&headers);
        let protocol = h2_protocol.or_else(|| asked.and_then(upgrade_token));
        let target = came.uri.into_parts().path_and_query;
        let path = match &target {
            // `http` gives an absolute-form or authority-form URI without a path the path `/` or none.
            Some(path) if came.method != Method::CONNECT || protocol.is_some() => {
                path.as_str().to_owned()
            }
            _ => String::new(),
        };
        // Boxed: it is handed on from step to step, and is half a kilobyte.
        Ok(Box::new(Self {
            method: came.method,
            scheme: if secure { "https" } else { "http" },
            authority,
            path,
            protocol,
            version: came.version,
            headers,
            present,
            extensions: came.extensions,
            verbatim: Verbatim { path: target, host },
        }))
    }

    /// Takes a head apart that came in plain text. For fuzzing.
    pub(crate) fn read(came: ClientHead) -> Option<Box<Self>> {
        let present = Present::of(&came.headers);
        Self::take(came, present, false).ok()
    }

    /// The view decisions take.
    pub(crate) fn view<'a>(
        &'a self,
        client: SocketAddr,
        connection: &'a ConnectionInfo<'a>,
        peer: &'a PeerTls<'a>,
        dynamic_metadata: &'a Metadata,
        filter_state: &'a FilterState,
    ) -> RequestView<'a> {
        RequestView {
            method: self.method.as_str(),
            scheme: self.scheme,
            authority: &self.authority,
            path: &self.path,
            protocol: self.protocol.as_deref(),
            headers: &self.headers,
            client,
            connection,
            peer,
            dynamic_metadata,
            filter_state,
        }
    }

    /// The URI of the upstream request: origin-form for HTTP/1, with scheme and authority for HTTP/2.
    ///
    /// `None` if the authority or path, after rewriting, is not one.
    pub(crate) fn uri(&self, h2: bool) -> Option<Uri> {
        let mut parts = http::uri::Parts::default();
        if self.method == Method::CONNECT && self.protocol.is_none() {
            parts.authority = Some(Authority::try_from(self.authority.as_str()).ok()?);
            return Uri::from_parts(parts).ok();
        }
        parts.path_and_query = Some(self.target(&self.path)?);
        if h2 {
            parts.authority = Some(Authority::try_from(self.authority.as_str()).ok()?);
            parts.scheme = Some(if self.scheme == "https" {
                Scheme::HTTPS
            } else {
                Scheme::HTTP
            });
        }
        Uri::from_parts(parts).ok()
    }

    /// A path with its query, as it came or as it was rewritten; `None` if it is none.
    pub(crate) fn target(&self, path: &str) -> Option<PathAndQuery> {
        let path = if path.is_empty() { "/" } else { path };
        let verbatim = self.verbatim.path.as_ref();
        match verbatim.filter(|known| known.as_str() == path) {
            Some(known) => Some(known.clone()),
            None => PathAndQuery::try_from(path).ok(),
        }
    }

    /// The value of `host` for an upstream request in HTTP/1; `None` if the authority, after rewriting, is none.
    pub(crate) fn host(&self) -> Option<HeaderValue> {
        let verbatim = self.verbatim.host.as_ref();
        match verbatim.filter(|known| known.as_bytes() == self.authority.as_bytes()) {
            Some(known) => Some(known.clone()),
            None => HeaderValue::from_str(&self.authority).ok(),
        }
    }

    /// Whether the client speaks HTTP/2.
    pub(crate) fn is_h2(&self) -> bool {
        self.version == Version::HTTP_2
    }

    /// Bytes of the head, for `istio_request_bytes`: names and values.
    pub(crate) fn size(&self) -> u64 {
        let fields: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        let pseudo = self.method.as_str().len() + self.path.len() + self.authority.len();
        (fields + pseudo) as u64
    }
}

/// HTTP/2 may send each cookie in a header of its own; everything after this sees one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// The only `Host`, which is taken away from the headers if it is among them.
fn only_host(
    apart: Option<HeaderValue>,
    headers: &mut HeaderMap,
    present: Present,
) -> Result<Option<HeaderValue>, Malformed> {
    if !present.has(Present::HOST) {
        return Ok(apart);
    }
    match headers.entry(header::HOST) {
        header::Entry::Vacant(_) => Ok(apart),
        header::Entry::Occupied(hosts) if apart.is_some() || hosts.iter().nth(1).is_some() => {
            Err(Malformed("http1.multiple_host_headers"))
        }
        header::Entry::Occupied(host) => Ok(Some(host.remove())),
    }
}

/// The authority: of the URI if it has one (absolute-form, HTTP/2), else of `Host`, which is handed back then.
fn authority(
    uri: &Uri,
    host: Option<HeaderValue>,
) -> Result<(String, Option<HeaderValue>), Malformed> {
    if let Some(authority) = uri.authority() {
        return Ok((authority.as_str().to_owned(), None));
    }
    let Some(host) = host else {
        return Err(Malformed(MISSING_HOST));
    };
    match valid_host(&host) {
        Some(authority) => Ok((authority.to_owned(), Some(host))),
        None => Err(Malformed("http.invalid_authority")),
    }
}

/// A host is visible ASCII without what would end it elsewhere: user information, a path, a query, a list.
fn valid_host(host: &HeaderValue) -> Option<&str> {
    let bytes = host.as_bytes();
    let valid = !bytes.is_empty() && bytes.iter().all(|byte| OF_HOSTS[usize::from(*byte)]);
    host.to_str().ok().filter(|_| valid)
}

/// Which bytes a host may have.
static OF_HOSTS: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut at = 0;
    while at < bytes.len() {
        let byte = at as u8;
        bytes[at] =
            byte.is_ascii_graphic() && !matches!(byte, b'@' | b'/' | b'?' | b'#' | b'\\' | b',');
        at += 1;
    }
    bytes
};

/// The token of an HTTP/1.1 upgrade: `Connection` must nominate `Upgrade` (RFC 9110 section 7.8).
fn upgrade_token(headers: &HeaderMap) -> Option<String> {
    let token = headers.get(header::UPGRADE)?.to_str().ok()?;
    let nominated = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    (nominated && !token.trim().is_empty()).then(|| token.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn take(request: http::request::Builder) -> Result<Box<Head>, &'static str> {
        let came = ClientHead::from(request.body(()).unwrap());
        let present = Present::of(&came.headers);
        Head::take(came, present, false).map_err(|malformed| malformed.0)
    }

    #[test]
    fn the_authority_comes_from_the_uri_or_the_only_host_header() {
        let head = take(Request::get("/x?y").header("host", "a.example:80")).unwrap();
        assert_eq!(
            (head.authority.as_str(), head.path.as_str()),
            ("a.example:80", "/x?y")
        );
        let head = take(Request::get("http://b.example/x").header("host", "a.example")).unwrap();
        assert_eq!(head.authority, "b.example");
        assert!(!head.headers.contains_key("host"));
        assert_eq!(take(Request::get("/")), Err("missing_host_header"));
    }

    #[test]
    fn ambiguous_hosts_are_refused() {
        let twice = Request::get("/").header("host", "a").header("host", "b");
        assert_eq!(take(twice).unwrap_err(), "http1.multiple_host_headers");
        for host in ["a@b", "a/b", "a b", "", "a,b", "a\\b"] {
            assert_eq!(
                take(Request::get("/").header("host", host)).unwrap_err(),
                "http.invalid_authority"
            );
        }
    }

    #[test]
    fn a_host_kept_apart_is_one_beside_those_among_the_headers() {
        let with = |request: http::request::Builder| {
            let mut came = ClientHead::from(request.body(()).unwrap());
            came.host = Some(HeaderValue::from_static("a.example"));
            let present = Present::of(&came.headers);
            Head::take(came, present, false).map_err(|malformed| malformed.0)
        };
        let head = with(Request::get("/x")).unwrap();
        assert_eq!(head.authority, "a.example");
        assert_eq!(head.host().unwrap(), "a.example");
        assert_eq!(with(Request::get("http://b/x")).unwrap().authority, "b");
        let twice = with(Request::get("/").header("host", "a.example"));
        assert_eq!(twice.unwrap_err(), "http1.multiple_host_headers");
    }

    #[test]
    fn codings_other_than_chunked_are_refused() {
        let with = |coding: &str| {
            let request = Request::post("/").header("host", "a");
            take(request.header("transfer-encoding", coding)).map(|_| ())
        };
        assert_eq!(with("Chunked"), Ok(()));
        for coding in [
            "gzip, chunked",
            "identity",
            "chunked, chunked",
            "xchunked",
            "",
        ] {
            assert_eq!(with(coding), Err(UNKNOWN_CODING), "{coding}");
        }
    }

    #[test]
    fn crumbs_are_one_cookie() {
        let request = Request::get("/")
            .version(Version::HTTP_2)
            .header("host", "a");
        let request = request.header("cookie", "a=b").header("cookie", "c=d");
        assert_eq!(take(request).unwrap().headers["cookie"], "a=b; c=d");
    }

    #[test]
    fn an_upgrade_counts_only_if_connection_names_it() {
        let request = || {
            Request::get("/")
                .header("host", "a")
                .header("upgrade", "websocket")
        };
        assert_eq!(take(request()).unwrap().protocol, None);
        let head = take(request().header("connection", "keep-alive, Upgrade")).unwrap();
        assert_eq!(head.protocol.as_deref(), Some("websocket"));
    }

    impl PartialEq for Head {
        fn eq(&self, other: &Self) -> bool {
            self.authority == other.authority && self.path == other.path
        }
    }
}
