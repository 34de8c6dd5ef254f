//! What `lateen explain` says is what the proxy does: generated virtual services, access rules and tokens at a gateway, asked of both.
//!
//! The proxy is the real one, on a socket; each route answers by itself with a status of its own, so that the status tells the decision.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lateen_api::SourceFile;
use lateen_compile::Settings;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::{ResourceSet, TypeUrl};
use lateen_explain::{Asked, Client, Mesh, MeshInputs, Options, explain};
use lateen_proxy::{ConfigSource, Proxy, ProxyConfig, ProxyHandle};
use lateen_sources::files::Reader;
use lateen_sources::plan::{PodState, plan};
use lateen_sources::pods::compile_pods;
use lateen_sources::{defaults, mesh as mesh_config};
use serde_json::{Map, json};
use tokio::sync::watch;

/// Configurations, and requests to each.
const ROUNDS: u64 = 24;
const REQUESTS: usize = 120;

/// SplitMix64: the same choices in every run.
struct Choices(u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        let index = self.below(list.len() as u64);
        list[usize::try_from(index).unwrap()]
    }

    /// One time in so many.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

const PATHS: [&str; 9] = [
    "/",
    "/a",
    "/a/b",
    "/A/b",
    "/ab",
    "/api/users/1",
    "/api//users/1",
    "/a/../b",
    "/a/%62",
];
const METHODS: [&str; 4] = ["GET", "POST", "DELETE", "OPTIONS"];
const VALUES: [&str; 4] = ["one", "two", "onetwo", "ONE"];
const HOSTS: [&str; 4] = ["a.example", "b.example", "x.b.example", "A.example:80"];
const ROLES: [&str; 3] = ["admin", "dev", "adm"];

fn text_match(choices: &mut Choices, values: &[&str]) -> String {
    let value = choices.of(values);
    match choices.below(3) {
        0 => format!("{{exact: '{value}'}}"),
        1 => format!("{{prefix: '{}'}}", value.get(..2).unwrap_or(value)),
        _ => format!("{{regex: '{}.*'}}", value.get(..2).unwrap_or(value)),
    }
}

fn condition(choices: &mut Choices) -> String {
    let mut parts = Vec::new();
    if choices.once_in(2) {
        parts.push(format!("uri: {}", text_match(choices, &PATHS)));
        if choices.once_in(3) {
            parts.push("ignoreUriCase: true".to_owned());
        }
    }
    if choices.once_in(3) {
        parts.push(format!("method: {{exact: {}}}", choices.of(&METHODS)));
    }
    if choices.once_in(3) {
        parts.push(format!(
            "headers: {{x-h: {}}}",
            text_match(choices, &VALUES)
        ));
    }
    if choices.once_in(5) {
        parts.push(format!(
            "withoutHeaders: {{x-h: {}}}",
            text_match(choices, &VALUES)
        ));
    }
    if choices.once_in(4) {
        parts.push(format!(
            "queryParams: {{q: {}}}",
            text_match(choices, &VALUES)
        ));
    }
    if choices.once_in(5) {
        parts.push(format!(
            "headers: {{'@request.auth.claims.role': {{exact: {}}}}}",
            choices.of(&ROLES)
        ));
        parts.retain(|part| !part.starts_with("headers: {x-h"));
    }
    if parts.is_empty() {
        parts.push("uri: {prefix: /}".to_owned());
    }
    format!("{{{}}}", parts.join(", "))
}

/// A virtual service whose routes answer by themselves.
fn virtual_service(choices: &mut Choices) -> String {
    let mut out = String::from(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: istio-system}\n\
         spec:\n  hosts: [a.example, '*.b.example']\n  gateways: [g]\n  http:\n",
    );
    for number in 0..=choices.below(7) {
        let matches: Vec<String> = (0..choices.below(3)).map(|_| condition(choices)).collect();
        let _ = writeln!(out, "  - name: r{number}");
        if !matches.is_empty() {
            let _ = writeln!(out, "    match: [{}]", matches.join(", "));
        }
        if choices.once_in(6) {
            let _ = writeln!(
                out,
                "    redirect: {{uri: /to/{number}, redirectCode: 302}}"
            );
        } else {
            let _ = writeln!(out, "    directResponse: {{status: {}}}", 210 + number);
        }
    }
    out
}

