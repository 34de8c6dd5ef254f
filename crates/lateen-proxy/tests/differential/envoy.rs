//! The stock Envoy: found, started on loopback with static resources, and ended with the test.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The Envoy binary, if there is one.
pub(crate) fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("LATEEN_ENVOY") {
        return Some(PathBuf::from(path)).filter(|path| path.exists());
    }
    let script =
        "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let output = Command::new("python3").args(["-c", script]).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.exists().then_some(path)
}

/// A running Envoy; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Envoy {
    child: Child,
    admin: SocketAddr,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Envoy {
    /// Starts one and waits until its listeners are open.
    pub(crate) fn start(
        binary: &Path,
        directory: &Path,
        listeners: &[Value],
        clusters: &[Value],
    ) -> Self {
        let bootstrap = json!({
            "node": {"id": "sidecar~127.0.0.1~test.default~default.svc.cluster.local", "cluster": "test"},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "static_resources": {"listeners": listeners, "clusters": clusters},
        });
        let config = directory.join("envoy.json");
        let address = directory.join("admin");
        std::fs::write(&config, bootstrap.to_string()).unwrap();
        let log = std::fs::File::create(directory.join("envoy.log")).unwrap();
        let child = Command::new(binary)
            .arg("-c")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&address)
            .args(["--disable-hot-restart", "--concurrency", "1", "-l", "warn"])
            .args(["--file-flush-interval-msec", "20"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut this = Self {
            child,
            admin: "127.0.0.1:0".parse().unwrap(),
        };
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(text) = std::fs::read_to_string(&address)
                && let Ok(admin) = text.trim().parse()
            {
                this.admin = admin;
                if this.get("/ready").is_some_and(|text| text.contains("LIVE")) {
                    return this;
                }
            }
            let ended = this.child.try_wait().unwrap().is_some();
            if ended || Instant::now() > end {
                let log = std::fs::read_to_string(directory.join("envoy.log")).unwrap_or_default();
                panic!("Envoy does not start:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where the admin interface is.
    pub(crate) const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where listeners are bound.
    pub(crate) fn listeners(&self) -> BTreeMap<String, SocketAddr> {
        let text = self.get("/listeners?format=json").unwrap();
        let body: Value = serde_json::from_str(&text).unwrap();
        let list = body["listener_statuses"].as_array().unwrap();
        let address = |status: &Value| {
            let socket = &status["local_address"]["socket_address"];
            let ip = socket["address"].as_str().unwrap();
            format!("{ip}:{}", socket["port_value"]).parse().unwrap()
        };
        list.iter()
            .map(|status| (status["name"].as_str().unwrap().to_owned(), address(status)))
            .collect()
    }

    /// Asks the admin interface.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        if !head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked")
        {
            return Some(body.to_owned());
        }
        Some(unchunked(body))
    }
}

/// A body without its chunks' framing.
pub(crate) fn unchunked(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            break;
        };
        if size == 0 || rest.len() < size {
            break;
        }
        out.push_str(&rest[..size]);
        body = rest[size..].strip_prefix("\r\n").unwrap_or_default();
    }
    out
}
