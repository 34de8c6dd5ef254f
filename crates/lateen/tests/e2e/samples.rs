//! Istio's own samples run as they are, on both data planes.
//!
//! They are read in place, from the directory that `LATEEN_SAMPLES` names: `samples` of a checkout of Istio.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use crate::mesh::{DataPlane, Mesh, available};
use crate::my_turn;
use crate::scenario::{Call, calls};

/// Injection is on in the namespace the samples are applied to, as their instructions say.
const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio-injection: enabled}}
";

fn samples() -> Option<PathBuf> {
    let dir = std::env::var_os("LATEEN_SAMPLES").map(PathBuf::from);
    if dir.is_none() {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: LATEEN_SAMPLES does not name Istio's samples"
        );
    }
    dir
}

fn read(file: &str) -> String {
    let path = samples().unwrap_or_default().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A mesh of some samples.
fn up(files: &[&str], data_plane: DataPlane) -> Mesh {
    let texts: Vec<(String, String)> = files
        .iter()
        .map(|file| (file.replace('/', "-"), read(file)))
        .collect();
    let mut all = vec![("namespace.yaml", NAMESPACE)];
    all.extend(texts.iter().map(|(n, t)| (n.as_str(), t.as_str())));
    Mesh::up(&all, data_plane)
}

fn failures(mesh: &Mesh, table: &str) -> Vec<String> {
    let run = |call: &Call| {
        call.run(mesh)
            .err()
            .map(|error| format!("{call:?}: {error}"))
    };
    calls(table).iter().filter_map(run).collect()
}

/// Runs samples on each data plane that can run here.
fn hold(files: &[&str], table: &str) {
    let _turn = my_turn();
    if samples().is_none() {
        return;
    }
    for data_plane in DataPlane::BOTH.into_iter().filter(|d| available(*d)) {
        let mesh = up(files, data_plane);
        let failures = failures(&mesh, table);
        assert!(
            failures.is_empty(),
            "{}: {failures:#?}\n{}",
            data_plane.as_str(),
            mesh.evidence()
        );
        mesh.down();
    }
}

#[test]
fn httpbin_helloworld_and_the_clients_run_unmodified() {
    hold(
        &[
            "httpbin/httpbin.yaml",
            "httpbin/httpbin-gateway.yaml",
            "helloworld/helloworld.yaml",
            "helloworld/helloworld-gateway.yaml",
            "curl/curl.yaml",
            "sleep/sleep.yaml",
            "health-check/liveness-command.yaml",
            "health-check/liveness-http-same-port.yaml",
            "extauthz/ext-authz.yaml",
            "grpc-echo/grpc-echo.yaml",
        ],
        "
| ingress | GET /status/418 | 418 |
| ingress | GET /hello | 200 body contains \"Hello version\" |
| ingress | 20 x GET /hello | 1..19 of body contains \"version: v1\" |
| deploy/curl | GET http://httpbin:8000/headers | 200 body contains \"sa/curl\" |
| deploy/sleep | GET http://httpbin.default.svc.cluster.local:8000/status/204 | 204 |
| deploy/sleep | GET http://helloworld:5000/hello | 200 body contains \"Hello version\" |
| deploy/curl | GET http://liveness-http:8001/bar | 200 body contains \"Listening on 8001\" |
| deploy/curl | GET http://ext-authz:8000/ -H 'x-ext-authz: allow' | 200 |
| deploy/curl | GET http://ext-authz:8000/ | 403 |
| deploy/curl | GET http://echo.echo-grpc/ | 200 body contains \"StatusCode=200\" |
",
    );
}

#[test]
fn websockets_run_unmodified() {
    hold(
        &["websockets/app.yaml", "websockets/route.yaml"],
        "
| ingress | GET / | 200 |
| ingress | GET /chatsocket --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' -m 2 | upgraded |
",
    );
}

#[test]
fn tcp_echo_runs_unmodified() {
    hold(
        &["tcp-echo/tcp-echo.yaml", "curl/curl.yaml"],
        "
| deploy/curl | TELNET telnet://tcp-echo:9000 | tcp \"hello world\" |
",
    );
}

#[test]
fn tcp_echos_versions_run_unmodified() {
    hold(
        &[
            "tcp-echo/tcp-echo-services.yaml",
            "tcp-echo/tcp-echo-all-v1.yaml",
            "curl/curl.yaml",
        ],
        "
| deploy/curl | TELNET telnet://istio-ingressgateway.istio-system:31400 | tcp \"one world\" |
| deploy/curl | TELNET telnet://tcp-echo:9001 | tcp \"world\" |
",
    );
}

/// Each of Bookinfo's VirtualServices in the place of the one before, and what a client sees then.
const BOOKINFO: &[(&str, &str)] = &[
    ("virtual-service-all-v1", "| deploy/curl | 5 x GET http://reviews:9080/reviews/0 | 0..0 of body contains \"color\" |"),
    ("virtual-service-reviews-v3", "| deploy/curl | 5 x GET http://reviews:9080/reviews/0 | 5..5 of body contains \"red\"}\" |"),
    (
        "virtual-service-reviews-test-v2",
        "| deploy/curl | 5 x GET http://reviews:9080/reviews/0 -H 'end-user: jason' | 5..5 of body contains \"black\" |
| deploy/curl | 5 x GET http://reviews:9080/reviews/0 | 0..0 of body contains \"color\" |",
    ),
    (
        "virtual-service-reviews-jason-v2-v3",
        "| deploy/curl | 5 x GET http://reviews:9080/reviews/0 -H 'end-user: jason' | 5..5 of body contains \"black\" |
| deploy/curl | 5 x GET http://reviews:9080/reviews/0 | 5..5 of body contains \"red\"}\" |",
    ),
    ("virtual-service-reviews-50-v3", "| deploy/curl | 40 x GET http://reviews:9080/reviews/0 | 8..32 of body contains \"red\"}\" |"),
    ("virtual-service-reviews-80-20", "| deploy/curl | 40 x GET http://reviews:9080/reviews/0 | 1..20 of body contains \"black\" |"),
    ("virtual-service-reviews-90-10", "| deploy/curl | 40 x GET http://reviews:9080/reviews/0 | 0..15 of body contains \"black\" |"),
    ("virtual-service-reviews-v2-v3", "| deploy/curl | 40 x GET http://reviews:9080/reviews/0 | 8..32 of body contains \"red\"}\" |"),
    (
        "virtual-service-ratings-test-abort",
        "| deploy/curl | GET http://ratings:9080/ratings/0 -H 'end-user: jason' | 500 body contains \"fault filter abort\" |
| deploy/curl | GET http://ratings:9080/ratings/0 | 200 |",
    ),
    (
        "virtual-service-ratings-test-delay",
        "| deploy/curl | GET http://ratings:9080/ratings/0 -H 'end-user: jason' -m 2 | refused |
| deploy/curl | GET http://ratings:9080/ratings/0 -m 2 | 200 |",
    ),
    ("virtual-service-details-v2", "| deploy/curl | GET http://details:9080/details/0 | 503 |"),
    ("fault-injection-details-v1", "| deploy/curl | GET http://details:9080/details/0 | 555 |"),
];

#[test]
fn bookinfo_and_each_of_its_routing_rules_run_unmodified() {
    let _turn = my_turn();
    if samples().is_none() {
        return;
    }
    for data_plane in DataPlane::BOTH.into_iter().filter(|d| available(*d)) {
        let mesh = up(
            &[
                "bookinfo/platform/kube/bookinfo.yaml",
                "bookinfo/networking/bookinfo-gateway.yaml",
                "bookinfo/networking/destination-rule-all.yaml",
                "curl/curl.yaml",
            ],
            data_plane,
        );
        let mut wrong = failures(
            &mesh,
            "| ingress | GET /productpage | 200 body contains \"Simple Bookstore App\" |",
        );
        for (rule, table) in BOOKINFO {
            mesh.write(
                "zz-rule.yaml",
                &read(&format!("bookinfo/networking/{rule}.yaml")),
            );
            std::thread::sleep(Duration::from_secs(1));
            wrong.extend(
                failures(&mesh, table)
                    .into_iter()
                    .map(|f| format!("{rule}: {f}")),
            );
        }
        assert!(
            wrong.is_empty(),
            "{}: {wrong:#?}\n{}",
            data_plane.as_str(),
            mesh.evidence()
        );
        mesh.down();
    }
}
