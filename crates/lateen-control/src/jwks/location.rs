//! A place on the web to fetch from: an absolute `http` or `https` URI without credentials.

use http::Uri;

/// Where to fetch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) tls: bool,
    /// Without brackets around an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The host as it is written in a `Host` header.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) path: String,
}

/// Why a text is no location.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoLocation {
    #[error("`{0}` is not an absolute http or https URI")]
    NotAbsolute(String),
    #[error("`{0}` holds credentials; they would be in the configuration for everyone to read")]
    Credentials(String),
    #[error("`{0}` is not https, and roots that came otherwise could be anybody's")]
    NotSecure(String),
}

impl Location {
    pub(crate) fn parse(text: &str) -> Result<Self, NoLocation> {
        let wrong = || NoLocation::NotAbsolute(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err(NoLocation::Credentials(text.to_owned()));
        }
        let host = authority.host();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            tls,
            host: host.to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            path: path.to_owned(),
        })
    }

    /// Where a `Location` header leads from here (RFC 3986 section 5.2, as far as servers use it).
    pub(crate) fn follow(&self, to: &str) -> Result<Self, NoLocation> {
        let scheme = if self.tls { "https" } else { "http" };
        let to = to.split('#').next().unwrap_or_default();
        if to.contains("://") {
            return Self::parse(to);
        }
        if let Some(rest) = to.strip_prefix("//") {
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        let path = self.path.split('?').next().unwrap_or_default();
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let target = match to {
            to if to.starts_with('/') => to.to_owned(),
            to if to.starts_with('?') => format!("{path}{to}"),
            to => format!("{directory}/{to}"),
        };
        Self::parse(&format!("{scheme}://{}{target}", self.authority))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_from_the_scheme() {
        let location = Location::parse("https://Issuer.example/a?b").unwrap();
        assert_eq!(
            (
                location.tls,
                location.host.as_str(),
                location.port,
                location.path.as_str()
            ),
            (true, "issuer.example", 443, "/a?b")
        );
        let location = Location::parse("http://[fd00::1]:8080").unwrap();
        assert_eq!(
            (
                location.host.as_str(),
                location.port,
                location.path.as_str()
            ),
            ("fd00::1", 8080, "/")
        );
    }

    #[test]
    fn what_is_no_web_address_is_none() {
        for text in [
            "",
            "issuer.example",
            "ftp://a/",
            "file:///etc/passwd",
            "/jwks",
            "http:///x",
            "gopher://a",
        ] {
            assert!(Location::parse(text).is_err(), "{text}");
        }
        let error = Location::parse("https://me:secret@a.example/").unwrap_err();
        assert!(matches!(error, NoLocation::Credentials(_)));
    }

    #[test]
    fn redirects_lead_relative_to_where_one_is() {
        let here = Location::parse("https://a.example:8443/x/y?z").unwrap();
        let follow = |to: &str| {
            let there = here.follow(to).unwrap();
            format!("{} {} {}", there.host, there.port, there.path)
        };
        assert_eq!(follow("https://b.example/k"), "b.example 443 /k");
        assert_eq!(follow("//b.example/k"), "b.example 443 /k");
        assert_eq!(follow("/k#f"), "a.example 8443 /k");
        assert_eq!(follow("k"), "a.example 8443 /x/k");
        assert_eq!(follow("?q"), "a.example 8443 /x/y?q");
        assert!(here.follow("file:///etc/passwd").is_err());
    }
}
