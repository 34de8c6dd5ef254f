//! What has to be true of any set of AuthorizationPolicies, on generated policies and requests.
//!
//! Policies are written as manifests, compiled for a workload, read back by the traffic engine and asked: the whole way that a user's
//! policy takes, but for the socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use lateen_api::{SourceFile, parse_file};
use lateen_compile::{
    Compiler, Pod, PodRole, ProxyKind, ProxyNode, Settings, Snapshot, SnapshotInputs,
};
use lateen_envoy::TypeUrl;
use lateen_traffic::filter::{HttpFilterKind, NetworkFilterKind};
use lateen_traffic::rbac::{RbacConfig, Subject};
use lateen_traffic::request::{ConnectionInfo, FilterState, PeerTls};
use lateen_traffic::value::{Metadata, Value};
use lateen_traffic::{RequestView, from_xds};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

/// A policy: its action and its rules as YAML flow text.
#[derive(Clone, Debug)]
struct Policy {
    deny: bool,
    rules: Vec<String>,
}

/// What is asked.
#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    path: &'static str,
    host: &'static str,
    group: Option<&'static str>,
    identity: Option<&'static str>,
    remote: [u8; 4],
    subject: Option<&'static str>,
    role: Option<&'static str>,
}

/// Some of the values, in brackets.
fn some_of(values: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::sample::subsequence(values, 1..=values.len().min(2))
        .prop_map(|chosen| format!("[{}]", chosen.join(", ")))
}

/// A field that may be there, and its opposite.
fn field(
    name: &'static str,
    opposite: &'static str,
    values: &'static [&'static str],
) -> impl Strategy<Value = Option<String>> {
    let one = prop_oneof![Just(name), Just(opposite)];
    proptest::option::weighted(
        0.3,
        (one, some_of(values)).prop_map(|(name, list)| format!("{name}: {list}")),
    )
}

/// An object of those fields that are there.
fn object(fields: Vec<Option<String>>) -> Option<String> {
    let there: Vec<String> = fields.into_iter().flatten().collect();
    (!there.is_empty()).then(|| format!("{{{}}}", there.join(", ")))
}

fn source() -> impl Strategy<Value = Option<String>> {
    (
        field(
            "principals",
            "notPrincipals",
            &[
                "cluster.local/ns/a/sa/x",
                "\"*/sa/y\"",
                "\"cluster.local/ns/b/*\"",
                "\"*\"",
            ],
        ),
        field("namespaces", "notNamespaces", &["a", "b", "\"a*\""]),
        field(
            "ipBlocks",
            "notIpBlocks",
            &["10.0.0.0/8", "192.168.1.1", "0.0.0.0/0"],
        ),
        field(
            "requestPrincipals",
            "notRequestPrincipals",
            &["\"*\"", "issuer/alice", "\"issuer/*\"", "\"*/bob\""],
        ),
    )
        .prop_map(|(a, b, c, d)| object(vec![a, b, c, d]))
}

fn operation() -> impl Strategy<Value = Option<String>> {
    (
        field("methods", "notMethods", &["GET", "POST", "\"*\""]),
        field(
            "paths",
            "notPaths",
            &["/a", "\"/a/*\"", "\"*/x\"", "\"/{*}/x\"", "\"*\""],
        ),
        field(
            "hosts",
            "notHosts",
            &["one.example", "\"*.example\"", "ONE.example"],
        ),
        field("ports", "notPorts", &["\"8000\"", "\"9\""]),
    )
        .prop_map(|(a, b, c, d)| object(vec![a, b, c, d]))
}

fn condition() -> impl Strategy<Value = Option<String>> {
    let header = field("values", "notValues", &["gold", "\"g*\"", "\"*\""]).prop_map(|values| {
        Some(format!(
            "{{key: \"request.headers[x-group]\", {}}}",
            values?
        ))
    });
    let role = field("values", "notValues", &["admin", "user"]).prop_map(|values| {
        Some(format!(
            "{{key: \"request.auth.claims[role]\", {}}}",
            values?
        ))
    });
    prop_oneof![header, role]
}

