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
