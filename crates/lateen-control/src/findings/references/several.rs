//! Objects of which only one can count, or that share what is there only once: VirtualServices for one host, Sidecars and Telemetries for one
//! workload.
//!
//! Istio calls what follows undefined. Here it is not: the object that was created first counts, of files the first by name.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::labels::Labels;
use lateen_api::networking::{HttpMatchRequest, HttpRoute, Sidecar, StringMatch, VirtualService};
use lateen_api::telemetry::Telemetry;
use lateen_api::{KindSpec, Resource, Severity};
use lateen_compile::Visibility;

use super::virtual_services::{MESH, gateway_name};
use super::{Found, Known, on};

/// Istio's `ConflictingMeshGatewayVirtualServiceHosts`.
const SAME_HOST: (&str, Severity) = ("IST0109", Severity::Error);
/// A VirtualService takes everything that another one for the same host at the same gateway would take last.
const NEVER_REACHED: (&str, Severity) = ("LAT3010", Severity::Warning);
/// Routes of several VirtualServices for one host at a gateway are put one after the other.
const JOINED: (&str, Severity) = ("LAT3011", Severity::Info);

/// Codes and words for a kind of which a workload has one.
struct Single {
    /// Two select the same workload.
    overlap: (&'static str, Severity),
    /// Two are for all workloads of a namespace.
    wide: (&'static str, Severity),
    effect: &'static str,
}

/// Istio's `ConflictingSidecarWorkloadSelectors` and `MultipleSidecarsWithoutWorkloadSelectors`.
const SIDECAR: Single = Single {
    overlap: ("IST0110", Severity::Error),
    wide: ("IST0111", Severity::Error),
    effect: "the Sidecar created first counts (of files, the first by name); nothing of this one is used there",
};
/// Istio's `ConflictingTelemetryWorkloadSelectors` and `MultipleTelemetriesWithoutWorkloadSelectors`.
const TELEMETRY: Single = Single {
    overlap: ("IST0159", Severity::Error),
    wide: ("IST0160", Severity::Error),
    effect: "the Telemetry created first counts (of files, the first by name); nothing of this one is used there",
};

pub(super) fn findings(known: &Known<'_>, found: &mut Found) {
    hosts(known, found);
    let of_sidecar = |spec: &Sidecar| Some(spec.workload_selector.as_ref()?.labels.clone());
    single(known, &SIDECAR, of_sidecar, found);
    let of_telemetry = |spec: &Telemetry| Some(spec.selector.as_ref()?.match_labels.clone());
    single_of(
        known,
        &TELEMETRY,
        of_telemetry,
        |spec: &Telemetry| spec.target_ref.is_none() && spec.target_refs.is_empty(),
        found,
    );
}

/// A VirtualService that has a host.
#[derive(Clone, Copy)]
struct Claim<'a> {
    resource: &'a Resource,
    spec: &'a VirtualService,
    /// Its place in `hosts`.
    index: usize,
}

fn hosts(known: &Known<'_>, found: &mut Found) {
    let mut claims: BTreeMap<(String, String), Vec<Claim<'_>>> = BTreeMap::new();
    for (resource, spec) in known.of_kind::<VirtualService>() {
        let gateways: BTreeSet<String> = match spec.gateways.as_slice() {
            [] => BTreeSet::from([MESH.to_owned()]),
            all => all
                .iter()
                .map(|name| full_gateway(name, resource.namespace()))
                .collect(),
        };
        for (index, host) in spec.hosts.iter().enumerate() {
            let host = known.complete(host, resource.namespace());
            for gateway in &gateways {
                let list = claims.entry((gateway.clone(), host.clone())).or_default();
                // A host written twice is a mistake of the one object.
                if list
                    .last()
                    .is_none_or(|last| !std::ptr::eq(last.resource, resource))
                {
                    list.push(Claim {
                        resource,
                        spec,
                        index,
                    });
                }
            }
        }
    }
    for ((gateway, host), claims) in &claims {
        if gateway == MESH {
            in_mesh(host, claims, found);
        } else {
            at_gateway((gateway, host), claims, found);
        }
    }
}

fn full_gateway(name: &str, namespace: &str) -> String {
    if name == MESH {
        return name.to_owned();
    }
    let (namespace, name) = gateway_name(name, namespace);
    format!("{namespace}/{name}")
}

fn name_of(resource: &Resource) -> String {
    format!("{}/{}", resource.namespace(), resource.name())
}

/// The first of several that each namespace sees.
#[derive(Default)]
struct Seen<'a> {
    any: Option<&'a Resource>,
    public: Option<(usize, &'a Resource)>,
    by_namespace: BTreeMap<String, (usize, &'a Resource)>,
}

impl<'a> Seen<'a> {
    /// The first that some namespace sees beside one that has this visibility.
    fn beside(&self, visibility: &Visibility) -> Option<&'a Resource> {
        let namespaces = match visibility {
            Visibility::None => return None,
            Visibility::Public => return self.any,
            Visibility::Namespaces(namespaces) => namespaces,
        };
        let own = namespaces
            .iter()
            .filter_map(|namespace| self.by_namespace.get(namespace));
        let all = own.chain(&self.public).min_by_key(|(order, _)| *order);
        all.map(|(_, resource)| *resource)
    }

    fn add(&mut self, visibility: Visibility, order: usize, resource: &'a Resource) {
        match visibility {
            Visibility::None => return,
            Visibility::Public => {
                self.public.get_or_insert((order, resource));
            }
            Visibility::Namespaces(namespaces) => {
                for namespace in namespaces {
                    self.by_namespace
                        .entry(namespace)
                        .or_insert((order, resource));
                }
            }
        }
        self.any.get_or_insert(resource);
    }
}

fn in_mesh(host: &str, claims: &[Claim<'_>], found: &mut Found) {
    let mut seen = Seen::default();
    for (order, claim) in claims.iter().enumerate() {
        let namespace = claim.resource.namespace();
        let visibility = Visibility::parse(&claim.spec.export_to, namespace, &[]);
        if let Some(first) = seen.beside(&visibility) {
            let first = name_of(first);
            let message = format!("VirtualService {first} is for the host `{host}` already");
            let field = format!("spec.hosts[{}]", claim.index);
            found.push(
                on(claim.resource, SAME_HOST, &field, message)
                    .effect(format!("sidecars use the routes of {first} for that host, and none of these"))
                    .fix("write the routes of both into one VirtualService, in the order they are to be tried"),
            );
        }
        seen.add(visibility, order, claim.resource);
    }
}

fn at_gateway((gateway, host): (&str, &str), claims: &[Claim<'_>], found: &mut Found) {
    let mut first: Option<&Claim<'_>> = None;
    let mut taker: Option<&Claim<'_>> = None;
    // Routes of streams are not joined: there the conflict is the compiler's to tell.
    for claim in claims.iter().filter(|claim| !claim.spec.http.is_empty()) {
        let own = claim.spec.http.iter().position(takes_all);
        let finding = match (first, taker, own) {
            (_, Some(taker), Some(own)) => {
                let message = format!(
                    "VirtualService {} takes every request for `{host}` at Gateway `{gateway}` that no route with a match takes",
                    name_of(taker.resource)
                );
                on(
                    claim.resource,
                    NEVER_REACHED,
                    &format!("spec.http[{own}]"),
                    message,
                )
                .effect("this route is never used for that host")
                .fix("give it a match, or have one VirtualService alone take the rest")
            }
            (Some(first), ..) => {
                let first = name_of(first.resource);
                let message = format!(
                    "VirtualService {first} is for the host `{host}` at Gateway `{gateway}`, too"
                );
                let field = format!("spec.hosts[{}]", claim.index);
                on(claim.resource, JOINED, &field, message).effect(format!(
                    "the routes of both are tried: first those of {first}, then these, and routes without a match last"
                ))
            }
            (None, ..) => {
                (first, taker) = (Some(claim), own.map(|_| claim));
                continue;
            }
        };
        found.push(finding);
        taker = taker.or(own.map(|_| claim));
    }
}

/// Whether a route takes every request.
fn takes_all(route: &HttpRoute) -> bool {
    let anything = |matched: &HttpMatchRequest| {
        let bare = HttpMatchRequest {
            name: matched.name.clone(),
            stat_prefix: matched.stat_prefix.clone(),
            uri: matched.uri.clone(),
            ignore_uri_case: matched.ignore_uri_case,
            ..HttpMatchRequest::default()
        };
        let every_path = match &matched.uri {
            None => true,
            Some(StringMatch::Prefix(prefix)) => prefix == "/",
            Some(_) => false,
        };
        every_path && *matched == bare
    };
    route.delegate.is_none() && (route.r#match.is_empty() || route.r#match.iter().any(anything))
}

fn single<T: KindSpec>(
    known: &Known<'_>,
    single: &Single,
    labels: impl Fn(&T) -> Option<Labels>,
    found: &mut Found,
) {
    single_of(known, single, labels, |_| true, found);
}

/// Finds workloads and namespaces for which there are several of a kind. `counts` says whether an object is for workloads at all.
fn single_of<T: KindSpec>(
    known: &Known<'_>,
    single: &Single,
    labels: impl Fn(&T) -> Option<Labels>,
    counts: impl Fn(&T) -> bool,
    found: &mut Found,
) {
    let mut wide: BTreeMap<&str, &Resource> = BTreeMap::new();
    let mut owner: BTreeMap<(&str, &str, &str), &Resource> = BTreeMap::new();
    for (resource, spec) in known.of_kind::<T>().filter(|(_, spec)| counts(spec)) {
        let namespace = resource.namespace();
        let kind = resource.kind;
        let Some(selector) = labels(spec).filter(|labels| !labels.is_empty()) else {
            let first = *wide.entry(namespace).or_insert(resource);
            if !std::ptr::eq(first, resource) {
                let message = format!(
                    "{kind} `{}` is for all workloads of namespace `{namespace}`, too",
                    first.name()
                );
                found.push(
                    on(resource, single.wide, "metadata.name", message)
                        .effect(single.effect)
                        .fix("keep one without a selector, and give the others one"),
                );
            }
            continue;
        };
        let clash = known
            .workloads
            .with(Some(namespace), &selector)
            .into_iter()
            .find_map(|workload| {
                let key = (namespace, workload.kind, workload.name);
                let first = *owner.entry(key).or_insert(resource);
                (!std::ptr::eq(first, resource)).then_some((first, workload.kind, workload.name))
            });
        if let Some((first, workload_kind, workload)) = clash {
            let message = format!(
                "{kind} `{}` selects {workload_kind} `{workload}`, too",
                first.name()
            );
            found.push(
                on(resource, single.overlap, "metadata.name", message)
                    .effect(single.effect)
                    .fix("let each workload be selected by one"),
            );
        }
    }
}
