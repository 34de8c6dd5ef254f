//! Tests of the matchers: what Envoy's documentation says of each.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::testing::Request;
use crate::value::{Metadata, Value};

fn string(pattern: StringPattern, ignore_case: bool, text: &str) -> bool {
    StringMatcher::new(pattern, ignore_case).matches(text.as_bytes())
}

#[test]
fn string_matchers_compare_their_part_of_the_text() {
    let exact = || StringPattern::Exact("abc".into());
    assert!(string(exact(), false, "abc"));
    assert!(!string(exact(), false, "aBc"));
    assert!(string(exact(), true, "aBc"));
    assert!(!string(exact(), false, "abcd"));
    assert!(string(StringPattern::Prefix("ab".into()), false, "abc"));
    assert!(!string(StringPattern::Prefix("ab".into()), false, "a"));
    assert!(string(StringPattern::Suffix("BC".into()), true, "abc"));
    assert!(!string(StringPattern::Suffix("abcd".into()), false, "abc"));
    assert!(string(StringPattern::Contains("B".into()), true, "abc"));
    assert!(string(StringPattern::Contains("".into()), false, ""));
    assert!(!string(StringPattern::Contains("x".into()), false, ""));
}

#[test]
fn a_regular_expression_matches_the_whole_text() {
    let regex = FullRegex::new("a|ab").unwrap();
    assert!(regex.is_match(b"ab"));
    assert!(!regex.is_match(b"abc"));
    assert!(!regex.is_match(b"xa"));
    assert!(!FullRegex::new("a.c").unwrap().is_match(b"a\nc"));
}

#[test]
fn an_expression_cannot_escape_its_anchors() {
    assert!(FullRegex::new("a)|(?:b").is_err());
    assert!(FullRegex::new("(").is_err());
}

#[test]
fn an_expression_that_is_too_large_is_refused() {
    assert!(matches!(
        FullRegex::new(&"a".repeat(17 << 10)),
        Err(RegexError::TooLong { .. })
    ));
    assert!(matches!(
        FullRegex::new("(a{1000}){1000}"),
        Err(RegexError::Invalid { .. })
    ));
}

#[test]
fn substitutions_are_in_re2_form() {
    let rewrite = RegexRewrite::new("^/service/([^/]+)(/.*)$", r"\2/instance/\1").unwrap();
    assert_eq!(
        rewrite.replace("/service/foo/v1/api"),
        "/v1/api/instance/foo"
    );
    assert_eq!(
        RegexRewrite::new("one", "two")
            .unwrap()
            .replace("/xxx/one/yyy/one/zzz"),
        "/xxx/two/yyy/two/zzz"
    );
    assert_eq!(RegexRewrite::new("a", "$1").unwrap().replace("a"), "$1");
    assert_eq!(RegexRewrite::new("(a)", r"\1x").unwrap().replace("a"), "ax");
}

fn header(name: &str, condition: HeaderMatch) -> HeaderMatcher {
    HeaderMatcher {
        key: HeaderKey::parse(name).unwrap(),
        condition,
        invert: false,
        missing_as_empty: false,
    }
}

#[test]
fn header_conditions_follow_envoys_table_for_absent_headers() {
    let exact = || HeaderMatch::String(StringMatcher::exact("v"));
    // (condition, invert, missing as empty) -> (absent, "v", "w")
    let table = [
        (exact(), false, false, [false, true, false]),
        (exact(), true, false, [false, false, true]),
        (exact(), false, true, [false, true, false]),
        (exact(), true, true, [true, false, true]),
        (
            HeaderMatch::Present(true),
            false,
            false,
            [false, true, true],
        ),
        (
            HeaderMatch::Present(true),
            true,
            false,
            [true, false, false],
        ),
        (
            HeaderMatch::Present(false),
            false,
            false,
            [true, false, false],
        ),
        (
            HeaderMatch::Present(false),
            true,
            false,
            [false, true, true],
        ),
        (HeaderMatch::Present(true), false, true, [true, true, true]),
    ];
    for (condition, invert, missing_as_empty, expected) in table {
        let matcher = HeaderMatcher {
            invert,
            missing_as_empty,
            ..header("x", condition)
        };
        let values = [None, Some("v"), Some("w")];
        let found = values.map(|value| {
            let request =
                value.map_or_else(Request::get, |value| Request::get().header("x", value));
            request.with(|request| matcher.matches(request))
        });
        assert_eq!(found, expected, "{matcher:?}");
    }
}

#[test]
fn pseudo_headers_and_host_are_headers() {
    let request = Request::new("POST", "a.example:80", "/p?q=1");
    for (name, value) in [
        (":method", "POST"),
        (":authority", "a.example:80"),
        ("Host", "a.example:80"),
        (":path", "/p?q=1"),
        (":scheme", "http"),
    ] {
        let matcher = header(name, HeaderMatch::String(StringMatcher::exact(value)));
        assert!(request.with(|request| matcher.matches(request)), "{name}");
    }
}

