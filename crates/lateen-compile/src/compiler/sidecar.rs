//! A sidecar's listeners, routes and inbound clusters.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::networking::{CaptureMode, IstioIngressListener};
use lateen_envoy::TypeUrl;

use crate::authentication::RequestAuthentications;
use crate::authorization::Policies;
use crate::clusters::{self, InboundClusterInputs, Target};
use crate::listeners::{
    self, InboundInputs, InboundPort, ListenerView, OutboundListenerInputs, OutboundPlan,
    PlanContext, RouteName, VirtualOutboundInputs,
};
use crate::mesh::{Mesh, OutboundPolicy};
use crate::model::{Port, Resolution, Service};
use crate::names;
use crate::node::Interception;
use crate::protocol::Protocol;
use crate::routes::{self, SidecarRouteInputs, relevant_labels};
use crate::rules::for_workload;
use crate::scope::Scope;
use crate::security::EffectiveMtls;
use crate::shared::Shared;
use crate::snapshot::{ServiceTarget, VirtualServiceConfig};

use super::{Compiler, Output, Proxy, destination_facts, encode, hashing_rules, resource};

/// Whether some requests go to whatever host they name.
fn resolves_names(scope: &Scope) -> bool {
    scope.outbound == OutboundPolicy::AllowAnyDynamicDns
        || scope
            .services
            .iter()
            .any(|service| service.resolution == Resolution::DynamicDns)
}

impl Compiler {
    /// The listeners and routes of what a sidecar's workload sends.
    pub(super) fn add_outbound(
        &self,
        proxy: &Proxy<'_>,
        scope: &Scope,
        mesh: &Shared<Mesh>,
        out: &mut Output,
    ) {
        let route_names = self.add_outbound_listeners(proxy, scope, mesh, out);
        for name in &route_names {
            let inputs = route_inputs(proxy, scope, name);
            out.add(
                TypeUrl::RouteConfiguration,
                &self.sidecar_routes.get(&inputs, |inputs| {
                    let built = routes::sidecar(inputs);
                    vec![resource(&built.name, &built)]
                }),
            );
        }
    }

    fn add_outbound_listeners(
        &self,
        proxy: &Proxy<'_>,
        scope: &Scope,
        mesh: &Shared<Mesh>,
        out: &mut Output,
    ) -> BTreeSet<RouteName> {
        let view = ListenerView {
            dynamic_dns: resolves_names(scope),
            ..proxy.listener_view()
        };
        let context = plan_context(proxy, scope, &view);
        let mut plans = listeners::plan(&context);
        plans.extend(forward_proxy(mesh.http_proxy_port, &view));
        let names = plans
            .iter()
            .flat_map(OutboundPlan::routes)
            .cloned()
            .collect();
        for plan in plans {
            let inputs = OutboundListenerInputs {
                view: view.clone(),
                mesh: mesh.clone(),
                plan,
                outbound: scope.outbound.clone(),
            };
            out.add(
                TypeUrl::Listener,
                &self.outbound_listeners.get(&inputs, |inputs| {
                    let built = listeners::outbound(inputs);
                    vec![resource(&built.name, &built)]
                }),
            );
        }
        if view.interception != Interception::None {
            let outbound = scope.outbound.clone();
            let inputs = VirtualOutboundInputs {
                view,
                mesh: mesh.clone(),
                outbound,
            };
            out.add(
                TypeUrl::Listener,
                &self.virtual_outbound.get(&inputs, |inputs| {
                    let built = listeners::virtual_outbound(inputs);
                    vec![resource(&built.name, &built)]
                }),
            );
        }
        names
    }

