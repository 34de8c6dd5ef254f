//! Telemetry of a running mesh: spans reach their collector and join over hops, metrics have the labels that were asked for, logs are
//! filtered; and a denial for want of a good token is explained by its rule, with the keys that the control plane fetched.

use std::time::{Duration, Instant};

use crate::mesh::{DataPlane, Mesh, available};
use crate::my_turn;

const MESH: &str = r#"
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {name: mesh}
spec:
  meshConfig:
    extensionProviders:
    - name: spans
      zipkin: {service: collector.plain.svc.cluster.local, port: 80, path: /anything/spans}
    - name: only-bad
      envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: "LOGGED %RESPONSE_CODE% %REQ(:PATH)%"}}
    defaultConfig: {proxyMetadata: {LATEEN_DECISION_IDS: mesh}}
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
metadata: {name: collector, namespace: plain}
spec: {selector: {app: collector}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: collector, namespace: plain}
spec:
  selector: {matchLabels: {app: collector}}
  template:
    metadata: {labels: {app: collector}}
    spec: {containers: [{name: web, image: docker.io/mccutchen/go-httpbin:v2.15.0, ports: [{containerPort: 8080}]}]}
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
    spec: {containers: [{name: curl, image: curlimages/curl, command: ["/bin/sleep", "infinity"]}]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh-default, namespace: istio-system}
spec:
  tracing:
  - providers: [{name: spans}]
    randomSamplingPercentage: 100
    customTags: {team: {literal: {value: platform}}}
  metrics:
  - providers: [{name: prometheus}]
    overrides:
    - match: {metric: REQUEST_COUNT, mode: SERVER}
      tagOverrides: {request_host: {value: request.host}, source_version: {operation: REMOVE}}
    - match: {metric: REQUEST_SIZE}
      disabled: true
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  accessLogging:
  - providers: [{name: only-bad}]
    filter: {expression: "response.code >= 400 && request.url_path.startsWith('/status')"}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens}
spec:
  selector: {matchLabels: {app: web}}
  jwtRules: [{issuer: "https://issuer.example", jwks: '{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"rwsk_xqZ6UevHakg1YvGZbl4gW5jOpEevZUqgqz_us0","y":"DgSyD8f2SAZ6uW5Ip5i0_aUF7PQEF3ECjVKClDp-7XY"}]}'}]
"#;

fn curl(mesh: &Mesh, from: &str, args: &[&str]) -> String {
    let mut words = vec!["curl", "-s", "-m", "10"];
    words.extend(args);
    let output = mesh.exec(from, &words);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until a text of the mesh holds a part.
fn until(what: &str, read: impl Fn() -> String, holds: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let text = read();
        if holds(&text) {
            return text;
        }
        assert!(Instant::now() < end, "{what}:\n{text}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Both sidecars trace the request, the server's as a part of the client's, and the collector takes what they say.
fn spans_arrive(mesh: &Mesh, data_plane: DataPlane) {
    let seen = curl(mesh, "deploy/client", &["http://web/headers"]).to_lowercase();
    assert!(
        seen.contains("x-b3-traceid") && seen.contains("x-b3-parentspanid"),
        "{seen}"
    );
    assert!(seen.contains("\"x-b3-sampled\""), "{seen}");
    if data_plane == DataPlane::Envoy {
        return;
    }
    for proxy in ["deploy/client", "deploy/web"] {
        let read = || curl(mesh, proxy, &["http://127.0.0.1:15090/stats/prometheus"]);
        until("no spans", read, |text| {
            text.contains("\nenvoy_tracing_zipkin_reports_success{} ")
                || text.lines().any(|line| {
                    line.strip_prefix("envoy_tracing_zipkin_reports_success ")
                        .is_some_and(|count| count != "0")
                })
        });
    }
}

fn metrics_have_their_labels(mesh: &Mesh) {
    let read = || {
        curl(
            mesh,
            "deploy/web",
            &["http://127.0.0.1:15090/stats/prometheus"],
        )
    };
    let text = until("no metrics", read, |text| {
        text.contains("istio_requests_total{")
    });
    let counted = |name: &str| -> Vec<&str> {
        text.lines()
            .filter(|line| line.starts_with(name) && line.contains("reporter=\"destination\""))
            .collect()
    };
    let requests = counted("istio_requests_total{");
    assert!(
        requests
            .iter()
            .all(|line| line.contains("request_host=\"web\"") && !line.contains("source_version=")),
        "{requests:#?}"
    );
    assert!(!counted("istio_response_bytes_count{").is_empty());
    assert!(counted("istio_request_bytes_count{").is_empty());
}

fn logs_are_filtered(mesh: &Mesh) {
    for path in ["/status/200", "/status/418", "/nosuch"] {
        curl(mesh, "deploy/client", &[&format!("http://web{path}")]);
    }
    let read = || {
        let output = mesh.lateen(&["logs", "deploy/web", "-c", "istio-proxy"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = until("no log", read, |text| {
        text.contains("LOGGED 418 /status/418")
    });
    assert_eq!(text.matches("LOGGED").count(), 1, "{text}");
}

/// A token of the issuer that nobody signed.
const TOKEN: &str = "authorization: Bearer eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiZXhwIjo5OTk5OTk5OTk5fQ.BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBw";

/// An id leads to the rule that the token is not good for.
fn a_bad_token_is_explained(mesh: &Mesh) {
    let answer = curl(
        mesh,
        "deploy/client",
        &["-i", "-H", TOKEN, "http://web/get"],
    );
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let id = answer
        .lines()
        .find_map(|line| line.strip_prefix("x-lateen-decision: "))
        .unwrap();
    let output = mesh.lateen(&["explain", id.trim()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("RequestAuthentication/default/tokens jwtRules[0]")
            && text.contains("mesh.yaml:"),
        "{text}"
    );
    assert!(
        text.contains("no key of `https://issuer.example`"),
        "{text}"
    );
}

#[test]
fn telemetry_says_what_is_traced_counted_and_logged() {
    let _turn = my_turn();
    for data_plane in DataPlane::BOTH.into_iter().filter(|d| available(*d)) {
        let mesh = Mesh::up(&[("mesh.yaml", MESH)], data_plane);
        spans_arrive(&mesh, data_plane);
        logs_are_filtered(&mesh);
        if data_plane == DataPlane::Lateen {
            metrics_have_their_labels(&mesh);
            a_bad_token_is_explained(&mesh);
        }
        mesh.down();
    }
}
