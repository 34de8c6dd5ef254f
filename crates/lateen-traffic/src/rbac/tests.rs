//! Tests of RBAC: every permission and principal, and the three actions.

use super::*;
use crate::matcher::{HeaderKey, HeaderMatch, MetadataMatcher, StringPattern, ValueMatcher};
use crate::route::UriTemplate;
use crate::testing::Request;
use crate::tls::SanType;
use crate::value::Value;

fn rules(action: RbacAction, permission: Condition, principal: Condition) -> Rules {
    let policy = Policy {
        name: "p".into(),
        permissions: vec![permission],
        principals: vec![principal],
    };
    Rules::new(action, vec![policy])
}

fn asks(permission: Condition, request: &Request) -> bool {
    request.with(|request| permission.matches(&Subject::of_request(request)))
}

fn is(principal: Condition, request: &Request) -> bool {
    request.with(|request| principal.matches(&Subject::of_request(request)))
}

fn header(name: &str, value: &str) -> HeaderMatcher {
    HeaderMatcher {
        key: HeaderKey::parse(name).unwrap(),
        condition: HeaderMatch::String(StringMatcher::exact(value)),
        invert: false,
        missing_as_empty: false,
    }
}

fn prefix(text: &str) -> StringMatcher {
    StringMatcher::new(StringPattern::Prefix(text.into()), false)
}

const SPIFFE: &str = "spiffe://cluster.local/ns/default/sa/sleep";

fn mtls(request: Request) -> Request {
    let uri_sans: &'static [String] = Box::leak(Box::new([SPIFFE.to_owned()]));
    let mut request = request;
    request.peer = PeerTls {
        is_tls: true,
        presented: true,
        validated: true,
        uri_sans,
        ..PeerTls::default()
    };
    request
}

#[test]
fn an_action_says_what_a_match_means() {
    let request = Request::get();
    for (action, matching, otherwise) in [
        (RbacAction::Allow, true, false),
        (RbacAction::Deny, false, true),
        (RbacAction::Log, true, true),
    ] {
        request.with(|request| {
            let subject = Subject::of_request(request);
            let yes = rules(action, Condition::Any, Condition::Any);
            assert_eq!(yes.decide(&subject).allowed, matching, "{action:?}");
            assert_eq!(yes.decide(&subject).policy.map(|name| &**name), Some("p"));
            let no = rules(
                action,
                Condition::Any,
                Condition::Not(Box::new(Condition::Any)),
            );
            assert_eq!(no.decide(&subject).allowed, otherwise, "{action:?}");
            assert_eq!(no.decide(&subject).policy, None);
        });
    }
}

#[test]
fn without_policies_allow_denies_and_deny_allows() {
    Request::get().with(|request| {
        let decide = |action| {
            Rules::new(action, vec![])
                .decide(&Subject::of_request(request))
                .allowed
        };
        assert!(!decide(RbacAction::Allow));
        assert!(decide(RbacAction::Deny));
    });
}

#[test]
fn permissions_look_at_what_is_asked_for() {
    let request = Request::new("GET", "a.example", "/admin/x?y=/z").header("x-h", "v");
    assert!(asks(Condition::Header(header("x-h", "v")), &request));
    assert!(asks(Condition::UrlPath(prefix("/admin")), &request));
    assert!(!asks(
        Condition::UrlPath(StringMatcher::new(
            StringPattern::Suffix("/z".into()),
            false
        )),
        &request
    ));
    assert!(asks(
        Condition::UriTemplate(UriTemplate::new("/admin/*").unwrap()),
        &request
    ));
    assert!(asks(
        Condition::DestinationIp("10.0.0.0/24".parse().unwrap()),
        &request
    ));
    assert!(!asks(
        Condition::DestinationIp("10.0.1.0/24".parse().unwrap()),
        &request
    ));
    assert!(asks(Condition::DestinationPort(80), &request));
    assert!(asks(Condition::DestinationPortRange(80, 81), &request));
    assert!(!asks(Condition::DestinationPortRange(81, 90), &request));
    assert!(!asks(Condition::Not(Box::new(Condition::Any)), &request));
    assert!(asks(
        Condition::And(vec![Condition::Any, Condition::DestinationPort(80)]),
        &request
    ));
    assert!(!asks(Condition::Or(vec![]), &request));
    assert!(asks(
        Condition::RequestedServerName(StringMatcher::exact("")),
        &request
    ));
}

