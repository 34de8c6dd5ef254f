//! Plans from manifests.

use lateen_api::SourceFile;

use super::*;

fn resources(yaml: &str) -> Vec<Resource> {
    let file = SourceFile::new("test.yaml", yaml);
    let parsed = lateen_api::parse_file(&file, "default");
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    parsed.resources
}

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, version: v1}}
    spec:
      serviceAccountName: web
      containers: [{name: web, image: web:1}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: fixed, namespace: shop}
spec: {clusterIP: 10.96.7.7, ports: [{port: 80}]}
"#;

#[test]
fn a_deployment_has_its_replicas_with_stable_names_and_addresses() {
    let (first, _) = plan(&resources(SHOP), false);
    let (second, _) = plan(&resources(SHOP), false);
    assert_eq!(first, second);
    assert_eq!(first.pods.len(), 2);
    assert_ne!(first.pods[0].name, first.pods[1].name);
    assert_ne!(first.pods[0].ipv4, first.pods[1].ipv4);
    let pod = &first.pods[0];
    assert!(pod.name.starts_with("web-"));
    assert_eq!(pod.role, PodRole::Sidecar);
    assert_eq!(pod.service_account, "web");
    assert_eq!(pod.labels["security.istio.io/tlsMode"], "istio");
    assert_eq!(pod.labels["service.istio.io/canonical-revision"], "v1");
    assert!(pod.name.contains(&pod.labels["pod-template-hash"]));
}

#[test]
fn scaling_keeps_the_pods_that_stay() {
    let (two, _) = plan(&resources(SHOP), false);
    let (three, _) = plan(
        &resources(&SHOP.replace("replicas: 2", "replicas: 3")),
        false,
    );
    let names = |plan: &Plan| plan.pods.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    assert!(names(&two).iter().all(|name| names(&three).contains(name)));
}

#[test]
fn another_template_makes_other_pods() {
    let (old, _) = plan(&resources(SHOP), false);
    let (new, _) = plan(&resources(&SHOP.replace("web:1", "web:2")), false);
    assert!(
        old.pods
            .iter()
            .all(|pod| new.pods.iter().all(|other| other.name != pod.name))
    );
}

#[test]
fn given_addresses_are_those_that_nobody_wrote() {
    let resources = resources(SHOP);
    let (plan, _) = plan(&resources, true);
    let key = |name: &str| ("shop".to_owned(), name.to_owned());
    let given = given_ips(&resources, true);
    assert_eq!(given.get(&key("web")), plan.cluster_ips.get(&key("web")));
    assert!(given.contains_key(&key("web")) && !given.contains_key(&key("fixed")));
}

#[test]
fn services_have_addresses_unless_they_are_headless() {
    let (plan, _) = plan(&resources(SHOP), true);
    let of = |name: &str| plan.cluster_ips.get(&("shop".to_owned(), name.to_owned()));
    assert_eq!(of("fixed"), Some(&vec![IpAddr::from([10, 96, 7, 7])]));
    assert_eq!(of("headless"), None);
    assert_eq!(
        of("web").map(Vec::len),
        Some(2),
        "one address of each family"
    );
    assert!(plan.pods.iter().all(|pod| pod.ipv6.is_some()));
}

#[test]
fn a_stateful_set_counts_its_pods() {
    let yaml = r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: db}]}
";
    let (plan, _) = plan(&resources(yaml), false);
    let names: Vec<&str> = plan.pods.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["db-0", "db-1"]);
    assert_eq!(
        plan.pods[0].labels["statefulset.kubernetes.io/pod-name"],
        "db-0"
    );
}

#[test]
fn the_default_gateways_are_gateways() {
    let (plan, _) = plan(&crate::defaults::resources(), false);
    let roles: Vec<_> = plan
        .pods
        .iter()
        .map(|p| (p.owner.name.as_str(), p.role))
        .collect();
    assert_eq!(
        roles,
        [
            ("istio-egressgateway", PodRole::Gateway),
            ("istio-ingressgateway", PodRole::Gateway),
        ]
    );
}

const MESH: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    proxyListenPort: 16001
    defaultConfig:
      concurrency: 2
      holdApplicationUntilProxyStarts: true
      proxyMetadata: {A: mesh, B: mesh}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: everybody, namespace: shop}
spec: {environmentVariables: {B: namespace, C: namespace}}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, concurrency: 0}
---
"#;

#[test]
fn a_proxys_settings_are_the_meshs_the_namespaces_and_the_workloads_in_that_order() {
    let (plan, found) = plan(&resources(&format!("{MESH}{SHOP}")), false);
    assert_eq!(found, []);
    let settings = &plan.pods[0].settings;
    assert_eq!(
        (settings.outbound_port, settings.inbound_port),
        (16001, 15006)
    );
    assert_eq!(settings.field("concurrency").unwrap(), 0);
    let metadata = settings.field("proxyMetadata").unwrap();
    let expected = serde_json::json!({"A": "mesh", "B": "namespace", "C": "namespace"});
    assert_eq!(metadata, expected);
}

#[test]
fn an_annotation_wins_over_the_mesh_and_loses_to_a_selecting_proxy_config() {
    let annotated = SHOP.replace(
        "metadata: {labels: {app: web, version: v1}}",
        "metadata: {labels: {app: web, version: v1}, annotations: {proxy.istio.io/config: '{concurrency: 7, proxyMetadata: {A: pod}}'}}",
    );
    let (plan, _) = plan(&resources(&format!("{MESH}{annotated}")), false);
    let settings = &plan.pods[0].settings;
    assert_eq!(settings.field("concurrency").unwrap(), 0);
    assert_eq!(settings.field("proxyMetadata").unwrap()["A"], "pod");
}

#[test]
fn an_annotation_that_cannot_be_read_is_told_and_left_out() {
    let annotated = SHOP.replace(
        "metadata: {labels: {app: web, version: v1}}",
        "metadata: {labels: {app: web}, annotations: {proxy.istio.io/config: 'concurrency: many'}}",
    );
    let (plan, found) = plan(&resources(&annotated), false);
    assert_eq!(plan.pods[0].settings.config, "{}");
    let codes: Vec<_> = found.iter().map(|d| d.code).collect();
    assert_eq!(codes, ["LAT0506"]);
}

#[test]
fn other_settings_of_the_mesh_are_another_pod() {
    let (with, _) = plan(&resources(&format!("{MESH}{SHOP}")), false);
    let (without, _) = plan(&resources(SHOP), false);
    assert_ne!(with.pods[0].template_hash, without.pods[0].template_hash);
}

#[test]
fn services_get_the_address_families_they_ask_for_where_the_mesh_has_both() {
    let of = |spec: &str, dual_stack: bool| -> Vec<bool> {
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{port: 80}}]{spec}}}\n"
        );
        let (plan, _) = plan(&resources(&yaml), dual_stack);
        let ips = &plan.cluster_ips[&("default".to_owned(), "a".to_owned())];
        ips.iter().map(IpAddr::is_ipv6).collect()
    };
    assert_eq!(of("", true), [false, true]);
    assert_eq!(of(", ipFamilies: [IPv6]", true), [true]);
    assert_eq!(of(", ipFamilies: [IPv4]", true), [false]);
    assert_eq!(
        of(
            ", ipFamilies: [IPv6], ipFamilyPolicy: PreferDualStack",
            true
        ),
        [true, false]
    );
    assert_eq!(of(", ipFamilies: [IPv6]", false), [false]);
}
