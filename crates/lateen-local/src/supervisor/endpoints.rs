//! Ready endpoints of services, from the pods as they are. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lateen_sources::plan::PodState;

use super::{Service, ServicePort, TargetPort};
use crate::services::ServiceVip;

/// A service's port to which the machine's connections are carried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The service's namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// One of its ports.
    pub port: u16,
}

/// All services with their ready endpoints.
pub(crate) fn vips(services: &[Service], pods: &[PodState]) -> Vec<ServiceVip> {
    let mut vips = Vec::new();
    for service in services.iter().filter(|service| !service.ips.is_empty()) {
        for port in &service.ports {
            vips.push(ServiceVip {
                ips: service.ips.clone(),
                port: port.port,
                protocol: port.protocol,
                endpoints: ready(service, port, pods),
            });
        }
    }
    vips
}

/// The ready endpoints of one target; none when the service or the port does not exist.
pub(crate) fn of_target(
    target: &Target,
    services: &[Service],
    pods: &[PodState],
) -> Vec<SocketAddr> {
    let service = services
        .iter()
        .find(|service| service.namespace == target.namespace && service.name == target.service);
    let Some(service) = service else {
        return Vec::new();
    };
    let port = service.ports.iter().find(|port| port.port == target.port);
    let mut endpoints = port
        .map(|port| ready(service, port, pods))
        .unwrap_or_default();
    // The machine's side is carried to one family; which one makes no difference to it.
    let v4: Vec<SocketAddr> = endpoints.iter().filter(|e| e.is_ipv4()).copied().collect();
    if !v4.is_empty() {
        endpoints = v4;
    }
    endpoints
}

fn ready(service: &Service, port: &ServicePort, pods: &[PodState]) -> Vec<SocketAddr> {
    let mut endpoints = port.fixed.clone();
    if service.selector.is_empty() {
        return endpoints;
    }
    let selected = pods.iter().filter(|pod| {
        pod.ready && pod.namespace == service.namespace && selects(&service.selector, &pod.labels)
    });
    for pod in selected {
        let number = match &port.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => pod.ports.get(name).copied(),
        };
        let Some(number) = number else { continue };
        endpoints.push(SocketAddr::new(IpAddr::V4(pod.ipv4), number));
        endpoints.extend(pod.ipv6.map(|ip| SocketAddr::new(IpAddr::V6(ip), number)));
    }
    endpoints
}

fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