fn rule() -> impl Strategy<Value = String> {
    (source(), operation(), condition()).prop_map(|(source, operation, condition)| {
        let from = source.map(|source| format!("from: [{{source: {source}}}]"));
        let to = operation.map(|operation| format!("to: [{{operation: {operation}}}]"));
        let when = condition.map(|condition| format!("when: [{condition}]"));
        object(vec![from, to, when]).unwrap_or_else(|| "{}".to_owned())
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    (any::<bool>(), proptest::collection::vec(rule(), 0..3))
        .prop_map(|(deny, rules)| Policy { deny, rules })
}

fn request() -> impl Strategy<Value = Request> {
    use proptest::option::of;
    use proptest::sample::select;
    (
        select(&["GET", "POST", "DELETE"][..]),
        select(&["/a", "/a/x", "/b/x", "/", "/A", "/a?x", "/a/../b"][..]),
        select(&["one.example", "ONE.EXAMPLE", "two.example:8000", "other"][..]),
        of(select(&["gold", "green", ""][..])),
        of(select(
            &[
                "spiffe://cluster.local/ns/a/sa/x",
                "spiffe://cluster.local/ns/b/sa/y",
                "spiffe://other/ns/a/sa/x",
            ][..],
        )),
        select(&[[10, 1, 2, 3], [192, 168, 1, 1], [8, 8, 8, 8]][..]),
        of(select(&["alice", "bob"][..])),
        of(select(&["admin", "user", "administrator"][..])),
    )
        .prop_map(
            |(method, path, host, group, identity, remote, subject, role)| Request {
                method,
                path,
                host,
                group,
                identity,
                remote,
                subject,
                role,
            },
        )
}

/// The manifests of policies, named by their place in `order`, which is not their place in the text.
fn manifests(policies: &[(usize, &Policy)]) -> String {
    let one = |(name, policy): &(usize, &Policy)| {
        let action = if policy.deny { "DENY" } else { "ALLOW" };
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{name}, namespace: foo}}\n\
             spec: {{action: {action}, rules: [{}]}}\n",
            policy.rules.join(", ")
        )
    };
    policies.iter().map(one).collect()
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: foo}\n\
    spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 8000}]}\n";

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), "web".to_owned())])
}

/// The inbound listener of the workload, with its bytes.
fn compile(policies: &[(usize, &Policy)]) -> lateen_envoy::Resource {
    let text = format!("{SERVICE}{}", manifests(policies));
    let parsed = parse_file(&SourceFile::new("generated.yaml", text.as_str()), "foo");
    let errors: Vec<_> = parsed
        .diagnostics
        .iter()
        .filter(|found| found.is_error())
        .collect();
    assert!(errors.is_empty(), "{errors:#?}\n{text}");
    let (snapshot, _) = Snapshot::new(SnapshotInputs {
        resources: parsed.resources,
        settings: Settings::default(),
        pods: vec![Pod {
            namespace: "foo".to_owned(),
            name: "web".to_owned(),
            labels: labels(),
            ips: vec![IpAddr::V4(ADDRESS)],
            ready: true,
            role: PodRole::Sidecar,
            ..Pod::default()
        }],
        ..SnapshotInputs::default()
    });
    let node = ProxyNode {
        id: "sidecar~10.244.0.1~web.foo~foo.svc.cluster.local".to_owned(),
        kind: ProxyKind::Sidecar,
        namespace: "foo".to_owned(),
        name: "web".to_owned(),
        labels: labels(),
        ips: vec![IpAddr::V4(ADDRESS)],
        dns_domain: "foo.svc.cluster.local".to_owned(),
        native: true,
        ..ProxyNode::default()
    };
    let compiled = Compiler::new().compile(&snapshot, &node);
    compiled.resources.get(TypeUrl::Listener)["virtualInbound"].clone()
}

/// The rules that requests to the service's port pass.
fn rules(listener: &lateen_envoy::Resource) -> Vec<RbacConfig> {
    let listener = from_xds::listener(&listener.body, "virtualInbound").expect("it compiles");
    let managers = listener.chains.iter().flat_map(|chain| &chain.filters);
    let manager = managers
        .filter_map(|filter| match &filter.kind {
            NetworkFilterKind::Http(manager) => Some(manager),
            _ => None,
        })
        .next()
        .expect("a chain for HTTP");
    manager
        .filters
        .iter()
        .filter_map(|filter| match &filter.kind {
            HttpFilterKind::Rbac(rules) => Some(rules.clone()),
            _ => None,
        })
        .collect()
}

/// The rules that policies become.
fn compiled(policies: &[Policy]) -> Vec<RbacConfig> {
    let numbered: Vec<(usize, &Policy)> = policies.iter().enumerate().collect();
    rules(&compile(&numbered))
}

/// Whether a request passes all policies.
fn allows(policies: &[Policy], request: &Request) -> bool {
    passes(&compiled(policies), request)
}

fn passes(rules: &[RbacConfig], request: &Request) -> bool {
    let mut headers = HeaderMap::new();
    if let Some(group) = request.group {
        headers.insert(
            HeaderName::from_static("x-group"),
            HeaderValue::from_static(group),
        );
    }
    let uris: Vec<String> = request.identity.map(str::to_owned).into_iter().collect();
    let peer = PeerTls {
        is_tls: true,
        presented: !uris.is_empty(),
        validated: !uris.is_empty(),
        uri_sans: &uris,
        ..PeerTls::default()
    };
    let remote = SocketAddr::from((request.remote, 40000));
    let connection = ConnectionInfo::plain(remote, SocketAddr::from((ADDRESS, 8000)));
    let metadata = claims(request);
    let view = RequestView {
        method: request.method,
        scheme: "https",
        authority: request.host,
        path: request.path,
        protocol: None,
        headers: &headers,
        client: remote,
        connection: &connection,
        peer: &peer,
        dynamic_metadata: &metadata,
        filter_state: &FilterState::new(),
    };
    let subject = Subject::of_request(&view);
    rules
        .iter()
        .filter_map(|filter| filter.rules.as_ref())
        .all(|rules| rules.decide(&subject).allowed)
}

