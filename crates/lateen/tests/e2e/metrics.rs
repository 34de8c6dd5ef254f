//! Istio's standard metrics, every one with its full label set, as both reporters count the same traffic.
//!
//! Source of what is expected: Istio 1.30's standard metrics and the rules of its `istio.stats` filter.

mod expected;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::mesh::{DataPlane, Mesh, available};
use crate::my_turn;

use self::expected::{Labels, Series};

/// Callers with and without a sidecar, and servers with and without one.
const MESH: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: front, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: caller, namespace: front}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports:
    - {name: http, port: 80, targetPort: 8080}
    - {name: grpc, port: 7070, targetPort: 7070}
    - {name: tcp, port: 9000, targetPort: 9090}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-v1, namespace: shop}
spec:
  selector: {matchLabels: {app: web, version: v1}}
  template:
    metadata: {labels: {app: web, version: v1}}
    spec:
      serviceAccountName: web
      containers:
        - name: app
          image: gcr.io/istio-testing/app:latest
          args: [--port, "8080", --grpc, "7070", --tcp, "9090"]
          ports: [{containerPort: 8080}, {containerPort: 7070}, {containerPort: 9090}]
          readinessProbe: {tcpSocket: {port: 9090}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: shop}
spec: {selector: {app: nobody}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: caller, namespace: front}
spec:
  selector: {matchLabels: {app: caller}}
  template:
    metadata: {labels: {app: caller}}
    spec:
      serviceAccountName: caller
      containers: [{name: curl, image: curlimages/curl, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Service
metadata: {name: bare, namespace: plain}
spec: {selector: {app: bare}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: bare, namespace: plain}
spec:
  selector: {matchLabels: {app: bare}}
  template:
    metadata: {labels: {app: bare}}
    spec:
      containers:
        - name: app
          image: gcr.io/istio-testing/app:latest
          args: [--port, "80", --tcp, "9090"]
          ports: [{containerPort: 80}, {containerPort: 9090}]
"#;

const CALLER: &str = "deploy/caller.front";
const OUTSIDER: &str = "deploy/bare.plain";

fn curl(mesh: &Mesh, from: &str, args: &[&str]) -> String {
    let mut argv = vec!["curl", "-s", "-m", "10"];
    argv.extend(args);
    String::from_utf8_lossy(&mesh.exec(from, &argv).stdout).into_owned()
}

fn status(mesh: &Mesh, from: &str, args: &[&str]) -> String {
    let mut all = vec!["-o", "/dev/null", "-w", "%{http_code}"];
    all.extend(args);
    curl(mesh, from, &all)
}

/// One gRPC call with an empty message; the caller's standard tool knows HTTP/2, and a message's frame is five bytes.
fn grpc(mesh: &Mesh, method: &str) {
    let script = format!(
        r"printf '\0\0\0\0\0' | curl -s -m 10 -o /dev/null --http2-prior-knowledge -H 'content-type: application/grpc' -H 'te: trailers' --data-binary @- http://web.shop:7070/proto.EchoTestService/{method}"
    );
    let output = mesh.exec(CALLER, &["sh", "-c", &script]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Says a line to a TCP server, hears its echo, and ends the connection.
fn tcp(mesh: &Mesh, from: &str, server: &str) {
    let script = format!("(echo world; sleep 1) | curl -s -m 3 telnet://{server}");
    let output = mesh.exec(from, &["sh", "-c", &script]);
    let heard = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(heard.contains("world"), "{server} said {heard:?}");
}

/// The address of the pod without a sidecar.
fn bare(mesh: &Mesh) -> String {
    let pods = mesh.pods();
    let pod = pods
        .iter()
        .find(|p| p["metadata"]["labels"]["app"] == "bare");
    pod.unwrap()["status"]["podIP"].as_str().unwrap().to_owned()
}

fn traffic(mesh: &Mesh) {
    for _ in 0..3 {
        assert_eq!(status(mesh, CALLER, &["http://web.shop/"]), "200");
    }
    assert_eq!(status(mesh, CALLER, &["http://web.shop/?codes=404"]), "404");
    assert_eq!(status(mesh, CALLER, &["http://nobody.shop/"]), "503");
    assert_eq!(status(mesh, CALLER, &["http://bare.plain/"]), "200");
    let address = bare(mesh);
    let named = format!("unknown.example.com:80:{address}");
    let unknown = ["--resolve", &named, "http://unknown.example.com/"];
    assert_eq!(status(mesh, CALLER, &unknown), "200");
    assert_eq!(status(mesh, OUTSIDER, &["http://web.shop/"]), "200");
    grpc(mesh, "Echo");
    grpc(mesh, "Echo");
    grpc(mesh, "Nothing");
    tcp(mesh, CALLER, "web.shop:9000");
    tcp(mesh, CALLER, &format!("{address}:9090"));
    tcp(mesh, OUTSIDER, "web.shop:9000");
}

/// The series of a proxy whose name begins with `istio_`, but for those of the build.
fn scrape(mesh: &Mesh, target: &str) -> BTreeMap<Series, u64> {
    let text = curl(mesh, target, &["http://127.0.0.1:15090/stats/prometheus"]);
    let lines = text.lines().filter(|line| line.starts_with("istio_"));
    lines
        .filter(|line| !line.starts_with("istio_build"))
        .filter_map(series)
        .collect()
}

/// Reads one line of Prometheus' text. Label values of these tests hold no quotes.
fn series(line: &str) -> Option<(Series, u64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.strip_suffix('}')?.split_once('{')?;
    let labels: Labels = labels
        .trim_end_matches(',')
        .split("\",")
        .filter_map(|pair| {
            let (name, value) = pair.split_once("=\"")?;
            Some((name.to_owned(), value.trim_end_matches('"').to_owned()))
        })
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let value: f64 = value.parse().ok()?;
    Some(((name.to_owned(), labels), value as u64))
}

/// What is wrong with what a proxy counted.
fn differences(found: &BTreeMap<Series, u64>, expected: &BTreeMap<Series, u64>) -> Vec<String> {
    let mut out = Vec::new();
    for (series, value) in expected {
        match found.get(series) {
            Some(counted) if counted == value => {}
            counted => out.push(format!("wanted {value}, counted {counted:?}: {series:?}")),
        }
    }
    // Bytes and times are what they are; their labels are those of what is counted exactly.
    let counted = |name: &str| {
        !name.ends_with("_bucket") && !name.ends_with("_sum") && !name.ends_with("_bytes_total")
    };
    for series in found.keys().filter(|(name, _)| counted(name)) {
        if !expected.contains_key(series) {
            out.push(format!("not expected: {series:?}"));
        }
    }
    out
}

/// Bytes of TCP connections, which both sides have to count alike.
fn tcp_bytes(found: &BTreeMap<Series, u64>, name: &str, agreed: &[(&str, &str)]) -> Vec<u64> {
    let fits = |labels: &Labels| {
        let mut all = agreed.iter();
        all.all(|(key, value)| labels.get(*key).is_some_and(|v| v == value))
    };
    let all = found
        .iter()
        .filter(|((n, labels), _)| n == name && fits(labels));
    all.map(|(_, bytes)| *bytes).collect()
}

#[test]
fn every_standard_metric_has_its_full_label_set_on_both_reporters() {
    let _turn = my_turn();
    if !available(DataPlane::Lateen) {
        return;
    }
    let mesh = Mesh::up(&[("mesh.yaml", MESH)], DataPlane::Lateen);
    traffic(&mesh);
    let deadline = Instant::now() + Duration::from_secs(20);
    let proxies = [
        (CALLER, expected::source()),
        ("deploy/web-v1.shop", expected::destination()),
    ];
    loop {
        let wrong: Vec<String> = proxies
            .iter()
            .flat_map(|(target, expected)| {
                let found = scrape(&mesh, target);
                let wrong = differences(&found, expected).into_iter();
                wrong.map(move |text| format!("{target}: {text}"))
            })
            .collect();
        if wrong.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{}", wrong.join("\n"));
        std::thread::sleep(Duration::from_millis(200)); // the end of a connection may not have been counted
    }
    let (source, destination) = (scrape(&mesh, CALLER), scrape(&mesh, proxies[1].0));
    let between = [
        ("source_workload", "caller"),
        ("destination_workload", "web-v1"),
    ];
    for name in [
        "istio_tcp_sent_bytes_total",
        "istio_tcp_received_bytes_total",
    ] {
        let (a, b) = (
            tcp_bytes(&source, name, &between),
            tcp_bytes(&destination, name, &between),
        );
        assert_eq!(a, b, "{name}");
        assert!(a.len() == 1 && a[0] >= 6, "{name}: {a:?}");
    }
    mesh.down();
}
