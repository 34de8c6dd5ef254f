//! gRPC by real clients (tonic, and Python's grpcio where it is installed) through sidecars and the gateway.

use std::fs;
use std::io::{self, Write as _};
use std::process::Command;

use serde_json::Value;

use crate::mesh::{DataPlane, Mesh, available};
use crate::my_turn;
use crate::peers;

pub(crate) const MESH: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: v1
kind: Service
metadata: {name: peer}
spec: {selector: {app: peer}, ports: [{name: grpc, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{name: grpc, port: 9000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec: {containers: [{name: client, image: curlimages/curl, command: [sleep, infinity]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: outsider, namespace: plain}
spec:
  selector: {matchLabels: {app: outsider}}
  template:
    metadata: {labels: {app: outsider}}
    spec: {containers: [{name: client, image: curlimages/curl, command: [sleep, infinity]}]}
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
metadata: {name: peer}
spec:
  hosts: ["*"]
  gateways: [web]
  http: [{match: [{uri: {prefix: /lateen.test.Peer/}}], route: [{destination: {host: peer, port: {number: 9000}}}]}]
"#;

/// The same checks as `peers::calls`, by grpcio: arguments are `HOST:PORT` and the authority of nobody.
const PYTHON: &str = r#"
import json, sys, time, grpc

def message(text):
    data, length, head = text.encode(), len(text.encode()), b"\x0a"
    while length > 127:
        head, length = head + bytes([length & 127 | 128]), length >> 7
    return (head + bytes([length]) + data) if data else b""

def text(data):
    at = 1
    while at < len(data) and data[at] & 128:
        at += 1
    return data[at + 1:].decode()

as_text = {"request_serializer": message, "response_deserializer": text}
channel = grpc.insecure_channel(sys.argv[1])
method = lambda kind, name: getattr(channel, kind)("/lateen.test.Peer/" + name, **as_text)

def status(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("there was an answer")

def unary():
    answer = method("unary_unary", "Say")("hello", timeout=10)
    assert answer.endswith(": hello"), answer

def server_streaming():
    numbers = list(method("unary_stream", "Count")("500", timeout=20))
    assert numbers == [str(n) for n in range(1, 501)], numbers

def client_streaming():
    joined = method("stream_unary", "Join")((str(n) for n in range(200)), timeout=20)
    assert len(joined.split(" ")) == 200, joined

def both_ways():
    words = [f"word {n}" for n in range(50)]
    echoes = list(method("stream_stream", "Echo")(iter(words), timeout=20))
    assert echoes == words, echoes

def deadline():
    error = status(lambda: method("unary_unary", "Late")("20000", timeout=0.3))
    # A client that is slow to look at its own clock hears of it from its sidecar, in Envoy's words.
    told = error.code() == grpc.StatusCode.UNAVAILABLE and error.details() == "upstream request timeout"
    assert told or error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error

def trailers_only():
    error = status(lambda: method("unary_unary", "Fail")("7", timeout=10))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
    assert error.details().endswith("100% \u00e9"), error
    assert ("detail-bin", b"\x00\xff\x07") in [tuple(pair) for pair in error.trailing_metadata()], error

def error_after_messages():
    seen = []
    def consume():
        for number in method("unary_stream", "Count")("5!", timeout=10):
            seen.append(number)
    error = status(consume)
    assert len(seen) == 5 and error.code() == grpc.StatusCode.ABORTED, (seen, error)

def metadata():
    sent = (("x-ascii", "some text"), ("x-binary-bin", b"\x00\x01\xfe"))
    _, call = method("unary_unary", "Meta").with_call("", metadata=sent, timeout=10)
    back = [tuple(pair) for pair in call.initial_metadata()]
    assert all(pair in back for pair in sent), back

def large():
    answer = method("unary_unary", "Say")("x" * (3 << 20), timeout=20)
    assert len(answer) > 3 << 20, len(answer)

def unknown_method():
    error = status(lambda: method("unary_unary", "NoSuchMethod")("", timeout=10))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error

def cancellation():
    watched = method("unary_stream", "Watch")("", timeout=20)
    assert next(watched) == "watching"
    watching = lambda: method("unary_unary", "Watching")("", timeout=10)
    assert watching() != "0"
    watched.cancel()
    late = method("unary_unary", "Late").future("20000", timeout=20)
    time.sleep(0.2)
    late.cancel()
    until = time.time() + 5
    while watching() != "0":
        assert time.time() < until, watching()
        time.sleep(0.05)

def keepalive():
    pings = [("grpc.keepalive_time_ms", 100), ("grpc.keepalive_timeout_ms", 2000), ("grpc.keepalive_permit_without_calls", 1),
             ("grpc.http2.max_pings_without_data", 0), ("grpc.http2.min_time_between_pings_ms", 100)]
    with grpc.insecure_channel(sys.argv[1], options=pings) as own:
        say = own.unary_unary("/lateen.test.Peer/Say", **as_text)
        watched = own.unary_stream("/lateen.test.Peer/Watch", **as_text)("", timeout=20)
        assert next(watched) == "watching"
        for _ in range(3):
            time.sleep(1)
            assert say("hello", timeout=10).endswith(": hello")
        assert watched.is_active(), watched
        watched.cancel()

result = {}
for check in [unary, server_streaming, client_streaming, both_ways, deadline, trailers_only, error_after_messages,
              metadata, large, unknown_method, cancellation, keepalive]:
    try:
        check()
        result[check.__name__] = "ok"
    except Exception as error:
        result[check.__name__] = repr(error)[:400]
print("PEER " + json.dumps(result))
"#;

fn mesh(data_plane: DataPlane) -> Mesh {
    let server = peers::server("peer", "v1");
    Mesh::up(&[("mesh.yaml", MESH), ("peer.yaml", &server)], data_plane)
}

/// In the test's own process, through the ingress gateway.
fn through_the_gateway(mesh: &Mesh) -> Value {
    let url = format!("http://127.0.0.1:{}", mesh.ingress);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(peers::calls::all(&url))
}

fn hold(data_plane: DataPlane) {
    let _turn = my_turn();
    if !available(data_plane) {
        return;
    }
    let mesh = mesh(data_plane);
    let mut wrong = Vec::new();
    let mut check = |way: &str, result: Value| {
        let failures = peers::calls::failures(&result);
        wrong.extend(failures.into_iter().map(|f| format!("{way}: {f}")));
    };
    let url = "call http://peer.default:9000";
    check(
        "sidecar to sidecar",
        peers::play(&mesh, "deploy/client", url),
    );
    check(
        "plain to sidecar",
        peers::play(&mesh, "deploy/outsider", url),
    );
    check("gateway", through_the_gateway(&mesh));
    let nobody = peers::play(&mesh, "deploy/client", "call http://nobody:9000");
    let unary = nobody["unary"].as_str().unwrap();
    if !unary.starts_with("Unavailable") {
        wrong.push(format!("a service without endpoints: {unary}"));
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", mesh.evidence());
    mesh.down();
}

#[test]
fn tonic_makes_every_kind_of_call_on_our_proxy() {
    hold(DataPlane::Lateen);
}

#[test]
fn tonic_makes_every_kind_of_call_on_envoy() {
    hold(DataPlane::Envoy);
}

#[test]
fn grpcio_makes_every_kind_of_call() {
    let _turn = my_turn();
    if !available(DataPlane::Lateen) {
        return;
    }
    let imported = Command::new("python3").args(["-c", "import grpc"]).output();
    if !imported.is_ok_and(|output| output.status.success()) {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: Python has no grpcio; `pip install grpcio` brings it"
        );
        return;
    }
    let mesh = mesh(DataPlane::Lateen);
    let script = mesh.state().join("client.py");
    fs::write(&script, PYTHON).unwrap();
    let script = script.to_string_lossy().into_owned();
    let inside = mesh.exec("deploy/client", &["python3", &script, "peer:9000"]);
    let gateway = Command::new("python3")
        .args([&script, &format!("127.0.0.1:{}", mesh.ingress)])
        .output()
        .unwrap();
    for (way, output) in [("sidecar to sidecar", inside), ("gateway", gateway)] {
        let failures = peers::calls::failures(&peers::result(&output));
        assert!(failures.is_empty(), "{way}: {failures:#?}");
    }
    mesh.down();
}
