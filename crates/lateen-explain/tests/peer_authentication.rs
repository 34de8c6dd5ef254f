//! PeerAuthentication at every level: what a client with a sidecar and one without come to, for each combination of modes.
//!
//! Who decides is the narrowest level that says something: port, workload, namespace, mesh; else PERMISSIVE. A client with a sidecar
//! speaks what the port takes; a client without one speaks plain text.

mod common;

use common::{ask, mesh, text};

const MODES: [&str; 4] = ["UNSET", "DISABLE", "PERMISSIVE", "STRICT"];

/// A workload with two ports, a second one beside it, and a client with and one without a sidecar.
const MESH: &str = r"
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
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}, {name: http-admin, port: 81, targetPort: 8081}]}
---
apiVersion: v1
kind: Service
metadata: {name: mixed}
spec: {selector: {tier: mixed}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec: {serviceAccountName: client, containers: [{name: c, image: curl}]}
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
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, tier: mixed}}
    spec: {containers: [{name: c, image: web, ports: [{containerPort: 8080}, {containerPort: 8081}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other}
spec:
  selector: {matchLabels: {app: other}}
  template:
    metadata: {labels: {app: other, tier: mixed}}
    spec: {containers: [{name: c, image: web, ports: [{containerPort: 8080}]}]}
";

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// The mesh with a mode at each level.
fn with(whole: &str, namespace: &str, workload: &str, port: &str) -> String {
    let mode = |mode: &str| format!("mtls: {{mode: {mode}}}");
    let selected = format!(
        "{{selector: {{matchLabels: {{app: web}}}}, {}, portLevelMtls: {{8080: {{mode: {port}}}}}}}",
        mode(workload)
    );
    [
        MESH.to_owned(),
        policy("mesh", "istio-system", &format!("{{{}}}", mode(whole))),
        policy("namespace", "default", &format!("{{{}}}", mode(namespace))),
        policy("workload", "default", &selected),
    ]
    .concat()
}

/// The narrowest mode that says something.
fn effective<'a>(levels: &[&'a str]) -> &'a str {
    let said = levels.iter().copied().find(|mode| *mode != "UNSET");
    said.unwrap_or("PERMISSIVE")
}

fn check(yaml: &str, url: &str, mode: &str, levels: &str) {
    let mesh = mesh(yaml);
    let inside = ask(&mesh, "deploy/client", url);
    assert!(inside.succeeds(), "{levels}: {}", text(&inside));
    let mutual = text(&inside)
        .contains("mutual TLS: the peer is spiffe://cluster.local/ns/default/sa/client");
    assert_eq!(mutual, mode != "DISABLE", "{levels}: {}", text(&inside));
    let host = url.replacen("//web", "//web.default", 1);
    let outside = ask(&mesh, "deploy/outsider.plain", &host);
    assert_eq!(
        outside.succeeds(),
        mode != "STRICT",
        "{levels}: {}",
        text(&outside)
    );
}

#[test]
fn the_narrowest_level_that_says_something_decides() {
    for workload in MODES {
        for port in MODES {
            let yaml = with("STRICT", "PERMISSIVE", workload, port);
            let levels = format!("workload {workload}, port {port}");
            check(
                &yaml,
                "http://web/",
                effective(&[port, workload, "PERMISSIVE"]),
                &levels,
            );
            // A port of which nothing is said is the workload's.
            check(
                &yaml,
                "http://web:81/",
                effective(&[workload, "PERMISSIVE"]),
                &levels,
            );
        }
    }
    for whole in MODES {
        for namespace in MODES {
            let yaml = with(whole, namespace, "UNSET", "UNSET");
            let levels = format!("mesh {whole}, namespace {namespace}");
            check(
                &yaml,
                "http://web/",
                effective(&[namespace, whole]),
                &levels,
            );
        }
    }
}

/// A service's endpoints need not take the same: the client speaks to each what it takes.
#[test]
fn a_client_follows_each_endpoint() {
    let yaml = [
        MESH.to_owned(),
        policy(
            "web",
            "default",
            "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}",
        ),
        policy(
            "other",
            "default",
            "{selector: {matchLabels: {app: other}}, mtls: {mode: DISABLE}}",
        ),
    ]
    .concat();
    let explanation = ask(&mesh(&yaml), "deploy/client", "http://mixed/");
    // One of the two takes mutual TLS alone and the other plain text alone, and both are reached.
    assert_eq!(explanation.branches.len(), 2, "{}", text(&explanation));
    assert!(explanation.succeeds(), "{}", text(&explanation));
}

/// Whether clients use mutual TLS for a service at all follows its namespace, as in Istio: a workload that wants it in a namespace that
/// has it turned off is not reached by them.
#[test]
fn a_workload_cannot_have_what_its_namespace_turned_off() {
    let yaml = with("UNSET", "DISABLE", "STRICT", "UNSET");
    let mesh = mesh(&yaml);
    assert!(!ask(&mesh, "deploy/client", "http://web/").succeeds());
    let yaml = with("UNSET", "DISABLE", "PERMISSIVE", "UNSET");
    let inside = ask(&common::mesh(&yaml), "deploy/client", "http://web/");
    assert!(
        inside.succeeds() && !text(&inside).contains("mutual TLS: the peer"),
        "{}",
        text(&inside)
    );
}
