//! The routes of a sidecar: for each port, the services that speak HTTP on it and the virtual services for them.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::networking::HttpRetry;

use crate::host::{self, is_wildcard, with_port};
use crate::mesh::OutboundPolicy;
use crate::model::{Port, Registry, Resolution, Service};
use crate::names::{self, MESH_GATEWAY, ObjectRef};
use crate::proto::route;
use crate::rules::MergedRule;
use crate::shared::Shared;
use crate::snapshot::{Semantics, VirtualServiceConfig};

use super::translate::{DestinationFacts, RouteContext, routes, service_hash};
use super::{catch_all, configuration, default_route};

/// Everything one route configuration of a sidecar depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SidecarRouteInputs {
    /// `9080`, `host:9080` for a sniffed port of one service, or `http_proxy`.
    pub(crate) name: String,
    /// The listener's port; zero for a forward proxy.
    pub(crate) port: u32,
    /// The one service the routes are for, if the listener is its own.
    pub(crate) only: Option<String>,
    /// The services with that port, all of them for a forward proxy, in the order of services.
    pub(crate) services: Vec<Shared<Service>>,
    /// The virtual services in scope, in order of precedence.
    pub(crate) virtual_services: Vec<Shared<VirtualServiceConfig>>,
    /// The services that virtual services lead to.
    pub(crate) destinations: BTreeMap<String, DestinationFacts>,
    /// The rules of those services and destinations that hash consistently.
    pub(crate) rules: BTreeMap<String, Shared<MergedRule>>,
    /// The client's labels, as far as virtual services look at them.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) namespace: String,
    /// What a resolver appends to short names: `default.svc.cluster.local`.
    pub(crate) dns_domain: String,
    /// Whether allocated addresses are known to the client.
    pub(crate) dns_capture: bool,
    pub(crate) outbound: OutboundPolicy,
    pub(crate) default_retry: Option<HttpRetry>,
}

/// Routes for some hosts on one port.
struct Wrapper<'a> {
    port: u32,
    services: Vec<&'a Shared<Service>>,
    /// Hosts of a virtual service that no service has.
    hosts: Vec<String>,
    routes: Vec<route::Route>,
}

/// A route configuration.
pub(crate) fn sidecar(inputs: &SidecarRouteInputs) -> route::RouteConfiguration {
    let wrappers = wrappers(inputs);
    let mut hosts = virtual_hosts(inputs, &wrappers);
    if let Some(only) = &inputs.only {
        hosts.retain(|host| host.domains.iter().any(|domain| domain == only));
        hosts.truncate(1);
        // The listener is the service's own address, so that whatever host a request names, it means this service.
        hosts
            .iter_mut()
            .for_each(|host| host.domains = vec!["*".to_owned()]);
        return configuration(&inputs.name, hosts);
    }
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    hosts.push(catch_all(&inputs.outbound));
    configuration(&inputs.name, hosts)
}

fn wrappers(inputs: &SidecarRouteInputs) -> Vec<Wrapper<'_>> {
    let by_host: BTreeMap<&str, &Shared<Service>> = inputs
        .services
        .iter()
        .map(|service| (service.hostname.as_str(), service))
        .collect();
    let owners = wildcard_owners(inputs);
    let context = RouteContext {
        port: inputs.port,
        gateway: MESH_GATEWAY,
        tls: false,
        labels: &inputs.labels,
        namespace: &inputs.namespace,
        destinations: &inputs.destinations,
        rules: &inputs.rules,
        default_retry: inputs.default_retry.as_ref(),
        semantics: Semantics::default(),
    };
    let mut out = Vec::new();
    for config in &inputs.virtual_services {
        let built = routes(config, &context);
        if !built.is_empty() {
            out.extend(for_virtual_service(
                inputs, config, &by_host, &owners, &built,
            ));
        }
    }
    let taken: BTreeSet<&str> = out
        .iter()
        .flat_map(|wrapper| {
            wrapper
                .services
                .iter()
                .map(|service| service.hostname.as_str())
        })
        .collect();
    let rest: Vec<_> = inputs
        .services
        .iter()
        .filter(|service| !taken.contains(service.hostname.as_str()))
        .filter(|service| service.resolution != Resolution::Alias)
        .collect();
    for service in rest {
        out.extend(http_ports(inputs, service).map(|port| for_service(inputs, service, port)));
    }
    out
}

