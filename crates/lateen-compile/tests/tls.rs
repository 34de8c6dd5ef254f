//! TLS that users set up: credentials of sidecars, the mesh's defaults.

mod common;

use common::{BOOKINFO, GATEWAY, World, bookinfo_pods, gateway_pod, get, names, router, sidecar};
use lateen_api::mesh::{
    ForwardClientCertDetails, MeshTlsConfig, MeshTlsProtocol, ProxyConfig, Topology,
};
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
