//! What validation says of small manifests: code, path and message.

use crate::{Diagnostic, SourceFile, parse_file, validate};

/// The findings of every document in `text`, as `severity code field: message`.
fn findings(text: &str) -> Vec<String> {
    let parsed = parse_file(&SourceFile::new("test.yaml", text), "default");
    let show = |found: &Diagnostic| {
        format!(
            "{:?} {} {}: {}",
            found.severity, found.code, found.field, found.message
        )
    };
    let validated = parsed
        .resources
        .iter()
        .chain(&parsed.refused)
        .flat_map(validate);
    parsed
        .diagnostics
        .iter()
        .cloned()
        .chain(validated)
        .map(|found| show(&found))
        .collect()
}

fn spec(kind: &str, group: &str, spec: &str) -> Vec<String> {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    findings(&format!(
        "apiVersion: {group}\nkind: {kind}\nmetadata: {{name: a}}\nspec:\n{indented}"
    ))
}

fn networking(kind: &str, body: &str) -> Vec<String> {
    spec(kind, "networking.istio.io/v1", body)
}

fn security(kind: &str, body: &str) -> Vec<String> {
    spec(kind, "security.istio.io/v1", body)
}

/// Asserts one finding that holds all of `parts`.
#[track_caller]
fn one(found: &[String], parts: &[&str]) {
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        parts.iter().all(|part| found[0].contains(part)),
        "{found:#?}"
    );
}

#[track_caller]
fn none(found: &[String]) {
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn what_a_tenant_may_ask_for_has_an_end() {
    let maglev = "host: a\ntrafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 5000011}}}}";
    one(
        &networking("DestinationRule", maglev),
        &["Error", "tableSize"],
    );
    let body = "x".repeat((1 << 20) + 1);
    let direct = format!(
        "hosts: [a]\nhttp: [{{directResponse: {{status: 200, body: {{string: {body}}}}}}}]"
    );
    let found = networking("VirtualService", &direct);
    assert!(
        found.iter().any(|found| found.starts_with("Error")),
        "{}",
        found.len()
    );
    let expression = "a".repeat(1025);
    let matches = format!(
        "hosts: [a]\nhttp: [{{match: [{{uri: {{regex: {expression}}}}}], route: [{{destination: {{host: a}}}}]}}]"
    );
    let found = networking("VirtualService", &matches);
    assert!(
        found.iter().any(|found| found.contains("at most 1024")),
        "{found:#?}"
    );
}

/// Findings of one object end somewhere; what it is refused for is among them in any case.
#[test]
fn an_error_is_not_lost_among_warnings() {
    let noise: String = (0..150).map(|n| format!("noise{n}: 1\n  ")).collect();
    let yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  {noise}ports: [{{port: nonsense}}]\n"
    );
    let parsed = parse_file(&SourceFile::new("test.yaml", &yaml), "default");
    assert_eq!(parsed.diagnostics.len(), 100);
    assert!(parsed.diagnostics.iter().any(Diagnostic::is_error));
    assert!(parsed.resources.is_empty() && parsed.refused.len() == 1);
}

#[test]
fn a_plain_route_is_fine() {
    none(&networking(
        "VirtualService",
        "hosts: [reviews]\nhttp:\n- match: [{headers: {end-user: {exact: jason}}}]\n  route: [{destination: {host: reviews, subset: v2}}]\n- route: [{destination: {host: reviews}}]",
    ));
}

#[test]
fn a_route_needs_an_action_of_its_own() {
    let found = networking(
        "VirtualService",
        "hosts: [a]\nhttp: [{match: [{uri: {prefix: /}}]}]",
    );
    one(
        &found,
        &[
            "Error IST0106 spec.http[0]:",
            "route, redirect and directResponse",
        ],
    );
}

#[test]
fn rules_behind_a_catch_all_are_reported() {
    let found = networking(
        "VirtualService",
        "hosts: [a]\nhttp:\n- route: [{destination: {host: a}}]\n- match: [{uri: {prefix: /x}}]\n  route: [{destination: {host: b}}]",
    );
    one(&found, &["Warning IST0130 spec.http[1]:"]);
}

#[test]
fn a_longer_prefix_behind_a_shorter_one_is_reported() {
    let found = networking(
        "VirtualService",
        "hosts: [a]\nhttp:\n- match: [{uri: {prefix: /x}}]\n  route: [{destination: {host: a}}]\n- match: [{uri: {prefix: /x/y}}]\n  route: [{destination: {host: b}}]",
    );
    one(&found, &["Warning IST0131 spec.http[1].match[0]:"]);
}

