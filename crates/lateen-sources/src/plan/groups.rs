//! The probe of a WorkloadGroup, for pods that stand for workloads outside: their proxies register themselves for the group
//! (`ISTIO_META_AUTO_REGISTER_GROUP`), and probe the workload as the group says.
//!
//! Source: Istio, `istioctl experimental workload entry configure`, which writes the group's probe into the machine's ProxyConfig.

use lateen_api::networking::{ReadinessProbe, WorkloadGroup};
use lateen_api::{Resource, Spec};
use serde_json::{Map, Value as Json, json};

/// The variable by which a proxy registers itself.
const GROUP: &str = "ISTIO_META_AUTO_REGISTER_GROUP";

/// The mesh's WorkloadGroups.
pub(super) struct Groups<'a>(Vec<(&'a Resource, &'a WorkloadGroup)>);

impl<'a> Groups<'a> {
    pub(super) fn of(resources: &'a [Resource]) -> Self {
        let groups = resources
            .iter()
            .filter_map(|resource| match &*resource.spec {
                Spec::WorkloadGroup(group) => Some((resource, group)),
                _ => None,
            });
        Self(groups.collect())
    }

    /// Completes the settings of a proxy in a namespace with its group's probe, unless they have one of their own.
    pub(super) fn complete(&self, namespace: &str, config: &mut Map<String, Json>) {
        let name = config
            .get("proxyMetadata")
            .and_then(|metadata| metadata.get(GROUP))
            .and_then(Json::as_str);
        let Some(name) = name else { return };
        let found = self
            .0
            .iter()
            .find(|(resource, _)| resource.namespace() == namespace && resource.name() == name);
        let probe = found.and_then(|(_, group)| group.probe.as_ref());
        if let Some(probe) = probe.filter(|_| !config.contains_key("readinessProbe")) {
            config.insert("readinessProbe".to_owned(), Json::Object(written(probe)));
        }
    }
}

/// As it is written in ProxyConfig.
fn written(probe: &ReadinessProbe) -> Map<String, Json> {
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    let numbers = numbers.into_iter().filter(|(_, number)| *number > 0);
    let mut out: Map<String, Json> = numbers
        .map(|(name, number)| (name.to_owned(), number.into()))
        .collect();
    if let Some(get) = &probe.http_get {
        let headers = get.http_headers.iter();
        let headers: Vec<Json> = headers
            .map(|header| json!({"name": header.name, "value": header.value}))
            .collect();
        out.insert(
            "httpGet".to_owned(),
            json!({"path": get.path, "port": get.port, "host": get.host, "scheme": get.scheme, "httpHeaders": headers}),
        );
    }
    if let Some(tcp) = &probe.tcp_socket {
        out.insert(
            "tcpSocket".to_owned(),
            json!({"host": tcp.host, "port": tcp.port}),
        );
    }
    if let Some(exec) = &probe.exec {
        out.insert("exec".to_owned(), json!({"command": exec.command}));
    }
    if let Some(grpc) = &probe.grpc {
        out.insert(
            "grpc".to_owned(),
            json!({"port": grpc.port, "service": grpc.service}),
        );
    }
    out
}
