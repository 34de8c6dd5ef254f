//! The small matchers that rules are made of: text with wildcards, addresses, metadata.

use crate::authentication::{JWT_FILTER, JWT_PAYLOAD};
use crate::proto::{core, exact, matcher, prefix, route, safe_regex};

use matcher::string_matcher::MatchPattern;

/// `*`, `*suffix`, `prefix*` or the whole text, after a fixed beginning.
pub(super) fn text(value: &str, before: &str) -> matcher::StringMatcher {
    if value == "*" {
        return safe_regex(".+");
    }
    if let Some(end) = value.strip_prefix('*') {
        if before.is_empty() {
            return suffix(end);
        }
        return safe_regex(&format!("{before}.*{}", quote(end)));
    }
    match value.strip_suffix('*') {
        Some(start) => prefix(&format!("{before}{start}")),
        None => exact(&format!("{before}{value}")),
    }
}

pub(super) fn suffix(end: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(MatchPattern::Suffix(end.to_owned())),
        ..Default::default()
    }
}

/// Text as a regular expression that matches it alone.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A header by value; `*` asks for presence.
pub(super) fn header(name: &str, value: &str, ignore_case: bool) -> route::HeaderMatcher {
    use route::header_matcher::HeaderMatchSpecifier;
    let specifier = if value == "*" {
        HeaderMatchSpecifier::PresentMatch(true)
    } else {
        HeaderMatchSpecifier::StringMatch(matcher::StringMatcher {
            ignore_case,
            ..text(value, "")
        })
    };
    route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

/// An address or a range.
pub(super) fn range(text: &str) -> Option<core::CidrRange> {
    crate::listeners::cidr(text)
}

/// A claim of a verified token that is one of the values, or a list that holds one.
pub(super) fn claim(path: &[&str], values: &[String]) -> matcher::MetadataMatcher {
    let values: Vec<_> = values
        .iter()
        .map(|value| string_value(text(value, "")))
        .collect();
    claim_value(path, either(values))
}

/// A claim of a verified token that matches.
pub(super) fn claim_text(claim: &str, value: matcher::StringMatcher) -> matcher::MetadataMatcher {
    metadata(JWT_FILTER, &[JWT_PAYLOAD, claim], string_value(value))
}

fn claim_value(path: &[&str], value: matcher::ValueMatcher) -> matcher::MetadataMatcher {
    let mut keys = vec![JWT_PAYLOAD];
    keys.extend(path);
    metadata(
        JWT_FILTER,
        &keys,
        either(vec![in_list(value.clone()), value]),
    )
}

/// A value a filter left in metadata: `experimental.envoy.filters.name[key]`. A value in brackets is looked for in a list.
pub(super) fn filter_value(filter: &str, key: &str, values: &[String]) -> matcher::MetadataMatcher {
    let values = values
        .iter()
        .map(|value| {
            match value
                .strip_prefix('[')
                .and_then(|value| value.strip_suffix(']'))
            {
                Some(inner) => in_list(string_value(text(inner, ""))),
                None => string_value(text(value, "")),
            }
        })
        .collect();
    metadata(filter, &[key], either(values))
}

fn metadata(filter: &str, path: &[&str], value: matcher::ValueMatcher) -> matcher::MetadataMatcher {
    use matcher::metadata_matcher::{PathSegment, path_segment::Segment};
    matcher::MetadataMatcher {
        filter: filter.to_owned(),
        path: path
            .iter()
            .map(|&key| PathSegment {
                segment: Some(Segment::Key(key.to_owned())),
            })
            .collect(),
        value: Some(value),
        invert: false,
    }
}

fn string_value(value: matcher::StringMatcher) -> matcher::ValueMatcher {
    matcher::ValueMatcher {
        match_pattern: Some(matcher::value_matcher::MatchPattern::StringMatch(value)),
    }
}

fn in_list(value: matcher::ValueMatcher) -> matcher::ValueMatcher {
    let list = matcher::ListMatcher {
        match_pattern: Some(matcher::list_matcher::MatchPattern::OneOf(Box::new(value))),
    };
    matcher::ValueMatcher {
        match_pattern: Some(matcher::value_matcher::MatchPattern::ListMatch(Box::new(
            list,
        ))),
    }
}

fn either(mut values: Vec<matcher::ValueMatcher>) -> matcher::ValueMatcher {
    if values.len() == 1 {
        return values.remove(0);
    }
    matcher::ValueMatcher {
        match_pattern: Some(matcher::value_matcher::MatchPattern::OrMatch(
            matcher::OrMatcher {
                value_matchers: values,
            },
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_at_one_end() {
        assert_eq!(text("*", "spiffe://"), safe_regex(".+"));
        assert_eq!(text("td/*", "spiffe://"), prefix("spiffe://td/"));
        assert_eq!(
            text("*/sa/a.b", "spiffe://"),
            safe_regex(r"spiffe://.*/sa/a\.b")
        );
        assert_eq!(text("*.com", ""), suffix(".com"));
        assert_eq!(text("x", ""), exact("x"));
    }
}
