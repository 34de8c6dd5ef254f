//! RequestAuthentication on sidecars and gateways.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{BOOKINFO, GATEWAY, World, bookinfo_pods, gateway_pod, get, pod, router, sidecar};
use lateen_api::Diagnostic;
use lateen_compile::{
    Compiled, Compiler, Jwks, JwksFetch, JwksSource, JwksStore, ProxyNode, Snapshot,
};
use lateen_envoy::TypeUrl;
use serde_json::{Value, json};

const JWKS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}]}"#;

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn inline(issuer: &str, more: &str) -> String {
    format!("{{issuer: {issuer}, jwks: '{JWKS}'{more}}}")
}

fn snapshot(extra: &str, jwks: JwksStore) -> (Snapshot, Vec<Diagnostic>) {
    let mut pods = bookinfo_pods();
    pods.push(gateway_pod(100));
    let mut inputs = World::new(&format!("{BOOKINFO}\n---\n{GATEWAY}\n{extra}"), pods).inputs();
    inputs.jwks = Arc::new(jwks);
    Snapshot::new(inputs)
}

fn compile_for(node: &ProxyNode, extra: &str, jwks: JwksStore) -> Compiled {
    Compiler::new().compile(&snapshot(extra, jwks).0, node)
}

fn ratings() -> ProxyNode {
    sidecar(&pod("default", "ratings-v1-a", "ratings", "v1", 13))
}