#[test]
fn several_values_of_a_header_are_looked_at_one_by_one() {
    let request = Request::get().header("x", "a").header("x", "b");
    for (value, one_has_it) in [("a", true), ("b", true), ("a,b", false), ("c", false)] {
        let matcher = header("x", HeaderMatch::String(StringMatcher::exact(value)));
        assert_eq!(request.with(|request| matcher.matches(request)), one_has_it);
        let inverted = HeaderMatcher {
            invert: true,
            ..matcher
        };
        assert_eq!(
            request.with(|request| inverted.matches(request)),
            !one_has_it,
            "not {value}"
        );
    }
}

#[test]
fn range_matches_are_half_open_and_want_integers() {
    let matcher = header("x", HeaderMatch::Range { start: -10, end: 0 });
    for (value, expected) in [
        ("-1", true),
        ("-10", true),
        ("0", false),
        ("somestring", false),
        ("10.9", false),
        ("-1somestring", false),
    ] {
        assert_eq!(
            Request::get()
                .header("x", value)
                .with(|request| matcher.matches(request)),
            expected,
            "{value}"
        );
    }
}

#[test]
fn response_headers_match_too() {
    let mut headers = HeaderMap::new();
    headers.insert(
        HeaderName::from_static("x-retry"),
        HeaderValue::from_static("yes"),
    );
    assert!(header("x-retry", HeaderMatch::Present(true)).matches_response(200, &headers));
    let status = |text| header(":status", HeaderMatch::String(StringMatcher::exact(text)));
    assert!(status("503").matches_response(503, &headers));
    assert!(!status("503").matches_response(200, &headers));
    assert!(!header(":path", HeaderMatch::Present(true)).matches_response(200, &headers));
}

#[test]
fn query_conditions_look_at_the_first_occurrence() {
    let exact = |value: &str| QueryMatcher {
        name: "a".into(),
        value: Some(StringMatcher::exact(value)),
        absent: false,
    };
    assert!(exact("1").matches("b=2&a=1&a=3"));
    assert!(!exact("3").matches("a=1&a=3"));
    assert!(exact("").matches("a&b"));
    let present = QueryMatcher {
        name: "a".into(),
        value: None,
        absent: false,
    };
    assert!(present.matches("a="));
    assert!(!present.matches("aa=1"));
    let absent = QueryMatcher {
        absent: true,
        ..present
    };
    assert!(absent.matches("b=1"));
    assert!(!absent.matches("a"));
}

#[test]
fn metadata_conditions_walk_structs_and_lists() {
    let claims = Value::Struct(
        [(
            "groups".into(),
            Value::List(vec![
                Value::String("dev".into()),
                Value::String("ops".into()),
            ]),
        )]
        .into(),
    );
    let mut metadata = Metadata::default();
    metadata.set(
        "envoy.filters.http.jwt_authn",
        Value::Struct([("payload".into(), claims)].into()),
    );
    let matcher = |path: &[&str], value| MetadataMatcher {
        namespace: "envoy.filters.http.jwt_authn".into(),
        path: path.iter().map(|key| (*key).into()).collect(),
        value,
        invert: false,
    };
    let any_of = |text: &str| {
        ValueMatcher::AnyOf(Box::new(ValueMatcher::String(StringMatcher::exact(text))))
    };
    assert!(matcher(&["payload", "groups"], any_of("ops")).matches(&metadata));
    assert!(!matcher(&["payload", "groups"], any_of("admin")).matches(&metadata));
    assert!(!matcher(&["payload", "iss"], ValueMatcher::Present(true)).matches(&metadata));
    assert!(matcher(&["payload", "iss"], ValueMatcher::Present(false)).matches(&metadata));
    let inverted = MetadataMatcher {
        invert: true,
        ..matcher(&["payload", "groups"], any_of("admin"))
    };
    assert!(inverted.matches(&metadata));
}

#[test]
fn a_fraction_hits_by_remainder() {
    let fraction = Fraction {
        numerator: 30,
        denominator: 100,
    };
    assert!(fraction.hit(29) && fraction.hit(129));
    assert!(!fraction.hit(30) && !fraction.hit(99));
    assert!(Fraction::ALL.hit(u64::MAX) && !Fraction::NONE.hit(0));
    assert!(
        !Fraction {
            numerator: 0,
            denominator: 0
        }
        .hit(7),
        "a zero denominator divides nothing"
    );
}

#[test]
fn bytes_that_are_no_text_match_what_takes_any_character_and_nothing_else() {
    let matches =
        |expression: &str, text: &[u8]| FullRegex::new(expression).unwrap().is_match(text);
    assert!(matches("guest.*", b"guest\xff"));
    assert!(matches("[^a]+", b"\xff\xfe"));
    assert!(!matches("guest", b"guest\xff"));
    assert!(!matches("[a-z]+", b"guest\xff"));
    assert!(!matches("admin", b"admin\xc3"));
}