    /// What a sidecar's workload gets.
    pub(super) fn add_inbound(&self, proxy: &Proxy<'_>, scope: &Scope, out: &mut Output) {
        let targets = proxy.snapshot.targets(&proxy.node.ips);
        let mtls = proxy.snapshot.mtls(&proxy.node.namespace, proxy.labels);
        let declared = declared_ports(proxy, scope, &targets, &mtls);
        let mut undeclared = vec![(0, mtls.port(0), mtls.decided_by(0).cloned())];
        for (port, mode) in &mtls.ports {
            if !declared.iter().any(|(inbound, _)| inbound.target == *port) {
                undeclared.push((*port, *mode, mtls.decided_by(*port).cloned()));
            }
        }
        let inputs = InboundInputs {
            view: proxy.listener_view(),
            mesh: proxy.mesh(),
            ports: declared.iter().map(|(port, _)| port.clone()).collect(),
            undeclared,
            policies: Shared::new(Policies::of_workload(proxy.snapshot, &proxy.workload())),
            authentication: Shared::new(RequestAuthentications::of_workload(
                proxy.snapshot,
                &proxy.workload(),
            )),
        };
        out.add(
            TypeUrl::Listener,
            &self.inbound_listeners.get(&inputs, |inputs| {
                encode(listeners::inbound(inputs), |listener| &listener.name)
            }),
        );
        for (_, cluster) in declared {
            out.add(
                TypeUrl::Cluster,
                &self.inbound_clusters.get(&cluster, |inputs| {
                    let built = clusters::inbound(inputs);
                    vec![resource(&built.name, &built)]
                }),
            );
        }
    }
}

pub(super) fn plan_context<'a>(
    proxy: &'a Proxy<'a>,
    scope: &'a Scope,
    view: &'a listeners::ListenerView,
) -> PlanContext<'a> {
    PlanContext {
        snapshot: proxy.snapshot,
        scope,
        view,
        labels: proxy.labels,
        namespace: &proxy.node.namespace,
        own_address: proxy.node.main_ip().map(|ip| ip.to_string()),
        dns_capture: proxy.node.dns_capture,
        unprivileged: proxy.node.unprivileged,
    }
}

/// The port on which applications use the sidecar as an HTTP proxy, if the mesh has one.
fn forward_proxy(port: u32, view: &listeners::ListenerView) -> Option<OutboundPlan> {
    if port == 0 {
        return None;
    }
    let binds = view
        .ip_mode
        .localhosts()
        .iter()
        .map(|&address| address.to_owned())
        .collect();
    Some(OutboundPlan::forward_proxy(binds, port))
}

/// What one route configuration depends on.
fn route_inputs(proxy: &Proxy<'_>, scope: &Scope, name: &RouteName) -> SidecarRouteInputs {
    let mesh = proxy.snapshot.mesh();
    let port = if name.name == names::HTTP_PROXY_ROUTE {
        0
    } else {
        name.port
    };
    let egress = scope.egress_for(port, &name.name);
    let port = if egress.is_some_and(|egress| egress.is_http_proxy()) {
        0
    } else {
        port
    };
    let all: &[Shared<Service>] = egress.map_or(&[], |egress| &egress.services);
    let services: Vec<Shared<Service>> = all
        .iter()
        .filter(|service| port == 0 || service.port(port).is_some())
        .cloned()
        .collect();
    let names = Names::of(&services);
    let virtual_services: Vec<Shared<VirtualServiceConfig>> = egress
        .map_or(&[][..], |egress| &egress.virtual_services)
        .iter()
        .filter(|config| serves(config, port, &names))
        .cloned()
        .collect();
    let destinations = destination_facts(virtual_services.iter(), |host| {
        let service = names.by_host.get(host)?;
        let mut facts = listeners::facts(service);
        // A sidecar knows a service by the port it was reached on, so that this is the port unless another is named.
        if port != 0 {
            facts.only_port = Some(port);
        }
        Some(facts)
    });
    let hosts = services
        .iter()
        .map(|service| service.hostname.clone())
        .chain(
            virtual_services
                .iter()
                .flat_map(|config| crate::scope::destinations(&config.spec)),
        );
    SidecarRouteInputs {
        name: name.name.clone(),
        port,
        only: name.only.clone(),
        rules: hashing_rules(proxy, scope, hosts),
        labels: relevant_labels(virtual_services.iter(), proxy.labels),
        namespace: proxy.node.namespace.clone(),
        dns_domain: proxy.node.dns_domain.clone(),
        dns_capture: proxy.node.dns_capture,
        outbound: scope.outbound.clone(),
        default_retry: mesh.default_http_retry.clone(),
        services,
        virtual_services,
        destinations,
    }
}

