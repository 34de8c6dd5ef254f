//! What a gateway gets.

mod common;

use common::{BOOKINFO, GATEWAY, World, bookinfo_pods, each, gateway_pod, get, names, router};
use lateen_compile::Compiled;
use lateen_envoy::TypeUrl;
use serde_json::json;

fn compile(extra: &str) -> Compiled {
    let mut pods = bookinfo_pods();
    let gateway = gateway_pod(100);
    let node = router(&gateway);
    pods.push(gateway);
    World::new(&format!("{BOOKINFO}\n---\n{GATEWAY}\n---\n{extra}"), pods).compile(&node)
}

#[test]
fn a_server_listens_on_the_port_its_service_leads_to() {
    let compiled = compile("");
    assert_eq!(names(&compiled, TypeUrl::Listener), ["0.0.0.0_8080"]);
    assert_eq!(names(&compiled, TypeUrl::RouteConfiguration), ["http.8080"]);
    let routes = get(&compiled, TypeUrl::RouteConfiguration, "http.8080");
    let host = &routes["virtual_hosts"][0];
    assert_eq!(host["name"], json!("*:80"));
    assert_eq!(host["domains"], json!(["*"]));
    assert_eq!(
        each(&host["routes"], "/route/cluster"),
        [&json!("outbound|9080||productpage.default.svc.cluster.local"); 2]
    );
    let clusters = names(&compiled, TypeUrl::Cluster);
    assert!(!clusters.iter().any(|name| name == "PassthroughCluster"));
}

const TLS: &str = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: secure, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [bookinfo.example.com]
    tls: {mode: MUTUAL, credentialName: bookinfo-credential}
  - port: {number: 80, name: http-redirect, protocol: HTTP}
    hosts: [bookinfo.example.com]
    tls: {httpsRedirect: true}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: secure, namespace: default}
spec:
  hosts: [bookinfo.example.com]
  gateways: [secure]
  http: [{route: [{destination: {host: productpage}}]}]
";

#[test]
fn https_ends_at_the_gateway_with_a_certificate_from_the_control_plane() {
    let compiled = compile(TLS);
    let listener = get(&compiled, TypeUrl::Listener, "0.0.0.0_8443");
    let chain = &listener["filter_chains"][0];
    assert_eq!(
        chain["filter_chain_match"],
        json!({"server_names": ["bookinfo.example.com"]})
    );
    let tls = &chain["transport_socket"]["typed_config"];
    assert_eq!(tls["require_client_certificate"], json!(true));
    let common = &tls["common_tls_context"];
    assert_eq!(
        common["tls_certificate_sds_secret_configs"][0]["name"],
        json!("kubernetes://bookinfo-credential")
    );
    assert_eq!(
        common["combined_validation_context"]["validation_context_sds_secret_config"]["name"],
        json!("kubernetes://bookinfo-credential-cacert")
    );
    let missing: Vec<_> = compiled.diagnostics.iter().map(|d| d.code).collect();
    assert_eq!(missing, ["LAT3005"]);
}

#[test]
fn a_redirect_server_asks_for_tls_and_leaves_others_alone() {
    let compiled = compile(TLS);
    let routes = get(&compiled, TypeUrl::RouteConfiguration, "http.8080");
    let hosts = routes["virtual_hosts"].as_array().unwrap();
    let requires = |name: &str| {
        hosts
            .iter()
            .find(|host| host["name"] == json!(name))
            .unwrap()["require_tls"]
            .clone()
    };
    assert_eq!(requires("bookinfo.example.com:80"), json!("ALL"));
    assert_eq!(requires("*:80"), json!(null));
    assert!(
        names(&compiled, TypeUrl::RouteConfiguration)
            .contains(&"https.443.https.secure.default".to_owned())
    );
}

#[test]
fn a_gateway_gets_secrets_of_its_own_namespace_only() {
    let secret = |namespace: &str| {
        format!(
            "{TLS}\n---\napiVersion: v1\nkind: Secret\n\
             metadata: {{name: bookinfo-credential, namespace: {namespace}}}\n\
             stringData: {{tls.crt: CERT, tls.key: KEY, ca.crt: CA}}\n"
        )
    };
    assert!(names(&compile(&secret("default")), TypeUrl::Secret).is_empty());
    let own = compile(&secret("istio-system"));
    assert_eq!(
        names(&own, TypeUrl::Secret),
        [
            "kubernetes://bookinfo-credential",
            "kubernetes://bookinfo-credential-cacert"
        ]
    );
    assert!(own.diagnostics.is_empty());
}

#[test]
fn tls_is_handed_on_by_server_name() {
    let compiled = compile(
        r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: through, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: tls, protocol: TLS}
    hosts: ['*.example.com']
    tls: {mode: PASSTHROUGH}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: through, namespace: default}
spec:
  hosts: [a.example.com]
  gateways: [through]
  tls:
  - match: [{port: 443, sniHosts: [a.example.com]}]
    route: [{destination: {host: echo, port: {number: 7000}}}]
