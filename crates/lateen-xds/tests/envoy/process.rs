//! Envoy as a child process, an upstream for it, and requests through it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::PATIENCE;

pub(crate) struct Envoy {
    /// Killed when dropped.
    _child: Child,
    directory: tempfile::TempDir,
}

/// The binary, if there is one.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("LATEEN_ENVOY") {
        return Some(path.into());
    }
    let script =
        "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let output = StdCommand::new("python3")
        .args(["-c", script])
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_file().then_some(path)
}

impl Envoy {
    pub(crate) async fn start(binary: &Path, api_type: &str, control: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("bootstrap.json");
        std::fs::write(&config, bootstrap(api_type, control).to_string()).unwrap();
        let child = Command::new(binary)
            .arg("-c")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(directory.path().join("admin"))
            .args([
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
                "-l",
                "warning",
            ])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            _child: child,
            directory,
        }
    }

    /// Asks the admin interface.
    async fn admin(&self, path: &str) -> io::Result<String> {
        let address = std::fs::read_to_string(self.directory.path().join("admin"))?;
        let address: SocketAddr = address.trim().parse().map_err(io::Error::other)?;
        let response = request(address, path).await?;
        let (_, body) = response
            .split_once("\r\n\r\n")
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok(without_chunks(body))
    }

    /// The port of the only listener, once it is open.
    pub(crate) async fn listener_port(&self) -> u16 {
        let parse = |text: &str| text.trim().rsplit(':').next()?.parse().ok();
        self.eventually("/listeners", parse).await
    }

    pub(crate) async fn route_leads_to(&self, cluster: &str) {
        let leads = |text: &str| {
            text.contains(&format!("\"cluster\": \"{cluster}\""))
                .then_some(())
        };
        self.eventually("/config_dump?resource=dynamic_route_configs", leads)
            .await;
    }

    /// Everything Envoy holds, as its admin interface prints it.
    pub(crate) async fn config_dump(&self) -> Value {
        let parse = |text: &str| serde_json::from_str(text).ok();
        self.eventually("/config_dump?include_eds", parse).await
    }

    async fn eventually<T>(&self, path: &str, found: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.admin(path).await.unwrap_or_default();
            if let Some(value) = found(&answer) {
                return value;
            }
            assert!(Instant::now() < deadline, "{path} answers {answer}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn bootstrap(api_type: &str, control: SocketAddr) -> Value {
    let ads = json!({ "ads": {}, "resource_api_version": "V3" });
    json!({
        "node": { "id": "sidecar~127.0.0.1~test.default~default.svc.cluster.local", "cluster": "test" },
        "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } },
        "dynamic_resources": {
            "cds_config": ads,
            "lds_config": ads,
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds" } }],
            },
        },
        "static_resources": { "clusters": [{
            "name": "xds", "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": { "http2_protocol_options": {} },
                },
            },
            "load_assignment": { "cluster_name": "xds", "endpoints": [{ "lb_endpoints": [
                { "endpoint": { "address": { "socket_address": {
                    "address": control.ip().to_string(), "port_value": control.port(),
                } } } },
            ] }] },
        }] },
    })
}

/// An HTTP/1.1 server that answers everything with 200. It lives as long as the test's runtime.
pub(crate) async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

/// Requests have no bodies, so each ends with an empty line.
async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut seen = Vec::new();
    loop {
        if stream.read_buf(&mut seen).await? == 0 {
            return Ok(());
        }
        while let Some(end) = seen.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            seen.drain(..end + 4);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await?;
        }
    }
}

/// Envoy's admin interface answers in chunks: a length in hexadecimal, a line end, so many bytes, a line end.
fn without_chunks(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap_or(0);
        let Some((chunk, rest)) = rest.split_at_checked(length) else {
            break;
        };
        text.push_str(chunk);
        body = rest.trim_start_matches("\r\n");
    }
    text
}

/// The status of a request through Envoy.
pub(crate) async fn get(port: u16) -> io::Result<String> {
    let response = request(([127, 0, 0, 1], port).into(), "/").await?;
    let status = response
        .split(' ')
        .nth(1)
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(status.to_owned())
}

async fn request(address: SocketAddr, path: &str) -> io::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        Ok(response)
    };
    timeout(Duration::from_secs(5), exchange).await?
}
