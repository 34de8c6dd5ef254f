//! Matchers: strings, headers, query parameters, values.

use lateen_envoy::pb::envoy::config::route::v3 as rds;
use lateen_envoy::pb::envoy::r#type::matcher::v3 as matcher;

use super::XdsError;
use super::error::Within as _;
use crate::matcher::{
    DoubleMatch, FullRegex, HeaderKey, HeaderMatch, HeaderMatcher, MetadataMatcher, QueryMatcher,
    RegexRewrite, StringMatcher, StringPattern, ValueMatcher,
};

/// Values nested in one matcher, at most.
const MAX_DEPTH: usize = 32;

/// A regular expression over a whole text.
pub(super) fn regex(regex: &matcher::RegexMatcher) -> Result<FullRegex, XdsError> {
    FullRegex::new(&regex.regex).map_err(|error| XdsError::from_error(&error).within("regex"))
}

/// A regular expression with its substitution.
pub(super) fn rewrite(
    rewrite: &matcher::RegexMatchAndSubstitute,
) -> Result<RegexRewrite, XdsError> {
    let pattern = rewrite
        .pattern
        .as_ref()
        .map(|pattern| pattern.regex.as_str())
        .unwrap_or_default();
    if pattern.is_empty() {
        return Err(XdsError::new("the pattern is missing").within("pattern"));
    }
    RegexRewrite::new(pattern, &rewrite.substitution)
        .map_err(|error| XdsError::from_error(&error).within("pattern"))
}

/// A string matcher.
pub(super) fn string(from: &matcher::StringMatcher) -> Result<StringMatcher, XdsError> {
    use matcher::string_matcher::MatchPattern;
    let pattern = match from.match_pattern.as_ref() {
        Some(MatchPattern::Exact(text)) => StringPattern::Exact(text.as_str().into()),
        Some(MatchPattern::Prefix(text)) => StringPattern::Prefix(text.as_str().into()),
        Some(MatchPattern::Suffix(text)) => StringPattern::Suffix(text.as_str().into()),
        Some(MatchPattern::Contains(text)) => StringPattern::Contains(text.as_str().into()),
        Some(MatchPattern::SafeRegex(expression)) => {
            StringPattern::Regex(regex(expression).within("safe_regex")?)
        }
        Some(MatchPattern::Custom(custom)) => {
            return Err(XdsError::new(format!(
                "the string matcher {:?} is not supported",
                custom.name
            ))
            .within("custom"));
        }
        None => return Err(XdsError::new("the string matcher says nothing to match")),
    };
    Ok(StringMatcher::new(pattern, from.ignore_case))
}

/// A string matcher that must be there.
pub(super) fn required_string(
    from: Option<&matcher::StringMatcher>,
) -> Result<StringMatcher, XdsError> {
    string(from.ok_or_else(|| XdsError::new("the string matcher is missing"))?)
}

/// A header matcher.
pub(super) fn header(from: &rds::HeaderMatcher) -> Result<HeaderMatcher, XdsError> {
    use rds::header_matcher::HeaderMatchSpecifier as Specifier;
    let key = HeaderKey::parse(&from.name).ok_or_else(|| {
        XdsError::new(format!("{:?} is no header name", from.name)).within("name")
    })?;
    let plain = |pattern| HeaderMatch::String(StringMatcher::new(pattern, false));
    #[expect(
        deprecated,
        reason = "older control planes and EnvoyFilters still use these fields"
    )]
    let condition = match from.header_match_specifier.as_ref() {
        None => HeaderMatch::Present(true),
        Some(Specifier::PresentMatch(present)) => HeaderMatch::Present(*present),
        Some(Specifier::StringMatch(text)) => {
            HeaderMatch::String(string(text).within("string_match")?)
        }
        Some(Specifier::RangeMatch(range)) => HeaderMatch::Range {
            start: range.start,
            end: range.end,
        },
        // Envoy takes an empty `exact_match` for any value.
        Some(Specifier::ExactMatch(text)) if text.is_empty() => HeaderMatch::Present(true),
        Some(Specifier::ExactMatch(text)) => plain(StringPattern::Exact(text.as_str().into())),
        Some(Specifier::PrefixMatch(text)) => plain(StringPattern::Prefix(text.as_str().into())),
        Some(Specifier::SuffixMatch(text)) => plain(StringPattern::Suffix(text.as_str().into())),
        Some(Specifier::ContainsMatch(text)) => {
            plain(StringPattern::Contains(text.as_str().into()))
        }
        Some(Specifier::SafeRegexMatch(expression)) => plain(StringPattern::Regex(
            regex(expression).within("safe_regex_match")?,
        )),
    };
    Ok(HeaderMatcher {
        key,
        condition,
        invert: from.invert_match,
        missing_as_empty: from.treat_missing_header_as_empty,
    })
}