",
    );
    let chain = &get(&compiled, TypeUrl::Listener, "0.0.0.0_8443")["filter_chains"][0];
    assert_eq!(
        chain["filter_chain_match"]["server_names"],
        json!(["a.example.com"])
    );
    assert_eq!(chain["transport_socket"], json!(null));
    assert_eq!(
        chain["filters"][0]["typed_config"]["cluster"],
        json!("outbound|7000||echo.default.svc.cluster.local")
    );
}

#[test]
fn servers_that_cannot_share_a_port_are_reported() {
    let compiled = compile(
        r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: zz-late, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}
",
    );
    assert_eq!(compiled.diagnostics[0].code, "LAT3004");
    assert_eq!(names(&compiled, TypeUrl::Listener), ["0.0.0.0_8080"]);
}

#[test]
fn a_gateway_between_networks_hands_mutual_tls_on_to_endpoints_that_can_end_it() {
    let compiled = compile(
        r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: cross, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 15443, name: tls, protocol: TLS}, hosts: ['*.local'], tls: {mode: AUTO_PASSTHROUGH}}
",
    );
    let name = "outbound_.9080_.v1_.reviews.default.svc.cluster.local";
    let cluster = get(&compiled, TypeUrl::Cluster, name);
    assert_eq!(cluster["transport_socket_matches"], json!(null));
    assert_eq!(cluster["eds_cluster_config"]["service_name"], json!(name));
    let endpoints = get(&compiled, TypeUrl::ClusterLoadAssignment, name);
    assert_eq!(
        endpoints["endpoints"][0]["lb_endpoints"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let listener = get(&compiled, TypeUrl::Listener, "0.0.0.0_15443");
    assert!(listener["filter_chains"].to_string().contains(name));
}

#[test]
fn every_stream_route_of_a_gateway_counts_up_to_the_first_that_takes_everything() {
    let compiled = compile(
        r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: streams, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 31400, name: tcp, protocol: TCP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: streams, namespace: default}
spec:
  hosts: ['*']
  gateways: [streams]
  tcp:
  - match: [{port: 31400, destinationSubnets: [10.1.0.0/16]}, {port: 31401}]
    route: [{destination: {host: reviews, port: {number: 9080}}}]
  - route: [{destination: {host: ratings, port: {number: 9080}}}]
  - route: [{destination: {host: echo, port: {number: 7000}}}]
",
    );
    let listener = get(&compiled, TypeUrl::Listener, "0.0.0.0_31400");
    let chains = listener["filter_chains"].as_array().unwrap();
    assert_eq!(chains.len(), 2);
    assert_eq!(
        chains[0]["filter_chain_match"]["prefix_ranges"],
        json!([{"address_prefix": "10.1.0.0", "prefix_len": 16}])
    );
    assert!(chains[1].get("filter_chain_match").is_none());
    assert!(chains[1].to_string().contains("outbound|9080||ratings"));
}

#[test]
fn an_ingress_is_served_by_the_ingress_gateway_with_whole_segments_of_paths() {
    let compiled = compile(
        r"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop, namespace: default, annotations: {kubernetes.io/ingress.class: istio}}
spec:
  rules:
  - host: shop.example.com
    http:
      paths:
      - {path: /reviews, pathType: Prefix, backend: {service: {name: reviews, port: {name: http}}}}
",
    );
    let routes = get(&compiled, TypeUrl::RouteConfiguration, "http.8080");
    let route = &routes["virtual_hosts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|host| host["domains"] == json!(["shop.example.com"]))
        .unwrap()["routes"][0];
    assert_eq!(route["match"]["path_separated_prefix"], json!("/reviews"));
    assert_eq!(
        route["metadata"]["filter_metadata"]["lateen"],
        json!({
            "object": "Ingress/default/shop",
            "field": "spec.rules[0].http.paths[0]",
            "retries": "default"
        })
    );
}

const RESOLVED: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: world, namespace: default}
spec:
  hosts: ["*.world.test"]
  location: MESH_EXTERNAL
  resolution: DYNAMIC_DNS
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: out, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: tls, protocol: TLS}
    hosts: ["*.world.test"]
    tls: {mode: PASSTHROUGH}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: out, namespace: default}
spec:
  hosts: ["*.world.test"]
  gateways: [out]
  tls:
  - match: [{sniHosts: ["*.world.test"]}]
    route: [{destination: {host: "*.world.test", port: {number: 443}}}]
"#;

#[test]
fn gateways_resolve_the_names_that_requests_and_connections_ask_for() {
    let compiled = compile(RESOLVED);
    let listener = get(&compiled, TypeUrl::Listener, "0.0.0.0_8443");
    let filters = &listener["filter_chains"][0]["filters"];
    let names = each(filters, "/name");
    let at = |name: &str| names.iter().position(|found| **found == json!(name));
    let resolver = at("envoy.filters.network.sni_dynamic_forward_proxy").unwrap();
    assert_eq!(filters[resolver]["typed_config"]["port_value"], json!(443));
    assert_eq!(resolver + 1, at("envoy.filters.network.tcp_proxy").unwrap());

    let plain = get(&compiled, TypeUrl::Listener, "0.0.0.0_8080");
    let http = &plain["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"];
    let names = each(http, "/name");
    assert!(names.contains(&&json!("envoy.filters.http.dynamic_forward_proxy")));
}
