//! Our proxy and a real Envoy with the same static resources, side by side on loopback.
//!
//! Without an Envoy (`LATEEN_ENVOY`, or the Python package `envoy`) there is only ours, and the tests say so.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Running, get, start};

/// A real Envoy, killed when dropped.
pub(crate) struct Envoy {
    child: Child,
    directory: tempfile::TempDir,
    listeners: BTreeMap<String, SocketAddr>,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The two.
pub(crate) struct Twins {
    pub(crate) ours: Running,
    pub(crate) envoy: Option<Envoy>,
}

impl Twins {
    /// Starts both with the same listeners and clusters.
    pub(crate) async fn start(list: Vec<Value>) -> Self {
        let envoy = match find() {
            Some(binary) => Some(Envoy::start(&binary, &list).await),
            None => {
                let _ = writeln!(
                    io::stderr(),
                    "SKIPPED: no Envoy to compare with; only our proxy is tested"
                );
                None
            }
        };
        Self {
            ours: start(list).await,
            envoy,
        }
    }

    /// Where a listener is, by who runs it.
    pub(crate) fn addresses(&self, listener: &str) -> Vec<(&'static str, SocketAddr)> {
        let mut out = vec![("lateen", self.ours.address(listener))];
        if let Some(envoy) = &self.envoy {
            out.push(("envoy", envoy.listeners[listener]));
        }
        out
    }

    /// The counters of both whose names fit, those that counted something, by who runs them.
    pub(crate) async fn counters(
        &self,
        fits: impl Fn(&str) -> bool,
    ) -> Vec<(&'static str, Vec<String>)> {
        let ours = self.ours.handle.admin_address().unwrap();
        let mut admins = vec![("lateen", ours)];
        admins.extend(self.envoy.as_ref().map(|envoy| ("envoy", envoy.admin())));
        let mut out = Vec::new();
        for (who, admin) in admins {
            let (_, _, text) = get(admin, "/stats").await;
            let counted = text
                .lines()
                .filter(|line| fits(line) && !line.ends_with(": 0"));
            out.push((who, counted.map(str::to_owned).collect()));
        }
        out
    }
}

/// The binary, if there is one.
fn find() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("LATEEN_ENVOY") {
        return Some(path.into());
    }
    let script =
        "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let output = Command::new("python3").args(["-c", script]).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_file().then_some(path)
}

impl Envoy {
    fn admin(&self) -> SocketAddr {
        let text = std::fs::read_to_string(self.directory.path().join("admin")).unwrap();
        text.trim().parse().unwrap()
    }

    async fn start(binary: &PathBuf, list: &[Value]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let of = |kind: &str| -> Vec<Value> {
            let url = format!("type.googleapis.com/envoy.config.{kind}");
            let wanted = list.iter().filter(|value| value["@type"] == url.as_str());
            wanted.cloned().map(without_type).collect()
        };
        let bootstrap = json!({
            "node": {"id": "envoy", "cluster": "test"},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "static_resources": {
                "listeners": of("listener.v3.Listener"),
                "clusters": of("cluster.v3.Cluster"),
            },
        });
        let (config, admin) = (
            directory.path().join("envoy.json"),
            directory.path().join("admin"),
        );
        std::fs::write(&config, bootstrap.to_string()).unwrap();
        let child = Command::new(binary)
            .args([
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
                "-l",
                "error",
                "-c",
            ])
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut envoy = Self {
            child,
            directory,
            listeners: BTreeMap::new(),
        };
        let end = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(listeners) = listeners(&admin).await {
                envoy.listeners = listeners;
                return envoy;
            }
            let ended = envoy.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "Envoy refuses its configuration: {ended:?}"
            );
            assert!(std::time::Instant::now() < end, "Envoy does not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn without_type(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.remove("@type");
    }
    value
}

/// Listeners by name once Envoy is live.
async fn listeners(admin: &PathBuf) -> Option<BTreeMap<String, SocketAddr>> {
    let address: SocketAddr = std::fs::read_to_string(admin).ok()?.trim().parse().ok()?;
    tokio::net::TcpStream::connect(address).await.ok()?;
    let (status, _, _) = get(address, "/ready").await;
    if status != 200 {
        return None;
    }
    let (_, _, text) = get(address, "/listeners").await;
    let parse = |line: &str| {
        let (name, address) = line.split_once("::")?;
        Some((name.to_owned(), address.parse().ok()?))
    };
    Some(text.lines().filter_map(parse).collect())
}
