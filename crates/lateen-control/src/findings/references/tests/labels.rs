//! Selectors, objects of which a workload has one, ports of Services, and namespaces without sidecars.

use super::{Extent, codes, only, told};

fn object(kind: &str, name: &str, spec: &str) -> String {
    let group = match kind {
        "Sidecar" => "networking.istio.io/v1",
        "EnvoyFilter" => "networking.istio.io/v1alpha3",
        "Telemetry" => "telemetry.istio.io/v1",
        _ => "security.istio.io/v1",
    };
    format!(
        "apiVersion: {group}\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
    )
}

#[test]
fn selectors_that_no_workload_satisfies_are_found() {
    for (kind, wrong) in [
        (
            "PeerAuthentication",
            "{selector: {matchLabels: {app: reviws}}, mtls: {mode: STRICT}}",
        ),
        (
            "RequestAuthentication",
            "{selector: {matchLabels: {app: reviws}}}",
        ),
        (
            "Sidecar",
            "{workloadSelector: {labels: {app: reviws}}, egress: [{hosts: ['./*']}]}",
        ),
        ("EnvoyFilter", "{workloadSelector: {labels: {app: reviws}}}"),
    ] {
        let found = only(&object(kind, "a", wrong));
        assert_eq!(found.code, "IST0127", "{kind}");
        assert_eq!(found.fix, "did you mean `app: reviews`?");
        assert_eq!(
            codes(&object(kind, "a", &wrong.replace("reviws", "reviews"))),
            [],
            "{kind}"
        );
    }
}

#[test]
fn a_policy_of_the_root_namespace_selects_in_all() {
    let policy = object(
        "RequestAuthentication",
        "a",
        "{selector: {matchLabels: {app: reviews}}}",
    )
    .replace("namespace: shop", "namespace: istio-system");
    assert_eq!(codes(&policy), []);
}

#[test]
fn a_policy_for_workloads_without_sidecars_is_found() {
    let plain = "apiVersion: v1\nkind: Pod\nmetadata: {name: old, namespace: shop, labels: {app: old, sidecar.istio.io/inject: 'false'}}\n\
        spec: {containers: [{name: c, image: x}]}\n---\n";
    let policy = object(
        "PeerAuthentication",
        "a",
        "{selector: {matchLabels: {app: old}}, mtls: {mode: STRICT}}",
    );
    let found = only(&format!("{plain}{policy}"));
    assert_eq!(found.code, "IST0127");
    assert!(
        found.message.ends_with("such as `old`, have no sidecar"),
        "{found:?}"
    );
}

#[test]
fn a_workload_has_one_sidecar_object_and_a_namespace_one_for_the_rest() {
    let wide = |name: &str| object("Sidecar", name, "{egress: [{hosts: ['./*']}]}");
    let found = only(&format!("{}{}", wide("b"), wide("a")));
    assert_eq!((found.code, &*found.at), ("IST0111", "b"));
    let narrow = |name: &str, labels: &str| {
        object(
            "Sidecar",
            name,
            &format!("{{workloadSelector: {{labels: {labels}}}, egress: [{{hosts: ['./*']}}]}}"),
        )
    };
    let overlap = only(&format!(
        "{}{}",
        narrow("a", "{app: reviews}"),
        narrow("b", "{version: v1}")
    ));
    assert_eq!((overlap.code, &*overlap.at), ("IST0110", "b"));
    assert_eq!(
        codes(&format!(
            "{}{}{}",
            wide("a"),
            narrow("b", "{app: reviews}"),
            narrow("c", "{app: ratings}")
        )),
        []
    );
}

#[test]
fn a_workload_has_one_telemetry() {
    let wide = |name: &str| object("Telemetry", name, "{accessLogging: [{disabled: true}]}");
    assert_eq!(only(&format!("{}{}", wide("b"), wide("a"))).code, "IST0160");
}

#[test]
fn ports_that_do_not_say_what_they_carry_are_noted() {
    let service = |port: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: other, namespace: shop}}\nspec: {{selector: {{app: reviews}}, ports: [{port}]}}\n---\n"
        )
    };
    let found = only(&service("{port: 5000}"));
    assert_eq!((found.code, &*found.at), ("IST0118", "{port: 5000}"));
    for fine in [
        "{name: tcp-x, port: 5000}",
        "{name: x, port: 5000, appProtocol: http}",
        "{name: dns, port: 53, protocol: UDP}",
    ] {
        assert_eq!(codes(&service(fine)), [], "{fine}");
    }
}

#[test]
fn services_have_to_agree_on_what_a_port_of_a_workload_carries() {
    let service = |name: &str, port: u32| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: zz, namespace: shop}}\nspec: {{selector: {{app: reviews}}, ports: [{{name: {name}, port: {port}, targetPort: 9080}}]}}\n---\n"
        )
    };
    let found = only(&service("tcp", 80));
    assert_eq!(found.code, "IST0116");
    assert!(
        found
            .message
            .contains("carries TCP by this Service, and HTTP by Service `reviews` (port 80)"),
        "{found:?}"
    );
    assert_eq!(codes(&service("http-other", 8000)), []);
}

#[test]
fn opaque_tcp_of_a_service_entry_needs_an_address() {
    let entry = |hosts: &str, rest: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: db, namespace: shop}}\nspec: {{hosts: [{hosts}], ports: [{{number: 5432, name: tcp, protocol: TCP}}]{rest}}}\n---\n"
        )
    };
    assert_eq!(
        only(&entry("'*.db.example.com'", ", resolution: NONE")).code,
        "IST0134"
    );
    assert_eq!(
        codes(&entry(
            "'*.db.example.com'",
            ", resolution: NONE, addresses: [192.0.2.7]"
        )),
        []
    );
    // It has an address of its own making, which the sidecars' DNS tells.
    assert_eq!(codes(&entry("db.example.com", ", resolution: DNS")), []);
}

const UNLABELLED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: plain, labels: {app: a}}
spec: {containers: [{name: c, image: x}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: plain}
spec: {mtls: {mode: STRICT}}
---
";

#[test]
fn a_policy_in_a_namespace_without_sidecars_is_noted() {
    let found = only(UNLABELLED);
    assert_eq!((found.code, &*found.at), ("IST0102", "default"));
    let with_label = |labels: &str| {
        let namespace = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: plain, labels: {{{labels}}}}}\n---\n"
        );
        codes(&format!("{namespace}{UNLABELLED}"))
    };
    assert_eq!(with_label("istio-injection: disabled"), []);
    assert_eq!(with_label("istio-injection: enabled"), []);
    assert_eq!(
        with_label("istio-injection: enabled, istio.io/rev: x")[0].0,
        "IST0123"
    );
    // Who writes nothing of Istio there wants nothing of it.
    let pod = UNLABELLED.split("---").next().unwrap_or_default();
    assert!(told(pod, Extent::Whole).is_empty());
}
