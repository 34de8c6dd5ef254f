//! What a VirtualService names: the hosts, subsets and ports of its destinations, and its gateways.
//!
//! Source of what counts as a mistake: Istio's `analyzers/virtualservice`.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::networking::{DestinationRule, Gateway, VirtualService};
use lateen_api::{Kind, Resource, Severity, host};
use lateen_compile::{Protocol, Service, Visibility};

use super::destinations::{self, Carries, Target};
use super::hosts::{Host, wildcards_of};
use super::{Found, Known, names_text, on};

/// Istio's `ReferencedResourceNotFound`.
const NOT_FOUND: (&str, Severity) = ("IST0101", Severity::Error);
/// Istio's `VirtualServiceDestinationPortSelectorRequired`.
const PORT_REQUIRED: (&str, Severity) = ("IST0112", Severity::Error);
/// Istio's `VirtualServiceHostNotFoundInGateway`.
const HOST_NOT_IN_GATEWAY: (&str, Severity) = ("IST0132", Severity::Warning);

/// The gateway that stands for all sidecars.
pub(super) const MESH: &str = "mesh";

pub(super) fn findings(known: &Known<'_>, found: &mut Found) {
    let subsets = Subsets::new(known);
    for (resource, spec) in known.of_kind::<VirtualService>() {
        let judged = Judged {
            known,
            subsets: &subsets,
            resource,
            spec,
        };
        for target in destinations::all(spec) {
            judged.destination(&target, found);
        }
        for (index, name) in spec.gateways.iter().enumerate() {
            judged.gateway(index, name, found);
        }
    }
}

/// The subsets that are defined, by host or wildcard, in whatever namespace.
struct Subsets<'a> {
    by_host: BTreeMap<String, BTreeSet<&'a str>>,
}

impl<'a> Subsets<'a> {
    fn new(known: &Known<'a>) -> Self {
        let mut by_host: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for (resource, spec) in known.of_kind::<DestinationRule>() {
            let names = spec.subsets.iter().map(|subset| subset.name.as_str());
            let name = known.complete(&spec.host, resource.namespace());
            by_host.entry(name).or_default().extend(names);
        }
        Self { by_host }
    }

    /// The subsets of a host; `None` if no rule is for it.
    fn of(&self, name: &str) -> Option<BTreeSet<&'a str>> {
        let names = std::iter::once(name.to_owned()).chain(wildcards_of(name));
        let rules: Vec<_> = names.filter_map(|name| self.by_host.get(&name)).collect();
        let joined = || rules.iter().copied().flatten().copied().collect();
        (!rules.is_empty()).then(joined)
    }
}

/// A VirtualService that is looked at.
struct Judged<'k, 'a> {
    known: &'k Known<'a>,
    subsets: &'k Subsets<'a>,
    resource: &'a Resource,
    spec: &'a VirtualService,
}

impl Judged<'_, '_> {
    fn destination(&self, target: &Target<'_>, found: &mut Found) {
        let name = self
            .known
            .complete(&target.destination.host, self.resource.namespace());
        match self.known.hosts.find(&name) {
            Host::Unknown if !self.is_judged(&name) => {
                found.unchecked.add("hosts", &*name);
                // Its subsets may be defined here all the same.
                if self.subsets.of(&name).is_none() {
                    return;
                }
            }
            Host::Unknown => return self.unknown_host(target, &name, found),
            Host::OfWildcard => {}
            Host::Services(services) => {
                let seen: Vec<&Service> = services
                    .iter()
                    .copied()
                    .filter(|service| self.can_see(service))
                    .collect();
                match seen.as_slice() {
                    [] => return self.invisible(target, services, found),
                    seen => self.port(target, seen, found),
                }
            }
        }
        self.subset(target, &name, found);
    }

    /// Whether a host that is not there is known not to exist.
    fn is_judged(&self, name: &str) -> bool {
        self.known.is_whole() || self.known.hosts.is_known_territory(name)
    }

    fn unknown_host(&self, target: &Target<'_>, name: &str, found: &mut Found) {
        let hosts = &self.known.hosts;
        let written = target.destination.host.as_str();
        let message = if written == name {
            format!("no service has the host `{written}`")
        } else {
            format!("no service has the host `{written}`, which here means `{name}`")
        };
        let meant = hosts.meant((written, name), self.resource.namespace(), found);
        let mut finding = on(
            self.resource,
            NOT_FOUND,
            &format!("{}.host", target.field),
            message,
        )
        .effect(target.carries.lost());
        finding.fix = meant;
        found.push(finding);
    }

