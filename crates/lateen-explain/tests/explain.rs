//! Explanations of whole meshes: what they say, and that they agree with the engine.

mod common;

use common::{ask, directory, mesh, text};
use expect_test::{Expect, expect};
use lateen_explain::{End, Mesh};

const SHOP: &str = r"
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
metadata: {name: db}
spec: {selector: {app: db}, ports: [{name: tcp, port: 5432}]}
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
metadata: {name: web-v1}
spec:
  selector: {matchLabels: {app: web, version: v1}}
  template:
    metadata: {labels: {app: web, version: v1}}
    spec: {serviceAccountName: web, containers: [{name: c, image: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-v2}
spec:
  selector: {matchLabels: {app: web, version: v2}}
  template:
    metadata: {labels: {app: web, version: v2}}
    spec: {serviceAccountName: web, containers: [{name: c, image: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: db}
spec:
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: db, ports: [{containerPort: 5432}]}]}
";

const ROUTES: &str = r"
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec:
  host: web
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http:
  - name: canary
    match: [{headers: {x-canary: {exact: 'true'}}, uri: {prefix: /shop}}]
    rewrite: {uri: /}
    route: [{destination: {host: web, subset: v2}}]
  - name: main
    timeout: 5s
    retries: {attempts: 3, perTryTimeout: 2s, retryOn: 5xx}
    route:
    - {destination: {host: web, subset: v1}, weight: 90}
    - {destination: {host: web, subset: v2}, weight: 10}
";

fn check(actual: &str, expected: &Expect) {
    expected.assert_eq(actual);
}

#[test]
fn weights_are_branches_and_every_route_that_was_passed_over_says_why() {
    let mesh = mesh(&format!("{SHOP}{ROUTES}"));
    let explanation = ask(&mesh, "deploy/client", "GET http://web/shop/1");
    assert!(explanation.succeeds());
    let shares: Vec<(f64, &str)> = explanation
        .branches
        .iter()
        .map(|branch| (branch.percent, branch.to.as_str()))
        .collect();
    assert_eq!(
        shares,
        [(90.0, "web.default:80 v1"), (10.0, "web.default:80 v2")]
    );
    check(
        &text(&explanation),
        &expect![[r#"
            GET http://web/shop/1  from deploy/client.default

            deploy/client.default
              · client    client-… POD, spiffe://cluster.local/ns/default/sa/client

            client-…
              ✓ name      web is VIP
              ✓ listener  0.0.0.0_80 has port 80 on every address
              ✓ chain     the only one
              ✓ host      web.default.svc.cluster.local:80 has "web", by the name itself
              ✓ route     route 1 main: path begins with "/"   mesh.yaml:85 VirtualService/default/web http[1]
                          - route 0 canary: wants header x-canary = "true", it is absent   mesh.yaml:82 VirtualService/default/web http[0].match[0]
              ✓ weights   by chance, one of
                          * 90% web.default:80 v1   mesh.yaml:89 VirtualService/default/web http[1].route[0]
                          * 10% web.default:80 v2   mesh.yaml:90 VirtualService/default/web http[1].route[1]

            90% web.default:80 v1
              · timeout   5s for the whole answer, retries included   mesh.yaml:86 VirtualService/default/web http[1].timeout
              · retries   3, 2s each on 5xx   mesh.yaml:87 VirtualService/default/web http[1].retries
              ✓ cluster   web.default:80 v1 (least request)   mesh.yaml:72 DestinationRule/default/web subsets[0]
              ✓ endpoint  POD:8080 deploy/web-v1.default
              · tls       ISTIO_MUTUAL (automatic), server name outbound_.80_.v1_.web.default.svc.cluster.local

            web-v1-…
              ✓ listener  virtualInbound takes POD:8080
              ✓ chain     0.0.0.0_8080, for TLS that ends here
              ✓ tls       mutual TLS: the peer is spiffe://cluster.local/ns/default/sa/client
              ✓ workload  port 8080 of deploy/web-v1.default

               90% web.default:80 v1 ✓ reaches port 8080 of deploy/web-v1.default
               10% web.default:80 v2 ✓ reaches port 8080 of deploy/web-v2.default
        "#]],
    );
}

#[test]
fn a_strict_port_refuses_plain_text_and_names_the_policy() {
    let strict = "\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                  metadata: {name: strict, namespace: default}\nspec: {mtls: {mode: STRICT}}\n";
    let mesh = mesh(&format!("{SHOP}{strict}"));
    let explanation = ask(&mesh, "deploy/outsider.plain", "http://web.default/");
    assert!(
        explanation
            .branches
            .iter()
            .all(|branch| branch.outcome.end == End::Denied)
    );
    check(
        &text(&explanation),
        &expect![[r#"
            GET http://web.default/  from deploy/outsider.plain

            deploy/outsider.plain
              · client    outsider-… POD, without an identity
                          · it has no sidecar: nothing on this side looks at the request

            outsider-…
              ✓ name      web.default is VIP

            50% deploy/web-v1.default

            network
              · endpoint  the cluster's own service address VIP:80 leads to POD:8080 deploy/web-v1.default

            web-v1-…
              ✓ listener  virtualInbound takes POD:8080
              ✗ chain     port 8080 takes mutual TLS only, and the client speaks plain text   mesh.yaml:66 PeerAuthentication/default/strict
                          - virtualInbound-blackhole: wants destination port 15006, the connection has 8080
                          ~ virtualInbound-catchall-http: wants transport protocol tls, the connection has raw_buffer   mesh.yaml:66 PeerAuthentication/default/strict
                          ~ virtualInbound: wants transport protocol tls, the connection has raw_buffer   mesh.yaml:66 PeerAuthentication/default/strict
                          ~ 0.0.0.0_8080: wants transport protocol tls, the connection has raw_buffer   mesh.yaml:66 PeerAuthentication/default/strict

               50% deploy/web-v1.default ✗ port 8080 takes mutual TLS only, and the client speaks plain text   mesh.yaml:66 PeerAuthentication/default/strict
               50% deploy/web-v2.default ✗ port 8080 takes mutual TLS only, and the client speaks plain text   mesh.yaml:66 PeerAuthentication/default/strict
        "#]],
    );
    assert!(ask(&mesh, "deploy/client", "http://web/").succeeds());
}

#[test]
fn a_rule_that_nearly_allows_says_but_for_what() {
    let policy = "\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                  metadata: {name: readers, namespace: default}\nspec:\n  selector: {matchLabels: {app: web}}\n  rules:\n  \
                  - from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]\n    \
                  to: [{operation: {methods: [GET, HEAD]}}]\n";
    let mesh = mesh(&format!("{SHOP}{ROUTES}{policy}"));
    assert!(ask(&mesh, "deploy/client", "GET http://web/").succeeds());
    let refused = ask(&mesh, "deploy/client", "POST http://web/  x-canary: true");
    let main = refused.main().expect("a branch");
    assert_eq!(
        (main.outcome.end, main.outcome.status),
        (End::Denied, Some(403))
    );
    check(
        &text(&refused),
        &expect![[r#"
            POST http://web/  from deploy/client.default

            deploy/client.default
              · client    client-… POD, spiffe://cluster.local/ns/default/sa/client

            client-…
              ✓ name      web is VIP
              ✓ listener  0.0.0.0_80 has port 80 on every address
              ✓ chain     the only one
              ✓ host      web.default.svc.cluster.local:80 has "web", by the name itself
              ✓ route     route 1 main: path begins with "/"   mesh.yaml:85 VirtualService/default/web http[1]
                          - route 0 canary: wants path begins with "/shop", the path is "/"   mesh.yaml:82 VirtualService/default/web http[0].match[0]
              ✓ weights   by chance, one of
                          * 90% web.default:80 v1   mesh.yaml:89 VirtualService/default/web http[1].route[0]
                          * 10% web.default:80 v2   mesh.yaml:90 VirtualService/default/web http[1].route[1]

            90% web.default:80 v1
              · timeout   5s for the whole answer, retries included   mesh.yaml:86 VirtualService/default/web http[1].timeout
              · retries   3, 2s each on 5xx   mesh.yaml:87 VirtualService/default/web http[1].retries
              ✓ cluster   web.default:80 v1 (least request)   mesh.yaml:72 DestinationRule/default/web subsets[0]
              ✓ endpoint  POD:8080 deploy/web-v1.default
              · tls       ISTIO_MUTUAL (automatic), server name outbound_.80_.v1_.web.default.svc.cluster.local

            web-v1-…
              ✓ listener  virtualInbound takes POD:8080
              ✓ chain     0.0.0.0_8080, for TLS that ends here
              ✓ tls       mutual TLS: the peer is spiffe://cluster.local/ns/default/sa/client
              ✗ access    denied, as no ALLOW policy allows it: the only rule does not match   mesh.yaml:100 AuthorizationPolicy/default/readers rules[0].to[0].operation.methods
                          ~ rule 0 of readers.default matches but for method: it wants method = "GET" or = "HEAD", it is "POST"   mesh.yaml:100 AuthorizationPolicy/default/readers rules[0].to[0].operation.methods

               90% web.default:80 v1 ✗ 403 denied, as no ALLOW policy allows it: the only rule does not match   mesh.yaml:100 AuthorizationPolicy/default/readers rules[0].to[0].operation.methods
               10% web.default:80 v2 ✗ 403 denied, as no ALLOW policy allows it: the only rule does not match   mesh.yaml:100 AuthorizationPolicy/default/readers rules[0].to[0].operation.methods
        "#]],
    );
}

#[test]
fn a_tcp_connection_is_led_to_its_workload() {
    let mesh = mesh(SHOP);
    check(
        &text(&ask(&mesh, "deploy/client", "tcp://db:5432")),
        &expect![[r#"
            tcp://db:5432  from deploy/client.default

            deploy/client.default
              · client    client-… POD, spiffe://cluster.local/ns/default/sa/client

            client-…
              ✓ name      db is VIP
              ✓ listener  10.96.232.133_5432 is VIP:5432 itself
              ✓ chain     the only one
              ✓ cluster   db.default:5432 (least request)   mesh.yaml:15 Service/default/db
              ✓ endpoint  POD:5432 deploy/db.default
              · tls       ISTIO_MUTUAL (automatic), server name outbound_.5432_._.db.default.svc.cluster.local

            db-…
              ✓ listener  virtualInbound takes POD:5432
              ✓ chain     0.0.0.0_5432, for TLS that ends here
              ✓ tls       mutual TLS: the peer is spiffe://cluster.local/ns/default/sa/client
              ✓ workload  port 5432 of deploy/db.default

            ✓ reaches port 5432 of deploy/db.default
        "#]],
    );
}

#[test]
fn bookinfo_is_explained_from_the_gateway_to_the_page() {
    let mesh = directory("examples/bookinfo");
    let explanation = ask(&mesh, "outside", "http://bookinfo.example/productpage");
    assert!(explanation.succeeds(), "{}", text(&explanation));
    let missing = ask(&mesh, "outside", "http://bookinfo.example/nowhere");
    assert_eq!(missing.branches[0].outcome.status, Some(404));
}

#[test]
fn the_same_request_is_explained_the_same_every_time() {
    let once = || {
        let mesh = directory("examples/bookinfo");
        let explanation = ask(
            &mesh,
            "deploy/productpage-v1",
            "http://reviews:9080/reviews/0",
        );
        serde_json::to_string(&explanation).expect("JSON")
    };
    assert_eq!(once(), once());
}

#[test]
fn a_gateway_says_which_ports_are_open() {
    let said = |mesh: &Mesh| {
        let url = "http://bookinfo.example:81/";
        let refused = ask(mesh, "outside", url);
        let outcome = &refused.main().expect("a branch").outcome;
        outcome.summary.clone()
    };
    assert_eq!(
        said(&directory("examples/bookinfo")),
        "the connection is refused: no Gateway opens port 81 here; open are: 80"
    );
    assert_eq!(
        said(&mesh(SHOP)),
        "the connection is refused: no Gateway opens a port here"
    );
}

#[test]
fn a_port_that_a_service_does_not_have_is_a_dead_end_and_not_the_world_outside() {
    let mesh = mesh(SHOP);
    let asked = ask(&mesh, "deploy/client", "GET http://web:81/");
    assert!(!asked.succeeds());
    let said = &asked.main().unwrap().outcome.summary;
    assert!(said.contains("has no port 81, it has 80"), "{said}");
}
