//! A real Envoy is asked to log a request with the same formats, and the lines must be equal.
//!
//! `LATEEN_ENVOY` names the Envoy binary; without it the test says so and passes. Values that differ between any two
//! runs (times, ports, ids) are left out of the formats; their rendering is tested beside the code.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lateen_telemetry::access_log::{
    Environment, Format, HeaderKey, HeaderSource, JsonFormat, LogContext, NumberField, TextField,
    TextFormat, TimePoint,
};
use serde_json::{Value, json};

const TEXT: &str = "[%REQ(X-NONE)%] [%ROUTE_NAME%] [%RESPONSE_FLAGS%] [%RESPONSE_FLAGS_LONG%] [%REQ(X-MULTI)%] \
    [%REQ(USER-AGENT)%] [%REQ(USER-AGENT):3%] [%REQ(X-NONE?USER-AGENT):4%] [%REQUEST_TX_DURATION%] \
    [%UPSTREAM_HOST%] [%GRPC_STATUS%] [%GRPC_STATUS_NUMBER%] [%REQUESTED_SERVER_NAME%] \
    [%UPSTREAM_REQUEST_ATTEMPT_COUNT%] [%RESPONSE_CODE%] [%RESPONSE_CODE_DETAILS%] [%QUERY_PARAM(y)%] \
    [%QUERY_PARAM(none)%] [%PATH(NQ:PATH)%] [%PATH(NQ)%] [%PATH(WQ:ORIG)%] [%ENVIRONMENT(LATEEN_NONE)%] \
    [%UPSTREAM_CONNECTION_ID%] [%BYTES_RETRANSMITTED%] [%BYTES_SENT%] [%UPSTREAM_CLUSTER%] \
    [%VIRTUAL_CLUSTER_NAME%] [%DOWNSTREAM_PEER_URI_SAN%] [%LISTENER_NAME%] [%LOCAL_REPLY_BODY%] \
    [%DYNAMIC_METADATA(a:b)%] [%FILTER_STATE(a:PLAIN)%] [%PROTOCOL%] [%REQ(:METHOD)% %REQ(:AUTHORITY)%] \
    [%RESP(CONTENT-TYPE)%] [%TRAILER(X)%] 100%%\n";

fn tree() -> Value {
    json!({
        "b": { "inner": ["%BYTES_SENT%", "%REQ(X-NONE)%", 7, true, null, []] },
        "a": "%REQ(:METHOD)% %REQ(X-NONE)%",
        "c": "%REQ(X-NONE)%",
        "d": "100%%",
        "e": "%REQ(USER-AGENT)%",
        "f": "%RESPONSE_FLAGS%",
        "g": "%GRPC_STATUS_NUMBER%",
        "i": "",
        "n": 1.5,
        "o": 9080,
        "z": { "q": "%REQ(X-NONE)%" },
    })
}

/// User agents: quotes, a tab, text beyond ASCII, and bytes that are no UTF-8.
const AGENTS: [&[u8]; 2] = [b"cu\"r\\l \xc3\xbc\tend", b"\xff\xfe x"];
const PATH: &str = "/reviews/0?x=1&y=%20z";

/// The request as a data plane would know it.
struct Request(&'static [u8]);

impl LogContext for Request {
    fn start_time(&self) -> SystemTime {
        UNIX_EPOCH
    }

    fn emit_time(&self) -> SystemTime {
        UNIX_EPOCH
    }

    fn header(&self, source: HeaderSource, key: &HeaderKey) -> Option<&[u8]> {
        match (source, key) {
            (HeaderSource::Request, HeaderKey::Method) => Some(b"GET"),
            (HeaderSource::Request, HeaderKey::Authority) => Some(b"a"),
            (HeaderSource::Request, HeaderKey::Path) => Some(PATH.as_bytes()),
            (HeaderSource::Request, HeaderKey::Name(name)) => match name.as_str() {
                "user-agent" => Some(self.0),
                "x-multi" => Some(b"one"),
                _ => None,
            },
            (HeaderSource::Response, HeaderKey::Name(name)) => {
                (name == "content-type").then_some(b"text/plain")
            }
            _ => None,
        }
    }

    fn text(&self, field: TextField) -> Option<&str> {
        match field {
            TextField::Protocol => Some("HTTP/1.1"),
            TextField::ResponseCodeDetails => Some("direct_response"),
            TextField::ListenerName => Some("l"),
            _ => None,
        }
    }

    fn number(&self, field: NumberField) -> Option<u64> {
        match field {
            NumberField::ResponseCode => Some(200),
            NumberField::BytesSent => Some(2),
            _ => None,
        }
    }

    fn time_point(&self, _point: TimePoint) -> Option<Duration> {
        None
    }
}

/// A process that does not outlive the test.
struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn access_log(path: &Path, format: &str, value: Value, omit: bool) -> Value {
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": { format: value, "omit_empty_values": omit },
        },
    })
}

