//! DestinationRules whose host, subsets or TLS mode do not fit the services and workloads that there are, or that another rule overrules.
//!
//! Istio's `NoServerCertificateVerification` (IST0128, IST0129) has no counterpart: without `caCertificates` servers are verified by the
//! operating system's roots.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::labels::{Labels, is_superset};
use lateen_api::networking::{
    ClientTlsMode, ClientTlsSettings, DestinationRule, ServiceEntry, Subset,
};
use lateen_api::value::IntOrString;
use lateen_api::{Kind, Resource, Severity, host, kube};
use lateen_compile::Service;

use super::hosts::Host;
use super::workloads::Workload;
use super::{Found, Known, labels_text, names_text, on};

/// Istio's `UnknownDestinationRuleHost`.
const UNKNOWN_HOST: (&str, Severity) = ("IST0174", Severity::Warning);
/// Istio's `DestinationRuleSubsetNotSelectPods`.
const EMPTY_SUBSET: (&str, Severity) = ("IST0173", Severity::Error);
/// A second rule for a host has a policy that the first one's takes the place of.
const OVERRULED: (&str, Severity) = ("LAT3012", Severity::Warning);
/// Plain text, or TLS of another sort, towards workloads that take nothing but mutual TLS.
const REFUSED_BY_STRICT: (&str, Severity) = ("LAT3013", Severity::Warning);
/// Mutual TLS of the mesh towards workloads without a proxy.
const NO_PROXY: (&str, Severity) = ("LAT3014", Severity::Warning);

/// Labels that pods have from their nodes, which no file tells.
const OF_NODES: [&str; 3] = [
    "topology.kubernetes.io/",
    "topology.istio.io/",
    "kubernetes.io/hostname",
];

pub(super) fn findings(known: &Known<'_>, found: &mut Found) {
    let mut policies: BTreeMap<(&str, String), &Resource> = BTreeMap::new();
    for (resource, spec) in known.of_kind::<DestinationRule>() {
        let name = known.complete(&spec.host, resource.namespace());
        if spec.traffic_policy.is_some() && spec.workload_selector.is_none() {
            let first = *policies
                .entry((resource.namespace(), name.clone()))
                .or_insert(resource);
            overruled(resource, spec, first, found);
        }
        if host::is_wildcard(&name) {
            wildcard(known, resource, &name, found);
            continue;
        }
        match known.hosts.find(&name) {
            Host::Unknown => unknown(known, (resource, spec), &name, found),
            Host::OfWildcard => {}
            Host::Services(services) => {
                let own = services
                    .iter()
                    .find(|service| service.namespace == resource.namespace());
                if let Some(service) = own.or_else(|| services.first()) {
                    for_service(known, (resource, spec), service, found);
                }
            }
        }
    }
}

/// Of rules for one host in one namespace the first policy counts; subsets are joined.
fn overruled(resource: &Resource, spec: &DestinationRule, first: &Resource, found: &mut Found) {
    let other: Option<&DestinationRule> = first.spec_as();
    let differs = other.is_some_and(|other| {
        other.traffic_policy != spec.traffic_policy && other.export_to == spec.export_to
    });
    if std::ptr::eq(resource, first) || !differs {
        return;
    }
    let message = format!(
        "DestinationRule `{}` has a trafficPolicy for the host `{}` already",
        first.name(),
        spec.host
    );
    found.push(
        on(resource, OVERRULED, "spec.trafficPolicy", message)
            .effect("this trafficPolicy is not used; the subsets of both rules are")
            .fix("write what is to hold into one rule"),
    );
}

fn wildcard(known: &Known<'_>, resource: &Resource, name: &str, found: &mut Found) {
    if known.hosts.matches_any(name) {
        return;
    }
    if !known.is_whole() {
        return found.unchecked.add("hosts", name);
    }
    let message = format!("no service has a host that `{name}` matches");
    found.push(on(resource, UNKNOWN_HOST, "spec.host", message).effect("the rule is never used"));
}

