//! Where tokens are looked for: headers, query parameters, cookies.
//!
//! A place belongs to the issuers that named it: a token of another issuer in it is refused rather than passed over, because who
//! stands behind the proxy may read it there.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use http::{HeaderName, header};

use super::edits::Edits;
use crate::request::RequestView;

/// Whose tokens may be in a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issuers {
    anyone: bool,
    named: BTreeSet<Arc<str>>,
}

impl Issuers {
    /// Adds one; an empty name stands for anyone.
    fn add(&mut self, issuer: &Arc<str>) {
        if issuer.is_empty() {
            self.anyone = true;
        } else {
            self.named.insert(Arc::clone(issuer));
        }
    }

    /// Whether an issuer's tokens may be there.
    pub fn allow(&self, issuer: &str) -> bool {
        self.anyone || self.named.contains(issuer)
    }
}

/// The places tokens are looked for in.
#[derive(Clone, Debug, Default)]
pub struct Locations {
    /// By header and prefix.
    headers: BTreeMap<(Box<str>, Box<str>), (HeaderName, Issuers)>,
    parameters: BTreeMap<Arc<str>, Issuers>,
    cookies: BTreeMap<Arc<str>, Issuers>,
}

/// A place a token was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location<'a> {
    /// A header.
    Header(&'a HeaderName),
    /// A query parameter.
    Parameter(&'a str),
    /// A cookie.
    Cookie(&'a str),
}

impl fmt::Display for Location<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Parameter(name) => write!(f, "query parameter {name}"),
            Self::Cookie(name) => write!(f, "cookie {name}"),
        }
    }
}

/// A token that was found.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) location: Location<'a>,
    pub(super) issuers: &'a Issuers,
    pub(super) bytes: Cow<'a, [u8]>,
}

impl Locations {
    /// Adds a header whose value is a token after a prefix.
    pub fn add_header(&mut self, issuer: &Arc<str>, name: &HeaderName, prefix: &str) {
        self.headers
            .entry((name.as_str().into(), prefix.into()))
            .or_insert_with(|| (name.clone(), Issuers::default()))
            .1
            .add(issuer);
    }

    /// Adds a query parameter.
    pub fn add_parameter(&mut self, issuer: &Arc<str>, name: &str) {
        self.parameters.entry(name.into()).or_default().add(issuer);
    }

    /// Adds a cookie.
    pub fn add_cookie(&mut self, issuer: &Arc<str>, name: &str) {
        self.cookies.entry(name.into()).or_default().add(issuer);
    }

    /// Adds the places that hold where none is named: `Authorization: Bearer …` and `?access_token=…`.
    pub fn add_default(&mut self, issuer: &Arc<str>) {
        self.add_header(issuer, &header::AUTHORIZATION, "Bearer ");
        self.add_parameter(issuer, "access_token");
    }

    /// Whether no place was added.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.parameters.is_empty() && self.cookies.is_empty()
    }

    /// Adds the places of others.
    pub fn merge(&mut self, other: &Self) {
        let join = |into: &mut Issuers, from: &Issuers| {
            into.anyone |= from.anyone;
            into.named.extend(from.named.iter().cloned());
        };
        for (key, (name, issuers)) in &other.headers {
            let (_, into) = self
                .headers
                .entry(key.clone())
                .or_insert_with(|| (name.clone(), Issuers::default()));
            join(into, issuers);
        }
        for (name, issuers) in &other.parameters {
            join(
                self.parameters.entry(Arc::clone(name)).or_default(),
                issuers,
            );
        }
        for (name, issuers) in &other.cookies {
            join(self.cookies.entry(Arc::clone(name)).or_default(), issuers);
        }
    }

    /// The tokens of a request as `edits` leave it: headers, then parameters, then cookies, each by name.
    pub(super) fn find<'a>(&'a self, request: &RequestView<'a>, edits: &Edits) -> Vec<Found<'a>> {
        let mut out = Vec::new();
        self.find_in_headers(request, edits, &mut out);
        self.find_in_query(request, edits, &mut out);
        self.find_in_cookies(request, edits, &mut out);
        out
    }

    fn find_in_headers<'a>(
        &'a self,
        request: &RequestView<'a>,
        edits: &Edits,
        out: &mut Vec<Found<'a>>,
    ) {
        for ((_, prefix), (name, issuers)) in &self.headers {
            if edits.removes(name) {
                continue;
            }
            for value in request.headers.get_all(name) {
                let Some(bytes) = after_prefix(value.as_bytes(), prefix.as_bytes()) else {
                    continue;
                };
                out.push(Found {
                    location: Location::Header(name),
                    issuers,
                    bytes: Cow::Borrowed(bytes),
                });
            }
        }
    }

    fn find_in_query<'a>(
        &'a self,
        request: &RequestView<'a>,
        edits: &Edits,
        out: &mut Vec<Found<'a>>,
    ) {
        for (name, issuers) in &self.parameters {
            if edits.removes_parameter(name) {
                continue;
            }
            let first = request.query().split('&').find_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (*percent_decode(key.as_bytes()) == *name.as_bytes()).then_some(value)
            });
            if let Some(value) = first {
                out.push(Found {
                    location: Location::Parameter(name),
                    issuers,
                    bytes: percent_decode(value.as_bytes()),
                });
            }
        }
    }

    fn find_in_cookies<'a>(
        &'a self,
        request: &RequestView<'a>,
        edits: &Edits,
        out: &mut Vec<Found<'a>>,
    ) {
        if self.cookies.is_empty() || edits.removes(&header::COOKIE) {
            return;
        }
        for (name, issuers) in &self.cookies {
            if let Some(value) = cookie(request, name) {
                out.push(Found {
                    location: Location::Cookie(name),
                    issuers,
                    bytes: Cow::Borrowed(value),
                });
            }
        }
    }
}

