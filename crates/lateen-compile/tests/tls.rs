//! TLS that users set up: credentials of sidecars, the mesh's defaults.

mod common;

use common::{BOOKINFO, GATEWAY, World, bookinfo_pods, gateway_pod, get, names, router, sidecar};
use std::sync::Arc;

use lateen_api::mesh::{
    CertificateData, ForwardClientCertDetails, MeshTlsConfig, MeshTlsProtocol, ProxyConfig,
    Topology,
};
use lateen_compile::{Compiler, Jwks, JwksSource, JwksStore, Snapshot};
use lateen_envoy::TypeUrl;
use serde_json::{Value, json};

const SECRET: &str = r"
apiVersion: v1
kind: Secret
metadata: {name: client, namespace: default}
data: {tls.crt: Y2VydA==, tls.key: a2V5, ca.crt: Y2E=, ca.crl: Y3Js}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: default}
spec:
  hosts: [api.example.com]
  ports: [{number: 443, name: http, protocol: HTTP}]
  resolution: DNS
";

fn rule(selector: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: outside, namespace: default}}
spec:
  host: api.example.com
  {selector}
  trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: client}}}}
"
    )
}

#[test]
fn a_sidecar_gets_the_credentials_of_rules_that_select_it_and_no_others() {
    for (selector, expected) in [
        (
            "workloadSelector: {matchLabels: {app: productpage}}",
            vec!["kubernetes://client", "kubernetes://client-cacert"],
        ),
        ("workloadSelector: {matchLabels: {app: reviews}}", vec![]),
        ("", vec![]),
    ] {
        let pods = bookinfo_pods();
        let node = sidecar(&pods[0]);
        let world = World::new(
            &format!("{BOOKINFO}\n---\n{SECRET}\n---\n{}", rule(selector)),
            pods,
        );
        let compiled = world.compile(&node);
        assert_eq!(names(&compiled, TypeUrl::Secret), expected, "{selector}");
    }
}

fn gateway(extra: &str) -> Value {
    let mut pods = bookinfo_pods();
    let gateway = gateway_pod(100);
    let node = router(&gateway);
    pods.push(gateway);
    let text = format!(
        "{BOOKINFO}\n---\n{GATEWAY}\n---\n
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: secure, namespace: default}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 443, name: https, protocol: HTTPS}}
    hosts: [a.example.com]
    tls: {{mode: SIMPLE, serverCertificate: /c, privateKey: /k, {extra}}}
"
    );
    let mut world = World::new(&text, pods);
    world.mesh.tls_defaults = Some(MeshTlsConfig {
        min_protocol_version: MeshTlsProtocol::Tlsv13,
        ecdh_curves: vec!["P-256".to_owned()],
        cipher_suites: vec!["ECDHE-RSA-AES256-GCM-SHA384".to_owned()],
    });
    world.mesh.default_config = Some(ProxyConfig {
        gateway_topology: Some(Topology {
            forward_client_cert_details: ForwardClientCertDetails::AppendForward,
            num_trusted_proxies: 2,
            ..Topology::default()
        }),
        ..ProxyConfig::default()
    });
    let compiled = world.compile(&node);
    get(&compiled, TypeUrl::Listener, "0.0.0.0_8443")["filter_chains"][0].clone()
}

fn parameters(chain: &Value) -> &Value {
    &chain["transport_socket"]["typed_config"]["common_tls_context"]["tls_params"]
}

#[test]
fn servers_begin_with_the_meshs_defaults_and_may_say_otherwise() {
    let chain = gateway("");
    assert_eq!(
        *parameters(&chain),
        json!({
            "tls_minimum_protocol_version": "TLSv1_3",
            "cipher_suites": ["ECDHE-RSA-AES256-GCM-SHA384"],
            "ecdh_curves": ["P-256"],
        })
    );
    let chain = gateway(
        "minProtocolVersion: TLSV1_2, ecdhCurves: [X25519], cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]",
    );
    assert_eq!(
        *parameters(&chain),
        json!({
            "tls_minimum_protocol_version": "TLSv1_2",
            "cipher_suites": ["ECDHE-RSA-AES128-GCM-SHA256"],
            "ecdh_curves": ["X25519"],
        })
    );
}

#[test]
fn a_gateway_forwards_client_certificates_as_its_topology_says() {
    let chain = gateway("");
    let manager = &chain["filters"][0]["typed_config"];
    assert_eq!(
        manager["forward_client_cert_details"],
        json!("APPEND_FORWARD")
    );
    assert_eq!(manager["xff_num_trusted_hops"], json!(2));
}

/// Roots of other meshes: the agents are told them, and servers accept the trust domains that are written with them.
#[test]
fn roots_of_other_meshes_reach_agents_and_their_trust_domains_servers() {
    let root = |pem: Option<&str>, url: Option<&str>, domains: &[&str]| CertificateData {
        pem: pem.map(str::to_owned),
        spiffe_bundle_url: url.map(str::to_owned),
        trust_domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
        ..CertificateData::default()
    };
    let pods = bookinfo_pods();
    let node = sidecar(&pods[0]);
    let mut inputs = World::new(BOOKINFO, pods).inputs();
    inputs.mesh.ca_certificates = vec![
        root(Some("PEM B"), None, &["b.example", "cluster.local"]),
        root(Some("PEM A"), None, &["a.example", "b.example"]),
        root(None, Some("https://c.example"), &[]),
        root(None, Some("https://d.example"), &[]),
        root(Some("PEM A"), None, &[]),
    ];
    inputs.mesh.trust_domain = "cluster.local".to_owned();
    let fetched = JwksSource::SpiffeBundle("https://c.example".to_owned());
    let keys = Some(Arc::from("PEM C"));
    let jwks = Jwks {
        keys,
        problem: None,
    };
    inputs.jwks = Arc::new(JwksStore::from([(fetched, jwks)]));
    let compiled = Compiler::new().compile(&Snapshot::new(inputs).0, &node);
    let told = get(&compiled, TypeUrl::ProxyConfig, "proxyconfig");
    let expected = ["PEM A", "PEM B", "PEM C"];
    assert_eq!(told["ca_certificates_pem"], json!(expected));
    let inbound = get(&compiled, TypeUrl::Listener, "virtualInbound").to_string();
    let prefixes: Vec<&str> = inbound
        .split("\"prefix\":\"spiffe://")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert_eq!(
        prefixes[..3],
        ["cluster.local/", "b.example/", "a.example/"]
    );
    let none = World::new(BOOKINFO, bookinfo_pods()).compile(&node);
    let told = get(&none, TypeUrl::ProxyConfig, "proxyconfig");
    assert_eq!(
        told.get("ca_certificates_pem"),
        None,
        "said too, so that the last ones go"
    );
}
