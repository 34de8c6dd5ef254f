//! A container's probes and hooks, rewritten to the proxy's status port where the pod has a sidecar.
//!
//! Source: Istio's `pkg/kube/inject/app_probe.go` and `pilot-agent`'s status server, which answers the rewritten paths.

use std::time::Duration;

use lateen_api::kube;
use lateen_api::value::{IntOrString, Value};
use lateen_sources::plan::{PodPlan, PodRole};
use serde_json::json;

use crate::probe::{Check, ContainerProbes, Probe};
use crate::sandbox::{Hook, PROXY_CONTAINER};

/// `values.global.proxy.statusPort`.
const STATUS_PORT: u16 = 15020;

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    PreStop,
    PostStart,
}

/// The probes as they are asked.
pub(super) fn of(plan: &PodPlan, container: &kube::Container) -> ContainerProbes {
    let probe = |probe: &Option<kube::Probe>, suffix: &str| {
        let probe = probe.as_ref()?;
        let mut check = check(container, probe)?;
        if rewrites(plan) && !matches!(check, Check::Exec { .. }) {
            check = rewritten(plan, container, suffix);
        }
        Some(with_defaults(probe, check))
    };
    ContainerProbes {
        readiness: probe(&container.readiness_probe, "readyz"),
        liveness: probe(&container.liveness_probe, "livez").map(always_once),
        startup: probe(&container.startup_probe, "startupz").map(always_once),
    }
}

/// A hook as it is run.
pub(super) fn hook(plan: &PodPlan, container: &kube::Container, moment: Moment) -> Option<Hook> {
    let lifecycle = container.lifecycle.as_ref()?;
    let (handler, suffix) = match moment {
        Moment::PreStop => (lifecycle.pre_stop.as_ref()?, "prestopz"),
        Moment::PostStart => (lifecycle.post_start.as_ref()?, "poststartz"),
    };
    if let Some(exec) = &handler.exec {
        return Some(Hook::Exec(exec.command.clone()));
    }
    if let Some(sleep) = &handler.sleep {
        let seconds = sleep.get("seconds").and_then(Value::as_i64).unwrap_or(0);
        return Some(Hook::Sleep(u64::try_from(seconds).unwrap_or(0)));
    }
    let get = handler.http_get.as_ref()?;
    if rewrites(plan) {
        let path = format!("/app-lifecycle/{}/{suffix}", container.name);
        return Some(Hook::HttpGet {
            port: status_port(plan),
            path,
        });
    }
    Some(Hook::HttpGet {
        port: port(container, &get.port)?,
        path: get.path.clone(),
    })
}

/// `ISTIO_KUBE_APP_PROBERS`: for the proxy, what is behind the rewritten paths. `None` when nothing is rewritten.
pub(super) fn app_probers(plan: &PodPlan) -> Option<String> {
    if !rewrites(plan) {
        return None;
    }
    let mut probers = serde_json::Map::new();
    let containers = plan
        .spec
        .init_containers
        .iter()
        .chain(&plan.spec.containers);
    for container in containers.filter(|c| c.name != PROXY_CONTAINER) {
        let probes = [
            ("readyz", &container.readiness_probe),
            ("livez", &container.liveness_probe),
            ("startupz", &container.startup_probe),
        ];
        for (suffix, probe) in probes {
            if let Some(prober) = probe.as_ref().and_then(|probe| prober(container, probe)) {
                probers.insert(format!("/app-health/{}/{suffix}", container.name), prober);
            }
        }
        let hooks = container.lifecycle.as_ref();
        let hooks = [
            ("prestopz", hooks.and_then(|l| l.pre_stop.as_ref())),
            ("poststartz", hooks.and_then(|l| l.post_start.as_ref())),
        ];
        for (suffix, hook) in hooks {
            let get = hook.and_then(|hook| hook.http_get.as_ref());
            if let Some(get) = get.and_then(|get| http_get(container, get)) {
                let path = format!("/app-lifecycle/{}/{suffix}", container.name);
                probers.insert(path, json!({ "httpGet": get }));
            }
        }
    }
    (!probers.is_empty()).then(|| serde_json::Value::Object(probers).to_string())
}

