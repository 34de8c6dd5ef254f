//! The index beside looking at every policy in turn: generated policies and requests, and how many policies are looked at.

use proptest::prelude::*;

use super::super::{RbacAction, Rules};
use super::*;
use crate::matcher::{
    FullRegex, HeaderKey, HeaderMatch, HeaderMatcher, MetadataMatcher, StringMatcher,
    StringPattern, ValueMatcher,
};
use crate::rbac::Condition;
use crate::request::PeerTls;
use crate::route::UriTemplate;
use crate::testing::Request;
use crate::tls::{SanMatcher, SanType};
use crate::value::Value;

/// Few pieces, so that conditions and requests meet.
const PIECES: [&str; 12] = [
    "",
    "/",
    "/a",
    "/A/b",
    "/a/b/c",
    "GET",
    "get",
    "spiffe://td/ns/one/sa/x",
    "spiffe://td/ns/two/sa/y",
    "spiffe://td/ns/one/sa/x/more",
    "one",
    "x",
];

const EXPRESSIONS: [&str; 10] = [
    ".+",
    ".*/ns/one/.*",
    ".*/ns/two.*/.*",
    "spiffe://.+/ns/one/(.+/|)sa/x(/.+)?",
    "spiffe://.*/sa/y",
    "/a/.*",
    "(?i)/A",
    "/a|GET",
    "one",
    "(one)?",
];

fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&PIECES[..])
}

fn text() -> impl Strategy<Value = StringMatcher> {
    let pattern = prop_oneof![
        piece().prop_map(|text| StringPattern::Exact(text.into())),
        piece().prop_map(|text| StringPattern::Prefix(text.into())),
        piece().prop_map(|text| StringPattern::Suffix(text.into())),
        piece().prop_map(|text| StringPattern::Contains(text.into())),
        prop::sample::select(&EXPRESSIONS[..])
            .prop_map(|text| StringPattern::Regex(FullRegex::new(text).unwrap())),
    ];
    (pattern, any::<bool>()).prop_map(|(pattern, fold)| StringMatcher::new(pattern, fold))
}

fn header() -> impl Strategy<Value = HeaderMatcher> {
    let key = prop::sample::select(&[":method", ":authority", ":path", "x-h"][..]);
    let condition = prop_oneof![
        1 => any::<bool>().prop_map(HeaderMatch::Present),
        5 => text().prop_map(HeaderMatch::String),
    ];
    (key, condition, any::<bool>(), any::<bool>()).prop_map(
        |(key, condition, invert, missing_as_empty)| HeaderMatcher {
            key: HeaderKey::parse(key).unwrap(),
            condition,
            invert,
            missing_as_empty,
        },
    )
}

fn metadata() -> impl Strategy<Value = MetadataMatcher> {
    let value = text().prop_map(ValueMatcher::String);
    let value = value.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(ValueMatcher::Or),
            inner
                .clone()
                .prop_map(|inner| ValueMatcher::AnyOf(Box::new(inner))),
            any::<bool>().prop_map(ValueMatcher::Present),
        ]
    });
    (value, prop::bool::weighted(0.1)).prop_map(|(value, invert)| MetadataMatcher {
        namespace: "jwt".into(),
        path: vec!["claim".into()],
        value,
        invert,
    })
}

fn leaf() -> impl Strategy<Value = Condition> {
    let range = prop::sample::select(
        &[
            "10.0.0.0/8",
            "10.0.0.1/32",
            "10.0.1.0/24",
            "0.0.0.0/0",
            "fd00::/8",
        ][..],
    )
    .prop_map(|range| range.parse::<ipnet::IpNet>().unwrap());
    let template = prop::sample::select(&["/a/*", "/a/b/**", "/A/b", "/{x}/b"][..])
        .prop_map(|text| Condition::UriTemplate(UriTemplate::new(text).unwrap()));
    let san = |matcher| SanMatcher {
        san_type: SanType::Any,
        matcher,
    };
    prop_oneof![
        Just(Condition::Any),
        header().prop_map(Condition::Header),
        text().prop_map(Condition::UrlPath),
        template,
        metadata().prop_map(Condition::Metadata),
        (range, 0..4).prop_map(|(range, which)| match which {
            0 => Condition::DestinationIp(range),
            1 => Condition::SourceIp(range),
            2 => Condition::DirectRemoteIp(range),
            _ => Condition::RemoteIp(range),
        }),
        (79_u16..82).prop_map(Condition::DestinationPort),
        (79_u16..82).prop_map(|port| Condition::DestinationPortRange(port, 81)),
        text().prop_map(Condition::RequestedServerName),
        prop::option::of(text()).prop_map(Condition::Authenticated),
        prop::option::of(text()).prop_map(move |text| Condition::MtlsAuthenticated(text.map(san))),
        text().prop_map(|matcher| Condition::FilterState {
            key: "state".into(),
            matcher,
        }),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    leaf().prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Condition::And),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Condition::Or),
            inner.prop_map(|inner| Condition::Not(Box::new(inner))),
        ]
    })
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let side = || prop::collection::vec(condition(), 0..3);
    let policy = (side(), side());
    prop::collection::vec(policy, 0..12).prop_map(|all| {
        let named = |(index, (permissions, principals))| Policy {
            name: format!("{index:02}").into(),
            permissions,
            principals,
        };
        all.into_iter().enumerate().map(named).collect()
    })
}

