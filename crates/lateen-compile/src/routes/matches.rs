//! What a virtual service asks of a request, in Envoy's words.

use std::collections::BTreeMap;

use lateen_api::networking::{HttpMatchRequest, StringMatch};

use crate::authentication::{JWT_FILTER, JWT_PAYLOAD};
use crate::proto::{bool_value, exact, matcher, prefix, re2, route, safe_regex};
use crate::snapshot::Semantics;

use route::header_matcher::HeaderMatchSpecifier;
use route::query_parameter_matcher::QueryParameterMatchSpecifier;
use route::route_match::PathSpecifier;

/// Istio's prefix of claims in matches.
const CLAIM_PREFIX: &str = "@request.auth.claims";

/// The match of a route; everything if there is none.
pub(super) fn route_match(
    written: Option<&HttpMatchRequest>,
    semantics: Semantics,
) -> route::RouteMatch {
    let mut out = route::RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    };
    let Some(written) = written else { return out };
    add_headers(&mut out, &written.headers, false);
    add_headers(&mut out, &written.without_headers, true);
    out.headers.sort_by(|a, b| a.name.cmp(&b.name));
    for (name, value) in [
        (":method", &written.method),
        (":authority", &written.authority),
        (":scheme", &written.scheme),
    ] {
        out.headers
            .extend(value.as_ref().map(|value| header(name, value)));
    }
    if let Some(path) = written.uri.as_ref().and_then(|uri| path(uri, semantics)) {
        out.path_specifier = Some(path);
    }
    out.case_sensitive = bool_value(!written.ignore_uri_case);
    out.query_parameters = written
        .query_params
        .iter()
        .map(|(name, value)| query_parameter(name, value))
        .collect();
    out
}

fn path(uri: &StringMatch, semantics: Semantics) -> Option<PathSpecifier> {
    match uri {
        StringMatch::Present => None,
        StringMatch::Exact(path) => Some(PathSpecifier::Path(path.clone())),
        StringMatch::Prefix(prefix) if semantics.splits_at_slashes() && prefix != "/" => {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            Some(PathSpecifier::PathSeparatedPrefix(prefix.to_owned()))
        }
        StringMatch::Prefix(prefix) => Some(PathSpecifier::Prefix(prefix.clone())),
        StringMatch::Regex(regex) => Some(PathSpecifier::SafeRegex(re2(regex))),
    }
}

fn add_headers(
    out: &mut route::RouteMatch,
    headers: &BTreeMap<String, StringMatch>,
    inverted: bool,
) {
    for (name, value) in headers {
        if let Some(claims) = claims(name) {
            let mut matcher = claim_matcher(&claims, value);
            matcher.invert = inverted;
            out.dynamic_metadata.push(matcher);
            continue;
        }
        let mut matcher = header(name, value);
        if inverted {
            matcher.invert_match = true;
            // A header that is not there does not hold the value either.
            matcher.treat_missing_header_as_empty = !asks_presence(value);
        }
        out.headers.push(matcher);
    }
}

/// Presence alone: `{}`, or the regex `*` that Istio reads so.
fn asks_presence(value: &StringMatch) -> bool {
    match value {
        StringMatch::Present => true,
        StringMatch::Regex(regex) => regex == "*",
        StringMatch::Exact(_) | StringMatch::Prefix(_) => false,
    }
}

/// A string matcher; none for presence.
pub(crate) fn string_matcher(value: &StringMatch) -> Option<matcher::StringMatcher> {
    match value {
        StringMatch::Present => None,
        StringMatch::Exact(text) => Some(exact(text)),
        StringMatch::Prefix(text) => Some(prefix(text)),
        StringMatch::Regex(text) => Some(safe_regex(text)),
    }
}

