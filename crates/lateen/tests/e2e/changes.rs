//! Configuration changes under load lose nothing: requests go on, and streams that a change does not concern stay.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::clients::MESH;
use crate::mesh::{DataPlane, Mesh, available};
use crate::my_turn;
use crate::peers;

/// Time for a change to get everywhere, and for traffic to meet it.
const SETTLE: Duration = Duration::from_millis(1500);

const WEB: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-v1}
spec:
  selector: {matchLabels: {app: web, version: v1}}
  template:
    metadata: {labels: {app: web, version: v1}}
    spec:
      containers:
      - name: web
        image: docker.io/mccutchen/go-httpbin:v2.15.0
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /status/200, port: 8080}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-v2}
spec:
  selector: {matchLabels: {app: web, version: v2}}
  template:
    metadata: {labels: {app: web, version: v2}}
    spec:
      containers:
      - name: web
        image: docker.io/mccutchen/go-httpbin:v2.15.0
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /status/200, port: 8080}, periodSeconds: 1}
"#;

/// Routes by kind of request, then by weight; the gateway's and the mesh's.
fn routes(first: &str, weights: (u32, u32), more: &str) -> String {
    let split = |host: &str, port: u32| {
        format!(
            "[{{destination: {{host: {host}, subset: v1, port: {{number: {port}}}}}, weight: {}}}, \
             {{destination: {{host: {host}, subset: v2, port: {{number: {port}}}}}, weight: {}}}]",
            weights.0, weights.1
        )
    };
    let named = "  - {name: status, match: [{uri: {prefix: /status}}], route: WEB}\n";
    let socket = "  - {name: socket, match: [{uri: {prefix: /websocket}}], route: WEB}\n";
    let ordered = if first == "status" {
        format!("{named}{socket}")
    } else {
        format!("{socket}{named}")
    };
    format!(
        r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web-in-mesh}}
spec:
  hosts: [web]
  http:
{more}{ordered}  - {{name: rest, match: [{{uri: {{prefix: /anything}}}}], route: WEB}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web}}
spec:
  hosts: ["*"]
  gateways: [web]
  http:
{more}{ordered}  - {{name: rest, match: [{{uri: {{prefix: /anything}}}}], route: WEB}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: peer-in-mesh}}
spec:
  hosts: [peer]
  http: [{{route: PEER}}]
"#
    )
    .replace("WEB", &split("web", 80))
    .replace("PEER", &split("peer", 9000))
}

/// Subsets, and settings of connections that concern new ones.
fn rules(subsets: &[&str], policy: &str) -> String {
    let subsets: String = subsets
        .iter()
        .map(|v| format!("  - {{name: {v}, labels: {{version: {v}}}}}\n"))
        .collect();
    ["web", "peer"]
        .map(|host| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {host}}}\n\
                 spec:\n  host: {host}\n  trafficPolicy: {{{policy}}}\n  subsets:\n{subsets}"
            )
        })
        .concat()
}

fn access(paths: &str) -> String {
    format!(
        r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: all}}
spec:
  rules: [{{to: [{{operation: {{paths: {paths}}}}}]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: none}}
spec:
  action: DENY
  rules: [{{to: [{{operation: {{paths: [/status/418]}}}}]}}]
"#
    )
}

fn mesh_config(format: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    \
         accessLogFile: /dev/stdout\n    accessLogFormat: \"{format}\\n\"\n"
    )
}

