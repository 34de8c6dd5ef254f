//! `lateen x describe`: what the mesh makes of a pod or service, in istioctl's words.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, bail};
use lateen_api::networking::{DestinationRule, HttpMatchRequest, VirtualService};
use lateen_api::value::StringMatch;
use lateen_api::{Spec, nearest};
use lateen_compile::{Pod, PodRole, Service};
use lateen_explain::{Mesh, security};

use crate::cli::DescribeCommand;
use crate::output;
use crate::state::StateDir;
use crate::world;

const RULE: &str = "--------------------\n";

pub(crate) fn run(
    state: &StateDir,
    namespace: Option<&str>,
    command: DescribeCommand,
) -> Result<()> {
    let open = |files: &[PathBuf]| world::mesh(state, namespace, files);
    match command {
        DescribeCommand::Pod { target, filename } => {
            let mesh = open(&filename)?;
            let found = mesh.find(&target, namespace)?;
            output::print(&pod(&mesh, found))
        }
        DescribeCommand::Service { target, filename } => {
            let mesh = open(&filename)?;
            let found = find_service(&mesh, &target, namespace)?;
            output::print(&service(&mesh, found))
        }
    }
}

fn pod(mesh: &Mesh, pod: &Pod) -> String {
    let mut out = format!("Pod: {}", pod.name);
    if pod.namespace != "default" {
        let _ = write!(out, ".{}", pod.namespace);
    }
    out.push('\n');
    let _ = writeln!(out, "   Workload: {}", mesh.workload(pod));
    if pod.role == PodRole::Plain {
        out.push_str("WARNING: the pod has no sidecar: the mesh does not see its traffic\n");
        return out;
    }
    let _ = writeln!(
        out,
        "   Identity: {}",
        mesh.identity(&pod.namespace, &pod.service_account)
    );
    out.push_str(RULE);
    let services = services_of(mesh, pod);
    if services.is_empty() {
        out.push_str("No Service selects this pod\n");
    }
    for service in &services {
        describe_service(&mut out, mesh, service, Some(pod));
    }
    out.push_str(RULE);
    security_of(&mut out, mesh, pod);
    out
}

fn service(mesh: &Mesh, service: &Service) -> String {
    let mut out = String::new();
    describe_service(&mut out, mesh, service, None);
    let pods: Vec<&Pod> = mesh
        .pods()
        .iter()
        .filter(|pod| {
            services_of(mesh, pod)
                .iter()
                .any(|s| s.hostname == service.hostname)
        })
        .collect();
    let _ = writeln!(out, "{RULE}Pods: {}", pods.len());
    for pod in &pods {
        let _ = writeln!(out, "   {} ({})", pod.name, mesh.workload(pod));
    }
    if let Some(first) = pods.first() {
        out.push_str(RULE);
        security_of(&mut out, mesh, first);
    }
    out
}

fn describe_service(out: &mut String, mesh: &Mesh, service: &Service, pod: Option<&Pod>) {
    let _ = writeln!(out, "Service: {}.{}", service.name, service.namespace);
    for port in &service.ports {
        let target = target(mesh, service, port.number, pod);
        let target = target.map_or_else(String::new, |t| format!(" targets pod port {t}"));
        let _ = writeln!(
            out,
            "   Port: {} {}/{}{target}",
            port.name, port.number, port.protocol
        );
    }
    for (object, rule) in rules_for(mesh, service) {
        let _ = writeln!(out, "DestinationRule: {object} for {:?}", rule.host);
        subsets(out, rule, pod);
        let _ = writeln!(
            out,
            "   {}",
            match &rule.traffic_policy {
                None => "No Traffic Policy".to_owned(),
                Some(policy) => traffic_policy(policy),
            }
        );
    }
    let routes = routes_to(mesh, service);
    for (object, spec) in &routes {
        let gateways = match &spec.gateways[..] {
            [] => "mesh".to_owned(),
            list => list.join(", "),
        };
        let _ = writeln!(out, "VirtualService: {object} ({gateways})");
        for (index, http) in spec.http.iter().enumerate() {
            let conditions: Vec<String> = http.r#match.iter().map(condition).collect();
            let conditions = if conditions.is_empty() {
                "all requests".to_owned()
            } else {
                conditions.join("; or ")
            };
            let weights: Vec<String> = http
                .route
                .iter()
                .filter(|route| {
                    route
                        .destination
                        .as_ref()
                        .is_some_and(|d| is_host(mesh, &d.host, service))
                })
                .map(|route| {
                    let subset = route.destination.as_ref().map_or("", |d| d.subset.as_str());
                    let weight = if http.route.len() > 1 {
                        format!(" weight {}%", route.weight)
                    } else {
                        String::new()
                    };
                    if subset.is_empty() {
                        format!("the service{weight}")
                    } else {
                        format!("subset {subset}{weight}")
                    }
                })
                .collect();
            if !weights.is_empty() {
                let _ = writeln!(out, "   {index}: {conditions} to {}", weights.join(", "));
            }
        }
    }
}

