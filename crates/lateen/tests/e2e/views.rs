//! What users look at: `get`, `logs`, `proxy-status`, `proxy-config`, and Envoy's own forms of them.

use serde_json::Value;

use crate::mesh::{DataPlane, Mesh, available, repository};
use crate::my_turn;

fn bookinfo() -> Vec<(String, String)> {
    let dir = repository().join("examples/bookinfo");
    let files = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn text(mesh: &Mesh, args: &[&str]) -> String {
    let output = mesh.lateen(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn check_views(data_plane: DataPlane) {
    let files = bookinfo();
    let borrowed: Vec<(&str, &str)> = files
        .iter()
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect();
    let mesh = Mesh::up(&borrowed, data_plane);
    for _ in 0..20 {
        assert!(mesh.get("/productpage").contains("The Comedy of Errors"));
    }
    let status = text(&mesh, &["proxy-status"]);
    assert_eq!(
        status.matches("reviews-v1-").count(),
        1,
        "one line for each proxy:\n{status}"
    );
    assert!(
        !status.contains("STALE") && !status.contains("ERROR"),
        "{status}"
    );
    tables(&mesh);
    let dump: Value = serde_json::from_str(&text(
        &mesh,
        &["pc", "all", "deploy/productpage-v1", "-o", "json"],
    ))
    .unwrap();
    parses_as_envoys(&dump);
    explains_from_a_dump(&mesh);
    metrics(&mesh, data_plane);
    let denied = mesh.exec(
        "deploy/outsider.plain",
        &["curl", "-s", "-m", "5", "http://reviews.default:9080/"],
    );
    assert!(
        !denied.status.success(),
        "a plain-text call to a strict workload was answered"
    );
    mesh.down();
}

fn tables(mesh: &Mesh) {
    let listeners = text(mesh, &["proxy-config", "listener", "deploy/productpage-v1"]);
    assert!(
        listeners.contains("Route: 9080") && listeners.contains("15006"),
        "{listeners}"
    );
    let clusters = text(
        mesh,
        &[
            "pc",
            "cluster",
            "deploy/productpage-v1",
            "--fqdn",
            "reviews",
        ],
    );
    assert!(
        clusters.contains("v3") && clusters.contains("reviews.default"),
        "{clusters}"
    );
    let routes = text(
        mesh,
        &["pc", "route", "deploy/productpage-v1", "--name", "9080"],
    );
    assert!(routes.contains("reviews.default"), "{routes}");
    let endpoints = text(mesh, &["pc", "endpoint", "deploy/productpage-v1"]);
    assert!(
        endpoints.contains("HEALTHY") && endpoints.contains("outbound|9080|v2|reviews"),
        "{endpoints}"
    );
    let secrets = text(mesh, &["pc", "secret", "deploy/productpage-v1"]);
    assert!(
        secrets.contains("Cert Chain") && secrets.contains("ROOTCA"),
        "{secrets}"
    );
}

fn metrics(mesh: &Mesh, data_plane: DataPlane) {
    let metrics = mesh.exec(
        "deploy/reviews-v1",
        &["curl", "-s", "http://127.0.0.1:15090/stats/prometheus"],
    );
    let metrics = String::from_utf8(metrics.stdout).unwrap();
    if data_plane == DataPlane::Lateen {
        assert!(
            metrics.contains("istio_requests_total{reporter=\"destination\""),
            "{metrics}"
        );
        assert!(metrics.contains("connection_security_policy=\"mutual_tls\""));
    } else {
        assert!(metrics.contains("envoy_cluster_upstream_rq_total"));
    }
}

/// What one proxy's dump tells is what the whole mesh tells, as far as the dump goes.
fn explains_from_a_dump(mesh: &Mesh) {
    let from = "deploy/productpage-v1";
    let url = "http://127.0.0.1:15000/config_dump?include_eds";
    let dump = mesh.exec(from, &["curl", "-s", url]).stdout;
    let file = mesh.state().join("dump.json");
    std::fs::write(&file, dump).unwrap();
    let file = file.to_string_lossy().into_owned();
    let told = |args: &[&str]| -> Value {
        let asked = ["GET", "http://reviews:9080/reviews/0", "-o", "json"];
        serde_json::from_str(&text(mesh, &[&["explain"], args, &asked].concat())).unwrap()
    };
    let of_dump = told(&["--config-dump", &file, "--listener", "15001"]);
    let of_mesh = told(&["--from", from]);
    let ways = |explanation: &Value| -> Vec<Value> {
        let branches = explanation["branches"].as_array().unwrap();
        let way =
            |b: &Value| serde_json::json!([b["percent"], b["facts"]["cluster"], b["facts"]["tls"]]);
        branches.iter().map(way).collect()
    };
    assert_eq!(ways(&of_dump), ways(&of_mesh), "{of_dump:#}");
    assert_eq!(ways(&of_dump).len(), 3, "{of_dump:#}");
    let workload = &of_dump["branches"][0]["facts"]["workloads"]["reviews-v1.default"];
    assert_eq!(*workload, 100.0, "{of_dump:#}");
}

/// The dump is Envoy's `envoy.admin.v3.ConfigDump`, to the last field.
fn parses_as_envoys(dump: &Value) {
    use lateen_envoy::json;
    use lateen_envoy::pb::envoy::admin::v3::ConfigDump;
    let parsed: ConfigDump = json::from_value(dump.clone()).unwrap();
    assert!(
        parsed.configs.len() >= 5,
        "bootstrap, clusters, listeners, routes, secrets"
    );
}

#[test]
fn bookinfo_can_be_looked_at_on_our_own_proxy() {
    let _turn = my_turn();
    if available(DataPlane::Lateen) {
        check_views(DataPlane::Lateen);
    }
}

#[test]
fn bookinfo_can_be_looked_at_on_a_stock_envoy() {
    let _turn = my_turn();
    if available(DataPlane::Lateen) && available(DataPlane::Envoy) {
        check_views(DataPlane::Envoy);
    }
}
