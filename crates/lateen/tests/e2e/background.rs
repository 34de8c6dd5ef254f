//! `lateen up --detach`: what the one in the foreground learns of the mesh in the background.

use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::mesh::{DataPlane, available, text};
use crate::my_turn;

/// A mesh in the background, ended with the value.
struct Background {
    home: tempfile::TempDir,
}

impl Background {
    fn new(manifest: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let background = Self { home };
        background.write(manifest);
        background
    }

    fn write(&self, manifest: &str) {
        fs::write(self.home.path().join("all.yaml"), manifest).unwrap();
    }

    fn lateen(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lateen"));
        command.current_dir(self.home.path());
        command.args(["--state", "state"]).args(arguments);
        command.output().unwrap()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.lateen(&["down"]);
    }
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: web, image: example.com/web:2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api, labels: {app: api}}
spec: {containers: [{name: api, image: example.com/api:2, command: [gunicorn-of-nowhere]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec: {host: web, circuitBreaker: {}}
";

#[test]
fn what_cannot_run_is_said_at_once_and_runs_when_it_is_mended() {
    let _turn = my_turn();
    if !available(DataPlane::Lateen) {
        return;
    }
    let mesh = Background::new(POD);
    let began = Instant::now();
    // The short form, together with another.
    let up = mesh.lateen(&["up", "all.yaml", "-dn", "shop"]);
    let took = began.elapsed();
    let (said, error) = (text(&up.stdout), text(&up.stderr));
    assert_eq!(up.status.code(), Some(1), "{said}{error}");
    assert!(took < Duration::from_secs(60), "{took:?}: {said}{error}");
    let mistake = "unknown field `circuitBreaker`";
    let image = "shop/pod/web: container web cannot run (ErrImageNeverPull): there is no command for image example.com/web:2";
    let program = "shop/pod/api: container api ends again and again with exit status 128, after it said: \
                   lateen pod: there is no program `gunicorn-of-nowhere` on this machine";
    let late = ["not ready: shop/api", "not ready: shop/web"];
    for told in [mistake, image, program].into_iter().chain(late) {
        assert_eq!(said.matches(told).count(), 1, "{told} in:\n{said}");
    }
    assert!(error.contains("the mesh keeps running"), "{error}");

    let web = POD.replace("web:2}", "web:2, command: [sleep, '1000']}");
    mesh.write(&web.replace("gunicorn-of-nowhere", "sleep, '1000'"));
    let deadline = Instant::now() + Duration::from_secs(30);
    let pods = || text(&mesh.lateen(&["get", "pods", "-n", "shop"]).stdout);
    while pods().matches("1/1").count() < 2 {
        assert!(Instant::now() < deadline, "{}", pods());
        std::thread::sleep(Duration::from_millis(100));
    }
    let down = mesh.lateen(&["down"]);
    assert_eq!(text(&down.stdout), "the mesh is down\n");
}
