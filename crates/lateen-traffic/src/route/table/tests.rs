//! Tests of route lookup: the order of routes is kept, and the index agrees with a linear scan.

use proptest::prelude::*;

use super::*;
use crate::headers::HeaderMutations;
use crate::matcher::{Fraction, FullRegex, HeaderKey, HeaderMatch, HeaderMatcher, StringMatcher};
use crate::provenance::Provenance;
use crate::route::{RouteAction, RouteMatch, UriTemplate};
use crate::testing::Request;
use crate::value::Metadata;

fn route(path: PathMatch, header: Option<&str>, fraction: Option<Fraction>) -> Arc<Route> {
    let headers = header.map(|value| HeaderMatcher {
        key: HeaderKey::parse("x").unwrap(),
        condition: HeaderMatch::String(StringMatcher::exact(value)),
        invert: false,
        missing_as_empty: false,
    });
    Arc::new(Route {
        name: "".into(),
        matcher: RouteMatch {
            path,
            headers: headers.into_iter().collect(),
            query: vec![],
            grpc: false,
            tls: None,
            dynamic_metadata: vec![],
            fraction,
        },
        action: RouteAction::NonForwarding,
        decorator: None,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        per_filter: Default::default(),
        stat_prefix: None,
        rate_limits: Vec::new(),
        retry_buffer_limit: None,
        metadata: Metadata::default(),
        provenance: Provenance::default(),
    })
}

fn exact(path: &str) -> PathMatch {
    PathMatch::Exact {
        path: path.into(),
        ignore_case: false,
    }
}

fn prefix(prefix: &str) -> PathMatch {
    PathMatch::Prefix {
        prefix: prefix.into(),
        ignore_case: false,
    }
}

fn segments(prefix: &str) -> PathMatch {
    PathMatch::SegmentPrefix {
        prefix: prefix.into(),
        ignore_case: false,
    }
}

fn regex(expression: &str) -> PathMatch {
    PathMatch::Regex(FullRegex::new(expression).unwrap())
}

fn plain(paths: Vec<PathMatch>) -> Vec<Arc<Route>> {
    paths
        .into_iter()
        .map(|path| route(path, None, None))
        .collect()
}

fn find(routes: &[Arc<Route>], request: &Request, random: u64) -> Option<usize> {
    let table = RouteTable::new(routes);
    let found = request.with(|request| table.find(routes, request, random));
    let scanned = request.with(|request| {
        routes
            .iter()
            .position(|route| route.matcher.matches(request, random))
    });
    assert_eq!(found, scanned, "the index and a linear scan disagree");
    found
}

#[test]
fn the_first_route_that_matches_is_taken_however_specific_others_are() {
    let routes = plain(vec![
        prefix("/a"),
        exact("/a/b"),
        prefix("/a/b"),
        prefix("/"),
    ]);
    assert_eq!(find(&routes, &Request::path("/a/b"), 0), Some(0));
    assert_eq!(find(&routes, &Request::path("/b"), 0), Some(3));
    let routes = plain(vec![regex("/a/[0-9]+"), exact("/a/1"), prefix("/a")]);
    assert_eq!(find(&routes, &Request::path("/a/1"), 0), Some(0));
    assert_eq!(find(&routes, &Request::path("/a/x"), 0), Some(2));
}

#[test]
fn other_conditions_decide_among_routes_of_one_path() {
    let half = Fraction {
        numerator: 50,
        denominator: 100,
    };
    let routes = vec![
        route(exact("/a"), Some("1"), None),
        route(exact("/a"), None, Some(half)),
        route(prefix("/"), None, None),
    ];
    assert_eq!(
        find(&routes, &Request::path("/a").header("x", "1"), 99),
        Some(0)
    );
    assert_eq!(find(&routes, &Request::path("/a"), 49), Some(1));
    assert_eq!(find(&routes, &Request::path("/a"), 50), Some(2));
}

#[test]
fn prefixes_end_anywhere_and_segment_prefixes_at_slashes() {
    let routes = plain(vec![segments("/api"), prefix("/ap")]);
    for (path, expected) in [
        ("/api", 0),
        ("/api/", 0),
        ("/api/v1", 0),
        ("/apis", 1),
        ("/api?x", 0),
        ("/ap", 1),
    ] {
        assert_eq!(
            find(&routes, &Request::path(path), 0),
            Some(expected),
            "{path}"
        );
    }
}

#[test]
fn the_query_is_not_part_of_the_path() {
    let routes = plain(vec![exact("/a"), regex("/b.*")]);
    assert_eq!(find(&routes, &Request::path("/a?b=c"), 0), Some(0));
    assert_eq!(find(&routes, &Request::path("/a/?b=c"), 0), None);
    assert_eq!(find(&routes, &Request::path("/b?c"), 0), Some(1));
}