#[test]
fn a_narrower_earlier_match_takes_nothing_away() {
    none(&networking(
        "VirtualService",
        "hosts: [a]\nhttp:\n- match: [{uri: {prefix: /x}, method: {exact: GET}}]\n  route: [{destination: {host: a}}]\n- match: [{uri: {prefix: /x/y}}]\n  route: [{destination: {host: b}}]",
    ));
}

#[test]
fn every_host_is_not_for_the_mesh() {
    let found = networking(
        "VirtualService",
        "hosts: ['*']\nhttp: [{route: [{destination: {host: a}}]}]",
    );
    one(&found, &["spec.hosts[0]", "for the mesh"]);
}

#[test]
fn weights_cannot_all_be_zero() {
    let found = networking(
        "VirtualService",
        "hosts: [a]\nhttp: [{route: [{destination: {host: a}, weight: 0}, {destination: {host: b}}]}]",
    );
    one(&found, &["spec.http[0].route:", "all 0"]);
}

#[test]
fn an_empty_traffic_policy_is_refused() {
    let found = networking("DestinationRule", "host: a\ntrafficPolicy: {}");
    one(&found, &["spec.trafficPolicy:", "empty"]);
}

#[test]
fn tls_servers_need_tls() {
    let found = networking(
        "Gateway",
        "servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*']}]",
    );
    one(&found, &["spec.servers[0]:", "needs `tls`"]);
}

#[test]
fn a_deny_policy_without_rules_is_refused() {
    one(
        &security("AuthorizationPolicy", "action: DENY"),
        &["never applies"],
    );
}

#[test]
fn an_empty_source_is_refused_rather_than_matching_everything() {
    let found = security("AuthorizationPolicy", "rules: [{from: [{source: {}}]}]");
    one(&found, &["Error IST0106 spec.rules[0].from[0].source:"]);
    let found = security(
        "AuthorizationPolicy",
        "rules: [{from: [], to: [{operation: {ports: ['80']}}]}]",
    );
    one(
        &found,
        &["Error IST0106 spec.rules[0].from:", "match everything"],
    );
}

#[test]
fn a_deny_rule_for_http_warns_of_tcp() {
    let found = security(
        "AuthorizationPolicy",
        "action: DENY\nrules: [{to: [{operation: {methods: [GET]}}]}]",
    );
    one(&found, &["Warning IST0133 spec.rules[0]:"]);
}

#[test]
fn unknown_attributes_are_named() {
    let found = security(
        "AuthorizationPolicy",
        "rules: [{when: [{key: source.ips, values: [1.1.1.1]}]}]",
    );
    one(&found, &["spec.rules[0].when[0].key", "source.ips"]);
}

#[test]
fn an_inline_key_set_is_read() {
    let found = security(
        "RequestAuthentication",
        "jwtRules: [{issuer: a, jwks: '{\"keys\": [{}]}'}]",
    );
    one(&found, &["spec.jwtRules[0].jwks", "kty"]);
}