/// Services by their names.
struct Names<'a> {
    /// The first of each name.
    by_host: BTreeMap<&'a str, &'a Shared<Service>>,
    wildcards: Vec<&'a str>,
}

impl<'a> Names<'a> {
    fn of(services: &'a [Shared<Service>]) -> Self {
        let mut by_host = BTreeMap::new();
        for service in services {
            by_host.entry(service.hostname.as_str()).or_insert(service);
        }
        let wildcards = services.iter().filter(|service| service.is_wildcard());
        Self {
            by_host,
            wildcards: wildcards.map(|service| service.hostname.as_str()).collect(),
        }
    }

    /// Whether any name, if need be by a wildcard on either side, is the name of a service.
    fn matches(&self, name: &str) -> bool {
        let matches = |hostname: &&str| crate::host::matches(name, hostname);
        self.by_host.contains_key(name)
            || if crate::host::is_wildcard(name) {
                self.by_host.keys().any(matches)
            } else {
                self.wildcards.iter().any(matches)
            }
    }
}

/// Whether a virtual service has a host among services. On port 80 hosts that are nobody's are served too.
fn serves(config: &VirtualServiceConfig, port: u32, services: &Names<'_>) -> bool {
    port == 80 || config.spec.hosts.iter().any(|name| services.matches(name))
}

type Declared = Vec<(InboundPort, InboundClusterInputs)>;

/// The ports of the workload: those its Sidecar lists, else (or besides) those that services lead to.
fn declared_ports(
    proxy: &Proxy<'_>,
    scope: &Scope,
    targets: &[ServiceTarget],
    mtls: &EffectiveMtls,
) -> Declared {
    if scope.has_ingress() {
        return ingress_ports(proxy, scope, targets, mtls);
    }
    if proxy.node.interception == Interception::None {
        return Vec::new();
    }
    let mut by_port: BTreeMap<u32, Vec<&ServiceTarget>> = BTreeMap::new();
    for target in targets {
        let opaque = target.port.protocol.handling().is_some()
            && target.service.resolution != Resolution::Alias;
        if opaque {
            by_port.entry(target.target).or_default().push(target);
        }
    }
    by_port
        .into_iter()
        .map(|(number, targets)| service_port(proxy, scope, number, &targets, mtls))
        .collect()
}

/// A port that services lead to; the first of them says what it speaks.
fn service_port(
    proxy: &Proxy<'_>,
    scope: &Scope,
    number: u32,
    targets: &[&ServiceTarget],
    mtls: &EffectiveMtls,
) -> (InboundPort, InboundClusterInputs) {
    let first = targets[0];
    let inbound = InboundPort {
        target: number,
        port: first.port.number,
        protocol: first.port.protocol,
        host: first.service.hostname.clone(),
        mtls: mtls.port(number),
        tls: None,
        bind: None,
        object: Some(first.service.object.clone()),
        decided_by: mtls.decided_by(number).cloned(),
    };
    let mut services: Vec<Shared<Service>> = Vec::new();
    for target in targets
        .iter()
        .filter(|target| target.port.number == first.port.number)
    {
        if !services
            .iter()
            .any(|known| known.hostname == target.service.hostname)
        {
            services.push(target.service.clone());
        }
    }
    let mesh = proxy.snapshot.mesh();
    let view = proxy.cluster_view();
    let target = if mesh.inbound_passthrough {
        Target::Original
    } else {
        let loopback = view.ip_mode.localhosts()[0];
        Target::Address(loopback.to_owned(), number)
    };
    let rules = proxy.snapshot.rules(&scope.namespace, &first.service);
    let cluster = InboundClusterInputs {
        view,
        mesh: mesh.clone(),
        listen_port: number,
        port: first.port.clone(),
        services,
        target,
        // Rules for single workloads are about what those send, not about what they get.
        rule: for_workload(&rules, "", &BTreeMap::new()).cloned(),
        connection_pool: scope
            .sidecar
            .as_ref()
            .and_then(|sidecar| sidecar.spec.inbound_connection_pool.clone()),
    };
    (inbound, cluster)
}

