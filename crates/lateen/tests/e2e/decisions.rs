//! Denials of a running mesh: who is told their ids, and what becomes of an id; and who still speaks plain text.

use serde_json::Value;

use crate::mesh::{DataPlane, Mesh, available};
use crate::my_turn;

const MESH: &str = r#"
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {name: mesh}
spec: {meshConfig: {defaultConfig: {proxyMetadata: {LATEEN_DECISION_IDS: mesh}}}}
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
kind: ServiceAccount
metadata: {name: client}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: docker.io/mccutchen/go-httpbin:v2.15.0, ports: [{containerPort: 8080}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      serviceAccountName: client
      containers: [{name: curl, image: curlimages/curl, command: ["/bin/sleep", "infinity"]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: outsider, namespace: plain}
spec:
  selector: {matchLabels: {app: outsider}}
  template:
    metadata: {labels: {app: outsider}}
    spec: {containers: [{name: curl, image: curlimages/curl, command: ["/bin/sleep", "infinity"]}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: ["*"]
  gateways: [edge]
  http: [{route: [{destination: {host: web}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  selector: {matchLabels: {app: web}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/default/sa/client"]}}]
    to: [{operation: {methods: [GET]}}]
  - to: [{operation: {paths: ["/status/*"]}}]
"#;

const HEADER: &str = "x-lateen-decision: ";

/// The head of an answer to a request that a workload sends.
fn ask(mesh: &Mesh, from: &str, args: &[&str]) -> String {
    let mut words = vec!["curl", "-s", "-i", "-m", "10"];
    words.extend(args);
    let output = mesh.exec(from, &words);
    String::from_utf8_lossy(&output.stdout).to_lowercase()
}

fn run(mesh: &Mesh, args: &[&str]) -> String {
    let output = mesh.lateen(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.stdout.is_empty(), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Who is known to the mesh is told the id, and it is resolved to the rule that nearly allowed the request.
fn an_id_leads_to_the_rule(mesh: &Mesh) {
    let denied = ask(
        mesh,
        "deploy/client",
        &["-X", "POST", "http://web/anything?secret=1"],
    );
    assert!(denied.starts_with("http/1.1 403"), "{denied}");
    let id = denied
        .lines()
        .find_map(|line| line.strip_prefix(HEADER))
        .unwrap()
        .trim();
    let text = run(mesh, &["explain", id]);
    assert!(
        text.contains("rules[0]: it wants method = \"GET\", it is \"POST\""),
        "{text}"
    );
    assert!(text.contains("mesh.yaml:"), "no file: {text}");
    assert!(
        text.contains("sa/client") && !text.contains("secret"),
        "{text}"
    );
    let unknown = mesh.lateen(&["explain", "d-0123456789abcdef"]);
    assert!(!unknown.status.success());
}

/// Neither a client without a certificate nor one behind the gateway is told anything.
fn outsiders_are_told_nothing(mesh: &Mesh) {
    let plain = ask(mesh, "deploy/outsider.plain", &["http://web.default/get"]);
    assert!(
        plain.starts_with("http/1.1 403") && !plain.contains(HEADER),
        "{plain}"
    );
    let gateway = "http://istio-ingressgateway.istio-system/get";
    let outside = ask(mesh, "deploy/outsider.plain", &[gateway]);
    assert!(
        outside.starts_with("http/1.1 403") && !outside.contains(HEADER),
        "{outside}"
    );
    let all: Vec<Value> =
        serde_json::from_str(&run(mesh, &["authz", "denials", "-o", "json"])).unwrap();
    assert_eq!(all.len(), 3, "{all:#?}");
}

fn plain_text_is_seen(mesh: &Mesh) {
    ask(
        mesh,
        "deploy/outsider.plain",
        &["http://web.default/status/200"],
    );
    let seen: Value =
        serde_json::from_str(&run(mesh, &["authn", "migration", "-o", "json"])).unwrap();
    let workloads = seen["workloads"].as_array().unwrap();
    let web = workloads
        .iter()
        .find(|row| row["workload"] == "deploy/web")
        .unwrap();
    assert_eq!(web["strict"], "breaks clients", "{seen:#}");
    assert!(
        web["plainText"].as_u64() >= Some(2) && web["mutualTls"].as_u64() >= Some(1),
        "{seen:#}"
    );
    assert_eq!(seen["strictBreaks"], true);
    assert!(!mesh.lateen(&["authn", "migration"]).status.success());
}

#[test]
fn a_denial_is_explained_to_who_may_know_and_plain_text_is_counted() {
    let _turn = my_turn();
    if !available(DataPlane::Lateen) {
        return;
    }
    let mesh = Mesh::up(&[("mesh.yaml", MESH)], DataPlane::Lateen);
    an_id_leads_to_the_rule(&mesh);
    outsiders_are_told_nothing(&mesh);
    plain_text_is_seen(&mesh);
    mesh.down();
}