fn subsets(out: &mut String, rule: &DestinationRule, pod: Option<&Pod>) {
    if rule.subsets.is_empty() {
        return;
    }
    let fits = |labels: &std::collections::BTreeMap<String, String>| {
        pod.is_some_and(|pod| {
            labels
                .iter()
                .all(|(key, value)| pod.labels.get(key) == Some(value))
        })
    };
    let (matching, others): (Vec<_>, Vec<_>) = rule
        .subsets
        .iter()
        .partition(|subset| pod.is_none() || fits(&subset.labels));
    let names = |list: &[&lateen_api::networking::Subset]| {
        list.iter()
            .map(|subset| subset.name.clone())
            .collect::<Vec<_>>()
            .join(",")
    };
    if pod.is_none() {
        let _ = writeln!(out, "   Subsets: {}", names(&matching));
        return;
    }
    if matching.is_empty() {
        out.push_str("   WARNING: the pod matches no subset\n");
    } else {
        let _ = writeln!(out, "   Matching subsets: {}", names(&matching));
    }
    if !others.is_empty() {
        let _ = writeln!(out, "      (Non-matching subsets {})", names(&others));
    }
}

fn traffic_policy(policy: &lateen_api::networking::TrafficPolicy) -> String {
    let mut parts = Vec::new();
    if let Some(tls) = &policy.tls {
        parts.push(format!("TLS mode {}", tls.mode));
    }
    if policy.load_balancer.is_some() {
        parts.push("load balancer".to_owned());
    }
    if policy.connection_pool.is_some() {
        parts.push("connection pool".to_owned());
    }
    if policy.outlier_detection.is_some() {
        parts.push("outlier detection".to_owned());
    }
    format!("Traffic Policy: {}", parts.join(", "))
}

fn security_of(out: &mut String, mesh: &Mesh, pod: &Pod) {
    let Some(proxy) = mesh.proxy(pod).filter(|_| pod.role == PodRole::Sidecar) else {
        return;
    };
    out.push_str("Effective PeerAuthentication:\n");
    let ports = security::ports(mesh.places(), &proxy);
    let default = ports.iter().find(|port| port.port == 0);
    if let Some(default) = default {
        let _ = writeln!(out, "   Workload mTLS mode: {}", default.mode.as_str());
    }
    let others = ports
        .iter()
        .filter(|port| port.port != 0 && default.is_none_or(|default| default.mode != port.mode));
    for port in others {
        let _ = writeln!(
            out,
            "   Port {} mTLS mode: {}",
            port.port,
            port.mode.as_str()
        );
    }
    let deciders: BTreeSet<String> = ports
        .iter()
        .filter_map(|port| port.decided_by.as_ref())
        .map(ToString::to_string)
        .collect();
    if !deciders.is_empty() {
        out.push_str("Applied PeerAuthentication:\n");
    }
    for decider in deciders {
        let _ = writeln!(out, "   {decider}");
    }
    let policies = security::policies(&proxy);
    if !policies.is_empty() {
        out.push_str("AuthorizationPolicies:\n");
    }
    for applied in policies {
        let dry_run = if applied.dry_run { ", dry run" } else { "" };
        let place = mesh.places().of(&applied.object, "spec");
        let _ = writeln!(
            out,
            "   {} {place}: {} rules{dry_run}",
            applied.action, applied.rules
        );
    }
}

fn services_of<'m>(mesh: &'m Mesh, pod: &Pod) -> Vec<&'m Service> {
    let services = mesh.snapshot().services();
    services
        .map(|service| &**service)
        .filter(|service| {
            service
                .ports
                .iter()
                .any(|port| target(mesh, service, port.number, Some(pod)).is_some())
        })
        .collect()
}

