//! Policies as users write them, compiled by the control plane's compiler, asked of both proxies like the rest of the corpus.
//!
//! `compiled/*.yaml` hold sets of policies with the requests they decide. A set becomes a listener whose filters and connection
//! settings are those that the compiler gives a workload of the mesh; its route goes to the harness' host instead of the workload.
//! So a verdict is held to Envoy's from the YAML on, to the body, the flags and the log line.
//!
//! A request is one line: `METHOD PATH [| header: value]… -> STATUS`. `{NAME}` in it is a token of the file, `{forged NAME}` the same
//! signed by somebody else, `{unsigned NAME}` by nobody. `{jwks}` in a policy stands for the public key of the file's tokens.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use lateen_api::{Resource, SourceFile, parse_file, parse_fragment};
use lateen_compile::{
    Compiler, Pod, PodRole, ProxyKind, ProxyNode, Settings, Snapshot, SnapshotInputs,
};
use lateen_envoy::{TypeUrl, json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::case::File;
use tokens::Tokens;

mod tokens;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 0, 1));
const HTTP_PORT: u64 = 8000;
const TCP_PORT: u64 = 9000;

/// The workload that policies are for, and the authorizers that CUSTOM policies may name.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: foo}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 8000}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: authz, namespace: foo}
spec: {clusterIP: 10.96.0.2, selector: {app: authz}, ports: [{name: http, port: 8000}, {name: grpc, port: 9000}]}
";

/// A file of sets.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sets {
    /// Claims by the name of their token.
    #[serde(default)]
    tokens: BTreeMap<String, Value>,
    sets: Vec<Set>,
}

/// Policies, and what comes of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    name: String,
    /// MeshConfig.
    #[serde(default)]
    mesh: Value,
    /// Specs of AuthorizationPolicies in the workload's namespace.
    #[serde(default)]
    authorization: Vec<Value>,
    /// The same in the root namespace.
    #[serde(default)]
    root: Vec<Value>,
    /// The same with `istio.io/dry-run`.
    #[serde(default)]
    dry_run: Vec<Value>,
    /// Specs of RequestAuthentications in the workload's namespace.
    #[serde(default)]
    authentication: Vec<Value>,
    #[serde(default)]
    requests: Vec<String>,
    /// Whether a connection to the TCP port passes.
    connection: Option<Connection>,
    /// Differences by request line, as in the other files.
    #[serde(default)]
    differs: BTreeMap<String, Value>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Connection {
    Open,
    Closed,
}

/// The files of a directory as files of the corpus, with the cases that contain the filter.
pub(crate) fn read_all(directory: &Path, filter: &str) -> Vec<File> {
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    paths.sort();
    let files = paths.iter().map(|path| {
        let text = std::fs::read_to_string(path).unwrap();
        let sets: Sets = yaml_serde::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = format!("compiled-{}", path.file_stem().unwrap().to_string_lossy());
        let mut file = file(&sets);
        file.cases
            .retain(|case| format!("{name}: {}", case.name).contains(filter));
        file.name = name;
        file
    });
    files.filter(|file| !file.cases.is_empty()).collect()
}

fn file(sets: &Sets) -> File {
    let tokens = Tokens::new(&sets.tokens);
    let mut listeners = serde_json::Map::new();
    let mut cases = Vec::new();
    for (index, set) in sets.sets.iter().enumerate() {
        let inbound = inbound(set, &tokens);
        if !set.requests.is_empty() {
            let name = format!("http-{index}");
            listeners.insert(name.clone(), http_listener(&inbound));
            for line in &set.requests {
                cases.push(request(set, line, &name, &tokens));
            }
        }
        if let Some(connection) = set.connection {
            let name = format!("tcp-{index}");
            listeners.insert(name.clone(), tcp_listener(&inbound));
            cases.push(connect(set, connection, &name));
        }
    }
    // What hosts saw is told apart by the names of cases, of which letters and digits count.
    for (number, case) in cases.iter_mut().enumerate() {
        let name = case["name"].as_str().unwrap_or_default();
        case["name"] = json!(format!("{number}. {name}"));
    }
    serde_json::from_value(json!({
        "listeners": listeners,
        // An authorizer is host 1, so that `x-do: host1/…` tells it what to answer; nobody answers for the gRPC one.
        "clusters": {
            "up": {"hosts": 1}, "tcp": {"hosts": 1},
            "authz": {"hosts": [1]}, "authz-grpc": {"hosts": "dead"},
        },
        "cases": cases,
    }))
    .unwrap()
}

