//! What the tests share: manifests to snapshots, proxies, and compiled resources as JSON.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use lateen_api::mesh::MeshConfig;
use lateen_api::{Diagnostic, Resource, SourceFile, parse_file};
use lateen_compile::{
    Compiled, Compiler, Pod, PodRole, ProxyKind, ProxyNode, Settings, Snapshot, SnapshotInputs,
};
use lateen_envoy::{TypeUrl, json};
use serde_json::Value;

/// Reads manifests; every document has to be usable.
pub(crate) fn resources(yaml: &str) -> Vec<Resource> {
    let file = SourceFile::new("test.yaml", yaml);
    let parsed = parse_file(&file, "default");
    let errors: Vec<&Diagnostic> = parsed.diagnostics.iter().filter(|d| d.is_error()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    parsed.resources
}

/// A pod with a sidecar, its address made of a number.
pub(crate) fn pod(namespace: &str, name: &str, app: &str, version: &str, number: u8) -> Pod {
    let labels = BTreeMap::from([
        ("app".to_owned(), app.to_owned()),
        ("version".to_owned(), version.to_owned()),
    ]);
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels,
        ips: vec![IpAddr::from([10, 244, 0, number])],
        service_account: format!("bookinfo-{app}"),
        ready: true,
        role: PodRole::Sidecar,
        workload_name: format!("{app}-{version}"),
        ..Pod::default()
    }
}

/// The sidecar of a pod.
pub(crate) fn sidecar(pod: &Pod) -> ProxyNode {
    ProxyNode {
        id: format!(
            "sidecar~{}~{}.{}~{}.svc.cluster.local",
            pod.ips[0], pod.name, pod.namespace, pod.namespace
        ),
        kind: ProxyKind::Sidecar,
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        labels: pod.labels.clone(),
        ips: pod.ips.clone(),
        dns_domain: format!("{}.svc.cluster.local", pod.namespace),
        cluster_id: "Kubernetes".to_owned(),
        dns_capture: true,
        ..ProxyNode::default()
    }
}

/// The proxy of a gateway pod.
pub(crate) fn router(pod: &Pod) -> ProxyNode {
    ProxyNode {
        kind: ProxyKind::Router,
        ..sidecar(pod)
    }
}

/// A gateway's pod.
pub(crate) fn gateway_pod(number: u8) -> Pod {
    let labels = BTreeMap::from([("istio".to_owned(), "ingressgateway".to_owned())]);
    Pod {
        namespace: "istio-system".to_owned(),
        name: "istio-ingressgateway-1".to_owned(),
        labels,
        role: PodRole::Gateway,
        service_account: "istio-ingressgateway".to_owned(),
        workload_name: "istio-ingressgateway".to_owned(),
        ..pod(
            "istio-system",
            "istio-ingressgateway-1",
            "istio-ingressgateway",
            "v1",
            number,
        )
    }
}

/// A mesh under test.
#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) mesh: MeshConfig,
    pub(crate) yaml: String,
    pub(crate) pods: Vec<Pod>,
}

impl World {
    pub(crate) fn new(yaml: &str, pods: Vec<Pod>) -> Self {
        Self {
            mesh: MeshConfig::default(),
            yaml: yaml.to_owned(),
            pods,
        }
    }

    pub(crate) fn inputs(&self) -> SnapshotInputs {
        SnapshotInputs {
            mesh: self.mesh.clone(),
            settings: Settings::default(),
            resources: resources(&self.yaml),
            pods: self.pods.clone(),
            cluster_ips: std::sync::Arc::default(),
            jwks: Default::default(),
        }
    }

    pub(crate) fn compile(&self, node: &ProxyNode) -> Compiled {
        let (snapshot, _) = Snapshot::new(self.inputs());
        Compiler::new().compile(&snapshot, node)
    }

    pub(crate) fn diagnostics(&self) -> Vec<Diagnostic> {
        Snapshot::new(self.inputs()).1
    }
}

/// A compiled resource as JSON, without its type.
pub(crate) fn get(compiled: &Compiled, ty: TypeUrl, name: &str) -> Value {
    let resources = compiled.resources.get(ty);
    let Some(resource) = resources.get(name) else {
        panic!(
            "no `{name}` among {:?}",
            resources.keys().collect::<Vec<_>>()
        );
    };
    json::any_to_value(&resource.body)
}

/// The names of the resources of a type.
pub(crate) fn names(compiled: &Compiled, ty: TypeUrl) -> Vec<String> {
    compiled
        .resources
        .get(ty)
        .keys()
        .map(ToString::to_string)
        .collect()
}

/// The values at a JSON pointer in each element of a list.
pub(crate) fn each<'a>(list: &'a Value, pointer: &str) -> Vec<&'a Value> {
    list.as_array()
        .expect("a list")
        .iter()
        .filter_map(|item| item.pointer(pointer))
        .collect()
}

/// Bookinfo, as far as a compiler sees it.
pub(crate) const BOOKINFO: &str = r"
apiVersion: v1
kind: Service
metadata: {name: productpage, namespace: default}
spec: {clusterIP: 10.96.0.1, selector: {app: productpage}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {clusterIP: 10.96.0.2, selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: default}
spec: {clusterIP: 10.96.0.3, selector: {app: ratings}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: mongodb, namespace: default}
spec: {clusterIP: 10.96.0.4, selector: {app: mongodb}, ports: [{name: mongo, port: 27017}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec: {clusterIP: 10.96.0.5, selector: {app: echo}, ports: [{port: 7000, targetPort: 7001}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {simple: RANDOM}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - match:
    - headers: {end-user: {exact: jason}}
    route: [{destination: {host: reviews, subset: v2}}]
  - route:
    - {destination: {host: reviews, subset: v1}, weight: 80}
    - {destination: {host: reviews, subset: v2}, weight: 20}
";

/// Its pods.
pub(crate) fn bookinfo_pods() -> Vec<Pod> {
    vec![
        pod("default", "productpage-v1-a", "productpage", "v1", 10),
        pod("default", "reviews-v1-a", "reviews", "v1", 11),
        pod("default", "reviews-v2-a", "reviews", "v2", 12),
        pod("default", "ratings-v1-a", "ratings", "v1", 13),
        pod("default", "echo-v1-a", "echo", "v1", 14),
    ]
}

/// A gateway in front of it.
pub(crate) const GATEWAY: &str = r"
apiVersion: v1
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec:
  clusterIP: 10.96.0.100
  selector: {istio: ingressgateway}
  ports: [{name: http2, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}, {name: tcp, port: 31400}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bookinfo-gateway, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bookinfo, namespace: default}
spec:
  hosts: ['*']
  gateways: [bookinfo-gateway]
  http:
  - match: [{uri: {exact: /productpage}}, {uri: {prefix: /static}}]
    route: [{destination: {host: productpage, port: {number: 9080}}}]
";