/// The ports of a service that this configuration serves and that may carry HTTP.
fn http_ports<'a>(
    inputs: &'a SidecarRouteInputs,
    service: &'a Service,
) -> impl Iterator<Item = &'a Port> {
    service
        .ports
        .iter()
        .filter(|port| inputs.port == 0 || port.number == inputs.port)
        .filter(|port| port.protocol.is_http_or_sniffed())
}

/// For each service, the virtual service whose host is the most specific for it: several may have wildcards that match.
fn wildcard_owners(inputs: &SidecarRouteInputs) -> BTreeMap<&str, &ObjectRef> {
    let mut hosts: Vec<(&str, &ObjectRef)> = Vec::new();
    for config in &inputs.virtual_services {
        for name in &config.spec.hosts {
            if !hosts.iter().any(|(known, _)| *known == name.as_str()) {
                hosts.push((name, &config.object));
            }
        }
    }
    hosts.sort_by(|(a, _), (b, _)| host::specificity(a, b));
    inputs
        .services
        .iter()
        .filter_map(|service| {
            let owner = hosts
                .iter()
                .find(|(name, _)| host::is_subset(&service.hostname, name))?;
            Some((service.hostname.as_str(), owner.1))
        })
        .collect()
}

fn for_virtual_service<'a>(
    inputs: &'a SidecarRouteInputs,
    config: &VirtualServiceConfig,
    by_host: &BTreeMap<&str, &'a Shared<Service>>,
    owners: &BTreeMap<&str, &ObjectRef>,
    built: &[route::Route],
) -> Vec<Wrapper<'a>> {
    let mut services: Vec<&Shared<Service>> = Vec::new();
    let mut hosts = Vec::new();
    for name in config.spec.hosts.iter().filter(|name| !is_wildcard(name)) {
        match by_host.get(name.as_str()) {
            Some(service) => services.push(service),
            None => hosts.push(name.clone()),
        }
    }
    for name in config.spec.hosts.iter().filter(|name| is_wildcard(name)) {
        let matching: Vec<_> = inputs
            .services
            .iter()
            .filter(|s| host::matches(&s.hostname, name))
            .collect();
        if matching.is_empty() {
            hosts.push(name.clone());
        }
        services.extend(
            matching
                .into_iter()
                .filter(|s| owners.get(s.hostname.as_str()) == Some(&&config.object)),
        );
    }
    if config.semantics == Semantics::Gateway {
        // A route for a service is its producer's or, for his own namespace, its consumer's; nobody else's.
        let namespace = &config.object.namespace;
        services.retain(|s| s.namespace == *namespace || inputs.namespace == *namespace);
        if services.is_empty() {
            return Vec::new();
        }
    }
    let mut by_port: BTreeMap<u32, Vec<&Shared<Service>>> = BTreeMap::new();
    for service in services {
        for port in http_ports(inputs, service) {
            by_port.entry(port.number).or_default().push(service);
        }
    }
    // Hosts that are nobody's are served on port 80 alone, as anything else would open every HTTP port to them.
    if by_port.is_empty() && inputs.port == 80 {
        by_port.insert(80, Vec::new());
    }
    by_port
        .into_iter()
        .map(|(port, services)| Wrapper {
            port,
            services,
            hosts: hosts.clone(),
            routes: built.to_vec(),
        })
        .collect()
}

fn for_service<'a>(
    inputs: &SidecarRouteInputs,
    service: &'a Shared<Service>,
    port: &Port,
) -> Wrapper<'a> {
    let cluster = names::outbound_cluster("", &service.hostname, port.number);
    let operation = format!("{}:{}/*", service.hostname, port.number);
    let rule = inputs.rules.get(&service.hostname);
    let hash = rule.and_then(|rule| service_hash(rule, port.number));
    let object = rule.map_or(&service.object, |rule| &rule.object);
    let built = default_route(
        &cluster,
        operation,
        inputs.default_retry.as_ref(),
        hash,
        object,
    );
    Wrapper {
        port: port.number,
        services: vec![service],
        hosts: Vec::new(),
        routes: vec![built],
    }
}