    /// Whether the clients of this VirtualService may see a service.
    fn can_see(&self, service: &Service) -> bool {
        let own = self.resource.namespace();
        let named = self
            .spec
            .export_to
            .iter()
            .map(|to| if to == "." { own } else { to });
        service.visibility.includes(own)
            || service.visibility == Visibility::Public
            || named
                .into_iter()
                .any(|namespace| service.visibility.includes(namespace))
    }

    fn invisible(&self, target: &Target<'_>, services: &[&Service], found: &mut Found) {
        let Some(service) = services.first() else {
            return;
        };
        let own = self.resource.namespace();
        let message = format!(
            "{} {}/{} has the host `{}`, but it is not exported to namespace `{own}`",
            service.object.kind,
            service.object.namespace,
            service.object.name,
            target.destination.host
        );
        let finding = on(
            self.resource,
            NOT_FOUND,
            &format!("{}.host", target.field),
            message,
        )
        .effect(target.carries.lost())
        .fix(format!("add `{own}` to its exportTo"));
        found.push(finding);
    }

    fn port(&self, target: &Target<'_>, services: &[&Service], found: &mut Found) {
        let ports = || services.iter().flat_map(|service| &service.ports);
        let numbers: BTreeSet<u32> = ports().map(|port| port.number).collect();
        // An alias has the ports of what it stands for.
        if numbers.is_empty()
            || services
                .iter()
                .any(|service| service.external_name.is_some())
        {
            return;
        }
        let host = &target.destination.host;
        let all: Vec<String> = ports()
            .map(|port| format!("{} ({})", port.number, port.name))
            .collect();
        let all = all.join(", ").replace(" ()", "");
        match &target.destination.port {
            Some(port) if !numbers.contains(&port.number) => {
                let field = format!("{}.port.number", target.field);
                let message = format!("`{host}` has no port {}; it has {all}", port.number);
                let mut finding =
                    on(self.resource, NOT_FOUND, &field, message).effect(target.carries.lost());
                if let [only] = numbers.iter().collect::<Vec<_>>().as_slice() {
                    finding = finding.fix(format!("write {only}, the port of the Service (not of its pods), or leave `port` out"));
                } else {
                    finding = finding.fix("write a port of the Service, not of its pods");
                }
                found.push(finding);
            }
            None if numbers.len() > 1 && target.carries != Carries::Connections => {
                let Some(other) = self
                    .listeners()
                    .into_iter()
                    .find(|port| !numbers.contains(port))
                else {
                    return;
                };
                let message = format!("`{host}` has several ports, and none is named here: {all}");
                let effect = format!(
                    "the port that the request came to is taken; for port {other}, {}",
                    target.carries.lost()
                );
                let field = format!("{}.host", target.field);
                found.push(
                    on(self.resource, PORT_REQUIRED, &field, message)
                        .effect(effect)
                        .fix("add `port: {number: …}` to the destination"),
                );
            }
            _ => {}
        }
    }

    /// The ports that requests for this VirtualService may come to, as far as that is known.
    fn listeners(&self) -> BTreeSet<u32> {
        let mut out = BTreeSet::new();
        let namespace = self.resource.namespace();
        let in_mesh = self.spec.gateways.is_empty() || self.spec.gateways.iter().any(|g| g == MESH);
        if in_mesh {
            for host in &self.spec.hosts {
                let services = self
                    .known
                    .hosts
                    .named(&self.known.complete(host, namespace))
                    .iter();
                let ports = services.flat_map(|service| &service.ports);
                let ports = ports.filter(|port| port.protocol != Protocol::Udp);
                out.extend(ports.map(|port| port.number));
            }
        }
        for name in &self.spec.gateways {
            let (ns, name) = gateway_name(name, namespace);
            let gateway = self.known.object(Kind::Gateway, ns, name);
            let gateway = gateway.and_then(|gateway| gateway.spec_as::<Gateway>());
            let servers = gateway.into_iter().flat_map(|gateway| &gateway.servers);
            out.extend(servers.filter_map(|server| Some(server.port.as_ref()?.number)));
        }
        out
    }

    fn subset(&self, target: &Target<'_>, name: &str, found: &mut Found) {
        let subset = target.destination.subset.as_str();
        if subset.is_empty() {
            return;
        }
        let defined = self.subsets.of(name);
        if defined.as_ref().is_some_and(|names| names.contains(subset)) {
            return;
        }
        let defined: Vec<&str> = defined.into_iter().flatten().collect();
        let (message, fix) = if defined.is_empty() {
            let message = format!(
                "no DestinationRule defines subsets of `{name}`, so there is no `{subset}`"
            );
            let fix = format!(
                "define the subset `{subset}` in a DestinationRule for `{}`",
                target.destination.host
            );
            (message, Some(fix))
        } else {
            let message = format!(
                "no DestinationRule defines the subset `{subset}` of `{name}`; defined: {}",
                names_text(defined.iter().copied())
            );
            let fix = found
                .slip(subset, &defined)
                .map(|close| format!("did you mean `{close}`?"));
            (message, fix)
        };
        let field = format!("{}.subset", target.field);
        let mut finding =
            on(self.resource, NOT_FOUND, &field, message).effect(target.carries.lost());
        finding.fix = fix;
        found.push(finding);
    }

