//! Services and ServiceEntries whose ports say too little, or not the same, of what they carry.

use std::collections::BTreeMap;

use lateen_api::value::IntOrString;
use lateen_api::{Kind, Resource, Severity, kube};
use lateen_compile::{Protocol, Registry, Resolution, Service};

use super::workloads::Workload;
use super::{Found, Known, on};

/// Istio's `PortNameIsNotUnderNamingConvention`.
const PORT_NAME: (&str, Severity) = ("IST0118", Severity::Info);
/// Istio's `DeploymentAssociatedToMultipleServices`, about what the ports carry, too.
const TWO_PROTOCOLS: (&str, Severity) = ("IST0116", Severity::Warning);
/// Istio's `ServiceEntryAddressesRequired`.
const ADDRESSES_REQUIRED: (&str, Severity) = ("IST0134", Severity::Warning);

pub(super) fn findings(known: &Known<'_>, found: &mut Found) {
    let mut claims: BTreeMap<Port<'_>, Claim<'_>> = BTreeMap::new();
    for service in known.snapshot.services() {
        let service: &Service = service;
        let object = &service.object;
        if service.registry == Registry::External {
            if let Some(resource) = user(known, Kind::ServiceEntry, service) {
                addresses(resource, service, found);
            }
            continue;
        }
        let Some(resource) = known.object(Kind::Service, &object.namespace, &object.name) else {
            continue;
        };
        let Some(written) = resource.spec_as::<kube::Service>() else {
            continue;
        };
        let workloads: Vec<&Workload<'_>> = if written.spec.selector.is_empty() {
            Vec::new()
        } else {
            let own = Some(resource.namespace());
            known.workloads.with(own, &written.spec.selector)
        };
        // What no proxy is before, no proxy has to know.
        if !workloads.is_empty() && workloads.iter().all(|workload| workload.is_plain()) {
            continue;
        }
        if user(known, Kind::Service, service).is_some() {
            port_names(resource, service, found);
        }
        for (index, port) in written.spec.ports.iter().enumerate() {
            let Some(protocol) = service.ports.get(index).map(|port| port.protocol) else {
                continue;
            };
            for workload in &workloads {
                let claim = Claim {
                    resource,
                    index,
                    protocol,
                    number: port.port,
                };
                claimed(&mut claims, workload, port, claim, found);
            }
        }
    }
}

/// The object of a service, if the user wrote it.
fn user<'a>(known: &Known<'a>, kind: Kind, service: &Service) -> Option<&'a Resource> {
    let object = &service.object;
    let resource = known.object(kind, &object.namespace, &object.name)?;
    let is_default = resource.origin.path.starts_with("<default");
    (!is_default).then_some(resource)
}

/// Ports whose protocol is found out anew for every connection.
fn port_names(resource: &Resource, service: &Service, found: &mut Found) {
    for (index, port) in service.ports.iter().enumerate() {
        if port.protocol != Protocol::Sniffed {
            continue;
        }
        let number = port.number;
        let (message, fix) = match port.name.as_str() {
            "" => {
                let message = format!("port {number} does not say what it carries");
                (
                    message,
                    "give it a `name`: http, tcp, grpc, …, or set `appProtocol`".to_owned(),
                )
            }
            name => {
                let message = format!("the name `{name}` does not say what port {number} carries");
                let fix = format!(
                    "call it `http-{name}`, `tcp-{name}`, `grpc-{name}`, …, or set `appProtocol`"
                );
                (message, fix)
            }
        };
        let field = format!("spec.ports[{index}]");
        found.push(
            on(resource, PORT_NAME, &field, message)
                .effect("proxies find out from the first bytes of each connection; a server that speaks first has to wait for that")
                .fix(fix),
        );
    }
}

/// A port of a workload: its namespace, kind and name, and the number or name that a Service gives.
type Port<'a> = (&'a str, &'a str, &'a str, String);

/// A port of a Service that leads to one.
#[derive(Clone, Copy)]
struct Claim<'a> {
    resource: &'a Resource,
    index: usize,
    protocol: Protocol,
    number: u16,
}

/// Notes that a Service's port leads to a workload's, unless another one says that it carries something else.
fn claimed<'a>(
    claims: &mut BTreeMap<Port<'a>, Claim<'a>>,
    workload: &Workload<'a>,
    port: &kube::ServicePort,
    claim: Claim<'a>,
    found: &mut Found,
) {
    let target = match &port.target_port {
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(name)) => name.clone(),
        None => port.port.to_string(),
    };
    let transport = if claim.protocol == Protocol::Udp {
        "/udp"
    } else {
        ""
    };
    let key = (
        workload.namespace,
        workload.kind,
        workload.name,
        format!("{target}{transport}"),
    );
    let first = *claims.entry(key).or_insert(claim);
    if std::ptr::eq(first.resource, claim.resource) || agree(first.protocol, claim.protocol) {
        return;
    }
    let message = format!(
        "port {target} of {} `{}` carries {} by this Service, and {} by Service `{}` (port {})",
        workload.kind,
        workload.name,
        claim.protocol,
        first.protocol,
        first.resource.name(),
        first.number
    );
    let field = format!("spec.ports[{}]", claim.index);
    found.push(
        on(claim.resource, TWO_PROTOCOLS, &field, message)
            .effect(format!(
                "the workload's sidecar takes what comes to it as {}",
                first.protocol
            ))
            .fix("name the ports of both Services alike"),
    );
}

/// Whether a sidecar treats two protocols alike: versions of HTTP are, and what is not declared is found out.
fn agree(a: Protocol, b: Protocol) -> bool {
    let undeclared = [a, b].contains(&Protocol::Sniffed);
    undeclared || a.handling() == b.handling()
}

/// Opaque TCP is told apart by address alone.
fn addresses(resource: &Resource, service: &Service, found: &mut Found) {
    let none = service.addresses.is_empty() && service.auto_addresses.is_empty();
    if !none || service.resolution == Resolution::DynamicDns {
        return;
    }
    for (index, port) in service.ports.iter().enumerate() {
        if port.protocol != Protocol::Tcp {
            continue;
        }
        let message = format!(
            "`{}` has no address, and port {} carries opaque TCP",
            service.hostname, port.number
        );
        let field = format!("spec.ports[{index}]");
        found.push(
            on(resource, ADDRESSES_REQUIRED, &field, message)
                .effect(format!("every connection to port {}, to whatever address, is taken to be for this host", port.number))
                .fix("add `addresses`, or a protocol that names its host (HTTP, TLS)"),
        );
    }
}