/// What follows a prefix, wherever in the value that is, up to the first byte a token may begin with. A value without one is taken
/// whole, so that it is refused and not passed over. Source: Envoy, `ExtractorImpl::extract`.
fn after_prefix<'a>(value: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    if prefix.is_empty() {
        return Some(value);
    }
    let at = value
        .windows(prefix.len())
        .position(|window| window == prefix)?;
    let rest = &value[at + prefix.len()..];
    let of_tokens = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match rest.iter().position(of_tokens) {
        Some(start) => Some(&rest[start..]),
        None => Some(value),
    }
}

/// The first cookie of a name, without the quotes around its value.
fn cookie<'a>(request: &RequestView<'a>, name: &str) -> Option<&'a [u8]> {
    let headers = request.headers.get_all(header::COOKIE).iter();
    headers
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        .find_map(|pair| {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|byte| *byte == b'=')?;
            (pair[..at] == *name.as_bytes()).then(|| unquoted(&pair[at + 1..]))
        })
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

/// `%41` to `A`; what is not such a sequence stays.
pub(super) fn percent_decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let decoded = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        if let Some((high, low)) = decoded {
            out.push(high << 4 | low);
            rest = &after[2..];
        } else {
            out.push(*first);
            rest = after;
        }
    }
    Cow::Owned(out)
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Request;

    fn found(locations: &Locations, request: &Request) -> Vec<(String, String)> {
        let edits = Edits::default();
        locations
            .find(&request.view(), &edits)
            .iter()
            .map(|found| {
                let bytes = String::from_utf8_lossy(&found.bytes).into_owned();
                (found.location.to_string(), bytes)
            })
            .collect()
    }

    fn texts(locations: &Locations, request: &Request) -> Vec<String> {
        found(locations, request)
            .into_iter()
            .map(|(_, bytes)| bytes)
            .collect()
    }

    fn default_locations() -> Locations {
        let mut locations = Locations::default();
        locations.add_default(&"a".into());
        locations
    }

    #[test]
    fn bearer_tokens_are_found_after_their_prefix_in_every_value() {
        let locations = default_locations();
        let request = |value: &str| Request::get().header("authorization", value);
        assert_eq!(texts(&locations, &request("Bearer a.b.c")), ["a.b.c"]);
        assert_eq!(texts(&locations, &request("Bearer   a.b.c")), ["a.b.c"]);
        assert_eq!(
            texts(&locations, &request("Basic x, Bearer a.b.c")),
            ["a.b.c"]
        );
        assert_eq!(texts(&locations, &request("Bearer a.b.c, d")), ["a.b.c, d"]);
        assert_eq!(texts(&locations, &request("Bearer !!")), ["Bearer !!"]);
        assert!(texts(&locations, &request("bearer a.b.c")).is_empty());
        assert!(texts(&locations, &request("Bearer")).is_empty());
        let twice = request("Bearer a").header("authorization", "Bearer b");
        assert_eq!(texts(&locations, &twice), ["a", "b"]);
    }

    #[test]
    fn parameters_are_decoded_and_the_first_counts() {
        let locations = default_locations();
        let check = |path: &str| texts(&locations, &Request::path(path));
        assert_eq!(check("/?access_token=a.b&access_token=c"), ["a.b"]);
        assert_eq!(check("/?x&access%5Ftoken=a%2Eb%zz%4"), ["a.b%zz%4"]);
        assert_eq!(check("/?access_token"), [""]);
        assert!(check("/access_token=a").is_empty());
        assert!(check("/?Access_token=a").is_empty());
    }

    #[test]
    fn cookies_are_found_in_every_header_without_their_quotes() {
        let mut locations = Locations::default();
        locations.add_cookie(&"a".into(), "jwt");
        let check = |value: &str| texts(&locations, &Request::get().header("cookie", value));
        assert_eq!(check("x=1; jwt=a.b; jwt=c"), ["a.b"]);
        assert_eq!(check("jwt=\"a.b\""), ["a.b"]);
        assert!(check("xjwt=a; jwt").is_empty());
        let crumbs = Request::get()
            .header("cookie", "x=1")
            .header("cookie", "jwt=a=b");
        assert_eq!(texts(&locations, &crumbs), ["a=b"]);
    }

    #[test]
    fn places_are_taken_in_the_order_of_kind_and_name() {
        let mut locations = Locations::default();
        let issuer: Arc<str> = "a".into();
        locations.add_cookie(&issuer, "c");
        locations.add_parameter(&issuer, "p");
        locations.add_header(&issuer, &HeaderName::from_static("x-b"), "");
        locations.add_header(&issuer, &HeaderName::from_static("x-a"), "t ");
        let request = Request::path("/?p=3")
            .header("x-b", "2")
            .header("x-a", "t 1")
            .header("cookie", "c=4");
        assert_eq!(texts(&locations, &request), ["1", "2", "3", "4"]);
        assert_eq!(found(&locations, &request)[2].0, "query parameter p");
    }

    #[test]
    fn an_issuer_without_a_name_is_anyone() {
        let mut issuers = Issuers::default();
        issuers.add(&"a".into());
        assert!(issuers.allow("a") && !issuers.allow("b") && !issuers.allow(""));
        issuers.add(&"".into());
        assert!(issuers.allow("b"));
    }
}
