//! From loaded files to what the local runtime is to keep running.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lateen_api::kube::{EndpointSlice, Service as KubeService};
use lateen_api::value::IntOrString;
use lateen_api::{Resource, Spec};
use lateen_local::services::Protocol;
use lateen_local::supervisor::{Desired, Service, ServicePort, TargetPort};
use lateen_sources::defaults;
use lateen_sources::files::Loaded;
use lateen_sources::plan::{Plan, plan};

/// What is to run, and the plan behind it.
pub(crate) struct Planned {
    pub(crate) desired: Desired,
    pub(crate) plan: Plan,
    /// The user's objects and the default installation's.
    pub(crate) resources: Vec<Resource>,
}

/// Plans pods and services, and hands over what containers may refer to. `jobs` are those that CronJobs have made.
pub(crate) fn desired<'a>(
    loaded: &Loaded,
    jobs: impl Iterator<Item = &'a Resource>,
    dual_stack: bool,
) -> Planned {
    let mut resources = defaults::with_defaults(&loaded.resources.to_vec());
    resources.extend(jobs.cloned());
    let (plan, _) = plan(&resources, dual_stack);
    let mut desired = Desired {
        pods: plan.pods.clone(),
        ..Desired::default()
    };
    for resource in &resources {
        let key = || (resource.meta.namespace.clone(), resource.meta.name.clone());
        match &*resource.spec {
            Spec::ConfigMap(map) => {
                let text = map
                    .data
                    .iter()
                    .map(|(k, v)| (k.clone(), v.clone().into_bytes()));
                let bytes = map
                    .binary_data
                    .iter()
                    .map(|(k, v)| (k.clone(), v.0.clone()));
                desired
                    .config_maps
                    .insert(key(), Arc::new(text.chain(bytes).collect()));
            }
            Spec::Secret(secret) => {
                let bytes = secret.data.iter().map(|(k, v)| (k.clone(), v.0.clone()));
                let text = secret
                    .string_data
                    .iter()
                    .map(|(k, v)| (k.clone(), v.clone().into_bytes()));
                desired
                    .secrets
                    .insert(key(), Arc::new(bytes.chain(text).collect()));
            }
            Spec::Service(service) => desired
                .services
                .push(self::service(resource, service, &plan, &resources)),
            _ => {}
        }
    }
    desired
        .services
        .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Planned {
        desired,
        plan,
        resources,
    }
}

fn service(resource: &Resource, service: &KubeService, plan: &Plan, all: &[Resource]) -> Service {
    let key = (resource.meta.namespace.clone(), resource.meta.name.clone());
    let slices = if service.spec.selector.is_empty() {
        slices(resource, all)
    } else {
        Vec::new()
    };
    Service {
        ips: plan.cluster_ips.get(&key).cloned().unwrap_or_default(),
        selector: service.spec.selector.clone(),
        ports: service
            .spec
            .ports
            .iter()
            .map(|p| port(p, &slices))
            .collect(),
        namespace: key.0,
        name: key.1,
    }
}

fn port(port: &lateen_api::kube::ServicePort, slices: &[&EndpointSlice]) -> ServicePort {
    ServicePort {
        fixed: slices
            .iter()
            .flat_map(|slice| slice_addresses(slice, &port.name))
            .collect(),
        name: port.name.clone(),
        port: port.port,
        protocol: if port.protocol == "UDP" {
            Protocol::Udp
        } else {
            Protocol::Tcp
        },
        target: match &port.target_port {
            None => TargetPort::Number(port.port),
            Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
            Some(IntOrString::Int(number)) => {
                TargetPort::Number(u16::try_from(*number).unwrap_or(port.port))
            }
        },
    }
}

/// A service's own endpoint slices.
fn slices<'a>(service: &Resource, all: &'a [Resource]) -> Vec<&'a EndpointSlice> {
    const SERVICE: &str = "kubernetes.io/service-name";
    all.iter()
        .filter(|r| r.meta.namespace == service.meta.namespace)
        .filter(|r| r.meta.labels.get(SERVICE) == Some(&service.meta.name))
        .filter_map(|r| r.spec_as::<EndpointSlice>())
        .collect()
}

/// The ready addresses of a slice on the port of that name, which is how slices and services refer to each other's ports.
fn slice_addresses(slice: &EndpointSlice, port: &str) -> Vec<SocketAddr> {
    let ready = slice
        .endpoints
        .iter()
        .filter(|e| e.conditions.ready != Some(false));
    let ips: Vec<IpAddr> = ready
        .flat_map(|e| &e.addresses)
        .filter_map(|a| a.parse().ok())
        .collect();
    let ports = slice
        .ports
        .iter()
        .filter(|p| p.name == port)
        .filter_map(|p| p.port);
    ports
        .flat_map(|port| ips.iter().map(move |ip| SocketAddr::new(*ip, port)))
        .collect()
}

/// The names the cluster's DNS answers, for pods without a sidecar: services by cluster IP, headless ones by their pods.
pub(crate) fn cluster_names(
    resources: &[Resource],
    plan: &Plan,
    pods: &[lateen_sources::plan::PodState],
) -> BTreeMap<String, Vec<IpAddr>> {
    let mut names = BTreeMap::new();
    for resource in resources {
        let Spec::Service(service) = &*resource.spec else {
            continue;
        };
        let (namespace, name) = (&resource.meta.namespace, &resource.meta.name);
        let host = format!("{name}.{namespace}.svc.cluster.local");
        let key = (namespace.clone(), name.clone());
        if let Some(ips) = plan.cluster_ips.get(&key) {
            names.insert(host, ips.clone());
            continue;
        }
        let selector = &service.spec.selector;
        let members = pods.iter().filter(|pod| {
            pod.namespace == *namespace
                && !selector.is_empty()
                && (pod.ready || service.spec.publish_not_ready_addresses)
                && selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v))
        });
        let mut all = Vec::new();
        for pod in members {
            let ips: Vec<IpAddr> = std::iter::once(IpAddr::from(pod.ipv4))
                .chain(pod.ipv6.map(IpAddr::from))
                .collect();
            names.insert(format!("{}.{host}", pod.name), ips.clone());
            all.extend(ips);
        }
        if !all.is_empty() {
            names.insert(host, all);
        }
    }
    names
}
