//! Both data planes accept everything that is compiled for the manifests in documents people read before they come.
//!
//! The documents are read in place, from the directory that `LATEEN_SEEDS` names.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::mesh::{DataPlane, Mesh, available};
use crate::my_turn;

/// A client, and services that the documents' rules refer to but do not declare.
fn surroundings() -> String {
    let mut text = r#"
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio-injection: enabled}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: zz-client}
spec:
  selector: {matchLabels: {app: zz-client}}
  template:
    metadata: {labels: {app: zz-client}}
    spec: {containers: [{name: curl, image: curlimages/curl, command: ["/bin/sleep", "infinity"]}]}
"#
    .to_owned();
    for name in [
        "reviews",
        "ratings",
        "productpage",
        "api",
        "backend",
        "frontend",
        "order-service",
        "user-service",
    ] {
        text.push_str(&format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: zz-client}}, ports: [{{name: http, port: 80}}]}}\n"
        ));
    }
    text
}

/// The YAML blocks of a Markdown text.
fn blocks(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line.trim() {
            "```yaml" | "```yml" => {
                inside = true;
                found.push(String::new());
            }
            "```" => inside = false,
            _ if inside => {
                if let Some(block) = found.last_mut() {
                    block.push_str(line);
                    block.push('\n');
                }
            }
            _ => {}
        }
    }
    found
}

fn documents(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    all.sort();
    all
}

fn accepted(document: &Path, data_plane: DataPlane) {
    let mut files: Vec<(String, String)> = blocks(&fs::read_to_string(document).unwrap())
        .into_iter()
        .enumerate()
        .map(|(i, block)| (format!("{i:03}.yaml"), block))
        .collect();
    files.push(("zz.yaml".to_owned(), surroundings()));
    let borrowed: Vec<(&str, &str)> = files
        .iter()
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect();
    // Some documents name images that nobody here has, so their own pods never become ready; proxies connect all the same.
    let mesh = Mesh::up_unready(&borrowed, data_plane);
    let states = |mesh: &Mesh| -> Vec<Value> {
        let output = mesh.lateen(&["proxy-status", "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    let synced = |mesh: &Mesh| {
        let all = states(mesh);
        let client = all.iter().any(|p| {
            p["proxy"]
                .as_str()
                .is_some_and(|n| n.starts_with("zz-client"))
        });
        client
            && all.iter().all(|p| {
                p["types"]
                    .as_object()
                    .is_some_and(|t| t.values().all(|t| t["status"] == "SYNCED"))
            })
    };
    let what = format!("{} on {}", document.display(), data_plane.as_str());
    mesh.wait_for(&what, Duration::from_secs(40), synced);
    let log =
        fs::read_to_string(mesh.state().join("logs/istio-system/istiod/discovery.log")).unwrap();
    let rejected: Vec<&str> = log
        .lines()
        .filter(|l| l.contains("rejected its configuration"))
        .collect();
    assert!(rejected.is_empty(), "{what}: {rejected:#?}");
    mesh.down();
}

#[test]
fn both_data_planes_accept_everything_compiled_for_the_seed_documents() {
    let _turn = my_turn();
    let Some(dir) = std::env::var_os("LATEEN_SEEDS").map(PathBuf::from) else {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: LATEEN_SEEDS does not name the directory of seed documents"
        );
        return;
    };
    for data_plane in DataPlane::BOTH.into_iter().filter(|d| available(*d)) {
        for document in documents(&dir) {
            accepted(&document, data_plane);
        }
    }
}