/// What is changed, file by file, one after another.
fn changes() -> Vec<(&'static str, &'static str, String)> {
    let policy = |mode: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        )
    };
    let more = "  - {name: more, match: [{headers: {x-more: {exact: a}}}], directResponse: {status: 200}}\n";
    let port = "spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}, {name: http-more, port: 81, targetPort: 8080}]}";
    let web_with = WEB.replacen(
        "spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}",
        port,
        1,
    );
    vec![
        (
            "routes are reordered",
            "routes.yaml",
            routes("socket", (50, 50), ""),
        ),
        (
            "weights change",
            "routes.yaml",
            routes("socket", (10, 90), ""),
        ),
        (
            "a route is added before all",
            "routes.yaml",
            routes("status", (90, 10), more),
        ),
        (
            "a subset is added",
            "rules.yaml",
            rules(&["v1", "v2", "v3"], "loadBalancer: {simple: RANDOM}"),
        ),
        (
            "and taken away",
            "rules.yaml",
            rules(&["v1", "v2"], "loadBalancer: {simple: RANDOM}"),
        ),
        (
            "the access log changes",
            "mesh.yaml",
            mesh_config("%REQ(:PATH)% %RESPONSE_CODE%"),
        ),
        (
            "access rules are added",
            "access.yaml",
            access("[/status/*, /websocket/*, /lateen.test.Peer/*]"),
        ),
        ("access rules change", "access.yaml", access("[\"*\"]")),
        ("mutual TLS becomes strict", "strict.yaml", policy("STRICT")),
        ("a port is added", "web.yaml", web_with),
        ("and taken away", "web.yaml", WEB.to_owned()),
        (
            "settings of connections change",
            "rules.yaml",
            rules(
                &["v1", "v2"],
                "loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {http: {maxRequestsPerConnection: 20}}",
            ),
        ),
        (
            "the access log changes again",
            "mesh.yaml",
            mesh_config("%PROTOCOL% %DURATION%"),
        ),
        (
            "mutual TLS is permissive again",
            "strict.yaml",
            policy("PERMISSIVE"),
        ),
        ("access rules are gone", "access.yaml", String::new()),
        (
            "routes are as at first",
            "routes.yaml",
            routes("status", (50, 50), ""),
        ),
    ]
}

/// Traffic from within the mesh, in a process of its own.
struct Inside(Child);

impl Inside {
    fn start(mesh: &Mesh) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_lateen"))
            .arg("--state")
            .arg(mesh.state())
            .args(["exec", "deploy/client", "--"])
            .args(peers::words("stream web:80 peer:9000"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn finish(mut self) -> Value {
        let mut input = self.0.stdin.take().unwrap();
        let _ = input.flush();
        drop(input);
        peers::result(&self.0.wait_with_output().unwrap())
    }
}

/// Traffic through the gateway, in this process.
struct Outside {
    stop: CancellationToken,
    thread: std::thread::JoinHandle<Value>,
}

impl Outside {
    fn start(mesh: &Mesh) -> Self {
        let stop = CancellationToken::new();
        let (stopping, gateway) = (stop.clone(), format!("127.0.0.1:{}", mesh.ingress));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(peers::streams::keep_up(&gateway, &gateway, stopping))
        });
        Self { stop, thread }
    }

    fn finish(self) -> Value {
        self.stop.cancel();
        self.thread.join().unwrap()
    }
}

fn check(way: &str, result: &Value, wrong: &mut Vec<String>) {
    for kind in [
        "http/1.1",
        "http/2",
        "grpc unary",
        "grpc stream",
        "websocket",
    ] {
        let tally = &result[kind];
        let enough = tally["ok"].as_u64().is_some_and(|ok| ok >= 200);
        if tally["failed"] != 0 || !enough {
            wrong.push(format!("{way}: {kind}: {tally}"));
        }
    }
}

#[test]
fn no_request_and_no_stream_is_lost_while_everything_changes() {
    let _turn = my_turn();
    if !available(DataPlane::Lateen) {
        return;
    }
    let files = [
        ("clients.yaml", MESH.to_owned()),
        (
            "peers.yaml",
            peers::server("peer", "v1") + &peers::server("peer", "v2"),
        ),
        ("web.yaml", WEB.to_owned()),
        ("routes.yaml", routes("status", (50, 50), "")),
        (
            "rules.yaml",
            rules(&["v1", "v2"], "loadBalancer: {simple: RANDOM}"),
        ),
        ("mesh.yaml", mesh_config("%RESPONSE_CODE%")),
    ];
    let borrowed: Vec<(&str, &str)> = files.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let mesh = Mesh::up(&borrowed, DataPlane::Lateen);
    let (inside, outside) = (Inside::start(&mesh), Outside::start(&mesh));
    std::thread::sleep(SETTLE);
    for (what, file, text) in changes() {
        eprintln!("{what}");
        mesh.write(file, &text);
        std::thread::sleep(SETTLE);
    }
    let mut wrong = Vec::new();
    check("in the mesh", &inside.finish(), &mut wrong);
    check("through the gateway", &outside.finish(), &mut wrong);
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", mesh.evidence());
    mesh.down();
}