/// A request line as a case of the corpus.
fn request(set: &Set, line: &str, listener: &str, tokens: &Tokens) -> Value {
    let (asked, status) = line.rsplit_once(" -> ").expect("a request has a verdict");
    let status: u16 = status.trim().parse().expect("a verdict is a status");
    let asked = tokens.expand(asked);
    let mut parts = asked.split(" | ");
    let (method, path) = parts.next().unwrap().split_once(' ').unwrap();
    let mut host = "a.example".to_owned();
    let mut headers = Vec::new();
    for header in parts {
        match header.strip_prefix("host: ") {
            Some(named) => named.clone_into(&mut host),
            None => headers.push(header.to_owned()),
        }
    }
    let plain = asked
        .bytes()
        .all(|b| (b' '..=b'~').contains(&b) && b != b'\\')
        && path.parse::<http::Uri>().is_ok()
        && path.starts_with('/');
    let send = if plain {
        json!({"method": method, "path": path, "host": host, "headers": headers})
    } else {
        let lines: String = headers.iter().map(|line| format!("{line}\n")).collect();
        let head = format!(
            "{method} {path} HTTP/1.1\nhost: {host}\nconnection: close\nx-case: {{case}}\n{lines}\n"
        );
        json!({"raw": head, "lines": true})
    };
    json!({
        "name": format!("{}: {line}", set.name),
        "listener": listener,
        "send": send,
        "expect": {"status": status},
        "differs": excuses(set, set.differs.get(line)),
    })
}

/// What may differ: what is written, and for every set with authorizers how their answers are counted.
fn excuses(set: &Set, written: Option<&Value>) -> Value {
    let mut out = written
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if !set.mesh["extensionProviders"].is_null() {
        out.push(json!({
            "at": "stats.cluster", "sometimes": true,
            "because": "Envoy counts a denial as an answer of the route's cluster, and an authorizer's silence as a 5xx of its own",
        }));
    }
    Value::Array(out)
}

fn connect(set: &Set, connection: Connection, listener: &str) -> Value {
    let expect = match connection {
        Connection::Open => json!({"body": "hello from the host"}),
        Connection::Closed => json!({"nothing": true}),
    };
    // Envoy connects to the host and reads what the client says before it looks at policies; our proxy refuses before either.
    let refused_sooner = json!([
        {"at": "log", "because": "a connection is refused before its host is connected and anything is read, and has no line"},
        {"at": "stats", "because": "a host that is not connected counts nothing", "sometimes": true},
        {"at": "replies[0].end", "because": "what the client said is not read, so its kernel is told so", "sometimes": true},
    ]);
    let differs = match connection {
        Connection::Open => excuses(set, None),
        Connection::Closed => refused_sooner,
    };
    let request = "GET / HTTP/1.1\nhost: a\nx-case: {case}\nconnection: close\n\n";
    json!({
        "name": format!("{}: a connection", set.name),
        "listener": listener,
        "send": {"raw": request, "lines": true},
        "expect": expect,
        "differs": differs,
    })
}

/// The listener through which everything enters the workload, as JSON.
fn inbound(set: &Set, tokens: &Tokens) -> Value {
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let pod = Pod {
        namespace: "foo".to_owned(),
        name: "web".to_owned(),
        labels: labels.clone(),
        ips: vec![ADDRESS],
        ready: true,
        role: PodRole::Sidecar,
        ..Pod::default()
    };
    let node = ProxyNode {
        id: "sidecar~10.244.0.1~web.foo~foo.svc.cluster.local".to_owned(),
        kind: ProxyKind::Sidecar,
        namespace: "foo".to_owned(),
        name: "web".to_owned(),
        labels,
        ips: vec![ADDRESS],
        dns_domain: "foo.svc.cluster.local".to_owned(),
        ..ProxyNode::default()
    };
    let mesh = match &set.mesh {
        Value::Null => "{}".to_owned(),
        mesh => mesh.to_string(),
    };
    let (mesh, found) = parse_fragment(&SourceFile::new("mesh", &mesh));
    assert!(found.is_empty(), "{}: {found:?}", set.name);
    let (snapshot, _) = Snapshot::new(SnapshotInputs {
        mesh,
        settings: Settings::default(),
        resources: objects(set, tokens),
        pods: vec![pod],
        ..SnapshotInputs::default()
    });
    let compiled = Compiler::new().compile(&snapshot, &node);
    let listeners = compiled.resources.get(TypeUrl::Listener);
    json::any_to_value(&listeners["virtualInbound"].body)
}

