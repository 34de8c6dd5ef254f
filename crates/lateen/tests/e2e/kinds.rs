//! Workloads of every kind as Kubernetes runs them: StatefulSets, CronJobs, restarts, probes, several containers; a crash, and the
//! start after it; and all of it as an ordinary user.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::mesh::{DataPlane, Mesh, available, text};
use crate::my_turn;

const KINDS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: http, port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: web, image: docker.io/mccutchen/go-httpbin:v2.15.0, ports: [{containerPort: 8080}]}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "* * * * *"
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      template:
        metadata: {labels: {app: tick}}
        spec:
          restartPolicy: Never
          containers:
          - name: tick
            image: curlimages/curl
            command: [sh, -c, "curl -s -o /dev/null -w 'db says %{http_code}\\n' http://db-0.db:8080/status/204"]
---
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two}}
spec:
  containers:
  - {name: shop, image: docker.io/mccutchen/go-httpbin:v2.15.0, ports: [{containerPort: 8080}]}
  - name: side
    image: busybox
    command: [sh, -c, "curl -s -o /dev/null -w 'beside says %{http_code}\\n' --retry 20 --retry-connrefused http://127.0.0.1:8080/status/201; sleep 3600"]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: unsteady}
spec:
  selector: {matchLabels: {app: unsteady}}
  template:
    metadata: {labels: {app: unsteady}}
    spec:
      containers:
      - name: app
        image: busybox
        command: [sh, -c, "echo again; sleep 1; exit 3"]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: nameless}
spec:
  selector: {matchLabels: {app: nameless}}
  template:
    metadata: {labels: {app: nameless}}
    spec: {containers: [{name: app, image: example.com/nobody/has-this:1}]}
"#;

fn of<'a>(pods: &'a [Value], owner: &str) -> Vec<&'a Value> {
    let owned = |p: &&Value| p["metadata"]["ownerReferences"][0]["name"] == owner;
    pods.iter().filter(owned).collect()
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = pod["status"]["containerStatuses"].as_array().unwrap();
    all.iter().find(|c| c["name"] == name).unwrap()
}

fn kinds_run(data_plane: DataPlane) {
    let _turn = my_turn();
    if !available(data_plane) {
        return;
    }
    let mesh = Mesh::up_unready(&[("kinds.yaml", KINDS)], data_plane);
    let long = Duration::from_secs(60);
    mesh.wait_for("both replicas are ready", long, |mesh| {
        let pods = mesh.pods();
        let replicas = of(&pods, "db");
        replicas.len() == 2 && replicas.iter().all(|p| crate::mesh::settled(p))
    });
    // By name, through sidecars; and each replica is itself.
    mesh.wait_for("a replica is reached by its name", long, |mesh| {
        let url = "http://db-1.db.default.svc.cluster.local:8080/hostname";
        text(&mesh.exec("two", &["curl", "-s", "-m", "5", url]).stdout).contains("db-1")
    });
    mesh.wait_for("containers of a pod share its loopback", long, |mesh| {
        text(&mesh.lateen(&["logs", "two", "-c", "side"]).stdout) == "beside says 201\n"
    });
    mesh.wait_for(
        "what fails is restarted, then backed off from",
        long,
        |mesh| {
            let pods = mesh.pods();
            of(&pods, "unsteady").iter().any(|pod| {
                let app = container(pod, "app");
                app["restartCount"].as_u64() >= Some(1) && app["state"] == "CrashLoopBackOff"
            })
        },
    );
    let previous = mesh.lateen(&["logs", "deploy/unsteady", "-c", "app", "--previous"]);
    assert_eq!(text(&previous.stdout), "again\n");
    // What can never run says so, and what to do.
    let told = "default/deployment/nameless: container app cannot run (ErrImageNeverPull): ";
    mesh.wait_for("a missing image is told", long, |mesh| {
        mesh.log().contains(told)
    });
    assert!(
        mesh.log()
            .contains("--image 'example.com/nobody/has-this:1=COMMAND'")
    );
    mesh.wait_for("the cron job has run", Duration::from_secs(90), |mesh| {
        let pods = mesh.pods();
        let done = |p: &Value| {
            p["status"]["phase"] == "Succeeded" && p["metadata"]["labels"]["app"] == "tick"
        };
        let Some(pod) = pods.iter().find(|p| done(p)) else {
            return false;
        };
        let name = pod["metadata"]["name"].as_str().unwrap();
        text(&mesh.lateen(&["logs", name, "-c", "tick"]).stdout) == "db says 204\n"
    });
    let jobs = text(&mesh.lateen(&["get", "cronjobs"]).stdout);
    assert!(
        jobs.contains("tick") && jobs.contains("* * * * *"),
        "{jobs}"
    );
    mesh.down();
}