/// The pod's port behind a service's; of any pod if none is given.
fn target(mesh: &Mesh, service: &Service, port: u32, pod: Option<&Pod>) -> Option<u32> {
    let endpoints = mesh.snapshot().endpoints(service, port)?;
    let of_pod = |addresses: &[String]| {
        let is_own = |ip: &std::net::IpAddr| pod.is_none_or(|pod| pod.ips.contains(ip));
        addresses
            .iter()
            .filter_map(|a| a.parse().ok())
            .any(|ip| is_own(&ip))
    };
    let mut own = endpoints
        .iter()
        .filter(|endpoint| of_pod(&endpoint.addresses));
    own.next().map(|endpoint| endpoint.port)
}

fn is_host(mesh: &Mesh, host: &str, service: &Service) -> bool {
    let suffix = mesh.domain_suffix();
    [
        host.to_owned(),
        format!("{host}.svc.{suffix}"),
        format!("{host}.{}.svc.{suffix}", service.namespace),
    ]
    .contains(&service.hostname)
}

fn rules_for<'m>(mesh: &'m Mesh, service: &Service) -> Vec<(String, &'m DestinationRule)> {
    let objects = mesh.places().objects();
    let rules = objects.filter_map(|(_, resource)| match &*resource.spec {
        Spec::DestinationRule(rule) if is_host(mesh, &rule.host, service) => {
            Some((resource.name().to_owned(), rule))
        }
        _ => None,
    });
    rules.collect()
}

/// The virtual services with a route to a service.
fn routes_to<'m>(mesh: &'m Mesh, service: &Service) -> Vec<(String, &'m VirtualService)> {
    let objects = mesh.places().objects();
    let found = objects.filter_map(|(_, resource)| match &*resource.spec {
        Spec::VirtualService(spec) => {
            let mut routes = spec.http.iter().flat_map(|http| &http.route);
            let leads = routes.any(|route| {
                route
                    .destination
                    .as_ref()
                    .is_some_and(|d| is_host(mesh, &d.host, service))
            });
            leads.then(|| (resource.name().to_owned(), spec))
        }
        _ => None,
    });
    found.collect()
}

fn condition(wanted: &HttpMatchRequest) -> String {
    let mut parts = Vec::new();
    if let Some(uri) = &wanted.uri {
        parts.push(matched(uri));
    }
    if let Some(method) = &wanted.method {
        parts.push(format!("method {}", matched(method)));
    }
    parts.extend(wanted.headers.keys().map(|name| format!("header {name}")));
    parts.extend(
        wanted
            .query_params
            .keys()
            .map(|name| format!("query parameter {name}")),
    );
    if parts.is_empty() {
        "all requests".to_owned()
    } else {
        parts.join(" and ")
    }
}

/// A condition as istioctl prints it: `/login`, `/static*`, `regex …`.
fn matched(wanted: &StringMatch) -> String {
    match wanted {
        StringMatch::Present => "any".to_owned(),
        StringMatch::Exact(text) => text.clone(),
        StringMatch::Prefix(text) => format!("{text}*"),
        StringMatch::Regex(text) => format!("regex {text}"),
    }
}

fn find_service<'m>(mesh: &'m Mesh, wanted: &str, namespace: Option<&str>) -> Result<&'m Service> {
    let services = || mesh.snapshot().services().map(|service| &**service);
    let (name, dotted) = match wanted.split_once('.') {
        Some((name, namespace)) => (name, Some(namespace.split('.').next().unwrap_or_default())),
        None => (wanted, None),
    };
    let fits = |service: &&Service| {
        service.hostname == wanted
            || (service.name == name
                && namespace
                    .or(dotted)
                    .is_none_or(|namespace| service.namespace == namespace))
    };
    let found: Vec<&Service> = services().filter(fits).collect();
    match found[..] {
        [only] => Ok(only),
        [] => {
            let known: Vec<&str> = services().map(|service| service.name.as_str()).collect();
            let near = nearest(name, &known);
            let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            bail!("there is no service `{wanted}`{hint}")
        }
        [first, second, ..] => bail!(
            "service `{wanted}` is in {} and {}; say which with -n",
            first.namespace,
            second.namespace
        ),
    }
}