fn header(name: &str, value: &StringMatch) -> route::HeaderMatcher {
    let specifier = match string_matcher(value) {
        Some(matcher) if !asks_presence(value) => HeaderMatchSpecifier::StringMatch(matcher),
        _ => HeaderMatchSpecifier::PresentMatch(true),
    };
    route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

fn query_parameter(name: &str, value: &StringMatch) -> route::QueryParameterMatcher {
    let specifier = match string_matcher(value) {
        Some(matcher) if !asks_presence(value) => {
            QueryParameterMatchSpecifier::StringMatch(matcher)
        }
        _ => QueryParameterMatchSpecifier::PresentMatch(true),
    };
    route::QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(specifier),
    }
}

/// The path of a claim in `@request.auth.claims.a.b` or `@request.auth.claims[a][b]`; none for an ordinary header.
fn claims(name: &str) -> Option<Vec<String>> {
    let rest = name
        .get(..CLAIM_PREFIX.len())
        .filter(|start| start.eq_ignore_ascii_case(CLAIM_PREFIX))
        .map(|_| &name[CLAIM_PREFIX.len()..])?;
    let parts: Vec<String> = if rest.starts_with('[') {
        rest.split(['[', ']'])
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    } else {
        rest.strip_prefix('.')?
            .split('.')
            .map(str::to_owned)
            .collect()
    };
    (!parts.is_empty()).then_some(parts)
}

/// Matches a claim that is the value, or a list that holds it.
fn claim_matcher(claims: &[String], value: &StringMatch) -> matcher::MetadataMatcher {
    use matcher::metadata_matcher::{PathSegment, path_segment::Segment};
    use matcher::value_matcher::MatchPattern;
    let segment = |key: &str| PathSegment {
        segment: Some(Segment::Key(key.to_owned())),
    };
    let text = match string_matcher(value) {
        Some(matcher) => MatchPattern::StringMatch(matcher),
        None => MatchPattern::PresentMatch(true),
    };
    let single = matcher::ValueMatcher {
        match_pattern: Some(text),
    };
    let in_list = matcher::ValueMatcher {
        match_pattern: Some(MatchPattern::ListMatch(Box::new(matcher::ListMatcher {
            match_pattern: Some(matcher::list_matcher::MatchPattern::OneOf(Box::new(
                single.clone(),
            ))),
        }))),
    };
    let either = matcher::OrMatcher {
        value_matchers: vec![single, in_list],
    };
    matcher::MetadataMatcher {
        filter: JWT_FILTER.to_owned(),
        path: std::iter::once(JWT_PAYLOAD)
            .chain(claims.iter().map(String::as_str))
            .map(segment)
            .collect(),
        value: Some(matcher::ValueMatcher {
            match_pattern: Some(MatchPattern::OrMatch(either)),
        }),
        invert: false,
    }
}

/// Whether a route takes every request, so that none after it is ever reached.
pub(super) fn is_catch_all(route: &route::Route) -> bool {
    let Some(m) = &route.r#match else {
        return false;
    };
    let any_path = match &m.path_specifier {
        Some(PathSpecifier::Prefix(prefix) | PathSpecifier::PathSeparatedPrefix(prefix)) => {
            prefix == "/"
        }
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex == ".*",
        _ => false,
    };
    any_path
        && m.headers.is_empty()
        && m.query_parameters.is_empty()
        && m.dynamic_metadata.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_read_in_both_notations() {
        assert_eq!(
            claims("@request.auth.claims.a.b"),
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(
            claims("@request.auth.claims[https://x.y/z][b]"),
            Some(vec!["https://x.y/z".to_owned(), "b".to_owned()])
        );
        assert_eq!(claims("x-user"), None);
    }

    #[test]
    fn a_missing_header_satisfies_an_inverted_match() {
        let written = HttpMatchRequest {
            without_headers: BTreeMap::from([
                ("x".to_owned(), StringMatch::Exact("1".to_owned())),
                ("y".to_owned(), StringMatch::Present),
            ]),
            ..Default::default()
        };
        let built = route_match(Some(&written), Semantics::Istio);
        assert!(built.headers[0].invert_match && built.headers[0].treat_missing_header_as_empty);
        assert!(built.headers[1].invert_match && !built.headers[1].treat_missing_header_as_empty);
    }
}