#[test]
fn workloads_of_every_kind_run_on_our_proxy() {
    kinds_run(DataPlane::Lateen);
}

#[test]
fn workloads_of_every_kind_run_on_envoy() {
    kinds_run(DataPlane::Envoy);
}

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
    spec: {containers: [{name: web, image: example.com/web:2, ports: [{containerPort: 8080}]}]}
"#;

/// Somebody without rights, with a program and a directory of their own.
struct Somebody {
    home: tempfile::TempDir,
    root: bool,
}

impl Somebody {
    const ID: u32 = 65534;

    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_lateen"), home.path().join("lateen")).unwrap();
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        let somebody = Self { home, root };
        fs::create_dir(somebody.own()).unwrap();
        if root {
            chown(somebody.own(), Some(Self::ID), Some(Self::ID)).unwrap();
        }
        somebody
    }

    fn own(&self) -> PathBuf {
        self.home.path().join("own")
    }

    fn program(&self) -> String {
        let path = self.home.path().join("lateen");
        path.to_string_lossy().into_owned()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        command
            .env("HOME", self.own())
            .env("LATEEN_STATE", self.own().join("state"));
        if self.root {
            command.uid(Self::ID).gid(Self::ID);
        }
        command.output().unwrap()
    }

    fn lateen(&self, arguments: &[&str]) -> Output {
        self.run(&self.program(), arguments)
    }
}

/// An ordinary user's mesh, in the background: started, killed, started again, used, ended.
#[test]
fn an_ordinary_user_starts_again_after_a_crash_and_leaves_nothing() {
    let _turn = my_turn();
    if !available(DataPlane::Lateen) {
        return;
    }
    let somebody = Somebody::new();
    if !somebody.run("unshare", &["-Urn", "true"]).status.success() {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: no user namespaces here: an ordinary user cannot run a mesh"
        );
        return;
    }
    let config = somebody.own().join("web.yaml");
    fs::write(&config, WEB).unwrap();
    let image = format!("example.com/web:*={} app httpbin", somebody.program());
    let up = [
        "up",
        config.to_str().unwrap(),
        "--image",
        &image,
        "--detach",
    ];
    for _ in 0..2 {
        let started = somebody.lateen(&up);
        let said = text(&started.stdout) + &text(&started.stderr);
        assert!(
            started.status.success() && said.contains("ready in"),
            "{said}"
        );
        let again = somebody.lateen(&up);
        assert!(!again.status.success() && text(&again.stderr).contains("already runs"));
        let curl = [
            "exec",
            "deploy/web",
            "--",
            "curl",
            "-s",
            "http://web/headers",
        ];
        assert!(
            text(&somebody.lateen(&curl).stdout).contains("spiffe://cluster.local"),
            "{said}"
        );
        let running = fs::read(somebody.own().join("state/run/up.json")).unwrap();
        let running: Value = serde_json::from_slice(&running).unwrap();
        let killed = Command::new("kill")
            .args(["-9", &running["pid"].to_string()])
            .status();
        assert!(killed.unwrap().success());
        gone(&somebody.program());
    }
    let started = somebody.lateen(&up);
    assert!(started.status.success(), "{}", text(&started.stderr));
    let down = somebody.lateen(&["down"]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    gone(&somebody.program());
    let down = somebody.lateen(&["down"]);
    assert_eq!(text(&down.stdout), "no mesh is running\n");
}

/// Waits until no process of a program is left.
fn gone(program: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let exe = processes.filter_map(|p| fs::read_link(p.path().join("exe")).ok());
        let left = exe
            .filter(|exe| exe.to_string_lossy().starts_with(program))
            .count();
        if left == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{left} processes are left");
        std::thread::sleep(Duration::from_millis(50));
    }
}
