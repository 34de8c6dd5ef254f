//! The `istio-proxy` container: the caller's command line with the environment Istio's injection gives.
//!
//! Source: Istio's `files/injection-template.yaml` and `gateway-injection-template.yaml`.

use std::collections::BTreeMap;
use std::time::Duration;

use lateen_api::kube;
use lateen_sources::plan::{PodPlan, PodRole};
use serde_json::json;

use super::{
    NODE_NAME, ROOT_VOLUME, RUN_VOLUME, Surroundings, TOKEN_VOLUME, environment, mount, probes,
    volumes,
};
use crate::addresses::NODE_V4;
use crate::probe::{Check, ContainerProbes, Probe};
use crate::sandbox::{Container, Mount, PROXY_CONTAINER, RestartPolicy, Start, Volume};

/// Where the proxy says that it is ready.
const READY_PORT: u16 = 15021;

/// The container. It keeps the node's rights: it marks its sockets, and a gateway may listen on port 80.
pub(super) fn container(
    plan: &PodPlan,
    known: &BTreeMap<String, Volume>,
    around: &Surroundings<'_>,
) -> Container {
    let mut env = environment::base(plan, around);
    let mut set = |name: String, value: String| {
        env.retain(|(own, _)| *own != name);
        env.push((name, value));
    };
    for (name, value) in istio_environment(plan, around) {
        set(name.to_owned(), value);
    }
    // What the manifest says about its own `istio-proxy` container, then what the caller has decided.
    if let Some(written) = written(plan) {
        for (name, value) in environment::of(plan, written, around).0 {
            set(name, value);
        }
    }
    for (name, value) in &around.proxy.env {
        set(name.clone(), value.clone());
    }
    let own = volumes::of_proxy(plan, written(plan), &env);
    let start = match volumes::missing(&own, known) {
        Some(message) => Start::Blocked {
            status: "CreateContainerConfigError".to_owned(),
            message,
        },
        None => Start::Command(around.proxy.argv.clone()),
    };
    let mut mounts = vec![
        mount(TOKEN_VOLUME, "/var/run/secrets/tokens"),
        mount(ROOT_VOLUME, "/var/run/secrets/istio"),
        // Sockets and the bootstrap of a stock Envoy: nothing of one pod may be seen by another.
        Mount {
            read_only: false,
            ..mount(RUN_VOLUME, "/etc/istio/proxy")
        },
    ];
    mounts.extend(own);
    Container {
        name: PROXY_CONTAINER.to_owned(),
        start,
        env,
        mounts,
        restart: RestartPolicy::Always,
        ..Container::default()
    }
}

/// Its probes: ready when it says so on port 15021.
pub(super) fn probes(plan: &PodPlan) -> ContainerProbes {
    let path = "/healthz/ready".to_owned();
    let default = Probe {
        check: Check::Http {
            host: None,
            port: READY_PORT,
            path,
            headers: Vec::new(),
            tls: false,
        },
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(1),
        timeout: Duration::from_secs(3),
        success_threshold: 1,
        failure_threshold: 4,
    };
    let written = written(plan).and_then(|container| container.readiness_probe.as_ref());
    let readiness = match written {
        Some(probe) => probes::with_defaults(probe, default.check),
        None => annotated(plan, default),
    };
    let unasked = plan.annotations.get("status.sidecar.istio.io/port");
    let asked = unasked.is_none_or(|port| port.trim() != "0");
    ContainerProbes {
        readiness: asked.then_some(readiness),
        ..ContainerProbes::default()
    }
}

/// The probe as the `readiness.status.sidecar.istio.io` annotations want it; what cannot be read is left as it is.
fn annotated(plan: &PodPlan, default: Probe) -> Probe {
    let number = |name: &str| -> Option<u32> {
        let key = format!("readiness.status.sidecar.istio.io/{name}");
        plan.annotations.get(&key)?.trim().parse().ok()
    };
    let seconds = |name: &str| number(name).map(|seconds| Duration::from_secs(seconds.into()));
    let at_least_one = |value: &Duration| !value.is_zero();
    Probe {
        initial_delay: seconds("initialDelaySeconds").unwrap_or(default.initial_delay),
        period: seconds("periodSeconds")
            .filter(at_least_one)
            .unwrap_or(default.period),
        failure_threshold: number("failureThreshold")
            .filter(|count| *count > 0)
            .unwrap_or(default.failure_threshold),
        ..default
    }
}

fn written(plan: &PodPlan) -> Option<&kube::Container> {
    let all = plan
        .spec
        .init_containers
        .iter()
        .chain(&plan.spec.containers);
    all.into_iter()
        .find(|container| container.name == PROXY_CONTAINER)
}