#[test]
fn case_is_disregarded_where_asked() {
    let routes = plain(vec![
        PathMatch::Exact {
            path: "/Foo".into(),
            ignore_case: true,
        },
        PathMatch::Prefix {
            prefix: "/BAR/".into(),
            ignore_case: true,
        },
        exact("/foo"),
    ]);
    assert_eq!(find(&routes, &Request::path("/fOO"), 0), Some(0));
    assert_eq!(find(&routes, &Request::path("/bar/x"), 0), Some(1));
    assert_eq!(find(&routes, &Request::path("/foo/"), 0), None);
}

#[test]
fn a_request_without_a_path_only_takes_connect_routes() {
    let routes = plain(vec![prefix(""), PathMatch::Connect, prefix("/")]);
    assert_eq!(
        find(&routes, &Request::new("CONNECT", "a:443", ""), 0),
        Some(1)
    );
    assert_eq!(find(&routes, &Request::new("GET", "a", ""), 0), None);
    assert_eq!(find(&routes, &Request::path("/"), 0), Some(0));
}

#[test]
fn literal_beginnings_of_expressions_are_found() {
    for (expression, prefix) in [
        ("/api/v[0-9]/.*", "/api/v"),
        ("^/a(b)c$", "/abc"),
        ("/a|/b", ""),
        ("(?i)/abc", "/"),
        ("/ab?", "/a"),
        (".*", ""),
        ("/a\\.b/x+", "/a.b/"),
    ] {
        assert_eq!(
            String::from_utf8(literal_prefix(expression)).unwrap(),
            prefix,
            "{expression}"
        );
    }
}

#[test]
fn templates_match_segments() {
    let template = |text| PathMatch::Template(UriTemplate::new(text).unwrap());
    let routes = plain(vec![
        template("/a/{id}/c"),
        template("/a/**"),
        template("/b/*/{rest=**}"),
    ]);
    for (path, expected) in [
        ("/a/1/c", Some(0)),
        ("/a/1/2/c", Some(1)),
        ("/a/", Some(1)),
        ("/b/x/y/z", Some(2)),
        ("/c", None),
    ] {
        assert_eq!(find(&routes, &Request::path(path), 0), expected, "{path}");
    }
}

fn path_text() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!["a", "b", "ab", "A", "aB", "", "é"]),
        0..4,
    )
    .prop_map(|segments| format!("/{}", segments.join("/")))
}

fn any_path_match() -> impl Strategy<Value = PathMatch> {
    let cased = || (path_text(), any::<bool>());
    prop_oneof![
        cased().prop_map(|(path, ignore_case)| PathMatch::Exact {
            path: path.into(),
            ignore_case
        }),
        cased().prop_map(|(path, ignore_case)| PathMatch::Prefix {
            prefix: path.into(),
            ignore_case
        }),
        cased().prop_map(|(path, ignore_case)| {
            let prefix = path.trim_end_matches('/');
            PathMatch::SegmentPrefix {
                prefix: if prefix.is_empty() { "/a" } else { prefix }.into(),
                ignore_case,
            }
        }),
        path_text().prop_map(|path| regex(&format!("{path}[ab/]*"))),
        path_text().prop_map(|path| regex(&format!("(?i){path}|/a.*"))),
        path_text()
            .prop_map(|path| PathMatch::Template(UriTemplate::new(&format!("{path}/*")).unwrap())),
        Just(PathMatch::Connect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_index_agrees_with_a_linear_scan(
        paths in prop::collection::vec((any_path_match(), prop::option::of("[12]"), prop::option::of(0_u32..100)), 0..24),
        requests in prop::collection::vec((path_text(), prop::option::of("[12]"), any::<u64>(), any::<bool>()), 1..8),
    ) {
        let routes: Vec<Arc<Route>> = paths
            .into_iter()
            .map(|(path, header, share)| {
                route(path, header.as_deref(), share.map(|numerator| Fraction { numerator, denominator: 100 }))
            })
            .collect();
        let table = RouteTable::new(&routes);
        for (path, header, random, connect) in requests {
            let method = if connect { "CONNECT" } else { "GET" };
            let mut request = Request::new(method, "a", &path);
            if let Some(value) = header {
                request = request.header("x", &value);
            }
            let found = request.with(|request| table.find(&routes, request, random));
            let scanned = request.with(|request| routes.iter().position(|route| route.matcher.matches(request, random)));
            prop_assert_eq!(found, scanned);
        }
    }
}