/// The names of the HTTP filters of the first connection manager below a value, and the JWT filter's settings.
fn filters(listener: &Value) -> (Vec<String>, Option<Value>) {
    let manager = find_manager(listener).expect("a connection manager");
    let list = manager["http_filters"].as_array().expect("filters");
    let names = list
        .iter()
        .map(|filter| filter["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    let jwt = list
        .iter()
        .find(|filter| filter["name"] == "envoy.filters.http.jwt_authn")
        .map(|filter| filter["typed_config"].clone());
    (names, jwt)
}

fn find_manager(value: &Value) -> Option<&Value> {
    match value {
        Value::Object(fields) if fields.contains_key("http_filters") => Some(value),
        Value::Object(fields) => fields.values().find_map(find_manager),
        Value::Array(list) => list.iter().find_map(find_manager),
        _ => None,
    }
}

fn inbound(extra: &str, jwks: JwksStore) -> (Vec<String>, Option<Value>) {
    let compiled = compile_for(&ratings(), extra, jwks);
    filters(&get(&compiled, TypeUrl::Listener, "virtualInbound"))
}

fn at_gateway(extra: &str) -> (Vec<String>, Option<Value>) {
    let compiled = compile_for(&router(&gateway_pod(100)), extra, JwksStore::new());
    filters(&get(&compiled, TypeUrl::Listener, "0.0.0.0_8080"))
}

#[test]
fn a_rule_becomes_a_provider_as_istio_writes_it() {
    let rule = inline(
        "https://a.example",
        ", audiences: [me], forwardOriginalToken: true, outputPayloadToHeader: x-payload, \
         fromHeaders: [{name: x-jwt, prefix: 'jwt '}], fromParams: [t], fromCookies: [c], \
         outputClaimToHeaders: [{header: x-sub, claim: sub}], spaceDelimitedClaims: [groups, scope]",
    );
    let (_, jwt) = inbound(
        &policy(
            "jwt",
            "default",
            &format!("{{selector: {{matchLabels: {{app: ratings}}}}, jwtRules: [{rule}]}}"),
        ),
        JwksStore::new(),
    );
    let jwt = jwt.unwrap();
    assert_eq!(
        jwt["providers"]["origins-0"],
        json!({
            "issuer": "https://a.example",
            "audiences": ["me"],
            "forward": true,
            "forward_payload_header": "x-payload",
            "from_headers": [{"name": "x-jwt", "value_prefix": "jwt "}],
            "from_params": ["t"],
            "from_cookies": ["c"],
            "claim_to_headers": [{"header_name": "x-sub", "claim_name": "sub"}],
            "payload_in_metadata": "payload",
            "normalize_payload_in_metadata": {"space_delimited_claims": ["groups", "permission", "scope"]},
            "local_jwks": {"inline_string": JWKS},
        })
    );
    assert_eq!(
        jwt["rules"],
        json!([{
            "match": {"prefix": "/"},
            "requires": {"requires_any": {"requirements": [{"provider_name": "origins-0"}, {"allow_missing": {}}]}},
        }])
    );
    assert_eq!(jwt["bypass_cors_preflight"], json!(true));
}

#[test]
fn several_rules_are_by_issuer_and_each_may_be_the_one() {
    let extra = [
        policy(
            "b",
            "default",
            &format!("{{jwtRules: [{}]}}", inline("https://b.example", "")),
        ),
        policy(
            "a",
            "istio-system",
            &format!("{{jwtRules: [{}]}}", inline("https://a.example", "")),
        ),
    ]
    .concat();
    let (_, jwt) = inbound(&extra, JwksStore::new());
    let jwt = jwt.unwrap();
    assert_eq!(jwt["providers"]["origins-0"]["issuer"], "https://a.example");
    assert_eq!(jwt["providers"]["origins-1"]["issuer"], "https://b.example");
    let optional = |name: &str| json!({"requires_any": {"requirements": [{"provider_name": name}, {"allow_missing": {}}]}});
    assert_eq!(
        jwt["rules"][0]["requires"],
        json!({"requires_any": {"requirements": [
            {"provider_name": "origins-0"},
            {"provider_name": "origins-1"},
            {"requires_all": {"requirements": [optional("origins-0"), optional("origins-1")]}},
        ]}})
    );
}

#[test]
fn a_policy_is_for_its_namespace_and_the_workloads_it_selects() {
    let rules = format!("jwtRules: [{}]", inline("https://a.example", ""));
    let has = |name: &str, namespace: &str, spec: String| {
        inbound(&policy(name, namespace, &spec), JwksStore::new())
            .1
            .is_some()
    };
    assert!(has("all", "default", format!("{{{rules}}}")));
    assert!(has("root", "istio-system", format!("{{{rules}}}")));
    assert!(!has("elsewhere", "other", format!("{{{rules}}}")));
    let selecting = |app: &str| format!("{{selector: {{matchLabels: {{app: {app}}}}}, {rules}}}");
    assert!(has("selected", "default", selecting("ratings")));
    assert!(!has("others", "default", selecting("reviews")));
    assert!(has("root", "istio-system", selecting("ratings")));
    assert!(!has("empty", "default", "{}".to_owned()));
}

#[test]
fn tokens_are_verified_after_external_and_before_other_authorization() {
    let extra = format!(
        "{}\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\nspec: {{rules: [{{from: [{{source: {{requestPrincipals: ['*']}}}}]}}]}}",
        policy(
            "a",
            "default",
            &format!("{{jwtRules: [{}]}}", inline("https://a.example", ""))
        )
    );
    let (names, _) = inbound(&extra, JwksStore::new());
    let at = |wanted: &str| names.iter().position(|name| name == wanted).unwrap();
    assert!(
        at("envoy.filters.http.jwt_authn") < at("envoy.filters.http.rbac"),
        "{names:?}"
    );
}

#[test]
fn at_a_gateway_the_route_is_looked_for_again() {
    let rules = format!("{{jwtRules: [{}]}}", inline("https://a.example", ""));
    let (_, jwt) = at_gateway(&policy("a", "istio-system", &rules));
    assert_eq!(
        jwt.unwrap()["providers"]["origins-0"]["clear_route_cache"],
        json!(true)
    );
    let (_, jwt) = inbound(&policy("a", "istio-system", &rules), JwksStore::new());
    assert_eq!(
        jwt.unwrap()["providers"]["origins-0"].get("clear_route_cache"),
        None
    );
}

const URI: &str = "https://a.example/jwks";

fn by_uri() -> String {
    policy(
        "a",
        "default",
        &format!("{{jwtRules: [{{issuer: 'https://a.example', jwksUri: '{URI}'}}]}}"),
    )
}

fn store(keys: Option<&str>, problem: Option<&str>) -> JwksStore {
    let known = Jwks {
        keys: keys.map(Arc::from),
        problem: problem.map(str::to_owned),
    };
    BTreeMap::from([(JwksSource::Uri(URI.to_owned()), known)])
}

fn keys(jwt: Option<Value>) -> String {
    let jwt = jwt.expect("a filter");
    let text = jwt["providers"]["origins-0"]["local_jwks"]["inline_string"].as_str();
    text.expect("keys").to_owned()
}

#[test]
fn keys_that_were_fetched_are_handed_on() {
    assert_eq!(keys(inbound(&by_uri(), store(Some(JWKS), None)).1), JWKS);
    assert_eq!(
        keys(inbound(&by_uri(), store(Some(JWKS), Some("down"))).1),
        JWKS
    );
}

#[test]
fn without_keys_no_token_is_good() {
    let nobodys = |keys: String| keys.contains("no-keys-are-known");
    assert!(nobodys(keys(inbound(&by_uri(), JwksStore::new()).1)));
    assert!(nobodys(keys(
        inbound(&by_uri(), store(None, Some("down"))).1
    )));
    let discovered = policy(
        "a",
        "default",
        "{jwtRules: [{issuer: 'https://a.example'}]}",
    );
    assert!(nobodys(keys(
        inbound(&discovered, store(Some(JWKS), None)).1
    )));
    let unusable = policy(
        "a",
        "default",
        "{jwtRules: [{issuer: a, jwks: '{\"keys\": []}'}]}",
    );
    assert!(nobodys(keys(inbound(&unusable, JwksStore::new()).1)));
}

#[test]
fn keys_that_cannot_be_fetched_are_told_at_their_field() {
    let found = |jwks| snapshot(&by_uri(), jwks).1;
    let codes = |found: &[Diagnostic]| found.iter().map(|d| d.code).collect::<Vec<_>>();
    assert!(found(JwksStore::new()).is_empty(), "not tried yet");
    assert!(found(store(Some(JWKS), None)).is_empty());
    let unavailable = found(store(None, Some("`a.example` answered 503")));
    assert_eq!(codes(&unavailable), ["LAT3040"]);
    assert!(unavailable[0].message.contains("answered 503"));
    assert_eq!(codes(&found(store(Some(JWKS), Some("down")))), ["LAT3041"]);
}

#[test]
fn a_policy_that_asks_for_a_token_nobody_verifies_is_told() {
    let authorization = |source: &str| {
        format!(
            "\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\nspec:\n  selector: {{matchLabels: {{app: ratings}}}}\n  rules: [{source}]\n"
        )
    };
    let by_principal = authorization("{from: [{source: {requestPrincipals: ['*']}}]}");
    let by_claim = authorization("{when: [{key: 'request.auth.claims[role]', values: [admin]}]}");
    let denied = authorization("{from: [{source: {notRequestPrincipals: ['*']}}]}");
    for policy in [&by_principal, &by_claim, &denied] {
        let found = snapshot(policy, JwksStore::new()).1;
        assert_eq!(
            found.iter().map(|d| d.code).collect::<Vec<_>>(),
            ["LAT3042"]
        );
        assert!(
            found[0].message.contains("ratings-v1-a.default"),
            "{found:?}"
        );
    }
    let verified = policy(
        "a",
        "default",
        &format!("{{jwtRules: [{}]}}", inline("https://a.example", "")),
    );
    assert!(
        snapshot(&format!("{by_principal}{verified}"), JwksStore::new())
            .1
            .is_empty()
    );
    let other = authorization("{from: [{source: {namespaces: [default]}}]}");
    assert!(snapshot(&other, JwksStore::new()).1.is_empty());
}

#[test]
fn services_of_the_mesh_are_reached_by_their_names() {
    let (snapshot, _) = snapshot("", JwksStore::new());
    let ratings = Some(vec!["10.244.0.13:9080".parse().unwrap()]);
    for name in [
        "ratings.default",
        "ratings.default.svc",
        "ratings.default.svc.cluster.local",
    ] {
        assert_eq!(snapshot.service_addresses(name, 9080), ratings, "{name}");
    }
    assert_eq!(
        snapshot.service_addresses("ratings.default", 1),
        Some(vec![])
    );
    assert_eq!(snapshot.service_addresses("a.example", 443), None);
}

#[test]
fn an_external_issuer_that_is_declared_is_left_to_dns() {
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: idp, namespace: default}\n\
        spec: {hosts: [idp.example], location: MESH_EXTERNAL, resolution: DNS, ports: [{number: 443, name: https, protocol: TLS}]}\n";
    let (snapshot, _) = snapshot(entry, JwksStore::new());
    assert_eq!(snapshot.service_addresses("idp.example", 443), None);
}

/// What the only provider says of its keys when they are to be fetched so.
fn fetched(mode: JwksFetch, uri: &str, jwks: JwksStore) -> Value {
    let rule = format!("{{jwtRules: [{{issuer: a, jwksUri: '{uri}', timeout: 2s}}]}}");
    let extra = policy("a", "default", &rule);
    let mut inputs = World::new(&format!("{BOOKINFO}\n{extra}"), bookinfo_pods()).inputs();
    inputs.jwks = Arc::new(jwks);
    inputs.settings.features.jwks_fetch = mode;
    let compiled = Compiler::new().compile(&Snapshot::new(inputs).0, &ratings());
    let (_, jwt) = filters(&get(&compiled, TypeUrl::Listener, "virtualInbound"));
    jwt.expect("a filter")["providers"]["origins-0"].clone()
}

#[test]
fn proxies_fetch_keys_themselves_where_they_are_told_to() {
    let inside = "http://reviews.default.svc.cluster.local:9080/jwks";
    let remote = |cluster: &str, uri: &str| {
        json!({
            "http_uri": {"uri": uri, "cluster": cluster, "timeout": "2s"},
            "cache_duration": "300s",
        })
    };
    let known = "outbound|9080||reviews.default.svc.cluster.local";
    for mode in [JwksFetch::Hybrid, JwksFetch::Envoy] {
        let provider = fetched(mode, inside, JwksStore::new());
        assert_eq!(provider["remote_jwks"], remote(known, inside), "{mode:?}");
        assert_eq!(provider.get("local_jwks"), None);
    }
    let told = |provider: Value| provider["local_jwks"]["inline_string"].clone();
    assert!(told(fetched(JwksFetch::Istiod, inside, JwksStore::new())).is_string());
    assert_eq!(
        told(fetched(JwksFetch::Hybrid, URI, store(Some(JWKS), None))),
        JWKS
    );
    let nowhere = fetched(JwksFetch::Envoy, URI, store(Some(JWKS), None));
    assert_eq!(
        nowhere["remote_jwks"],
        remote("outbound|443||a.example", URI)
    );
}