fn istio_environment(plan: &PodPlan, around: &Surroundings<'_>) -> Vec<(&'static str, String)> {
    let mut env = vec![
        ("PILOT_CERT_PROVIDER", "istiod".to_owned()),
        ("POD_NAME", plan.name.clone()),
        ("POD_NAMESPACE", plan.namespace.clone()),
        ("INSTANCE_IP", plan.ipv4.to_string()),
        ("INSTANCE_IPS", instance_ips(plan)),
        ("SERVICE_ACCOUNT", plan.service_account.clone()),
        ("HOST_IP", NODE_V4.to_string()),
        ("TRUST_DOMAIN", around.trust_domain.to_owned()),
        ("ISTIO_META_CLUSTER_ID", around.cluster_id.to_owned()),
        ("ISTIO_META_MESH_ID", around.trust_domain.to_owned()),
        ("ISTIO_META_NODE_NAME", NODE_NAME.to_owned()),
        ("ISTIO_META_INTERCEPTION_MODE", plan.interception_mode()),
        ("ISTIO_META_WORKLOAD_NAME", workload_name(plan)),
        ("ISTIO_META_OWNER", owner(plan)),
        ("ISTIO_META_POD_PORTS", pod_ports(plan)),
        ("ISTIO_META_APP_CONTAINERS", app_containers(plan)),
        (
            "ISTIO_META_DNS_CAPTURE",
            (plan.role == PodRole::Sidecar).to_string(),
        ),
        ("ISTIO_METAJSON_LABELS", json_of(&plan.labels)),
        ("ISTIO_METAJSON_ANNOTATIONS", json_of(&plan.annotations)),
        ("PROXY_CONFIG", proxy_config(plan)),
    ];
    // Another authority may be named in `proxyMetadata`.
    let authority = plan
        .settings
        .field("proxyMetadata")
        .and_then(|all| all.get("CA_ADDR").cloned());
    if authority.is_none() {
        env.push(("CA_ADDR", "istiod.istio-system.svc:15012".to_owned()));
    }
    env.extend(scraped(plan).map(|json| ("ISTIO_PROMETHEUS_ANNOTATIONS", json)));
    if let Some(probers) = probes::app_probers(plan) {
        env.push(("ISTIO_KUBE_APP_PROBERS", probers));
    }
    env
}

/// The settings, with what annotations say in place of them. Source: Istio's `pilot-agent` (`applyAnnotations`).
fn proxy_config(plan: &PodPlan) -> String {
    let status_port = plan.annotations.get("status.sidecar.istio.io/port");
    let address = plan.annotations.get("sidecar.istio.io/discoveryAddress");
    let Ok(serde_json::Value::Object(mut config)) = serde_json::from_str(&plan.settings.config)
    else {
        return plan.settings.config.clone();
    };
    if status_port.is_some() {
        // As probes are rewritten to it.
        config.insert("statusPort".to_owned(), probes::status_port(plan).into());
    }
    if let Some(address) = address {
        config.insert("discoveryAddress".to_owned(), address.clone().into());
    }
    serde_json::Value::Object(config).to_string()
}

/// Where the application's metrics are, for the agent to merge them with its own; nothing if they are not to be scraped, or not
/// to be merged. Source: Istio's `pkg/kube/inject/webhook.go`, `applyPrometheusMerge`.
fn scraped(plan: &PodPlan) -> Option<String> {
    let annotation = |name: &str| plan.annotations.get(name).map(String::as_str);
    let merge = match annotation("prometheus.istio.io/merge-metrics") {
        Some(own) => own != "false",
        None => plan.settings.merge_metrics,
    };
    let scrape = annotation("prometheus.io/scrape").filter(|scrape| *scrape == "true")?;
    merge.then(|| {
        let part = |name| annotation(name).unwrap_or_default();
        let (path, port) = (part("prometheus.io/path"), part("prometheus.io/port"));
        json!({"scrape": scrape, "path": path, "port": port}).to_string()
    })
}

fn instance_ips(plan: &PodPlan) -> String {
    let v6 = plan.ipv6.map(|ip| format!(",{ip}")).unwrap_or_default();
    format!("{}{v6}", plan.ipv4)
}

fn workload_name(plan: &PodPlan) -> String {
    let label = plan.labels.get("service.istio.io/workload-name");
    label.cloned().unwrap_or_else(|| plan.owner.name.clone())
}

/// `kubernetes://apis/apps/v1/namespaces/default/deployments/reviews-v1`.
fn owner(plan: &PodPlan) -> String {
    let kind = plan.owner.kind.as_str();
    let api = match kind {
        "Pod" | "ReplicationController" => "v1",
        "Job" | "CronJob" => "batch/v1",
        _ => "apps/v1",
    };
    let (namespace, kind) = (&plan.namespace, kind.to_ascii_lowercase());
    format!(
        "kubernetes://apis/{api}/namespaces/{namespace}/{kind}s/{}",
        plan.owner.name
    )
}

fn pod_ports(plan: &PodPlan) -> String {
    let port = |port: &kube::ContainerPort| {
        let protocol = if port.protocol.is_empty() {
            "TCP"
        } else {
            &port.protocol
        };
        let mut value = json!({ "containerPort": port.container_port, "protocol": protocol });
        if !port.name.is_empty() {
            value["name"] = port.name.clone().into();
        }
        value
    };
    let own = plan
        .spec
        .containers
        .iter()
        .filter(|c| c.name != PROXY_CONTAINER);
    own.flat_map(|c| &c.ports)
        .map(port)
        .collect::<serde_json::Value>()
        .to_string()
}

fn app_containers(plan: &PodPlan) -> String {
    let names = plan.spec.containers.iter().map(|c| c.name.as_str());
    names
        .filter(|name| *name != PROXY_CONTAINER)
        .collect::<Vec<_>>()
        .join(",")
}

fn json_of(map: &BTreeMap<String, String>) -> String {
    serde_json::to_string(map).unwrap_or_else(|_| "{}".to_owned())
}
