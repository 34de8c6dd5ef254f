//! Gateways that nobody serves: those that select no gateway, servers on ports that no Service leads to, and one certificate in several.
//!
//! Servers that cannot share a port, and credentials that are not there, are the compiler's to find.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::labels::{Labels, is_superset};
use lateen_api::networking::Gateway;
use lateen_api::value::IntOrString;
use lateen_api::{Resource, Severity, kube};
use lateen_sources::plan::{PodPlan, PodRole};

use super::workloads::Workload;
use super::{Found, Known, labels_text, names_text, on};

/// Istio's `ReferencedResourceNotFound`.
const NOT_FOUND: (&str, Severity) = ("IST0101", Severity::Error);
/// Istio's `GatewayDuplicateCertificate`.
const SAME_CERTIFICATE: (&str, Severity) = ("IST0138", Severity::Warning);
/// Istio's `GatewayPortNotDefinedOnService`.
const PORT_NOT_EXPOSED: (&str, Severity) = ("IST0162", Severity::Warning);
/// The workloads that a Gateway selects are no gateways.
const NO_GATEWAY: (&str, Severity) = ("LAT3015", Severity::Warning);

/// The name of a Service that a Gateway of the Gateway API is for, instead of a selector.
const GATEWAY_SERVICE: &str = "internal.istio.io/gateway-service";

pub(super) fn findings(known: &Known<'_>, found: &mut Found) {
    let mut exposed = Exposed {
        known,
        services: BTreeMap::new(),
        of: BTreeMap::new(),
    };
    exposed.index();
    for (resource, spec) in known.of_kind::<Gateway>() {
        if resource.meta.annotations.contains_key(GATEWAY_SERVICE) {
            continue;
        }
        let selected: Vec<&Workload<'_>> = known.workloads.with(None, &spec.selector);
        if selected.is_empty() {
            nobody(known, resource, &spec.selector, found);
        } else if let Some(other) = without_gateway(&selected) {
            let role = if other.is_plain() {
                "no proxy"
            } else {
                "a sidecar"
            };
            let message = format!(
                "the Gateway selects {} {}/{}, which has {role} and is no gateway",
                other.kind, other.namespace, other.name
            );
            found.push(
                on(resource, NO_GATEWAY, "spec.selector", message)
                    .effect("nothing serves this Gateway")
                    .fix("select a gateway; a Deployment becomes one by the annotation `inject.istio.io/templates: gateway` of its pods"),
            );
        } else {
            exposed.ports(resource, spec, &selected, found);
        }
    }
    certificates(known, found);
}

/// One of the workloads, if all are known to be no gateways.
fn without_gateway<'w, 'a>(selected: &[&'w Workload<'a>]) -> Option<&'w Workload<'a>> {
    // A pod that was injected before it was written down may be anything.
    let has_proxy = |pod: &PodPlan| pod.spec.containers.iter().any(|c| c.name == "istio-proxy");
    let is_other = |workload: &Workload<'_>| {
        let pod = workload.pod;
        pod.is_some_and(|pod| pod.role != PodRole::Gateway && !has_proxy(pod))
    };
    let all = selected.iter().all(|workload| is_other(workload));
    selected.first().copied().filter(|_| all)
}

fn nobody(known: &Known<'_>, resource: &Resource, selector: &Labels, found: &mut Found) {
    let whole = known.is_whole();
    let close = selector.iter().find_map(|(key, value)| {
        let there: Vec<&str> = known.workloads.values(None, key).into_iter().collect();
        let close = found.slip(value, &there)?;
        Some(format!("did you mean `{key}: {close}`?"))
    });
    if !whole && close.is_none() && !known.workloads.have_written_gateway() {
        return found
            .unchecked
            .add("gateway workloads", labels_text(selector));
    }
    let message = format!("no workload has the labels {}", labels_text(selector));
    // The gateway itself is often installed by somebody else, from other files.
    let severity = if whole {
        NOT_FOUND.1
    } else {
        Severity::Warning
    };
    let mut finding = on(resource, (NOT_FOUND.0, severity), "spec.selector", message)
        .effect("nothing serves this Gateway: connections to its ports are refused");
    finding.fix = close.or_else(|| {
        Some("write labels of a gateway's pods; those of the default installation have `istio: ingressgateway`".to_owned())
    });
    found.push(finding);
}