/// Header matchers of a field.
pub(super) fn headers(
    from: &[rds::HeaderMatcher],
    field: &str,
) -> Result<Vec<HeaderMatcher>, XdsError> {
    from.iter()
        .enumerate()
        .map(|(index, matcher)| header(matcher).at(field, index))
        .collect()
}

/// A query parameter matcher.
pub(super) fn query(from: &rds::QueryParameterMatcher) -> Result<QueryMatcher, XdsError> {
    use rds::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    let (value, absent) = match from.query_parameter_match_specifier.as_ref() {
        None => (None, false),
        Some(Specifier::PresentMatch(present)) => (None, !present),
        Some(Specifier::StringMatch(text)) => (Some(string(text).within("string_match")?), false),
    };
    Ok(QueryMatcher {
        name: from.name.as_str().into(),
        value,
        absent,
    })
}

/// A metadata matcher.
pub(super) fn metadata(from: &matcher::MetadataMatcher) -> Result<MetadataMatcher, XdsError> {
    use matcher::metadata_matcher::path_segment::Segment;
    let segments = from
        .path
        .iter()
        .map(|segment| match segment.segment.as_ref() {
            Some(Segment::Key(key)) => Ok(key.as_str().into()),
            None => Err(XdsError::new("a path segment is empty").within("path")),
        });
    let value = from
        .value
        .as_ref()
        .ok_or_else(|| XdsError::new("the value matcher is missing").within("value"))?;
    Ok(MetadataMatcher {
        namespace: from.filter.as_str().into(),
        path: segments.collect::<Result<_, _>>()?,
        value: value_matcher(value, MAX_DEPTH).within("value")?,
        invert: from.invert,
    })
}

fn value_matcher(from: &matcher::ValueMatcher, depth: usize) -> Result<ValueMatcher, XdsError> {
    use matcher::value_matcher::MatchPattern;
    if depth == 0 {
        return Err(XdsError::new("the value matcher is nested too deeply"));
    }
    let missing = || XdsError::new("the value matcher says nothing to match");
    Ok(match from.match_pattern.as_ref().ok_or_else(missing)? {
        MatchPattern::NullMatch(_) => ValueMatcher::Null,
        MatchPattern::DoubleMatch(double) => ValueMatcher::Double(double_match(double)?),
        MatchPattern::StringMatch(text) => {
            ValueMatcher::String(string(text).within("string_match")?)
        }
        MatchPattern::BoolMatch(wanted) => ValueMatcher::Bool(*wanted),
        MatchPattern::PresentMatch(wanted) => ValueMatcher::Present(*wanted),
        MatchPattern::ListMatch(list) => {
            let Some(matcher::list_matcher::MatchPattern::OneOf(inner)) =
                list.match_pattern.as_ref()
            else {
                return Err(missing());
            };
            ValueMatcher::AnyOf(Box::new(
                value_matcher(inner, depth - 1).within("list_match.one_of")?,
            ))
        }
        MatchPattern::OrMatch(or) => {
            let any = or.value_matchers.iter().enumerate();
            let any = any.map(|(index, inner)| {
                value_matcher(inner, depth - 1).at("or_match.value_matchers", index)
            });
            ValueMatcher::Or(any.collect::<Result<_, _>>()?)
        }
    })
}

fn double_match(from: &matcher::DoubleMatcher) -> Result<DoubleMatch, XdsError> {
    use matcher::double_matcher::MatchPattern;
    match from.match_pattern.as_ref() {
        Some(MatchPattern::Exact(number)) => Ok(DoubleMatch::Exact(*number)),
        Some(MatchPattern::Range(range)) => Ok(DoubleMatch::Range {
            start: range.start,
            end: range.end,
        }),
        None => {
            Err(XdsError::new("the number matcher says nothing to match").within("double_match"))
        }
    }
}
