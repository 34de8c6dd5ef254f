//! Strict host ownership: who can stand between a client and a host of somebody else.

mod common;

use common::{BOOKINFO, World, bookinfo_pods, get, pod, sidecar};
use lateen_compile::ProxyNode;
use lateen_envoy::TypeUrl;

const STRICT: &str = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system, annotations: {lateen/strict-host-ownership: 'true'}}
data: {mesh: ''}
";

const TRAP: &str = "---
apiVersion: v1
kind: Service
metadata: {name: trap, namespace: evil}
spec: {clusterIP: 10.96.9.9, selector: {app: trap}, ports: [{name: http, port: 9080}]}
";

fn virtual_service(namespace: &str, hosts: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: taken, namespace: {namespace}}}\n\
         spec: {{hosts: [{hosts}], http: [{{route: [{{destination: {{host: trap.evil.svc.cluster.local, port: {{number: 9080}}}}}}]}}]}}\n"
    )
}

fn entry(name: &str, namespace: &str, hosts: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{hosts: [{hosts}], ports: [{{number: 9080, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{{address: 192.0.2.1}}]}}\n"
    )
}

fn world(extra: &[&str]) -> World {
    World::new(
        &format!("{BOOKINFO}\n{TRAP}{}", extra.concat()),
        bookinfo_pods(),
    )
}

fn client(namespace: &str) -> ProxyNode {
    sidecar(&pod(namespace, "client-1", "client", "v1", 77))
}

fn codes(world: &World) -> Vec<&'static str> {
    let found = world.diagnostics();
    let codes = found.iter().map(|diagnostic| diagnostic.code);
    codes.filter(|code| *code == "LAT3009").collect()
}

/// Whether requests of a namespace's client to a host go to the trap.
fn is_taken(world: &World, namespace: &str, domain: &str) -> bool {
    let compiled = world.compile(&client(namespace));
    let routes = get(&compiled, TypeUrl::RouteConfiguration, "9080");
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let hosts = list(&routes["virtual_hosts"]);
    let of_domain = hosts
        .iter()
        .find(|host| list(&host["domains"]).iter().any(|one| one == domain));
    of_domain.is_some_and(|host| host["routes"].to_string().contains("trap.evil"))
}

#[test]
fn a_virtual_service_for_anothers_host_holds_in_its_own_namespace_alone() {
    for hosts in [
        "ratings.default.svc.cluster.local",
        "'*.default.svc.cluster.local'",
        "'*.svc.cluster.local'",
        "'*'",
    ] {
        let taken = virtual_service("evil", hosts);
        let domain = "ratings.default.svc.cluster.local";
        let lax = world(&[&taken]);
        assert!(
            is_taken(&lax, "default", domain),
            "{hosts}: without the annotation it is Istio's rule"
        );
        assert!(codes(&lax).is_empty());
        let strict = world(&[STRICT, &taken]);
        assert!(!is_taken(&strict, "default", domain), "{hosts}");
        assert_eq!(codes(&strict), ["LAT3009"], "{hosts}");
        if !hosts.contains('*') {
            assert!(
                is_taken(&strict, "evil", domain),
                "its own clients follow it"
            );
        }
    }
}

#[test]
fn owners_and_the_root_namespace_speak_for_all() {
    for (namespace, hosts) in [
        ("default", "ratings"),
        ("istio-system", "ratings.default.svc.cluster.local"),
    ] {
        let own = world(&[STRICT, &virtual_service(namespace, hosts)]);
        assert!(
            is_taken(&own, "other", "ratings.default.svc.cluster.local"),
            "{namespace}"
        );
        assert!(codes(&own).is_empty());
    }
}

#[test]
fn an_external_host_is_whose_entry_declared_it_first() {
    let first = entry("a", "default", "api.example.com, '*.partner.example'");
    let taken = entry("b", "evil", "api.example.com");
    let below = entry("c", "evil", "pay.partner.example");
    let strict = world(&[
        STRICT,
        &first,
        &taken,
        &below,
        &virtual_service("evil", "api.example.com"),
    ]);
    assert_eq!(codes(&strict).len(), 3);
    assert!(!is_taken(&strict, "default", "api.example.com"));
    assert!(!is_taken(&strict, "other", "api.example.com"));
    let own = world(&[
        STRICT,
        &first,
        &virtual_service("default", "api.example.com"),
    ]);
    assert!(is_taken(&own, "other", "api.example.com"));
    assert!(codes(&own).is_empty());
    // What nobody declared is nobody's.
    let nobodys = world(&[STRICT, &virtual_service("evil", "undeclared.example.com")]);
    assert_eq!(codes(&nobodys), ["LAT3009"]);
}

#[test]
fn who_exports_to_nobody_else_is_told_nothing() {
    let modest = virtual_service("evil", "ratings.default.svc.cluster.local")
        .replace("spec: {", "spec: {exportTo: ['.'], ");
    assert!(codes(&world(&[STRICT, &modest])).is_empty());
}
