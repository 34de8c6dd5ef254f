//! What both data planes write of the same requests: access logs, field by field.
//!
//! Each runs the same mesh and gets the same requests; what differs by nature (times, ports, identifiers) is masked, the rest has
//! to be equal.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::mesh::{DataPlane, Mesh, available};
use crate::my_turn;

const MESH: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    accessLogEncoding: JSON
    outboundTrafficPolicy: {mode: REGISTRY_ONLY}
---
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: httpbin}
spec: {selector: {app: httpbin}, ports: [{name: http, port: 8000, targetPort: 8080}, {name: tcp, port: 9000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: httpbin}
spec:
  selector: {matchLabels: {app: httpbin}}
  template:
    metadata: {labels: {app: httpbin}}
    spec: {containers: [{name: httpbin, image: docker.io/mccutchen/go-httpbin:v2.15.0, ports: [{containerPort: 8080}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: curl}
spec:
  selector: {matchLabels: {app: curl}}
  template:
    metadata: {labels: {app: curl}}
    spec: {containers: [{name: curl, image: curlimages/curl, command: [sleep, infinity]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-teapots}
spec:
  selector: {matchLabels: {app: httpbin}}
  action: DENY
  rules: [{to: [{operation: {paths: [/status/418]}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: httpbin}
spec:
  hosts: [httpbin]
  http:
    - name: faulty
      match: [{uri: {prefix: /anything/fault}}]
      fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
      route: [{destination: {host: httpbin}}]
    - name: slow
      match: [{uri: {prefix: /delay}}]
      timeout: 300ms
      retries: {attempts: 0}
      route: [{destination: {host: httpbin, port: {number: 8000}}}]
    - name: moved
      match: [{uri: {prefix: /anything/moved}}]
      redirect: {uri: /get}
    - route: [{destination: {host: httpbin, port: {number: 8000}}}]
"#;

/// Each marked by a query of its own, by which its lines are found again.
const REQUESTS: &[(&str, &[&str])] = &[
    ("get", &["http://httpbin:8000/status/200?q=get"]),
    ("missing", &["http://httpbin:8000/status/404?q=missing"]),
    (
        "post",
        &["http://httpbin:8000/post?q=post", "-d", "hello", "-A", "me"],
    ),
    ("denied", &["http://httpbin:8000/status/418?q=denied"]),
    ("fault", &["http://httpbin:8000/anything/fault?q=fault"]),
    ("slow", &["http://httpbin:8000/delay/2?q=slow"]),
    ("moved", &["http://httpbin:8000/anything/moved?q=moved"]),
    ("nobody", &["http://nobody/?q=nobody"]),
    (
        "unknown",
        &[
            "http://unknown.example.com/?q=unknown",
            "--resolve",
            "unknown.example.com:80:10.96.77.8",
        ],
    ),
];

/// Fields whose values differ from run to run.
const VARYING: [&str; 12] = [
    "start_time",
    "duration",
    "upstream_service_time",
    "x_request_id",
    "request_id",
    "downstream_remote_address",
    "downstream_local_address",
    "upstream_host",
    "upstream_local_address",
    "response_duration",
    "request_duration",
    "response_tx_duration",
];

type Lines = BTreeMap<String, Vec<BTreeMap<String, String>>>;

/// The lines of a proxy's log by the request they are about, masked.
fn lines(mesh: &Mesh, target: &str) -> Lines {
    let output = mesh.lateen(&["logs", target, "-c", "istio-proxy"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found = Lines::new();
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let Ok(Value::Object(fields)) = serde_json::from_str(line) else {
            continue;
        };
        let path = fields.get("path").and_then(Value::as_str).unwrap_or("");
        let Some((_, mark)) = path.split_once("q=") else {
            continue;
        };
        let masked = fields
            .iter()
            .map(|(name, value)| (name.clone(), masked(name, value)));
        found
            .entry(mark.to_owned())
            .or_default()
            .push(masked.collect());
    }
    found
}

fn masked(name: &str, value: &Value) -> String {
    match value {
        // Whether there is a value is no accident.
        Value::Null => "null".to_owned(),
        Value::String(text) if text == "-" => "null".to_owned(),
        _ if VARYING.contains(&name) => "something".to_owned(),
        other => other.to_string(),
    }
}

fn logs(data_plane: DataPlane) -> [Lines; 2] {
    let mesh = Mesh::up(&[("mesh.yaml", MESH)], data_plane);
    for (_, arguments) in REQUESTS {
        let mut argv = vec!["curl", "-s", "-m", "5", "-o", "/dev/null"];
        argv.extend(*arguments);
        mesh.exec("deploy/curl", &argv);
    }
    // Envoy writes its log every 10 s, and at 64 KiB.
    std::thread::sleep(std::time::Duration::from_secs(12));
    let logs = [lines(&mesh, "deploy/curl"), lines(&mesh, "deploy/httpbin")];
    mesh.down();
    logs
}

#[test]
fn both_data_planes_log_the_same_of_the_same_requests() {
    let _turn = my_turn();
    if !DataPlane::BOTH.into_iter().all(available) {
        return;
    }
    let [ours, envoys] = DataPlane::BOTH.map(logs);
    let mut differences = Vec::new();
    for (side, ours, envoys) in [
        ("client", &ours[0], &envoys[0]),
        ("server", &ours[1], &envoys[1]),
    ] {
        for (mark, _) in REQUESTS {
            let (own, theirs) = (ours.get(*mark), envoys.get(*mark));
            match (own, theirs) {
                (Some(own), Some(theirs)) => differences.extend(compare(side, mark, own, theirs)),
                (None, None) => {}
                _ => differences.push(format!("{side} {mark}: {own:?} and {theirs:?}")),
            }
        }
    }
    assert!(ours[0].len() >= REQUESTS.len() - 1, "{:?}", ours[0].keys());
    assert!(
        differences.is_empty(),
        "ours, then Envoy's:\n{}",
        differences.join("\n")
    );
}

fn compare(
    side: &str,
    mark: &str,
    ours: &[BTreeMap<String, String>],
    envoys: &[BTreeMap<String, String>],
) -> Vec<String> {
    if ours.len() != envoys.len() {
        return vec![format!(
            "{side} {mark}: {} lines, {} of Envoy's",
            ours.len(),
            envoys.len()
        )];
    }
    let mut differences = Vec::new();
    for (own, theirs) in ours.iter().zip(envoys) {
        for name in own.keys().chain(theirs.keys()) {
            let (a, b) = (own.get(name), theirs.get(name));
            let told = format!("{side} {mark} {name}: {a:?}, {b:?}");
            if a != b && !differences.contains(&told) {
                differences.push(told);
            }
        }
    }
    differences
}