/// Kubernetes' defaults for everything but the question.
pub(super) fn with_defaults(probe: &kube::Probe, check: Check) -> Probe {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
    };
    let count = |value: Option<i32>, default: u32| {
        value
            .and_then(|v| u32::try_from(v).ok())
            .filter(|v| *v > 0)
            .unwrap_or(default)
    };
    Probe {
        check,
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds.filter(|p| *p > 0), 10),
        timeout: seconds(probe.timeout_seconds.filter(|t| *t > 0), 1),
        success_threshold: count(probe.success_threshold, 1),
        failure_threshold: count(probe.failure_threshold, 3),
    }
}

fn always_once(probe: Probe) -> Probe {
    // Kubernetes allows no other value for these probes.
    Probe {
        success_threshold: 1,
        ..probe
    }
}

fn rewrites(plan: &PodPlan) -> bool {
    let annotation = plan
        .annotations
        .get("sidecar.istio.io/rewriteAppHTTPProbers");
    plan.role == PodRole::Sidecar && annotation.is_none_or(|value| value != "false")
}

pub(super) fn status_port(plan: &PodPlan) -> u16 {
    let annotation = plan.annotations.get("status.sidecar.istio.io/port");
    let of_mesh = plan.settings.port("statusPort").unwrap_or(STATUS_PORT);
    annotation
        .and_then(|value| value.trim().parse().ok())
        .filter(|port| *port != 0)
        .unwrap_or(of_mesh)
}

fn rewritten(plan: &PodPlan, container: &kube::Container, suffix: &str) -> Check {
    Check::Http {
        host: None,
        port: status_port(plan),
        path: format!("/app-health/{}/{suffix}", container.name),
        headers: Vec::new(),
        tls: false,
    }
}

fn check(container: &kube::Container, probe: &kube::Probe) -> Option<Check> {
    if let Some(exec) = &probe.exec {
        return Some(Check::Exec {
            argv: exec.command.clone(),
        });
    }
    if let Some(grpc) = &probe.grpc {
        return Some(Check::Grpc {
            port: grpc.port,
            service: grpc.service.clone(),
        });
    }
    if let Some(tcp) = &probe.tcp_socket {
        return Some(Check::Tcp {
            port: port(container, &tcp.port)?,
        });
    }
    let get = probe.http_get.as_ref()?;
    let port = port(container, &get.port)?;
    let headers = get
        .http_headers
        .iter()
        .map(|h| (h.name.clone(), h.value.clone()))
        .collect();
    let host = Some(get.host.clone()).filter(|host| !host.is_empty());
    Some(Check::Http {
        host,
        port,
        path: get.path.clone(),
        headers,
        tls: get.scheme.eq_ignore_ascii_case("HTTPS"),
    })
}

/// A port by number or by the name of a container port.
fn port(container: &kube::Container, wanted: &IntOrString) -> Option<u16> {
    match wanted {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|port| *port != 0),
        IntOrString::String(name) => {
            let named = container.ports.iter().find(|port| port.name == *name);
            named
                .map(|port| port.container_port)
                .or_else(|| name.parse().ok())
        }
    }
}

fn prober(container: &kube::Container, probe: &kube::Probe) -> Option<serde_json::Value> {
    let mut prober = if let Some(get) = &probe.http_get {
        json!({ "httpGet": http_get(container, get)? })
    } else if let Some(tcp) = &probe.tcp_socket {
        json!({ "tcpSocket": { "port": port(container, &tcp.port)? } })
    } else {
        let grpc = probe.grpc.as_ref()?;
        json!({ "grpc": { "port": grpc.port, "service": grpc.service } })
    };
    if let Some(timeout) = probe.timeout_seconds.filter(|t| *t > 0) {
        prober["timeoutSeconds"] = timeout.into();
    }
    Some(prober)
}

fn http_get(container: &kube::Container, get: &kube::HttpGetAction) -> Option<serde_json::Value> {
    let mut action = json!({ "path": get.path, "port": port(container, &get.port)? });
    if !get.host.is_empty() {
        action["host"] = get.host.clone().into();
    }
    if !get.scheme.is_empty() {
        action["scheme"] = get.scheme.clone().into();
    }
    if !get.http_headers.is_empty() {
        let headers = get
            .http_headers
            .iter()
            .map(|h| json!({ "name": h.name, "value": h.value }));
        action["httpHeaders"] = headers.collect();
    }
    Some(action)
}