#[test]
fn principals_look_at_who_asks() {
    let plain = Request::get();
    let secure = mtls(Request::get());
    assert!(!is(Condition::Authenticated(None), &plain));
    assert!(is(Condition::Authenticated(None), &secure));
    assert!(is(
        Condition::Authenticated(Some(StringMatcher::exact(SPIFFE))),
        &secure
    ));
    assert!(!is(
        Condition::Authenticated(Some(prefix("spiffe://other"))),
        &secure
    ));
    assert!(is(Condition::MtlsAuthenticated(None), &secure));
    let san = |san_type| SanMatcher {
        san_type,
        matcher: StringMatcher::exact(SPIFFE),
    };
    assert!(is(
        Condition::MtlsAuthenticated(Some(san(SanType::Uri))),
        &secure
    ));
    assert!(!is(
        Condition::MtlsAuthenticated(Some(san(SanType::Dns))),
        &secure
    ));
    assert!(is(
        Condition::DirectRemoteIp("10.0.0.1/32".parse().unwrap()),
        &plain
    ));
    assert!(!is(
        Condition::SourceIp("10.0.0.2/32".parse().unwrap()),
        &plain
    ));
    assert!(is(
        Condition::Not(Box::new(Condition::Authenticated(None))),
        &plain
    ));
    assert!(is(Condition::Header(header(":method", "GET")), &plain));
    assert!(is(Condition::UrlPath(prefix("/")), &plain));
}

#[test]
fn remote_ip_is_the_client_behind_proxies() {
    let request = Request::get();
    let mut view = request.view();
    view.client = "203.0.113.9:1".parse().unwrap();
    let subject = Subject::of_request(&view);
    assert!(Condition::RemoteIp("203.0.113.0/24".parse().unwrap()).matches(&subject));
    assert!(!Condition::DirectRemoteIp("203.0.113.0/24".parse().unwrap()).matches(&subject));
}

#[test]
fn an_ipv4_address_in_ipv6_form_is_the_same_address() {
    let mut request = Request::get();
    request.connection.direct_remote = "[::ffff:10.0.0.1]:1".parse().unwrap();
    assert!(is(
        Condition::DirectRemoteIp("10.0.0.1/32".parse().unwrap()),
        &request
    ));
}

#[test]
fn claims_and_filter_state_are_principals() {
    let mut request = Request::get();
    request.metadata.set(
        "jwt",
        Value::Struct([("iss".into(), Value::String("me".into()))].into()),
    );
    request
        .filter_state
        .insert("io.istio.peer_principal".into(), SPIFFE.into());
    let claim = |value: &str| MetadataMatcher {
        namespace: "jwt".into(),
        path: vec!["iss".into()],
        value: ValueMatcher::String(StringMatcher::exact(value)),
        invert: false,
    };
    assert!(is(Condition::Metadata(claim("me")), &request));
    assert!(!is(Condition::Metadata(claim("you")), &request));
    let peer = |matcher| Condition::FilterState {
        key: "io.istio.peer_principal".into(),
        matcher,
    };
    assert!(is(
        peer(prefix("spiffe://cluster.local/ns/default/")),
        &request
    ));
    assert!(!is(
        peer(prefix("spiffe://cluster.local/ns/other/")),
        &request
    ));
    assert!(!is(
        Condition::FilterState {
            key: "none".into(),
            matcher: prefix("")
        },
        &request
    ));
}

#[test]
fn on_connections_conditions_on_requests_never_hold() {
    let request = Request::get();
    let subject = Subject {
        connection: &request.connection,
        peer: &request.peer,
        request: None,
        dynamic_metadata: &request.metadata,
        filter_state: &request.filter_state,
    };
    assert!(!Condition::Header(header(":method", "GET")).matches(&subject));
    assert!(!Condition::UrlPath(prefix("/")).matches(&subject));
    assert!(Condition::DestinationPort(80).matches(&subject));
    assert!(Condition::RemoteIp("10.0.0.1/32".parse().unwrap()).matches(&subject));
}

#[test]
fn the_trace_says_how_each_policy_went() {
    let policy = |name: &str, permission, principal| Policy {
        name: name.into(),
        permissions: vec![permission],
        principals: vec![principal],
    };
    let policies = vec![
        policy("a", Condition::DestinationPort(81), Condition::Any),
        policy("b", Condition::Any, Condition::Any),
        policy("c", Condition::Any, Condition::Any),
    ];
    let rules = Rules::new(RbacAction::Deny, policies);
    Request::get().with(|request| {
        let subject = Subject::of_request(request);
        let (decision, trace) = rules.explain(&subject);
        assert_eq!(decision, rules.decide(&subject));
        assert_eq!(decision.policy.map(|name| &**name), Some("b"));
        let steps: Vec<_> = trace
            .policies
            .iter()
            .map(|step| (&*step.name, step.permission, step.principal))
            .collect();
        assert_eq!(steps, [("a", false, true), ("b", true, true)]);
    });
}
