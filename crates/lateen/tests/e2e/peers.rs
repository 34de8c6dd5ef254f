//! Peers: this test program once more, inside the mesh, as a server or a client that real libraries make (tonic, hyper).
//!
//! A container, or `lateen exec`, runs it with `LATEEN_PEER` set; without, [`a_peer_plays_its_role`] does nothing.

use std::process::Output;

use serde_json::Value;

use crate::mesh::Mesh;

pub(crate) mod calls;
pub(crate) mod grpc;
pub(crate) mod streams;

/// Says which part to play: `serve PORT NAME`, `call URL`, `stream HTTP-AUTHORITY GRPC-AUTHORITY`.
const ROLE: &str = "LATEEN_PEER";
/// Marks the line with the result among those of the test runner.
const RESULT: &str = "PEER ";

/// The command line that plays a role.
pub(crate) fn command() -> [String; 4] {
    let own = std::env::current_exe().unwrap();
    [
        own.to_string_lossy().into_owned(),
        "--exact".to_owned(),
        "peers::a_peer_plays_its_role".to_owned(),
        "--nocapture".to_owned(),
    ]
}

/// A Deployment of a gRPC server, as YAML: `NAME-VERSION`, with labels `app` and `version`.
pub(crate) fn server(name: &str, version: &str) -> String {
    let command = serde_json::to_string(&command()).unwrap();
    format!(
        r#"
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}-{version}}}
spec:
  selector: {{matchLabels: {{app: {name}, version: {version}}}}}
  template:
    metadata: {{labels: {{app: {name}, version: {version}}}}}
    spec:
      containers:
      - name: peer
        image: peer
        command: {command}
        env: [{{name: {ROLE}, value: "serve 9000 {version}"}}]
        ports: [{{containerPort: 9000}}]
        readinessProbe: {{tcpSocket: {{port: 9000}}, periodSeconds: 1}}
"#
    )
}

/// The words after `lateen exec TARGET --` that play a role.
pub(crate) fn words(role: &str) -> Vec<String> {
    let mut words = vec!["env".to_owned(), format!("{ROLE}={role}")];
    words.extend(command());
    words
}

/// Plays a role in a workload's network and gives its result.
pub(crate) fn play(mesh: &Mesh, target: &str, role: &str) -> Value {
    let words = words(role);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    result(&mesh.exec(target, &words))
}

/// What a peer has said.
pub(crate) fn result(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split_once(RESULT));
    let (_, json) = line.unwrap_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        panic!("no result: {text}{errors}")
    });
    serde_json::from_str(json).unwrap()
}

#[test]
fn a_peer_plays_its_role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let words: Vec<&str> = role.split(' ').collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let result = runtime.block_on(async {
        match words.as_slice() {
            ["serve", port, name] => grpc::serve(port.parse().unwrap(), name).await,
            ["call", url] => calls::all(url).await,
            ["stream", http, grpc] => streams::until_input_ends(http, grpc).await,
            other => panic!("no such role: {other:?}"),
        }
    });
    println!("\n{RESULT}{result}");
}