fn unknown(
    known: &Known<'_>,
    (resource, spec): (&Resource, &DestinationRule),
    name: &str,
    found: &mut Found,
) {
    if !known.is_whole() && !known.hosts.is_known_territory(name) {
        return found.unchecked.add("hosts", name);
    }
    let message = if spec.host == name {
        format!("no service has the host `{name}`")
    } else {
        format!(
            "no service has the host `{}`, which here means `{name}`",
            spec.host
        )
    };
    let meant = known
        .hosts
        .meant((&spec.host, name), resource.namespace(), found);
    let mut finding =
        on(resource, UNKNOWN_HOST, "spec.host", message).effect("the rule is never used");
    finding.fix = meant;
    found.push(finding);
}

fn for_service(
    known: &Known<'_>,
    (resource, spec): (&Resource, &DestinationRule),
    service: &Service,
    found: &mut Found,
) {
    let behind = Behind::of(known, service);
    for (index, subset) in spec.subsets.iter().enumerate() {
        empty_subset(resource, (index, subset), service, &behind, found);
    }
    let policy = spec.traffic_policy.as_ref();
    let tls = policy.and_then(|policy| policy.tls.as_ref());
    let of_mesh = tls.map(|tls| ("spec.trafficPolicy.tls.mode".to_owned(), tls, None));
    let ports = policy
        .into_iter()
        .flat_map(|policy| &policy.port_level_settings);
    let of_ports = ports.enumerate().filter_map(|(index, settings)| {
        let field = format!("spec.trafficPolicy.portLevelSettings[{index}].tls.mode");
        Some((
            field,
            settings.tls.as_ref()?,
            Some(settings.port.as_ref()?.number),
        ))
    });
    for (field, tls, port) in of_mesh.into_iter().chain(of_ports) {
        if let Behind::Workloads(workloads) = &behind {
            let rule = Tls {
                known,
                resource,
                field: &field,
                tls,
                port,
            };
            rule.check(service, workloads, found);
        }
    }
}

/// What is behind a service.
enum Behind<'k, 'a> {
    /// The workloads that it selects.
    Workloads(Vec<&'k Workload<'a>>),
    /// The endpoints that are written in it, by their labels.
    Endpoints(Vec<&'a Labels>),
    /// That is not known.
    Unknown,
}

impl<'k, 'a> Behind<'k, 'a> {
    fn of(known: &'k Known<'a>, service: &Service) -> Self {
        let (namespace, object) = (service.namespace.as_str(), &service.object);
        let kind = if object.kind == "Service" {
            Kind::Service
        } else {
            Kind::ServiceEntry
        };
        let Some(resource) = known.object(kind, namespace, &object.name) else {
            return Self::Unknown;
        };
        let selecting = |labels: &'a Labels| {
            let all = known.workloads.with(Some(resource.namespace()), labels);
            if all.is_empty() || labels.is_empty() {
                Self::Unknown
            } else {
                Self::Workloads(all)
            }
        };
        if let Some(written) = resource.spec_as::<kube::Service>() {
            return selecting(&written.spec.selector);
        }
        match resource.spec_as::<ServiceEntry>() {
            Some(entry) => match &entry.workload_selector {
                Some(selector) => selecting(&selector.labels),
                None if entry.endpoints.is_empty() => Self::Unknown,
                None => Self::Endpoints(entry.endpoints.iter().map(|e| &e.labels).collect()),
            },
            None => Self::Unknown,
        }
    }

    fn labels(&self) -> Vec<&Labels> {
        match self {
            Self::Workloads(all) => all.iter().map(|workload| workload.labels).collect(),
            Self::Endpoints(all) => all.clone(),
            Self::Unknown => Vec::new(),
        }
    }
}

