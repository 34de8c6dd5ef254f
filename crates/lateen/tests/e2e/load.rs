//! Nothing is lost while the configuration changes under load.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::mesh::{DataPlane, Mesh, available, repository};
use crate::my_turn;

/// Requests a second. The release build (`cargo test --release`) carries thousands; the debug build runs on whatever
/// machine there is.
const RPS: &str = if cfg!(debug_assertions) { "200" } else { "500" };
/// How long they are sent.
const SECONDS: u32 = if cfg!(debug_assertions) { 45 } else { 60 };

pub(crate) fn canary() -> Vec<(String, String)> {
    let dir = repository().join("examples/canary");
    let mut files: Vec<(String, String)> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// A load generator that runs.
pub(crate) struct Load(Child);

impl Load {
    pub(crate) fn start(mesh: &Mesh, seconds: u32) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_lateen"))
            .args([
                "app",
                "load",
                "--rps",
                RPS,
                "--seconds",
                &seconds.to_string(),
            ])
            .args(["--url", &format!("http://127.0.0.1:{}/", mesh.ingress)])
            .args(["--key", r"Version: (\S+)"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    pub(crate) fn finish(self) -> Value {
        let output = self.0.wait_with_output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn edits_scaling_a_rotated_certificate_and_a_killed_control_plane_lose_no_request() {
    let _turn = my_turn();
    if !available(DataPlane::Lateen) {
        return;
    }
    let mut files = canary();
    // Certificates live 40 s here, so each proxy renews at least once during the load.
    let short = "    metadata:\n      annotations: {proxy.istio.io/config: '{\"proxyMetadata\": {\"SECRET_TTL\": \"40s\"}}'}\n";
    for (name, text) in &mut files {
        if name == "backend.yaml" {
            *text = text.replacen("    metadata:\n", short, 1);
        }
    }
    let text = |wanted: &str| {
        files
            .iter()
            .find(|(name, _)| name == wanted)
            .unwrap()
            .1
            .clone()
    };
    let borrowed: Vec<(&str, &str)> = files
        .iter()
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect();
    let mesh = Mesh::up(&borrowed, DataPlane::Lateen);
    let load = Load::start(&mesh, SECONDS);
    let (routes, backend) = (text("frontend-vs-canary.yaml"), text("backend.yaml"));
    for turn in 0..10 {
        std::thread::sleep(Duration::from_millis(500));
        let weight = if turn % 2 == 0 { "50" } else { "10" };
        mesh.write(
            "frontend-vs-canary.yaml",
            &routes.replace("weight: 10\n", &format!("weight: {weight}\n")),
        );
    }
    let ready = |count| {
        move |mesh: &Mesh| {
            let pods = mesh.pods();
            pods.iter()
                .filter(|p| p["metadata"]["ownerReferences"][0]["name"] == "backend-v1")
                .count()
                == count
                && pods.iter().all(crate::mesh::settled)
        }
    };
    mesh.write(
        "backend.yaml",
        &backend.replacen("replicas: 1", "replicas: 3", 1),
    );
    mesh.wait_for("three replicas", Duration::from_secs(20), ready(3));
    mesh.write("backend.yaml", &backend);
    mesh.wait_for("one replica", Duration::from_secs(20), ready(1));
    mesh.kill_control_plane();
    mesh.wait_for(
        "the control plane is back",
        Duration::from_secs(20),
        |mesh| mesh.lateen(&["proxy-status"]).status.success(),
    );
    let result = load.finish();
    assert_eq!(result["failed"], 0, "{result:#}");
    assert!(result["ok"].as_u64().unwrap() >= 8_000, "{result:#}");
    assert!(result["split"]["2.0.0"].as_u64().unwrap() > 0, "{result:#}");
    mesh.down();
}

/// Mutual TLS goes from permissive to strict and back: workloads of the mesh speak it already, so nobody notices, and probes, which
/// do not, are answered by the agent.
#[test]
fn turning_mutual_tls_strict_under_load_loses_no_request_and_no_probe() {
    let _turn = my_turn();
    if !available(DataPlane::Lateen) {
        return;
    }
    let files = canary();
    let borrowed: Vec<(&str, &str)> = files
        .iter()
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect();
    let mesh = Mesh::up(&borrowed, DataPlane::Lateen);
    let load = Load::start(&mesh, 15);
    for mode in ["PERMISSIVE", "STRICT", "PERMISSIVE", "STRICT"] {
        let policy = format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: istio-system}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        );
        mesh.write("mtls.yaml", &policy);
        std::thread::sleep(Duration::from_secs(3));
    }
    let result = load.finish();
    assert_eq!(result["failed"], 0, "{result:#}");
    assert!(result["ok"].as_u64().unwrap() >= 2_000, "{result:#}");
    let pods = mesh.pods();
    assert!(pods.iter().all(crate::mesh::settled), "{pods:#?}");
    let restarts = |pod: &Value| {
        let containers = pod["status"]["containerStatuses"].as_array();
        let counts = containers.into_iter().flatten();
        counts
            .filter_map(|one| one["restartCount"].as_u64())
            .sum::<u64>()
    };
    assert_eq!(pods.iter().map(restarts).sum::<u64>(), 0, "{pods:#?}");
    mesh.down();
}

#[test]
fn a_change_of_weights_reaches_the_proxies_within_half_a_second() {
    let _turn = my_turn();
    if !available(DataPlane::Lateen) {
        return;
    }
    let files = canary();
    let borrowed: Vec<(&str, &str)> = files
        .iter()
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect();
    let mesh = Mesh::up(&borrowed, DataPlane::Lateen);
    let routes = files
        .iter()
        .find(|(name, _)| name == "frontend-vs-canary.yaml")
        .unwrap()
        .1
        .clone();
    let all_to = |version: &str| {
        let (v1, v2) = if version == "1.0.0" {
            ("100", "0")
        } else {
            ("0", "100")
        };
        routes
            .replace("weight: 90\n", &format!("weight: {v1}\n"))
            .replace("weight: 10\n", &format!("weight: {v2}\n"))
    };
    for version in ["2.0.0", "1.0.0", "2.0.0"] {
        mesh.write("frontend-vs-canary.yaml", &all_to(version));
        std::thread::sleep(Duration::from_millis(500));
        for _ in 0..10 {
            let body = mesh.get("/");
            let backend = body
                .rsplit("Version: ")
                .next()
                .unwrap()
                .lines()
                .next()
                .unwrap()
                .to_owned();
            assert_eq!(backend, version, "{body}");
        }
    }
    mesh.down();
}