#[test]
fn what_is_wrong_with_a_key_is_told_key_by_key() {
    let check = |jwks: &str, words: &[&str]| {
        let yaml = format!("jwtRules: [{{issuer: a, jwks: '{jwks}'}}]");
        one(&security("RequestAuthentication", &yaml), words);
    };
    let modulus = "n".repeat(342);
    check("no json", &["not a JSON Web Key Set"]);
    check("{}", &["there is no list `keys`"]);
    check(r#"{"keys": {}}"#, &["`keys` is not a list"]);
    check(r#"{"keys": []}"#, &["holds no key"]);
    check(
        r#"{"kty": "EC", "x": "rwsk_xqZ6UevHakg1YvGZbl4gW5jOpEevZUqgqz_us0", "y": "DgSyD8f2SAZ6uW5Ip5i0_aUF7PQEF3ECjVKClDp-7XY"}"#,
        &["a single key is no key set"],
    );
    check(r#"{"keys": [{"kty": "XYZ"}]}"#, &["`XYZ` is no type"]);
    check(
        r#"{"keys": [{"kty": "RSA", "kid": "k", "e": "AQAB"}]}"#,
        &["key 0 (`k`)", "`n`"],
    );
    check(
        r#"{"keys": [{"kty": "RSA", "n": "abc", "e": "AQAB"}]}"#,
        &["2048 bits"],
    );
    check(
        &format!(
            r#"{{"keys": [{{"kty": "RSA", "n": "{modulus}", "e": "AQAB", "alg": "HS256"}}]}}"#
        ),
        &["`HS256` is no signature algorithm of RSA keys"],
    );
    check(
        &format!(r#"{{"keys": [{{"kty": "RSA", "n": "{modulus}", "e": "AQAB", "alg": "none"}}]}}"#),
        &["`none` is no signature algorithm"],
    );
    check(
        r#"{"keys": [{"kty": "OKP", "crv": "X25519", "x": "a"}]}"#,
        &["`X25519` is no curve"],
    );
    check(
        r#"{"keys": [{"kty": "EC", "x": "rwsk_xqZ6UevHakg1YvGZbl4gW5jOpEevZUqgqz_us0", "y": "DgSyD8f2SAZ6uW5Ip5i0_aUF7PQEF3ECjVKClDp-7XY", "d": "c"}]}"#,
        &["private key"],
    );
    check(
        r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#,
        &["a secret, not a public key"],
    );
}

#[test]
fn keys_come_from_somewhere_that_can_be_reached() {
    let check = |rule: &str, words: &[&str]| {
        let yaml = format!("jwtRules: [{{{rule}}}]");
        one(&security("RequestAuthentication", &yaml), words);
    };
    check(
        "issuer: me@example.com",
        &["spec.jwtRules[0].issuer", "OpenID"],
    );
    check(
        "issuer: a, jwksUri: 'http://keys.example.com/jwks'",
        &["spec.jwtRules[0].jwksUri", "plain text"],
    );
    check(
        "issuer: a, jwksUri: 'https://me:secret@keys.example.com/'",
        &["credentials"],
    );
    check(
        "issuer: a, jwksUri: 'https://a.example/', jwks: '{\"keys\": [{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"a\"}]}'",
        &["jwks"],
    );
    for good in [
        "issuer: 'https://a.example'",
        "issuer: a, jwksUri: 'https://a.example/jwks'",
        "issuer: a, jwksUri: 'http://keycloak.auth.svc.cluster.local:8080/jwks'",
        "issuer: a, jwksUri: 'http://keys/jwks'",
        "issuer: a, jwksUri: 'http://10.0.0.1/jwks'",
    ] {
        let yaml = format!("jwtRules: [{{{good}}}]");
        let found = security("RequestAuthentication", &yaml);
        assert!(found.is_empty(), "{good}: {found:?}");
    }
}

#[test]
fn a_deployment_selects_its_own_pods() {
    let found = spec(
        "Deployment",
        "apps/v1",
        "selector: {matchLabels: {app: a}}\ntemplate: {metadata: {labels: {app: b}}, spec: {containers: [{name: c}]}}",
    );
    one(&found, &["does not select"]);
}

#[test]
fn an_application_protocol_is_no_transport() {
    let found = spec("Service", "v1", "ports: [{port: 80, protocol: HTTP}]");
    one(&found, &["spec.ports[0].protocol", "TCP, UDP or SCTP"]);
}

#[test]
fn a_number_that_is_out_of_range_is_told_once() {
    let entry =
        "hosts: [a.example.com]\nports: [{number: -5, name: a, protocol: TCP}]\nresolution: NONE";
    let found = networking("ServiceEntry", entry);
    let ranges: Vec<_> = found
        .iter()
        .filter(|found| found.contains("LAT0104"))
        .collect();
    assert_eq!(ranges.len(), 1, "{found:#?}");
    assert!(
        ranges[0].contains("a port has to be between 1 and 65535"),
        "{found:#?}"
    );
}

#[test]
fn a_key_that_is_no_point_on_its_curve_is_told() {
    let rule = |y: &str| {
        let key = format!(
            r#"{{"kty":"EC","crv":"P-256","x":"rwsk_xqZ6UevHakg1YvGZbl4gW5jOpEevZUqgqz_us0","y":"{y}"}}"#
        );
        security(
            "RequestAuthentication",
            &format!("jwtRules: [{{issuer: a, jwks: '{{\"keys\": [{key}]}}'}}]"),
        )
    };
    none(&rule("DgSyD8f2SAZ6uW5Ip5i0_aUF7PQEF3ECjVKClDp-7XY"));
    one(
        &rule("EgSyD8f2SAZ6uW5Ip5i0_aUF7PQEF3ECjVKClDp-7XY"),
        &["IST0133", "no point on P-256"],
    );
    one(&rule("not base64!"), &["not both base64url"]);
}