/// The ports of workloads that Services lead to.
struct Exposed<'k, 'a> {
    known: &'k Known<'a>,
    /// By namespace.
    services: BTreeMap<&'a str, Vec<&'a kube::Service>>,
    /// By namespace, kind and name of the workload; none if no Service selects it.
    of: BTreeMap<(&'a str, &'a str, &'a str), Option<BTreeSet<u32>>>,
}

impl<'k, 'a> Exposed<'k, 'a> {
    fn index(&mut self) {
        for resource in self.known.objects.values() {
            if let Some(service) = resource.spec_as::<kube::Service>()
                && !service.spec.selector.is_empty()
            {
                self.services
                    .entry(resource.namespace())
                    .or_default()
                    .push(service);
            }
        }
    }

    /// Ports as clients or the workload number them.
    fn of(&mut self, workload: &Workload<'a>) -> Option<&BTreeSet<u32>> {
        let key = (workload.namespace, workload.kind, workload.name);
        let services = &self.services;
        let ports = self.of.entry(key).or_insert_with(|| {
            let here = services.get(workload.namespace).into_iter().flatten();
            let own = here.filter(|service| is_superset(workload.labels, &service.spec.selector));
            let mut out: Option<BTreeSet<u32>> = None;
            for port in own.flat_map(|service| &service.spec.ports) {
                let set = out.get_or_insert_default();
                set.insert(u32::from(port.port));
                set.extend(match &port.target_port {
                    Some(IntOrString::Int(number)) => u32::try_from(*number).ok(),
                    Some(IntOrString::String(name)) => {
                        let named = workload.pod.and_then(|pod| pod.named_ports().remove(name));
                        named.map(u32::from)
                    }
                    None => None,
                });
            }
            out
        });
        ports.as_ref()
    }

    fn ports(
        &mut self,
        resource: &Resource,
        spec: &Gateway,
        selected: &[&Workload<'a>],
        found: &mut Found,
    ) {
        let mut all: BTreeSet<u32> = BTreeSet::new();
        let mut has_service = false;
        for workload in selected {
            if let Some(ports) = self.of(workload) {
                has_service = true;
                all.extend(ports);
            }
        }
        // A gateway that is installed from other files has its Service there, too.
        if !has_service && !self.known.is_whole() {
            return;
        }
        for (index, server) in spec.servers.iter().enumerate() {
            let Some(port) = server
                .port
                .as_ref()
                .filter(|port| !all.contains(&port.number))
            else {
                continue;
            };
            let numbers: Vec<String> = all.iter().map(u32::to_string).collect();
            let message = if has_service {
                format!(
                    "no Service of the gateway leads to port {}; they lead to {}",
                    port.number,
                    names_text(numbers.iter().map(String::as_str))
                )
            } else {
                format!(
                    "no Service selects the gateway, so nothing leads to port {}",
                    port.number
                )
            };
            let field = format!("spec.servers[{index}].port.number");
            found.push(
                on(resource, PORT_NOT_EXPOSED, &field, message)
                    .effect("the gateway listens there, and can be reached by its pods' addresses alone")
                    .fix("add the port to the gateway's Service, or use one that it has"),
            );
        }
    }
}

/// One certificate in several Gateways of one workload.
fn certificates(known: &Known<'_>, found: &mut Found) {
    let mut holders: BTreeMap<&str, Vec<(&Resource, &Gateway)>> = BTreeMap::new();
    for (resource, spec) in known.of_kind::<Gateway>() {
        let mut own = BTreeSet::new();
        for (index, server) in spec.servers.iter().enumerate() {
            let Some(tls) = &server.tls else { continue };
            let name = tls.credential_name.as_str();
            if name.is_empty() || !own.insert(name) {
                continue;
            }
            let earlier = holders.entry(name).or_default();
            let same = earlier.iter().find(|(_, other)| {
                is_superset(&other.selector, &spec.selector)
                    || is_superset(&spec.selector, &other.selector)
            });
            if let Some((other, _)) = same {
                let message = format!(
                    "Gateway {}/{} serves the certificate `{name}` from the same workloads",
                    other.namespace(),
                    other.name()
                );
                let field = format!("spec.servers[{index}].tls.credentialName");
                found.push(
                    on(resource, SAME_CERTIFICATE, &field, message)
                        .effect("clients that use one HTTP/2 connection for all hosts of a certificate get 404 for those of the other Gateway")
                        .fix("list the hosts in one server of one Gateway, or have a certificate for each"),
                );
            }
            earlier.push((resource, spec));
        }
    }
}
