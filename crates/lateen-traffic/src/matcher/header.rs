//! Header and query parameter matchers (`route.v3.HeaderMatcher`, `QueryParameterMatcher`).

use std::borrow::Cow;
use std::fmt;

use http::HeaderName;

use super::StringMatcher;
use crate::request::RequestView;

/// Which header a matcher or a hash looks at. Pseudo-headers are not in the header map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HeaderKey {
    /// `:method`.
    Method,
    /// `:scheme`.
    Scheme,
    /// `:authority`, and `host`.
    Authority,
    /// `:path`, with its query.
    Path,
    /// `:protocol`.
    Protocol,
    /// `:status`; only responses have it.
    Status,
    /// A regular header.
    Name(HeaderName),
}

impl HeaderKey {
    /// Parses a header name; `None` if it is not a valid one.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":scheme" => Self::Scheme,
            ":authority" | "host" => Self::Authority,
            ":path" => Self::Path,
            ":protocol" => Self::Protocol,
            ":status" => Self::Status,
            _ => Self::Name(HeaderName::from_bytes(name.as_bytes()).ok()?),
        })
    }

    /// The header's value in a request; several values are joined with a comma, as Envoy does.
    pub fn value<'r>(&self, request: &RequestView<'r>) -> Option<Cow<'r, [u8]>> {
        match self {
            Self::Method => present(request.method),
            Self::Scheme => present(request.scheme),
            Self::Authority => present(request.authority),
            Self::Path => present(request.path),
            Self::Protocol => request.protocol.and_then(present),
            Self::Status => None,
            Self::Name(name) => joined(request.headers, name),
        }
    }
}

impl fmt::Display for HeaderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => ":method",
            Self::Scheme => ":scheme",
            Self::Authority => ":authority",
            Self::Path => ":path",
            Self::Protocol => ":protocol",
            Self::Status => ":status",
            Self::Name(name) => name.as_str(),
        })
    }
}

fn present(text: &str) -> Option<Cow<'_, [u8]>> {
    (!text.is_empty()).then_some(Cow::Borrowed(text.as_bytes()))
}

/// A header's value in a map; several values are joined with a comma.
pub(crate) fn joined<'r>(headers: &'r http::HeaderMap, name: &HeaderName) -> Option<Cow<'r, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(Cow::Borrowed(first.as_bytes()));
    };
    let mut all = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(all))
}

/// One condition on a header.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    /// The header.
    pub key: HeaderKey,
    /// The condition.
    pub condition: HeaderMatch,
    /// The result is turned around (`invert_match`).
    pub invert: bool,
    /// A header that is absent counts as an empty one (`treat_missing_header_as_empty`).
    pub missing_as_empty: bool,
}

/// What a [`HeaderMatcher`] asks.
#[derive(Clone, Debug)]
pub enum HeaderMatch {
    /// It is there (`true`) or not (`false`).
    Present(bool),
    /// Its value matches.
    String(StringMatcher),
    /// Its value is an integer in `start..end`.
    Range {
        /// First number in the range.
        start: i64,
        /// First number after the range.
        end: i64,
    },
}

impl HeaderMatcher {
    /// The condition that a header is there.
    pub const fn present(name: HeaderName) -> Self {
        Self {
            key: HeaderKey::Name(name),
            condition: HeaderMatch::Present(true),
            invert: false,
            missing_as_empty: false,
        }
    }