fn configuration(port: u16, logs: &[Value]) -> Value {
    let extension = "type.googleapis.com/envoy.extensions.filters";
    json!({ "static_resources": { "listeners": [{
        "name": "l",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
        "filter_chains": [{ "filters": [{ "name": "hcm", "typed_config": {
            "@type": format!("{extension}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "x",
            "access_log": logs,
            "route_config": { "virtual_hosts": [{ "name": "v", "domains": ["*"], "routes": [{
                "match": { "prefix": "/" },
                "direct_response": { "status": 200, "body": { "inline_string": "hi" } },
            }] }] },
            "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                "@type": format!("{extension}.http.router.v3.Router"),
            } }],
        } }] }],
    }] } })
}

fn send(port: u16, agent: &[u8]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "Envoy does not listen: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let head = format!(
        "GET {PATH} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-multi: one\r\nx-multi: two\r\n"
    );
    let mut request = head.into_bytes();
    request.extend_from_slice(b"user-agent: ");
    request.extend_from_slice(agent);
    request.extend_from_slice(b"\r\n\r\n");
    stream.write_all(&request).unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    assert!(
        response.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&response)
    );
}

/// The file's content once it has a line for every request.
fn lines(path: &Path) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let content = std::fs::read(path).unwrap_or_default();
        if content.iter().filter(|byte| **byte == b'\n').count() >= AGENTS.len() {
            return content;
        }
        assert!(
            Instant::now() < deadline,
            "Envoy wrote no lines to {}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn lines_are_those_of_a_real_envoy() {
    let Ok(envoy) = std::env::var("LATEEN_ENVOY") else {
        eprintln!("skipped: LATEEN_ENVOY names no Envoy to compare with");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let environment = Environment::default();
    let mut cases = Vec::new();
    for omit in [false, true] {
        let text = Format::Text(TextFormat::parse(TEXT, omit, &environment).unwrap());
        let source = json!({ "inline_string": TEXT });
        cases.push((
            format!("text-{omit}"),
            text,
            "text_format_source",
            source,
            omit,
        ));
        let json = Format::Json(JsonFormat::parse(&tree(), omit, &environment).unwrap());
        cases.push((format!("json-{omit}"), json, "json_format", tree(), omit));
    }
    let path = |name: &str| directory.path().join(name);
    let logs: Vec<Value> = cases
        .iter()
        .map(|(name, _, kind, value, omit)| access_log(&path(name), kind, value.clone(), *omit))
        .collect();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let file = path("envoy.json");
    std::fs::write(&file, configuration(port, &logs).to_string()).unwrap();
    let child = Command::new(envoy)
        .args(["--concurrency", "1", "--disable-hot-restart", "-l", "error"])
        .args(["--file-flush-interval-msec", "50", "-c"])
        .arg(&file)
        .stdin(Stdio::null())
        .spawn();
    let _envoy = Envoy(child.expect("LATEEN_ENVOY can be started"));
    for agent in AGENTS {
        send(port, agent);
    }
    for (name, format, ..) in &cases {
        let mut ours = Vec::new();
        for agent in AGENTS {
            format.write(&Request(agent), &mut ours);
        }
        let envoys = lines(&path(name));
        assert_eq!(
            String::from_utf8_lossy(&ours),
            String::from_utf8_lossy(&envoys),
            "{name}"
        );
    }
}