fn empty_subset(
    resource: &Resource,
    (index, subset): (usize, &Subset),
    service: &Service,
    behind: &Behind<'_, '_>,
    found: &mut Found,
) {
    let mut wanted = subset.labels.clone();
    wanted.retain(|key, _| !OF_NODES.iter().any(|of_nodes| key.starts_with(of_nodes)));
    let all = behind.labels();
    if all.is_empty() || all.iter().any(|labels| is_superset(labels, &wanted)) {
        return;
    }
    let message = format!(
        "no workload behind `{}` has the labels of subset `{}`: {}",
        service.hostname,
        subset.name,
        labels_text(&wanted)
    );
    // The first label that nobody has is the likeliest to be wrong.
    let nobody_has = |(key, value): &(&String, &String)| {
        !all.iter().any(|labels| labels.get(*key) == Some(*value))
    };
    let wrong = wanted.iter().find(nobody_has);
    let fix = wrong.map(|(key, value)| {
        let there: BTreeSet<&str> = all
            .iter()
            .filter_map(|l| l.get(key))
            .map(String::as_str)
            .collect();
        let there: Vec<&str> = there.into_iter().collect();
        match found.slip(value, &there) {
            _ if there.is_empty() => {
                format!("none of them has a label `{key}`: add it to the pods' template")
            }
            Some(close) => format!("did you mean `{key}: {close}`?"),
            None => format!("`{key}` is {} there", names_text(there.iter().copied())),
        }
    });
    let mut finding = on(
        resource,
        EMPTY_SUBSET,
        &format!("spec.subsets[{index}].labels"),
        message,
    )
    .effect("requests to this subset are answered with 503 (UH: no healthy host)");
    finding.fix =
        fix.or_else(|| Some("no single workload has all of these labels together".to_owned()));
    found.push(finding);
}

/// TLS settings of a rule, or of one of its ports.
struct Tls<'k, 'a> {
    known: &'k Known<'a>,
    resource: &'a Resource,
    field: &'k str,
    tls: &'k ClientTlsSettings,
    port: Option<u32>,
}

impl Tls<'_, '_> {
    fn check(&self, service: &Service, workloads: &[&Workload<'_>], found: &mut Found) {
        let name = &service.hostname;
        if self.tls.mode == ClientTlsMode::IstioMutual {
            if !workloads.iter().all(|workload| workload.is_plain()) {
                return;
            }
            let message =
                format!("mutual TLS of the mesh towards `{name}`, whose workloads have no sidecar");
            found.push(
                on(self.resource, NO_PROXY, self.field, message)
                    .effect("every connection fails: 503 (UF: TLS error)")
                    .fix("leave the mode out: clients use mutual TLS where there is a sidecar to take it; or label the namespace `istio-injection: enabled`"),
            );
            return;
        }
        let strict = workloads
            .iter()
            .find_map(|workload| self.strict(service, workload));
        let Some(policy) = strict else { return };
        let what = if self.tls.mode == ClientTlsMode::Disable {
            "plain text"
        } else {
            "TLS without the mesh's certificates"
        };
        let message =
            format!("{what} towards `{name}`, which takes nothing but mutual TLS by {policy}");
        found.push(
            on(self.resource, REFUSED_BY_STRICT, self.field, message)
                .effect("the sidecars of the service close the connections: 503 (UC or UF)")
                .fix("write ISTIO_MUTUAL or leave `tls` out; or make the PeerAuthentication PERMISSIVE"),
        );
    }

    /// The policy by which a workload takes mutual TLS alone on a port of the service that this is about.
    fn strict(&self, service: &Service, workload: &Workload<'_>) -> Option<String> {
        let pod = workload.pod.filter(|_| !workload.is_plain())?;
        let ports = service
            .ports
            .iter()
            .filter(|port| self.port.is_none_or(|own| own == port.number));
        let targets = ports.map(|port| {
            let target = self.target(service, port.number);
            match target {
                Some(IntOrString::Int(number)) => u32::try_from(*number).unwrap_or(port.number),
                Some(IntOrString::String(name)) => pod
                    .named_ports()
                    .get(name)
                    .map_or(port.number, |number| u32::from(*number)),
                None => port.number,
            }
        });
        let mut targets = targets;
        targets.find_map(|port| {
            let policy =
                self.known
                    .snapshot
                    .strict_by(workload.namespace, workload.labels, port)?;
            Some(format!(
                "{} {}/{}",
                policy.kind, policy.namespace, policy.name
            ))
        })
    }

    fn target(&self, service: &Service, port: u32) -> Option<&IntOrString> {
        let object = &service.object;
        let written = self
            .known
            .object(Kind::Service, &object.namespace, &object.name)?;
        let written: &kube::Service = written.spec_as()?;
        let written = written
            .spec
            .ports
            .iter()
            .find(|p| u32::from(p.port) == port)?;
        written.target_port.as_ref()
    }
}