fn rule(choices: &mut Choices) -> String {
    let mut operation = Vec::new();
    if choices.once_in(2) {
        operation.push(format!("methods: [{}]", choices.of(&METHODS)));
    }
    if choices.once_in(2) {
        let list = choices.of(&["paths", "notPaths"]);
        operation.push(format!(
            "{list}: ['{}']",
            choices.of(&["/a*", "*b", "/api/*", "/a", "/api/{*}/1"])
        ));
    }
    if choices.once_in(4) {
        operation.push(format!(
            "hosts: ['{}']",
            choices.of(&["a.example", "*.example", "b.example"])
        ));
    }
    let mut parts = Vec::new();
    if !operation.is_empty() {
        parts.push(format!("to: [{{operation: {{{}}}}}]", operation.join(", ")));
    }
    if choices.once_in(5) {
        parts.push("from: [{source: {requestPrincipals: ['*']}}]".to_owned());
    }
    if choices.once_in(3) {
        let list = choices.of(&["values", "notValues"]);
        let key = choices.of(&["request.headers[x-h]", "request.auth.claims[role]"]);
        let value = choices.of(&["one", "admin", "o*", "*"]);
        parts.push(format!("when: [{{key: '{key}', {list}: ['{value}']}}]"));
    }
    format!("{{{}}}", parts.join(", "))
}

fn policies(choices: &mut Choices) -> String {
    let mut out = String::new();
    for number in 0..choices.below(4) {
        let action = choices.of(&["ALLOW", "DENY", "ALLOW", "AUDIT"]);
        let rules: Vec<String> = (0..=choices.below(2)).map(|_| rule(choices)).collect();
        let _ = write!(
            out,
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{number}, namespace: istio-system}}\n\
             spec: {{selector: {{matchLabels: {{istio: ingressgateway}}}}, action: {action}, rules: [{}]}}\n",
            rules.join(", ")
        );
    }
    if choices.once_in(2) {
        let presence = choices.of(&["OPTIONAL", "REQUIRED"]);
        let _ = write!(
            out,
            "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: t, namespace: istio-system}}\n\
             spec:\n  selector: {{matchLabels: {{istio: ingressgateway}}}}\n  jwtRules:\n  \
             - {{issuer: 'https://issuer.example', audiences: [shop], jwksUri: 'https://issuer.example/keys', presence: {presence}}}\n"
        );
    }
    out
}

fn manifests(choices: &mut Choices, port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g, namespace: istio-system}}\n\
         spec: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}]}}\n{}{}",
        virtual_service(choices),
        policies(choices)
    )
}

fn mesh(yaml: &str) -> Mesh {
    let loaded = Reader::parse_text(SourceFile::new("mesh.yaml", yaml), "default");
    let errors: Vec<_> = loaded.diagnostics.iter().filter(|d| d.is_error()).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{yaml}");
    let resources = defaults::with_defaults(&loaded.resources.to_vec());
    let (planned, _) = plan(&resources, false);
    let pods: Vec<PodState> = planned.pods.iter().map(PodState::expected).collect();
    let (mesh, _) = mesh_config::config(&resources);
    let inputs = MeshInputs {
        mesh,
        settings: Settings::default(),
        pods: compile_pods(&pods),
        cluster_ips: planned.cluster_ips,
        kinds: BTreeMap::new(),
        resources,
        ..MeshInputs::default()
    };
    Mesh::new(inputs.taking_described_tokens())
}