/// What authentication leaves of a token.
fn claims(request: &Request) -> Metadata {
    let mut metadata = Metadata::default();
    let Some(subject) = request.subject else {
        return metadata;
    };
    let text = |text: &str| Value::String(Arc::from(text));
    let mut claims = BTreeMap::from([
        (Arc::from("iss"), text("issuer")),
        (Arc::from("sub"), text(subject)),
    ]);
    if let Some(role) = request.role {
        claims.insert(Arc::from("role"), text(role));
    }
    let payload = BTreeMap::from([(Arc::from("payload"), Value::Struct(claims))]);
    metadata.set("envoy.filters.http.jwt_authn", Value::Struct(payload));
    metadata
}

fn has_allow(policies: &[Policy]) -> bool {
    policies.iter().any(|policy| !policy.deny)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn adding_a_denial_never_allows_more(
        policies in proptest::collection::vec(policy(), 0..4),
        more in policy(),
        requests in proptest::collection::vec(request(), 24),
    ) {
        let with: Vec<Policy> = policies
            .iter()
            .cloned()
            .chain([Policy { deny: true, ..more }])
            .collect();
        let (with, without) = (compiled(&with), compiled(&policies));
        for request in &requests {
            prop_assert!(!passes(&with, request) || passes(&without, request), "{request:?}");
        }
    }

    /// As long as one is left: where nothing is said to be allowed, everything is.
    #[test]
    fn removing_an_allowance_never_allows_more(
        policies in proptest::collection::vec(policy(), 1..4),
        more in policy(),
        requests in proptest::collection::vec(request(), 24),
    ) {
        prop_assume!(has_allow(&policies));
        let with: Vec<Policy> = policies
            .iter()
            .cloned()
            .chain([Policy { deny: false, ..more }])
            .collect();
        let (with, without) = (compiled(&with), compiled(&policies));
        for request in &requests {
            prop_assert!(!passes(&without, request) || passes(&with, request), "{request:?}");
        }
    }

    #[test]
    fn the_order_of_policies_never_matters(
        (policies, shuffled) in proptest::collection::vec(policy(), 2..5).prop_flat_map(|policies| {
            let numbered: Vec<usize> = (0..policies.len()).collect();
            (Just(policies), Just(numbered).prop_shuffle())
        }),
    ) {
        let numbered: Vec<(usize, &Policy)> = policies.iter().enumerate().collect();
        let shuffled: Vec<(usize, &Policy)> = shuffled.into_iter().map(|n| numbered[n]).collect();
        prop_assert_eq!(compile(&numbered).version, compile(&shuffled).version);
    }

    /// The first policy of any kind narrows; without one nothing is refused.
    #[test]
    fn a_policy_without_rules_allows_nobody_and_denies_nobody(request in request()) {
        let empty = |deny| Policy { deny, rules: Vec::new() };
        prop_assert!(allows(&[], &request));
        prop_assert!(!allows(&[empty(false)], &request));
        prop_assert!(allows(&[empty(true)], &request));
        let all = Policy { deny: false, rules: vec!["{}".to_owned()] };
        prop_assert!(allows(std::slice::from_ref(&all), &request));
        let none = Policy { deny: true, ..all.clone() };
        prop_assert!(!allows(&[all, none], &request));
    }
}

/// The properties above say nothing unless what is generated decides: of policies and requests many pass and many do not, and a
/// further policy often changes that.
#[test]
fn what_is_generated_comes_to_every_verdict() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let generated = (
        proptest::collection::vec(policy(), 1..4),
        policy(),
        proptest::collection::vec(request(), 24),
    );
    let (mut passed, mut refused, mut denied, mut allowed) = (0, 0, 0, 0);
    for _ in 0..64 {
        let tree = generated.new_tree(&mut runner).expect("a case");
        let (policies, more, requests) = tree.current();
        let with = |deny| {
            let more = Policy {
                deny,
                ..more.clone()
            };
            compiled(&[policies.clone(), vec![more]].concat())
        };
        let (without, denying, allowing) = (compiled(&policies), with(true), with(false));
        for request in &requests {
            let passes_now = passes(&without, request);
            passed += usize::from(passes_now);
            refused += usize::from(!passes_now);
            denied += usize::from(passes_now && !passes(&denying, request));
            allowed += usize::from(!passes_now && passes(&allowing, request));
        }
    }
    let seen = [passed, refused, denied, allowed];
    assert!(seen.iter().all(|seen| *seen > 20), "{seen:?}");
}