fn objects(set: &Set, tokens: &Tokens) -> Vec<Resource> {
    let mut text = SERVICES.to_owned();
    let kinds = [
        ("AuthorizationPolicy", "foo", "", &set.authorization),
        ("AuthorizationPolicy", "istio-system", "", &set.root),
        (
            "AuthorizationPolicy",
            "foo",
            "istio.io/dry-run",
            &set.dry_run,
        ),
        ("RequestAuthentication", "foo", "", &set.authentication),
    ];
    for (number, (kind, namespace, annotation, specs)) in (0..).zip(kinds) {
        for (index, spec) in specs.iter().enumerate() {
            let mut metadata =
                json!({"name": format!("p{number}-{index}"), "namespace": namespace});
            if !annotation.is_empty() {
                metadata["annotations"] = json!({annotation: "true"});
            }
            let object = json!({
                "apiVersion": "security.istio.io/v1", "kind": kind,
                "metadata": metadata, "spec": tokens.with_keys(spec),
            });
            text += &format!("---\n{object}\n");
        }
    }
    let parsed = parse_file(&SourceFile::new("policies.yaml", &text), "foo");
    let errors: Vec<_> = parsed
        .diagnostics
        .iter()
        .filter(|found| found.is_error())
        .collect();
    assert!(errors.is_empty(), "{}: {errors:?}", set.name);
    parsed.resources
}

/// The plain-text filters of a port.
fn filters(listener: &Value, port: u64) -> Vec<Value> {
    let chains = listener["filter_chains"].as_array().unwrap();
    let plain = |chain: &&Value| {
        let conditions = &chain["filter_chain_match"];
        conditions["destination_port"] == port && conditions["transport_protocol"] != "tls"
    };
    let chain = chains.iter().find(plain).expect("the port has a chain");
    chain["filters"].as_array().unwrap().clone()
}

/// The connection manager's filters and settings on a listener of the corpus, with the harness' routes and log.
fn http_listener(inbound: &Value) -> Value {
    let filters = filters(inbound, HTTP_PORT);
    let mut manager = filters.last().unwrap()["typed_config"].clone();
    let settings = manager.as_object_mut().unwrap();
    for ours in ["@type", "stat_prefix", "route_config", "rds", "access_log"] {
        settings.shift_remove(ours);
    }
    let filters = settings.shift_remove("http_filters").unwrap();
    let mut filters = filters.as_array().unwrap().clone();
    filters.retain(|filter| filter["name"] != "envoy.filters.http.router");
    filters.iter_mut().for_each(to_harness);
    json!({
        "routes": [{"name": "web", "match": {"prefix": "/"}, "route": {"cluster": "$up"}}],
        "http_filters": filters,
        "manager": manager,
    })
}

fn tcp_listener(inbound: &Value) -> Value {
    let mut filters = filters(inbound, TCP_PORT);
    filters.retain(|filter| filter["name"] != "envoy.filters.network.tcp_proxy");
    filters.iter_mut().for_each(to_harness);
    filters.push(json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp", "cluster": "$tcp",
        },
    }));
    json!({"filters": filters})
}

/// Names the harness' authorizers instead of the mesh's.
fn to_harness(value: &mut Value) {
    match value {
        Value::String(text) if text.starts_with("outbound|8000||authz.") => {
            "$authz".clone_into(text);
        }
        Value::String(text) if text.starts_with("outbound|9000||authz.") => {
            "$authz-grpc".clone_into(text);
        }
        Value::Array(list) => list.iter_mut().for_each(to_harness),
        Value::Object(map) => map.values_mut().for_each(to_harness),
        _ => {}
    }
}