/// Starts a proxy with listeners and routes alone: no route leads to a cluster, and clusters of the mesh would wait for an identity.
fn start(all: &ResourceSet) -> ProxyHandle {
    let mut resources = ResourceSet::default();
    for ty in [TypeUrl::Listener, TypeUrl::RouteConfiguration] {
        for resource in all.get(ty).values() {
            resources.insert(ty, resource.clone());
        }
    }
    let node = Node {
        id: "router~127.0.0.1~gateway.istio-system~istio-system.svc.cluster.local".to_owned(),
        ..Node::default()
    };
    let mut config = ProxyConfig::new(node, ConfigSource::fixed(resources), watch::channel(None).1);
    config.concurrency = 1;
    (config.admin, config.prometheus, config.health) = (None, None, None);
    Proxy::start(config).unwrap()
}

fn request(choices: &mut Choices, mesh: &Mesh, port: u16, now: u64) -> Asked {
    let path = choices.of(&PATHS);
    let query = match choices.below(3) {
        0 => format!("?q={}", choices.of(&VALUES)),
        _ => String::new(),
    };
    let url = format!("http://a.example:{port}{path}{query}");
    let mut asked = Asked::parse(Some(choices.of(&METHODS)), &url, &[]).unwrap();
    // A URL's parser would take the dots out of the path; a client need not.
    asked.url.path = format!("{path}{query}");
    asked.host = Some(choices.of(&HOSTS).to_owned());
    if choices.once_in(2) {
        asked.set_header("x-h", choices.of(&VALUES)).unwrap();
    }
    match choices.below(5) {
        0 => asked
            .set_header("authorization", "Bearer nonsense")
            .unwrap(),
        1 | 2 => {
            let mut claims = Map::new();
            claims.insert("iss".to_owned(), "https://issuer.example".into());
            claims.insert("sub".to_owned(), "alice".into());
            claims.insert("role".to_owned(), choices.of(&ROLES).into());
            if choices.once_in(4) {
                claims.insert("exp".to_owned(), json!(now - 1000));
            }
            if choices.once_in(4) {
                claims.insert("aud".to_owned(), json!(null));
            }
            mesh.carry(&mut asked, claims, now).unwrap();
        }
        _ => {}
    }
    asked
}

/// Status and location of the answer.
fn send(address: SocketAddr, asked: &Asked) -> (u16, Option<String>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut head = format!(
        "{} {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n",
        asked.method,
        asked.url.path,
        asked.authority()
    );
    for (name, value) in &asked.headers {
        let _ = write!(head, "{name}: {}\r\n", value.to_str().unwrap());
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer
        .get(9..12)
        .and_then(|text| text.parse().ok())
        .unwrap_or_default();
    let location = answer
        .lines()
        .find_map(|line| line.strip_prefix("location: "))
        .map(str::to_owned);
    (status, location)
}

#[test]
fn explanations_of_generated_configurations_are_what_the_proxy_does() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut seen: BTreeMap<u16, usize> = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut choices = Choices(round);
        let free = TcpListener::bind("0.0.0.0:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let yaml = manifests(&mut choices, free.port());
        let mesh = mesh(&yaml);
        let pod = mesh.gateway(None, None).unwrap().clone();
        let handle = start(&mesh.resources(&pod));
        let ready = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), handle.ready()).await
        });
        assert_eq!(ready.ok(), Some(true), "{yaml}");
        let address = SocketAddr::from(([127, 0, 0, 1], free.port()));
        let client = Client::Outside {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
        };
        for _ in 0..REQUESTS {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_secs();
            let asked = request(&mut choices, &mesh, free.port(), now);
            let options = Options {
                now,
                ..Options::default()
            };
            let explanation = explain(&mesh, &client, &asked, options).unwrap();
            let branch = &explanation.branches[0];
            let told = (
                branch.outcome.status.unwrap_or_default(),
                branch.facts.location.clone(),
            );
            let done = send(address, &asked);
            assert_eq!(told, done, "{asked:#?}\n{explanation:#?}\n{yaml}");
            *seen.entry(done.0).or_default() += 1;
        }
        runtime.block_on(handle.shutdown());
    }
    // The generator is worth something only if it meets every kind of outcome.
    for status in [210, 211, 302, 401, 403, 404] {
        assert!(seen.contains_key(&status), "never {status}: {seen:?}");
    }
}
