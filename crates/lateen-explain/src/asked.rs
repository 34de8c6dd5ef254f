//! A described request or connection: what a user types instead of sending it.

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

/// A described request, or connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The method; of no meaning for `tcp` and `tls`.
    pub method: String,
    /// Where it goes.
    pub url: Url,
    /// Headers, without `Host`.
    pub headers: HeaderMap,
    /// The host in the request, where it is not the URL's.
    pub host: Option<String>,
    /// HTTP/2 with prior knowledge, or by ALPN under `https`.
    pub http2: bool,
    /// The address the URL's host resolves to, if it is not to be looked up.
    pub resolve: Option<std::net::IpAddr>,
    /// The identity in the certificate that a client outside the mesh presents.
    pub certificate: Option<String>,
}

/// A URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// What is spoken.
    pub payload: Payload,
    /// The host as written, without the port.
    pub host: String,
    /// The port: as written, or the scheme's.
    pub port: u16,
    /// Whether the port was written.
    pub has_port: bool,
    /// Path and query.
    pub path: String,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// `http://`.
    Http,
    /// `https://`: the client ends TLS itself.
    Https,
    /// `tcp://`: bytes no inspector knows.
    Tcp,
    /// `tls://`: TLS around bytes nobody sees.
    Tls,
}

/// Why a description is not understood.
#[derive(Debug, thiserror::Error)]
pub enum AskedError {
    /// The URL is none.
    #[error(
        "`{0}` is not a URL; for example http://reviews:9080/reviews/0, or tcp://mongodb:27017"
    )]
    Url(String),
    /// The URL's scheme is not one that a mesh carries.
    #[error("`{0}` is not http, https, tcp or tls")]
    Scheme(String),
    /// A `tcp` or `tls` URL without a port.
    #[error("`{0}` has no port, and {1} has no default one")]
    Port(String, &'static str),
    /// A port that is none.
    #[error("`{0}` has no port between 1 and 65535 after its colon")]
    PortNumber(String),
    /// A header is not `name: value`.
    #[error("`{0}` is not a header; write 'name: value'")]
    Header(String),
}

impl Url {
    /// Parses a URL. Without a scheme it is `http`.
    ///
    /// # Errors
    /// It is not one, or has a scheme a mesh does not carry.
    pub fn parse(text: &str) -> Result<Self, AskedError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let payload = match scheme.to_ascii_lowercase().as_str() {
            "http" => Payload::Http,
            "https" => Payload::Https,
            "tcp" => Payload::Tcp,
            "tls" => Payload::Tls,
            _ => return Err(AskedError::Scheme(scheme.to_owned())),
        };
        let wrong = || AskedError::Url(text.to_owned());
        let uri: Uri = format!("http://{rest}").parse().map_err(|_| wrong())?;
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(wrong)?;
        let default = match payload {
            Payload::Http => Some(80),
            Payload::Https => Some(443),
            Payload::Tcp | Payload::Tls => None,
        };
        let after_user = |at: &http::uri::Authority| at.as_str().rsplit('@').next().map(str::len);
        let written = uri.authority().and_then(after_user) > Some(host.len());
        let port = uri.port_u16().filter(|port| *port > 0);
        if written && port.is_none() {
            return Err(AskedError::PortNumber(text.to_owned()));
        }
        let port = port.or(default);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            payload,
            host: host.to_owned(),
            port: port.ok_or_else(|| AskedError::Port(text.to_owned(), payload.as_str()))?,
            has_port: uri.port().is_some(),
            path: path.to_owned(),
        })
    }

    /// The host as a request names it: with the port if that was written.
    pub fn authority(&self) -> String {
        if self.has_port {
            format!("{}:{}", self.host, self.port)
        } else {
            self.host.clone()
        }
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.payload.as_str(), self.authority())?;
        if self.payload.is_http() {
            f.write_str(&self.path)?;
        }
        Ok(())
    }
}

impl Payload {
    /// The URL's scheme.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Whether it holds HTTP.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    /// Whether the client speaks TLS.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

impl Asked {
    /// A request without headers.
    pub fn new(method: &str, url: Url) -> Self {
        Self {
            method: method.to_owned(),
            url,
            headers: HeaderMap::new(),
            host: None,
            http2: false,
            resolve: None,
            certificate: None,
        }
    }

    /// A request as typed: an optional method, a URL, headers as `name: value`.
    ///
    /// # Errors
    /// URL or headers are not understood.
    pub fn parse(method: Option<&str>, url: &str, headers: &[String]) -> Result<Self, AskedError> {
        let mut asked = Self::new(method.unwrap_or("GET"), Url::parse(url)?);
        for header in headers {
            asked.add_header(header)?;
        }
        Ok(asked)
    }

    /// Adds a header written as `name: value`. `Host` replaces the host.
    ///
    /// # Errors
    /// It is not a header.
    pub fn add_header(&mut self, text: &str) -> Result<(), AskedError> {
        let (name, value) = text
            .split_once(':')
            .ok_or_else(|| AskedError::Header(text.to_owned()))?;
        self.set_header(name.trim(), value.trim())
    }

    /// Adds a header. `Host` replaces the host.
    ///
    /// # Errors
    /// Name or value cannot be in a header.
    pub fn set_header(&mut self, name: &str, value: &str) -> Result<(), AskedError> {
        let wrong = || AskedError::Header(format!("{name}: {value}"));
        if name.eq_ignore_ascii_case("host") || name == ":authority" {
            self.host = Some(value.to_owned());
            return Ok(());
        }
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_str(value).map_err(|_| wrong())?;
        self.headers.append(parsed, value);
        Ok(())
    }

    /// The host the request names.
    pub fn authority(&self) -> String {
        self.host.clone().unwrap_or_else(|| self.url.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_its_schemes_port_unless_it_has_its_own() {
        let reviews = Url::parse("http://reviews:9080/reviews/0?x=1").unwrap();
        assert_eq!(
            (reviews.host.as_str(), reviews.port, reviews.path.as_str()),
            ("reviews", 9080, "/reviews/0?x=1")
        );
        assert_eq!(Url::parse("https://example.com").unwrap().port, 443);
        assert_eq!(
            Url::parse("reviews/x").unwrap().to_string(),
            "http://reviews/x"
        );
        assert_eq!(
            Url::parse("http://[fd00::1]:80/").unwrap().host,
            "[fd00::1]"
        );
        assert!(matches!(Url::parse("tcp://db"), Err(AskedError::Port(..))));
        assert!(matches!(Url::parse("ftp://x"), Err(AskedError::Scheme(_))));
        assert!(matches!(Url::parse("http:///x"), Err(AskedError::Url(_))));
        for wrong in ["http://x:99999/", "http://x:0/"] {
            assert!(matches!(Url::parse(wrong), Err(AskedError::PortNumber(_))));
        }
    }

    #[test]
    fn a_host_header_is_the_requests_host() {
        let headers = ["Host: shop.example".to_owned(), "x-a: 1".to_owned()];
        let asked = Asked::parse(None, "http://10.0.0.1/", &headers).unwrap();
        assert_eq!(asked.authority(), "shop.example");
        assert_eq!(asked.headers.len(), 1);
        assert!(Asked::parse(None, "x", &["nonsense".to_owned()]).is_err());
    }
}