/// Virtual hosts with names and domains that occur once; the first of each stays.
fn virtual_hosts(inputs: &SidecarRouteInputs, wrappers: &[Wrapper<'_>]) -> Vec<route::VirtualHost> {
    let complete: BTreeSet<&str> = wrappers
        .iter()
        .flat_map(|wrapper| {
            wrapper
                .services
                .iter()
                .map(|service| service.hostname.as_str())
        })
        .collect();
    let mut names = BTreeSet::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut out = Vec::new();
    for wrapper in wrappers {
        let hosts = wrapper.hosts.iter().map(|host| {
            let name = host.to_lowercase();
            let domains = if inputs.port == 0 {
                vec![host::ipv6_compliant(&name), with_port(&name, wrapper.port)]
            } else {
                vec![host::ipv6_compliant(&name)]
            };
            (with_port(&name, wrapper.port), domains, Vec::new())
        });
        let services = wrapper.services.iter().map(|service| {
            let (domains, alternatives) = domains(inputs, service, wrapper.port);
            (
                with_port(&service.hostname, wrapper.port),
                domains,
                alternatives,
            )
        });
        for (name, domains, alternatives) in hosts.chain(services) {
            if !names.insert(name.clone()) {
                continue;
            }
            // A short form of one name may be the whole name of another service, which then keeps it.
            let domains: Vec<String> = domains
                .into_iter()
                .filter(|domain| {
                    !(alternatives.contains(domain) && complete.contains(domain.as_str()))
                })
                .filter(|domain| taken.insert(domain.to_lowercase()))
                .collect();
            let domains = for_forward_proxy(inputs, wrapper.port, domains);
            if !domains.is_empty() {
                out.push(route::VirtualHost {
                    name,
                    domains,
                    routes: wrapper.routes.clone(),
                    include_request_attempt_count: true,
                    ..Default::default()
                });
            }
        }
    }
    out
}

/// A forward proxy serves all ports at once, so that only port 80 goes without its number.
fn for_forward_proxy(inputs: &SidecarRouteInputs, port: u32, domains: Vec<String>) -> Vec<String> {
    if inputs.port != 0 || port == 80 {
        return domains;
    }
    domains
        .into_iter()
        .filter(|domain| domain.contains(':'))
        .collect()
}

/// Every way to name a service, and those of them that are short forms.
fn domains(
    inputs: &SidecarRouteInputs,
    service: &Service,
    port: u32,
) -> (Vec<String>, Vec<String>) {
    let with_ports = inputs.port == 0;
    let both = |name: &str| {
        let mut out = vec![host::ipv6_compliant(name)];
        if with_ports {
            out.push(with_port(name, port));
        }
        out
    };
    let mut domains = Vec::new();
    let mut alternatives = Vec::new();
    for name in std::iter::once(&service.hostname).chain(&service.aliases) {
        domains.extend(both(name));
        let short: Vec<String> = short_names(name, &inputs.dns_domain)
            .iter()
            .flat_map(|name| both(name))
            .collect();
        domains.extend(short.clone());
        alternatives.extend(short);
    }
    if service.resolution == Resolution::Passthrough && service.registry == Registry::Kubernetes {
        // Single pods of a headless service: `pod-0.service`.
        let pods: Vec<String> = domains.iter().map(|domain| format!("*.{domain}")).collect();
        domains.extend(pods);
    }
    for address in service
        .vips(inputs.dns_capture)
        .iter()
        .filter(|address| !address.contains('/'))
    {
        domains.extend(both(address));
    }
    (domains, alternatives)
}

/// The names a resolver would complete to a service's name: `name`, `name.namespace`, `name.namespace.svc`, and the name with
/// the dot that says it is complete.
fn short_names(hostname: &str, dns_domain: &str) -> Vec<String> {
    let mut out = Vec::new();
    if hostname.parse::<std::net::IpAddr>().is_err() {
        out.push(format!("{hostname}."));
    }
    let Some((client, suffix)) = dns_domain.split_once(".svc.") else {
        return out;
    };
    let Some(inside) = hostname.strip_suffix(&format!(".svc.{suffix}")) else {
        return out;
    };
    let Some((name, namespace)) = inside.split_once('.') else {
        return out;
    };
    if namespace == client {
        out.push(name.to_owned());
    }
    out.push(format!("{inside}.svc"));
    out.push(inside.to_owned());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_short_names_as_its_resolver_would_complete_them() {
        let own = short_names(
            "reviews.default.svc.cluster.local",
            "default.svc.cluster.local",
        );
        assert_eq!(
            own,
            [
                "reviews.default.svc.cluster.local.",
                "reviews",
                "reviews.default.svc",
                "reviews.default"
            ]
        );
        let other = short_names("reviews.default.svc.cluster.local", "a.svc.cluster.local");
        assert!(!other.contains(&"reviews".to_owned()));
        assert_eq!(
            short_names("example.com", "a.svc.cluster.local"),
            ["example.com."]
        );
    }
}
