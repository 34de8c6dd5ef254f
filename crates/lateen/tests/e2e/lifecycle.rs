//! A mesh comes up, follows its files, and leaves nothing behind.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::mesh::{DataPlane, Mesh, available};
use crate::my_turn;

const WEB: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio-injection: enabled}}
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
    spec:
      containers:
        - name: web
          image: docker.io/mccutchen/go-httpbin:v2.15.0
          ports: [{containerPort: 8080}]
          readinessProbe: {httpGet: {path: /status/200, port: 8080}, periodSeconds: 1}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  template:
    metadata: {labels: {app: once}}
    spec:
      restartPolicy: Never
      containers: [{name: once, image: busybox, command: ["/bin/sh", "-c", "echo done"]}]
"#;

/// Process ids whose command line mentions a path.
fn processes_about(path: &str) -> BTreeSet<u32> {
    let all = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(path)
    })
    .collect()
}

fn interfaces() -> BTreeSet<String> {
    let all = fs::read_dir("/sys/class/net").unwrap();
    all.map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

/// Network namespaces of all processes.
fn namespaces() -> BTreeSet<String> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| fs::read_link(e.ok()?.path().join("ns/net")).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_killed_supervisor_leaves_no_process_interface_or_namespace() {
    let _turn = my_turn();
    if !available(DataPlane::Lateen) {
        return;
    }
    let before = (interfaces(), namespaces());
    let mesh = Mesh::up(&[("web.yaml", WEB)], DataPlane::Lateen);
    let state = mesh.state().to_string_lossy().into_owned();
    assert!(
        processes_about(&state).len() > 1,
        "the supervisor and the control plane run"
    );
    assert!(namespaces().len() > before.1.len());
    let killed = Command::new("kill")
        .args(["-9", &mesh.pid().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    mesh.wait_for("everything is gone", Duration::from_secs(10), |_| {
        processes_about(&state).is_empty() && (interfaces(), namespaces()) == before
    });
}

#[test]
fn jobs_end_probes_decide_and_an_edit_is_picked_up() {
    let _turn = my_turn();
    if !available(DataPlane::Lateen) {
        return;
    }
    let mesh = Mesh::up(&[("web.yaml", WEB)], DataPlane::Lateen);
    let once = |mesh: &Mesh| {
        mesh.pods().iter().any(|p| {
            p["metadata"]["ownerReferences"][0]["name"] == "once"
                && p["status"]["phase"] == "Succeeded"
        })
    };
    mesh.wait_for("the job is done", Duration::from_secs(30), once);
    let logs = mesh.lateen(&["logs", "job/once"]);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "done\n");
    // A probe that fails takes the pod out; the template changed, so a new pod is made and the old one stays until it is ready.
    mesh.write("web.yaml", &WEB.replace("/status/200", "/status/500"));
    mesh.wait_for("a new pod is not ready", Duration::from_secs(20), |mesh| {
        let pods = mesh.pods();
        let web: Vec<_> = pods
            .iter()
            .filter(|p| p["metadata"]["ownerReferences"][0]["name"] == "web")
            .collect();
        web.len() == 2 && web.iter().filter(|p| crate::mesh::settled(p)).count() == 1
    });
    mesh.down();
}

#[test]
fn an_invalid_edit_says_what_is_wrong_and_the_last_good_version_serves() {
    let _turn = my_turn();
    if !available(DataPlane::Lateen) {
        return;
    }
    let gateway = r#"
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: web}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: ["*"]
  gateways: [web]
  http: [{directResponse: {status: 200, body: {string: "first"}}}]
"#;
    let text = format!("{WEB}{gateway}");
    let mesh = Mesh::up(&[("all.yaml", &text)], DataPlane::Lateen);
    mesh.wait_for("the first answer", Duration::from_secs(10), |mesh| {
        mesh.get("/") == "first"
    });
    mesh.write("all.yaml", &text.replace("directResponse", "directRespons"));
    mesh.wait_for("the mistake is named", Duration::from_secs(10), |mesh| {
        mesh.log().contains("did you mean `directResponse`")
    });
    assert_eq!(mesh.get("/"), "first");
    mesh.write("all.yaml", &text.replace("first", "second"));
    mesh.wait_for("the mended answer", Duration::from_secs(10), |mesh| {
        mesh.get("/") == "second"
    });
    mesh.down();
}
