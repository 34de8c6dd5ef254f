//! CORS policies: which origins a browser may call from (`envoy.filters.http.cors`).

use http::{HeaderMap, HeaderValue, header};

use crate::matcher::{Fraction, StringMatcher};
use crate::request::RequestView;

/// A route's or virtual host's CORS policy.
#[derive(Clone, Debug, Default)]
pub struct CorsPolicy {
    /// The allowed origins.
    pub allow_origins: Vec<StringMatcher>,
    /// `access-control-allow-methods`.
    pub allow_methods: Option<HeaderValue>,
    /// `access-control-allow-headers`.
    pub allow_headers: Option<HeaderValue>,
    /// `access-control-expose-headers`.
    pub expose_headers: Option<HeaderValue>,
    /// `access-control-max-age`, seconds.
    pub max_age: Option<HeaderValue>,
    /// `access-control-allow-credentials: true`.
    pub allow_credentials: bool,
    /// `access-control-allow-private-network` is answered.
    pub allow_private_network: bool,
    /// For which share of requests the policy holds; `None` is all.
    pub enabled: Option<Fraction>,
    /// For which share origins are only counted.
    pub shadow_enabled: Option<Fraction>,
    /// A preflight request from an origin that is not allowed goes upstream (true, Envoy's default) or is answered.
    pub forward_not_matching_preflights: bool,
}

/// What to do about one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsDecision {
    /// Nothing: no origin, an origin that is not allowed, or the policy is off.
    Pass,
    /// Answer the preflight with 200 and these headers.
    Preflight(HeaderMap),
    /// Go on, and add these headers to the response.
    Annotate(HeaderMap),
}

impl CorsPolicy {
    /// Decides what to do about a request.
    pub fn decide(&self, request: &RequestView<'_>, random: u64) -> CorsDecision {
        let Some(origin) = request.headers.get(header::ORIGIN) else {
            return CorsDecision::Pass;
        };
        if !self.enabled.is_none_or(|share| share.hit(random)) {
            return CorsDecision::Pass;
        }
        let preflight = request.method == "OPTIONS"
            && request
                .headers
                .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let allowed = self
            .allow_origins
            .iter()
            .any(|matcher| matcher.matches(origin.as_bytes()));
        match (preflight, allowed) {
            (true, true) => CorsDecision::Preflight(self.preflight(request, origin)),
            (true, false) if !self.forward_not_matching_preflights => {
                let mut out = HeaderMap::new();
                self.allowances(&mut out);
                CorsDecision::Preflight(out)
            }
            (_, false) => CorsDecision::Pass,
            (false, true) => CorsDecision::Annotate(self.annotations(origin)),
        }
    }

    fn preflight(&self, request: &RequestView<'_>, origin: &HeaderValue) -> HeaderMap {
        let mut out = self.annotations(origin);
        self.allowances(&mut out);
        let asks = request
            .headers
            .get("access-control-request-private-network");
        if self.allow_private_network && asks.is_some_and(|value| value == "true") {
            out.insert(
                "access-control-allow-private-network",
                HeaderValue::from_static("true"),
            );
        }
        out
    }

    /// What is allowed, whoever asks.
    fn allowances(&self, out: &mut HeaderMap) {
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, &self.allow_methods),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, &self.allow_headers),
            (header::ACCESS_CONTROL_MAX_AGE, &self.max_age),
        ] {
            set(out, name, value.as_ref());
        }
        if self.allow_credentials {
            out.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
    }

    fn annotations(&self, origin: &HeaderValue) -> HeaderMap {
        let mut out = self.common(origin);
        set(
            &mut out,
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            self.expose_headers.as_ref(),
        );
        out
    }

    fn common(&self, origin: &HeaderValue) -> HeaderMap {
        let mut out = HeaderMap::new();
        out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.allow_credentials {
            out.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        out
    }
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: Option<&HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Request;

    fn policy() -> CorsPolicy {
        CorsPolicy {
            allow_origins: vec![StringMatcher::exact("https://a.example")],
            allow_methods: Some(HeaderValue::from_static("GET,POST")),
            expose_headers: Some(HeaderValue::from_static("x-id")),
            max_age: Some(HeaderValue::from_static("60")),
            allow_credentials: true,
            forward_not_matching_preflights: true,
            ..CorsPolicy::default()
        }
    }

    fn decide(policy: &CorsPolicy, request: &Request) -> CorsDecision {
        request.with(|request| policy.decide(request, 0))
    }

    #[test]
    fn a_request_of_an_allowed_origin_is_annotated() {
        let CorsDecision::Annotate(headers) = decide(
            &policy(),
            &Request::get().header("origin", "https://a.example"),
        ) else {
            panic!("not annotated")
        };
        assert_eq!(headers["access-control-allow-origin"], "https://a.example");
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert_eq!(headers["access-control-expose-headers"], "x-id");
        assert!(!headers.contains_key("access-control-max-age"));
    }

    #[test]
    fn a_preflight_of_an_allowed_origin_is_answered() {
        let preflight = |origin| {
            Request::new("OPTIONS", "a", "/")
                .header("origin", origin)
                .header("access-control-request-method", "POST")
        };
        let CorsDecision::Preflight(headers) = decide(&policy(), &preflight("https://a.example"))
        else {
            panic!("not answered")
        };
        assert_eq!(headers["access-control-allow-methods"], "GET,POST");
        assert_eq!(headers["access-control-max-age"], "60");
        assert_eq!(
            decide(&policy(), &preflight("https://b.example")),
            CorsDecision::Pass
        );
        let strict = CorsPolicy {
            forward_not_matching_preflights: false,
            ..policy()
        };
        let CorsDecision::Preflight(headers) = decide(&strict, &preflight("https://b.example"))
        else {
            panic!("not answered")
        };
        assert!(!headers.contains_key("access-control-allow-origin"));
        assert_eq!(headers["access-control-allow-methods"], "GET,POST");
    }

    #[test]
    fn nothing_happens_without_an_origin_or_while_the_policy_is_off() {
        assert_eq!(decide(&policy(), &Request::get()), CorsDecision::Pass);
        let off = CorsPolicy {
            enabled: Some(Fraction::NONE),
            ..policy()
        };
        assert_eq!(
            decide(&off, &Request::get().header("origin", "https://a.example")),
            CorsDecision::Pass
        );
    }
}
