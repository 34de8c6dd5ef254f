//! Access rules that never decide anything, found in whole meshes.

use lateen_api::{SourceFile, parse_file};

use super::{Extent, findings, settings};

const WORKLOADS: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {selector: {app: api}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, ports: [{name: tcp, port: 5432}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec: {containers: [{name: c, image: api, ports: [{containerPort: 8080}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: db, ports: [{containerPort: 5432}]}]}
---
";

/// The codes found in the workloads with policies, with the field each is about.
fn found(policies: &str) -> Vec<(&'static str, String)> {
    let text = format!("{WORKLOADS}{policies}");
    let parsed = parse_file(&SourceFile::new("mesh.yaml", &text), "shop");
    let errors: Vec<_> = parsed.diagnostics.iter().filter(|d| d.is_error()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let settings = settings(&parsed.resources, false);
    findings(&parsed.resources, &settings, true, Extent::Part)
        .into_iter()
        .map(|found| {
            assert!(found.span.is_some(), "no place: {found:?}");
            (
                found.code,
                found.field.trim_start_matches("spec.rules").to_owned(),
            )
        })
        .collect()
}

/// The findings about one policy for the API.
fn of_rules(action: &str, rules: &str) -> Vec<(&'static str, String)> {
    found(&policy("p", "api", action, rules))
}

fn policy(name: &str, app: &str, action: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{app: {app}}}}}, action: {action}, rules: {rules}}}\n---\n"
    )
}

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
    metadata: {name: default, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n---\n";

fn only(code: &'static str, field: &str) -> Vec<(&'static str, String)> {
    vec![(code, field.to_owned())]
}

#[test]
fn rules_that_decide_something_are_passed_over() {
    let reads = "[{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}], to: [{operation: {methods: [GET], paths: [/api/*]}}]}]";
    assert_eq!(of_rules("ALLOW", reads), []);
    assert_eq!(
        found(&format!("{STRICT}{}", policy("p", "api", "DENY", reads))),
        []
    );
}

#[test]
fn what_no_request_can_have_is_found_in_the_rules_own_text() {
    for (rules, field) in [
        (
            "[{to: [{operation: {methods: [get]}}]}]",
            "[0].to[0].operation.methods",
        ),
        (
            "[{to: [{operation: {paths: [api/*]}}]}]",
            "[0].to[0].operation.paths",
        ),
        (
            "[{to: [{operation: {paths: ['/x?y=1']}}]}]",
            "[0].to[0].operation.paths",
        ),
        (
            "[{to: [{operation: {methods: [GET], notMethods: ['*']}}]}]",
            "[0].to[0].operation.methods",
        ),
        (
            "[{from: [{source: {namespaces: [default], principals: [cluster.local/ns/shop/sa/web]}}]}]",
            "[0].from[0].source.namespaces",
        ),
    ] {
        let all = of_rules("ALLOW", rules);
        assert!(
            all.contains(&("LAT3050", field.to_owned())),
            "{rules}: {all:?}"
        );
    }
}

#[test]
fn an_allow_that_a_deny_takes_back_is_found() {
    let allow = policy(
        "a",
        "api",
        "ALLOW",
        "[{to: [{operation: {methods: [DELETE], paths: [/users/*]}}]}]",
    );
    let deny = policy(
        "d",
        "api",
        "DENY",
        "[{to: [{operation: {methods: [DELETE, PUT]}}]}]",
    );
    assert_eq!(found(&format!("{allow}{deny}")), only("LAT3051", "[0]"));
    let elsewhere = policy("d", "db", "DENY", "[{}]");
    assert_eq!(found(&format!("{allow}{elsewhere}")), []);
}

#[test]
fn of_equal_rules_the_later_is_found_and_of_others_the_narrower() {
    let rule = "{to: [{operation: {methods: [GET]}}]}";
    assert_eq!(
        of_rules("ALLOW", &format!("[{rule}, {rule}]")),
        only("LAT3052", "[1]")
    );
    let narrow = "{to: [{operation: {methods: [GET], paths: [/x]}}]}";
    assert_eq!(
        of_rules("ALLOW", &format!("[{narrow}, {rule}]")),
        only("LAT3052", "[0]")
    );
}

#[test]
fn identities_are_asked_for_only_where_there_can_be_some() {
    let from = "[{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]";
    let disabled = STRICT.replace("STRICT", "DISABLE");
    let field = "[0].from[0].source.principals";
    assert_eq!(
        found(&format!("{disabled}{}", policy("p", "api", "ALLOW", from))),
        only("LAT3053", field)
    );
    // Without a PeerAuthentication plain text is taken: who comes without a certificate is not denied.
    assert_eq!(of_rules("DENY", from), only("LAT3054", field));
}

#[test]
fn identities_that_no_workload_has_are_found() {
    for (source, field) in [
        ("{principals: [cluster.local/ns/shop/sa/wbe]}", "principals"),
        ("{namespaces: [shpo]}", "namespaces"),
        ("{serviceAccounts: [wbe]}", "serviceAccounts"),
    ] {
        let rules = format!("[{{from: [{{source: {source}}}]}}]");
        assert_eq!(
            of_rules("ALLOW", &rules),
            only("LAT3055", &format!("[0].from[0].source.{field}"))
        );
    }
    // Of other trust domains nobody knows here.
    assert_eq!(
        of_rules(
            "ALLOW",
            "[{from: [{source: {principals: [other.org/ns/a/sa/b]}}]}]"
        ),
        []
    );
}

#[test]
fn a_token_of_an_issuer_that_is_not_taken_is_found() {
    let tokens = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: t, namespace: shop}\n\
        spec: {jwtRules: [{issuer: 'https://a.example', jwksUri: 'https://a.example/keys'}]}\n---\n";
    let rules = "[{from: [{source: {requestPrincipals: ['https://b.example/*']}}]}]";
    assert_eq!(
        found(&format!("{tokens}{}", policy("p", "api", "ALLOW", rules))),
        only("LAT3056", "[0].from[0].source.requestPrincipals")
    );
}

#[test]
fn what_only_requests_have_is_found_on_ports_of_tcp() {
    let rules = "[{to: [{operation: {methods: [GET]}}]}]";
    let field = "[0].to[0].operation.methods";
    assert_eq!(
        found(&policy("p", "db", "ALLOW", rules)),
        only("LAT3057", field)
    );
    assert_eq!(
        found(&policy("p", "db", "DENY", rules)),
        only("LAT3057", field)
    );
}

#[test]
fn a_policy_for_labels_that_no_pod_has_is_found() {
    let policy = policy("p", "apii", "ALLOW", "[{}]");
    assert_eq!(found(&policy), only("LAT3058", "spec.selector.matchLabels"));
}
