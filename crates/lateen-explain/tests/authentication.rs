//! Tokens, external authorizers and identities in explanations: what is checked, what it comes to, and which object says so.

mod common;

use common::{client, mesh};
use lateen_explain::{Asked, Authorizer, End, Explanation, Mesh, Options, Stage, explain};
use serde_json::{Value, json};

const NOW: u64 = 2_000_000_000;

const SHOP: &str = r#"
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {name: mesh}
spec:
  meshConfig:
    extensionProviders:
    - name: opa
      envoyExtAuthzGrpc: {service: opa.default.svc.cluster.local, port: 9191}
---
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: opa}
spec: {selector: {app: opa}, ports: [{name: grpc, port: 9191}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: opa}
spec:
  selector: {matchLabels: {app: opa}}
  template:
    metadata: {labels: {app: opa}}
    spec: {containers: [{name: c, image: opa, ports: [{containerPort: 9191}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec: {containers: [{name: c, image: curl}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: outsider, namespace: plain}
spec:
  selector: {matchLabels: {app: outsider}}
  template:
    metadata: {labels: {app: outsider}}
    spec: {containers: [{name: c, image: curl}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens}
spec:
  selector: {matchLabels: {app: web}}
  jwtRules:
  - issuer: https://issuer.example
    audiences: [shop]
    jwksUri: https://issuer.example/keys
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: admins}
spec:
  selector: {matchLabels: {app: web}}
  rules:
  - to: [{operation: {notPaths: ["/admin*"]}}]
  - to: [{operation: {paths: ["/admin*"]}}]
    when: [{key: "request.auth.claims[role]", values: [admin]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask-opa}
spec:
  selector: {matchLabels: {app: web}}
  action: CUSTOM
  provider: {name: opa}
  rules:
  - to: [{operation: {paths: ["/orders*"]}}]
"#;

fn run(mesh: &Mesh, from: &str, asked: &Asked, authorizer: Option<Authorizer>) -> Explanation {
    let options = Options {
        now: NOW,
        authorizer,
        ..Options::default()
    };
    explain(mesh, &client(mesh, from), asked, options).expect("an explanation")
}

fn with_claims(mesh: &Mesh, path: &str, claims: Value) -> Explanation {
    let mut asked = Asked::parse(None, &format!("http://web{path}"), &[]).expect("a request");
    let Value::Object(claims) = claims else {
        panic!("claims are an object")
    };
    mesh.carry(&mut asked, claims, NOW).expect("one issuer");
    run(mesh, "deploy/client", &asked, None)
}

fn without_token(path: &str, from: &str, authorizer: Option<Authorizer>) -> Explanation {
    let asked = Asked::parse(None, &format!("http://web.default{path}"), &[]).expect("a request");
    run(&mesh(SHOP), from, &asked, authorizer)
}

fn told(explanation: &Explanation, stage: Stage) -> String {
    let branches = explanation.branches.iter().flat_map(|branch| &branch.steps);
    let steps = explanation.steps.iter().chain(branches);
    let texts = steps.filter(|step| step.stage == stage).map(|step| {
        let notes = step.notes.iter().map(|note| {
            let place = note.place.as_ref().map(ToString::to_string);
            format!("\n  {} {}", note.text, place.unwrap_or_default())
        });
        format!("{}{}", step.what, notes.collect::<String>())
    });
    texts.collect::<Vec<_>>().join("\n")
}

fn outcome(explanation: &Explanation) -> (End, Option<u16>, String) {
    let outcome = &explanation.branches[0].outcome;
    let place = outcome.place.as_ref().map(ToString::to_string);
    (outcome.end, outcome.status, place.unwrap_or_default())
}

#[test]
fn a_described_token_is_judged_as_its_issuers_would_be() {
    let mesh = mesh(SHOP);
    let good = with_claims(&mesh, "/admin", json!({"sub": "alice", "role": "admin"}));
    assert!(good.succeeds(), "{:?}", outcome(&good));
    assert!(told(&good, Stage::Authentication).contains("alice of https://issuer.example"));

    let other = with_claims(&mesh, "/admin", json!({"role": ["dev", "qa"]}));
    assert_eq!(outcome(&other).1, Some(403));
    let why = told(&other, Stage::Authorization);
    assert!(
        why.contains(
            r#"rule 1 of admins.default matches but for claim role: it wants claim role = "admin", it is ["dev", "qa"]"#
        ),
        "{why}"
    );
}

#[test]
fn a_bad_token_is_refused_by_the_rule_at_its_line() {
    let mesh = mesh(SHOP);
    let foreign = with_claims(&mesh, "/", json!({"aud": "elsewhere"}));
    let (end, status, place) = outcome(&foreign);
    assert_eq!((end, status), (End::Denied, Some(403)));
    assert!(
        place.contains("RequestAuthentication/default/tokens"),
        "{place}"
    );
    let why = told(&foreign, Stage::Authentication);
    assert!(
        why.contains("it is for [elsewhere], the rule takes [shop]"),
        "{why}"
    );

    let old = with_claims(&mesh, "/", json!({"exp": NOW - 100}));
    assert_eq!(outcome(&old).1, Some(401));
    assert!(told(&old, Stage::Authentication).contains("it expired 100 s ago"));
}

#[test]
fn keys_that_are_not_known_here_are_no_fault_of_the_token() {
    // Signed by nobody whose key is here, with the header and payload of a token of the issuer.
    let token = "eyJhbGciOiJFZERTQSIsImtpZCI6Im9uZSJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoic2hvcCJ9";
    let signature = "A".repeat(86);
    let header = format!("authorization: Bearer {token}.{signature}");
    let asked = Asked::parse(None, "http://web/", &[header]).expect("a request");
    let mesh = common::without_described_tokens(SHOP);
    let refused = run(&mesh, "deploy/client", &asked, None);
    assert_eq!(outcome(&refused).1, Some(401));
    let summary = &refused.branches[0].outcome.summary;
    assert!(
        summary.contains("--jwks https://issuer.example=FILE"),
        "{summary}"
    );
}

#[test]
fn an_authorizer_is_asked_only_where_a_custom_rule_matches() {
    let not_asked = without_token("/", "deploy/client", Some(Authorizer::Denies));
    assert!(not_asked.succeeds());
    assert!(told(&not_asked, Stage::Authorization).contains("is not asked"));

    let unknown = without_token("/orders/1", "deploy/client", None);
    assert!(unknown.succeeds());
    let said = told(&unknown, Stage::Authorization);
    assert!(
        said.contains("asked of provider opa") && said.contains("--ext-authz"),
        "{said}"
    );

    let denied = without_token("/orders/1", "deploy/client", Some(Authorizer::Denies));
    let (end, status, place) = outcome(&denied);
    assert_eq!((end, status), (End::Denied, Some(403)));
    assert!(
        place.contains("AuthorizationPolicy/default/ask-opa"),
        "{place}"
    );
    assert_eq!(denied.branches[0].outcome.flags, Some("UAEX"));
}

#[test]
fn a_peer_without_a_certificate_is_told_to_have_no_identity() {
    let plain = without_token("/", "deploy/outsider.plain", None);
    assert!(plain.succeeds());
    assert!(told(&plain, Stage::Tls).contains("the peer has no identity"));
}