    fn gateway(&self, index: usize, written: &str, found: &mut Found) {
        if written == MESH {
            return;
        }
        let field = format!("spec.gateways[{index}]");
        let (namespace, name) = gateway_name(written, self.resource.namespace());
        let Some(gateway) = self.known.object(Kind::Gateway, namespace, name) else {
            return self.unknown_gateway((&field, written), (namespace, name), found);
        };
        let Some(spec) = gateway.spec_as::<Gateway>() else {
            return;
        };
        let open = open_hosts(spec, gateway.namespace(), self.resource.namespace());
        let own = self.resource.namespace();
        let is_open = |host: &String| {
            let (plain, complete) = (host.to_lowercase(), self.known.complete(host, own));
            open.iter()
                .any(|server| host::matches(server, &plain) || host::matches(server, &complete))
        };
        if self.spec.hosts.is_empty() || self.spec.hosts.iter().any(is_open) {
            return;
        }
        let offered = if open.is_empty() {
            format!("the Gateway has no hosts for namespace `{own}`")
        } else {
            format!(
                "the Gateway has {}",
                names_text(open.iter().map(String::as_str))
            )
        };
        let message = format!(
            "none of the hosts here ({}) is open at Gateway `{namespace}/{name}`: {offered}",
            names_text(self.spec.hosts.iter().map(String::as_str))
        );
        found.push(
            on(self.resource, HOST_NOT_IN_GATEWAY, &field, message)
                .effect(
                    "no request that comes through that gateway is routed by this VirtualService",
                )
                .fix("add the host to a server of the Gateway, or write one of its hosts here"),
        );
    }

    fn unknown_gateway(
        &self,
        (field, written): (&str, &str),
        (namespace, name): (&str, &str),
        found: &mut Found,
    ) {
        let first = (Kind::Gateway, "", "");
        let gateways = || self.known.objects.range(first..).map(|(key, _)| key);
        let all = || gateways().take_while(|(kind, _, _)| *kind == Kind::Gateway);
        let here: Vec<&str> = all()
            .filter(|(_, ns, _)| *ns == namespace)
            .map(|key| key.2)
            .collect();
        let elsewhere: Vec<&str> = all().filter(|key| key.2 == name).map(|key| key.1).collect();
        if here.is_empty() && elsewhere.is_empty() && !self.known.is_whole() {
            return found
                .unchecked
                .add("gateways", format!("{namespace}/{name}"));
        }
        let fix = match (found.slip(name, &here), elsewhere.as_slice()) {
            (Some(close), _) => {
                let prefix = written.split_once('/').map_or("", |(prefix, _)| prefix);
                let slash = if prefix.is_empty() { "" } else { "/" };
                Some(format!("did you mean `{prefix}{slash}{close}`?"))
            }
            (None, [other, ..]) => Some(format!(
                "write `{other}/{name}`, the Gateway in that namespace"
            )),
            (None, []) => None,
        };
        let message = format!("there is no Gateway `{name}` in namespace `{namespace}`");
        let mut finding = on(self.resource, NOT_FOUND, field, message)
            .effect("no gateway routes by this VirtualService because of this name");
        finding.fix = fix;
        found.push(finding);
    }
}

/// Namespace and name of a gateway as a VirtualService of a namespace names it; also in the old form `name.namespace.svc…`.
pub(super) fn gateway_name<'n>(written: &'n str, namespace: &'n str) -> (&'n str, &'n str) {
    match (written.split_once('/'), written.split_once('.')) {
        (Some((".", name)), _) => (namespace, name),
        (Some((other, name)), _) => (other, name),
        (None, Some((name, rest))) => (rest.split('.').next().unwrap_or_default(), name),
        (None, None) => (namespace, written),
    }
}

/// The hosts that a Gateway's servers open to VirtualServices of a namespace.
fn open_hosts(spec: &Gateway, own: &str, client: &str) -> BTreeSet<String> {
    let hosts = spec.servers.iter().flat_map(|server| &server.hosts);
    let open = hosts.filter_map(|host| match host.split_once('/') {
        None => Some(host.as_str()),
        Some(("*", name)) => Some(name),
        Some((".", name)) => (own == client).then_some(name),
        Some((namespace, name)) => (namespace == client).then_some(name),
    });
    open.map(str::to_lowercase).collect()
}