fn ingress_ports(
    proxy: &Proxy<'_>,
    scope: &Scope,
    targets: &[ServiceTarget],
    mtls: &EffectiveMtls,
) -> Declared {
    let Some(sidecar) = &scope.sidecar else {
        return Vec::new();
    };
    let mut out: BTreeMap<u32, (InboundPort, InboundClusterInputs)> = BTreeMap::new();
    for ingress in &sidecar.spec.ingress {
        let Some(port) = &ingress.port else { continue };
        if out.contains_key(&port.number) {
            continue;
        }
        let binds = match ingress.capture_mode {
            CaptureMode::Default => proxy.node.interception == Interception::None,
            CaptureMode::None => true,
            CaptureMode::Iptables => false,
        };
        let object = sidecar.object.clone();
        let protocol = Protocol::parse(&port.protocol);
        let inbound = InboundPort {
            target: port.number,
            port: port.number,
            protocol: if ingress.tls.is_some() {
                protocol.after_tls_termination()
            } else {
                protocol
            },
            host: format!("{}.{}", object.name, object.namespace),
            mtls: mtls.port(port.number),
            tls: ingress.tls.clone(),
            bind: binds.then(|| ingress_bind(proxy, ingress)),
            object: Some(object),
            decided_by: mtls.decided_by(port.number).cloned(),
        };
        let service = targets.iter().find(|target| target.target == port.number);
        let cluster = InboundClusterInputs {
            view: proxy.cluster_view(),
            mesh: proxy.snapshot.mesh().clone(),
            listen_port: port.number,
            port: Port {
                name: port.name.clone(),
                number: port.number,
                protocol,
                target: 0,
            },
            services: service
                .map(|target| target.service.clone())
                .into_iter()
                .collect(),
            target: ingress_target(proxy, ingress),
            rule: None,
            connection_pool: ingress
                .connection_pool
                .clone()
                .or_else(|| sidecar.spec.inbound_connection_pool.clone()),
        };
        out.insert(port.number, (inbound, cluster));
    }
    out.into_values().collect()
}

fn ingress_bind(proxy: &Proxy<'_>, ingress: &IstioIngressListener) -> String {
    if !ingress.bind.is_empty() {
        return ingress.bind.clone();
    }
    match proxy.node.main_ip() {
        Some(ip) => ip.to_string(),
        None => proxy.node.ip_mode().wildcards()[0].to_owned(),
    }
}

/// `127.0.0.1:8080`, `0.0.0.0:8080` for the pod's own address, `unix:///path`, or nothing for where the client was going.
fn ingress_target(proxy: &Proxy<'_>, ingress: &IstioIngressListener) -> Target {
    let written = ingress.default_endpoint.as_str();
    if let Some(path) = written.strip_prefix("unix://") {
        return Target::Pipe(path.to_owned());
    }
    let Some((host, port)) = written.rsplit_once(':') else {
        return Target::Original;
    };
    let Ok(port) = port.parse::<u32>() else {
        return Target::Original;
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let own = |v6: bool| {
        let found = proxy
            .node
            .ips
            .iter()
            .find(|ip| ip.is_ipv6() == v6)
            .map(ToString::to_string);
        found.unwrap_or_else(|| if v6 { "::1" } else { "127.0.0.1" }.to_owned())
    };
    match host {
        "0.0.0.0" => Target::Address(own(false), port),
        "::" => Target::Address(own(true), port),
        address => Target::Address(address.to_owned(), port),
    }
}
