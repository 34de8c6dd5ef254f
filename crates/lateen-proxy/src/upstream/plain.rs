//! A request's head in the parts it is written from: what came, and what is said beside it.
//!
//! Most of a head goes on as it came. Written from these parts it is neither copied nor put together anew first.

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::codec::spelling::Spelling;
use crate::http::body::RequestBody;
use crate::http::headers::is_envoys;

/// Fields that a proxy says itself, at most.
const MOST_SAID: usize = 6;

static HOST: HeaderName = header::HOST;

/// A head in origin form.
#[derive(Debug)]
pub(crate) struct Plain<'a> {
    /// The method.
    pub(crate) method: &'a Method,
    /// `http` or `https`, for HTTP/2.
    pub(crate) scheme: &'static str,
    /// Path and query.
    pub(crate) target: PathAndQuery,
    /// The host.
    pub(crate) host: HeaderValue,
    /// The fields that came, without the host.
    pub(crate) headers: &'a HeaderMap,
    /// Which of them are left out, of Envoy's own.
    pub(crate) leaves_out: Option<fn(&HeaderName) -> bool>,
    /// What is said in place of fields that came, or beside them.
    pub(crate) said: Said,
    /// How names were spelt, if that is known.
    pub(crate) spelling: Option<&'a Spelling>,
}

/// Fields that a proxy says itself.
#[derive(Debug)]
pub(crate) struct Said {
    fields: [Option<(&'static HeaderName, HeaderValue)>; MOST_SAID],
    count: usize,
}

impl Default for Said {
    fn default() -> Self {
        Self {
            fields: [const { None }; MOST_SAID],
            count: 0,
        }
    }
}

impl Said {
    /// Says a field, once for each name; one of Envoy's own, as the others are not looked for among what came.
    pub(crate) fn say(&mut self, name: &'static HeaderName, value: HeaderValue) {
        debug_assert!(is_envoys(name), "{name} may have come, too");
        if let Some(place) = self.fields.get_mut(self.count) {
            *place = Some((name, value));
            self.count += 1;
        } else {
            debug_assert!(false, "there is room for every field that is said");
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let said = self.fields[..self.count].iter().flatten();
        said.map(|(name, value)| (*name, value))
    }

    fn has(&self, name: &HeaderName) -> bool {
        self.iter().any(|(said, _)| said == name)
    }
}

impl Plain<'_> {
    /// The fields as they are sent, the host first.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let came = self.headers.iter().filter(|(name, _)| {
            !is_envoys(name)
                || !(self.leaves_out.is_some_and(|leaves_out| leaves_out(name))
                    || self.said.has(name))
        });
        std::iter::once((&HOST, &self.host))
            .chain(came)
            .chain(self.said.iter())
    }

    /// About how many bytes it takes.
    pub(crate) fn room(&self) -> usize {
        const FIELD: usize = 48;
        let said: usize = self.said.iter().map(|(_, value)| value.len()).sum();
        let fields = self.headers.len() + self.said.count;
        self.target.as_str().len() + self.host.len() + said + fields * FIELD + 96
    }

    /// Whether a request without a body says so: where one would be expected (RFC 9112 section 6.3, as Envoy's codec does).
    pub(crate) fn says_no_body(&self, body: &RequestBody) -> bool {
        let never_has_one = matches!(
            *self.method,
            Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT
        );
        matches!(body, RequestBody::Empty) && !never_has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_takes_the_place_of_what_came() {
        static A: HeaderName = HeaderName::from_static("x-envoy-a");
        static C: HeaderName = HeaderName::from_static("x-envoy-c");
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-envoy-a", "1"),
            ("b", "2"),
            ("x-envoy-a", "3"),
            ("x-envoy-wish", "4"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let mut said = Said::default();
        said.say(&A, HeaderValue::from_static("5"));
        said.say(&C, HeaderValue::from_static("6"));
        let plain = Plain {
            method: &Method::GET,
            scheme: "http",
            target: PathAndQuery::from_static("/"),
            host: HeaderValue::from_static("h"),
            headers: &headers,
            leaves_out: Some(|name| name == "x-envoy-wish"),
            said,
            spelling: None,
        };
        let fields: Vec<_> = plain
            .fields()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        let expected = [
            ("host", "h"),
            ("b", "2"),
            ("x-envoy-a", "5"),
            ("x-envoy-c", "6"),
        ];
        assert_eq!(fields, expected);
    }
}