fn peer() -> impl Strategy<Value = PeerTls<'static>> {
    let names = prop::sample::subsequence(PIECES[5..10].to_vec(), 0..3);
    (any::<bool>(), any::<bool>(), names, piece()).prop_map(
        |(is_tls, validated, names, subject)| {
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            PeerTls {
                is_tls,
                presented: is_tls,
                validated,
                uri_sans: Box::leak(names.into()),
                subject,
                ..PeerTls::default()
            }
        },
    )
}

fn claim() -> impl Strategy<Value = Option<Value>> {
    let text = piece().prop_map(|text| Value::String(text.into()));
    let value = text.prop_recursive(2, 6, 3, |inner| {
        prop::collection::vec(inner, 0..3).prop_map(Value::List)
    });
    prop::option::of(value)
}

prop_compose! {
    fn request()(
        method in piece(),
        authority in piece(),
        path in piece(),
        values in prop::collection::vec(piece(), 0..3),
        peer in peer(),
        claim in claim(),
        state in prop::option::of(piece()),
        address in prop::sample::select(&["10.0.0.1:1", "10.0.1.9:1", "[fd00::1]:1", "[::ffff:10.0.0.1]:2"][..]),
    ) -> Request {
        let mut request = Request::new(method, authority, path);
        for value in values {
            request = request.header("x-h", value);
        }
        request.peer = peer;
        request.connection.remote = address.parse().unwrap();
        request.connection.direct_remote = address.parse().unwrap();
        if let Some(claim) = claim {
            request.metadata.set("jwt", Value::Struct([("claim".into(), claim)].into()));
        }
        if let Some(state) = state {
            request.filter_state.insert("state".into(), state.into());
        }
        request
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn the_index_finds_what_looking_at_every_policy_finds(
        policies in policies(),
        requests in prop::collection::vec(request(), 1..8),
        on_connection in any::<bool>(),
    ) {
        let index = Index::of(&policies);
        for request in &requests {
            let view = request.view();
            let subject = Subject {
                request: (!on_connection).then_some(&view),
                ..Subject::of_request(&view)
            };
            let in_turn = policies.iter().position(|policy| policy.matches(&subject));
            prop_assert_eq!(index.first_match(&policies, &subject), in_turn);
        }
    }
}

/// As Istio's AuthorizationPolicy makes them.
fn usual(index: usize) -> Policy {
    let caller = format!("spiffe://cluster.local/ns/default/sa/caller-{index}");
    let path = StringPattern::Prefix(format!("/private/{index}/").into());
    let method = HeaderMatcher {
        key: HeaderKey::Method,
        condition: HeaderMatch::String(StringMatcher::exact("POST")),
        invert: false,
        missing_as_empty: false,
    };
    Policy {
        name: format!("{index:03}").into(),
        permissions: vec![Condition::And(vec![
            Condition::Or(vec![Condition::Header(method)]),
            Condition::Or(vec![Condition::UrlPath(StringMatcher::new(path, false))]),
        ])],
        principals: vec![Condition::And(vec![Condition::Or(vec![
            Condition::Authenticated(Some(StringMatcher::exact(&caller))),
        ])])],
    }
}

#[test]
fn of_many_usual_rules_hardly_any_is_looked_at() {
    let policies: Vec<Policy> = (0..100).map(usual).collect();
    let index = Index::new(&policies);
    assert!(index.always.is_empty());
    // One for each caller, so each is filed alone.
    assert_eq!(index.lists.len(), 100);
    assert_eq!(index.table.len(), 100);
    assert_eq!(index.probes.len(), 1);
}

#[test]
fn rules_that_differ_in_their_paths_alone_are_filed_by_them() {
    let mut policies: Vec<Policy> = (0..100).map(usual).collect();
    for policy in &mut policies {
        policy.principals = vec![Condition::Authenticated(Some(StringMatcher::exact("same")))];
    }
    let index = Index::new(&policies);
    assert!(index.always.is_empty());
    assert_eq!(index.table.len(), 100);
}

#[test]
fn rules_on_namespaces_are_filed_by_their_names() {
    let policies: Vec<Policy> = (0..100)
        .map(|index| {
            let expression = FullRegex::new(&format!(".*/ns/team-{index}/.*")).unwrap();
            let name = StringMatcher::new(StringPattern::Regex(expression), false);
            Policy {
                principals: vec![Condition::Authenticated(Some(name))],
                permissions: vec![Condition::Any],
                name: "p".into(),
            }
        })
        .collect();
    let index = Index::new(&policies);
    assert!(index.always.is_empty());
    assert_eq!(index.table.len(), 100);
}

#[test]
fn explanations_tell_every_policy_up_to_the_one_that_matched() {
    let mut policies: Vec<Policy> = (0..20).map(usual).collect();
    policies[7].permissions = vec![Condition::Any];
    policies[7].principals = vec![Condition::Any];
    let rules = Rules::new(RbacAction::Allow, policies);
    Request::get().with(|request| {
        let (decision, trace) = rules.explain(&Subject::of_request(request));
        assert_eq!(decision.policy.map(|name| &**name), Some("007"));
        assert_eq!(trace.policies.len(), 8);
        assert!(
            trace.policies[..7]
                .iter()
                .all(|policy| !policy.unmet.is_empty())
        );
    });
}