    /// Whether a request satisfies the condition.
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        match &self.key {
            HeaderKey::Name(name) => self.matches_all(request.headers, name),
            key => self.matches_value(key.value(request).as_deref()),
        }
    }

    /// Whether a response satisfies the condition. A request's pseudo-headers count as absent.
    pub fn matches_response(&self, status: u16, headers: &http::HeaderMap) -> bool {
        match &self.key {
            HeaderKey::Name(name) => self.matches_all(headers, name),
            HeaderKey::Status => self.matches_value(Some(status.to_string().as_bytes())),
            _ => self.matches_value(None),
        }
    }

    /// A header that is there several times is looked at value by value: one that satisfies the condition is enough, and
    /// refutes an inverted one. Source: Envoy since 1.37 (`match_headers_individually`).
    fn matches_all(&self, headers: &http::HeaderMap, name: &HeaderName) -> bool {
        let mut values = headers.get_all(name).iter();
        let (Some(first), Some(second)) = (values.next(), values.next()) else {
            let only = headers.get(name).map(http::HeaderValue::as_bytes);
            return self.matches_value(only);
        };
        if let HeaderMatch::Present(wanted) = self.condition {
            return wanted != self.invert;
        }
        let any = [first, second]
            .into_iter()
            .chain(values)
            .any(|value| self.condition.holds(value.as_bytes()));
        any != self.invert
    }

    /// Source: Envoy's `HeaderDataBaseImpl::matchesHeaders`: an absent header never matches a value condition, inverted or
    /// not, unless it is to be treated as empty.
    fn matches_value(&self, value: Option<&[u8]>) -> bool {
        let value = match (value, self.missing_as_empty) {
            (None, true) => Some(b"".as_slice()),
            (value, _) => value,
        };
        if let HeaderMatch::Present(wanted) = self.condition {
            return (value.is_some() == wanted) != self.invert;
        }
        let Some(value) = value else { return false };
        self.condition.holds(value) != self.invert
    }
}

impl HeaderMatch {
    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Present(wanted) => *wanted,
            Self::String(matcher) => matcher.matches(value),
            Self::Range { start, end } => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .is_some_and(|number| (*start..*end).contains(&number)),
        }
    }
}

/// One condition on a query parameter.
#[derive(Clone, Debug)]
pub struct QueryMatcher {
    /// The parameter's name, case-sensitive.
    pub name: Box<str>,
    /// Its value; `None` asks only that it is there.
    pub value: Option<StringMatcher>,
    /// Asks that it is absent (`present_match: false`).
    pub absent: bool,
}

impl QueryMatcher {
    /// Whether a query string (without the question mark) satisfies the condition. The first occurrence counts.
    pub fn matches(&self, query: &str) -> bool {
        match (query_parameter(query, &self.name), &self.value) {
            (None, _) => self.absent,
            (Some(_), _) if self.absent => false,
            (Some(_), None) => true,
            (Some(value), Some(matcher)) => matcher.matches(value.as_bytes()),
        }
    }
}

/// The raw value of a query parameter's first occurrence; empty if it has none.
pub fn query_parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

impl HeaderMatcher {
    /// What it asks of the value, without the header's name: `= "GET"`, `to be there`.
    pub fn wanted(&self) -> String {
        let not = if self.invert { "not " } else { "" };
        match &self.condition {
            HeaderMatch::Present(true) => format!("{not}to be there"),
            HeaderMatch::Present(false) => format!("{not}to be absent"),
            HeaderMatch::String(matcher) => format!("{not}{matcher}"),
            HeaderMatch::Range { start, end } => format!("{not}in {start}..{end}"),
        }
    }
}

impl fmt::Display for HeaderMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.invert {
            f.write_str("not ")?;
        }
        match &self.condition {
            HeaderMatch::Present(true) => write!(f, "header {} to be there", self.key),
            HeaderMatch::Present(false) => write!(f, "header {} to be absent", self.key),
            HeaderMatch::String(matcher) => write!(f, "header {} {matcher}", self.key),
            HeaderMatch::Range { start, end } => write!(f, "header {} in {start}..{end}", self.key),
        }
    }
}

impl fmt::Display for QueryMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            _ if self.absent => write!(f, "query parameter {} to be absent", self.name),
            None => write!(f, "query parameter {} to be there", self.name),
            Some(matcher) => write!(f, "query parameter {} {matcher}", self.name),
        }
    }
}
