//! Virtual services with complete names, their delegates merged in.

use std::collections::BTreeMap;

use lateen_api::networking::{
    Destination, HttpMatchRequest, HttpRoute, StringMatch, VirtualService,
};
use lateen_api::{Diagnostic, KindSpec as _, Resource};

use crate::diagnostics::{DELEGATE, DELEGATE_CONFLICT, on_resource};
use crate::host;
use crate::model::Visibility;
use crate::names::{MESH_GATEWAY, ObjectRef};
use crate::shared::Shared;

use super::ownership::Owners;
use super::reuse::{by_key, is_same};
use super::{Inputs, precedence, reference};

/// A virtual service ready to be used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VirtualServiceConfig {
    pub(crate) object: ObjectRef,
    /// With complete host and gateway names and without delegates.
    pub(crate) spec: VirtualService,
    /// The gateways it is bound to: `mesh` or `namespace/name`.
    pub(crate) gateways: Vec<String>,
    pub(crate) visibility: Visibility,
    /// Whose rules it follows.
    pub(crate) semantics: Semantics,
    /// Whether it was a TLSRoute, whose routes are for servers that end TLS, too.
    pub(crate) from_tls_route: bool,
    /// Where each HTTP route came from, in the order of the routes.
    pub(crate) http_sources: Vec<RouteSource>,
}

/// A virtual service that was written, and what it was made of.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(super) resource: Resource,
    pub(super) config: Shared<VirtualServiceConfig>,
}

/// What an object was before it became a virtual service. Source: Istio, `internal.istio.io/route-semantics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Semantics {
    /// A VirtualService.
    #[default]
    Istio,
    /// A Kubernetes Ingress: prefixes end at slashes.
    Ingress,
    /// A route of the Gateway API: prefixes end at slashes, a backend that is not there is answered with 500, and routes for a
    /// service are the producer's or the consumer's own.
    Gateway,
}

impl Semantics {
    /// Whether a prefix of a path matches whole segments only.
    pub(crate) fn splits_at_slashes(self) -> bool {
        self != Self::Istio
    }
}

/// What a control plane that converts other kinds by itself writes on what it made.
const ROUTE_SEMANTICS: &str = "internal.istio.io/route-semantics";
const PARENTS: &str = "internal.istio.io/parents";

fn semantics(resource: &Resource) -> Semantics {
    match resource
        .meta
        .annotations
        .get(ROUTE_SEMANTICS)
        .map(String::as_str)
    {
        Some("ingress") => Semantics::Ingress,
        Some("gateway") => Semantics::Gateway,
        _ => Semantics::Istio,
    }
}

fn is_from_tls_route(resource: &Resource) -> bool {
    let parents = resource.meta.annotations.get(PARENTS);
    parents.is_some_and(|names| names.starts_with("TLSRoute/"))
}

/// The field an HTTP route came from, and those its matches did.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RouteSource {
    pub(crate) object: ObjectRef,
    /// `spec.http[2]`.
    pub(crate) path: String,
    /// `spec.http[2].match[0]`, in the order of the matches.
    pub(crate) matches: Vec<(ObjectRef, String)>,
}

impl RouteSource {
    fn new(object: &ObjectRef, index: usize, matches: usize) -> Self {
        let path = format!("spec.http[{index}]");
        let matches = (0..matches)
            .map(|m| (object.clone(), format!("{path}.match[{m}]")))
            .collect();
        Self {
            object: object.clone(),
            path,
            matches,
        }
    }

    /// The field that decided for one match of the route, or for the route itself.
    pub(crate) fn of_match(&self, index: Option<usize>) -> (&ObjectRef, &str) {
        match index.and_then(|index| self.matches.get(index)) {
            Some((object, path)) => (object, path),
            None => (&self.object, &self.path),
        }
    }
}

/// Every virtual service that has hosts, in order of their objects. Of `known`, which are in this order and were made in the same mesh,
/// those are taken over whose objects are the same and that no other object has a part in.
pub(super) fn configs(
    inputs: &Inputs,
    owners: &Owners,
    known: Option<&[Made]>,
) -> (Vec<Made>, Vec<Diagnostic>) {
    let mut known = Known(known.filter(|_| !owners.are_strict()).unwrap_or_default());
    let mut configs = Vec::new();
    let mut written = Vec::new();
    for resource in inputs.resources.of_kind(VirtualService::KIND) {
        match known.take(resource) {
            Some(made) => configs.push(made.clone()),
            None => written.extend(resource.spec_as().map(|spec| (resource, spec))),
        }
    }
    written.sort_by(|(a, _), (b, _)| precedence(a).cmp(&precedence(b)));
    let resolved: Vec<(&Resource, VirtualService)> = written
        .into_iter()
        .map(|(resource, spec): (&Resource, &VirtualService)| {
            (
                resource,
                resolve(spec, resource.namespace(), &inputs.settings.domain_suffix),
            )
        })
        .collect();
    let delegates: Delegates<'_> = resolved
        .iter()
        .filter(|(_, spec)| spec.hosts.is_empty())
        .map(|(resource, spec)| {
            let key = (resource.namespace(), resource.name());
            (key, (spec, written_visibility(inputs, resource, spec)))
        })
        .collect();
    let mut diagnostics = Vec::new();
    let made = resolved
        .iter()
        .filter(|(_, spec)| !spec.hosts.is_empty())
        .map(|(resource, spec)| make(inputs, owners, resource, spec, &delegates, &mut diagnostics));
    configs.extend(made);
    configs.sort_by(|a, b| by_key(&a.resource, &b.resource));
    (configs, diagnostics)
}

/// What a virtual service comes to that no other object has a part in, and that has none in others; nothing is wrong with such. `None` if it is
/// not one.
pub(super) fn alone(inputs: &Inputs, owners: &Owners, resource: &Resource) -> Option<Made> {
    let spec: &VirtualService = resource.spec_as()?;
    if owners.are_strict() || !stands_alone(spec) {
        return None;
    }
    let spec = resolve(spec, resource.namespace(), &inputs.settings.domain_suffix);
    let mut found = Vec::new();
    let none = Delegates::new();
    let made = make(inputs, owners, resource, &spec, &none, &mut found);
    found.is_empty().then_some(made)
}

/// Whether a virtual service has hosts, and routes of its own alone.
pub(super) fn stands_alone(written: &VirtualService) -> bool {
    !written.hosts.is_empty() && written.http.iter().all(|route| route.delegate.is_none())
}

fn written_visibility(inputs: &Inputs, resource: &Resource, spec: &VirtualService) -> Visibility {
    let default = &inputs.mesh.default_virtual_service_export_to;
    Visibility::parse(&spec.export_to, resource.namespace(), default)
}

/// Of a spec whose names are complete.
fn make(
    inputs: &Inputs,
    owners: &Owners,
    resource: &Resource,
    spec: &VirtualService,
    delegates: &Delegates<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Made {
    let object = reference(resource);
    let (http, http_sources) = merge_routes(resource, &object, &spec.http, delegates, diagnostics);
    let gateways = if spec.gateways.is_empty() {
        vec![MESH_GATEWAY.to_owned()]
    } else {
        spec.gateways.clone()
    };
    let mut visible = written_visibility(inputs, resource, spec);
    // Gateways say themselves whose hosts they take.
    if gateways.iter().any(|gateway| gateway == MESH_GATEWAY) {
        visible = owners.visibility(resource, &spec.hosts, visible, diagnostics);
    }
    let item = VirtualServiceConfig {
        visibility: visible,
        semantics: semantics(resource),
        from_tls_route: is_from_tls_route(resource),
        spec: VirtualService {
            http,
            ..spec.clone()
        },
        gateways,
        http_sources,
        object,
    };
    Made {
        resource: resource.clone(),
        config: Shared::new(item),
    }
}

/// What was made before, in the order of its objects, gone through once.
struct Known<'a>(&'a [Made]);

impl<'a> Known<'a> {
    /// What was made of an object; objects are asked for in order.
    fn take(&mut self, resource: &Resource) -> Option<&'a Made> {
        while let Some((first, rest)) = self.0.split_first() {
            if is_same(&first.resource, resource) {
                self.0 = rest;
                let spec = &first.config.spec;
                let written: Option<&VirtualService> = first.resource.spec_as();
                // A route that is missing, or is more than one, is a delegate's.
                let alone = written.is_some_and(|w| w.http.iter().all(|r| r.delegate.is_none()));
                debug_assert!(!alone || written.is_some_and(|w| w.http.len() == spec.http.len()));
                return alone.then_some(first);
            }
            if by_key(&first.resource, resource).is_gt() {
                return None;
            }
            self.0 = rest;
        }
        None
    }
}

type Delegates<'a> = BTreeMap<(&'a str, &'a str), (&'a VirtualService, Visibility)>;

fn merge_routes(
    resource: &Resource,
    object: &ObjectRef,
    routes: &[HttpRoute],
    delegates: &Delegates<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> (Vec<HttpRoute>, Vec<RouteSource>) {
    let mut http = Vec::new();
    let mut sources = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let source = RouteSource::new(object, index, route.r#match.len());
        let Some(delegate) = &route.delegate else {
            http.push(route.clone());
            sources.push(source);
            continue;
        };
        let namespace = if delegate.namespace.is_empty() {
            resource.namespace()
        } else {
            &delegate.namespace
        };
        let found = delegates
            .get(&(namespace, delegate.name.as_str()))
            .filter(|(_, visibility)| visibility.includes(resource.namespace()));
        let Some((spec, _)) = found else {
            let message = format!(
                "no VirtualService without hosts named `{}` in namespace `{namespace}` is visible here",
                delegate.name
            );
            diagnostics.push(
                on_resource(
                    DELEGATE,
                    resource,
                    &format!("{}.delegate", source.path),
                    message,
                )
                .effect("the route is left out; requests go on to the next one"),
            );
            continue;
        };
        let delegate = ObjectRef::new("VirtualService", namespace, &delegate.name);
        for (sub_index, sub) in spec.http.iter().enumerate() {
            let sub_source = RouteSource::new(&delegate, sub_index, sub.r#match.len());
            match merge_route(route, sub, &source, sub_source) {
                Some((merged, source)) => {
                    http.push(merged);
                    sources.push(source);
                }
                None => diagnostics.push(conflict(resource, &source.path, &delegate, sub_index)),
            }
        }
    }
    (http, sources)
}

fn conflict(resource: &Resource, path: &str, delegate: &ObjectRef, index: usize) -> Diagnostic {
    let message =
        format!("no request can match both this route and spec.http[{index}] of {delegate}");
    on_resource(DELEGATE_CONFLICT, resource, path, message)
        .effect("the delegate's route is left out")
        .fix("make the delegate's matches narrower than the root's")
}

/// A delegate's route within its root's. None if their matches exclude each other.
fn merge_route(
    root: &HttpRoute,
    sub: &HttpRoute,
    root_source: &RouteSource,
    sub_source: RouteSource,
) -> Option<(HttpRoute, RouteSource)> {
    if sub.delegate.is_some() {
        return None;
    }
    let (matches, match_sources) = merge_matches(root, sub, root_source, &sub_source)?;
    let mut out = sub.clone();
    out.r#match = matches;
    out.name = match (root.name.is_empty(), sub.name.is_empty()) {
        (_, true) => root.name.clone(),
        (true, false) => sub.name.clone(),
        (false, false) => format!("{}-{}", root.name, sub.name),
    };
    inherit(&mut out, root);
    Some((
        out,
        RouteSource {
            matches: match_sources,
            ..sub_source
        },
    ))
}

/// What a delegate's route does not say, its root says for it.
fn inherit(out: &mut HttpRoute, root: &HttpRoute) {
    fn fill<T: Clone>(own: &mut Option<T>, root: &Option<T>) {
        if own.is_none() {
            own.clone_from(root);
        }
    }
    fill(&mut out.rewrite, &root.rewrite);
    fill(&mut out.direct_response, &root.direct_response);
    fill(&mut out.timeout, &root.timeout);
    fill(&mut out.retries, &root.retries);
    fill(&mut out.fault, &root.fault);
    fill(&mut out.mirror, &root.mirror);
    fill(&mut out.mirror_percent, &root.mirror_percent);
    fill(&mut out.mirror_percentage, &root.mirror_percentage);
    fill(&mut out.cors_policy, &root.cors_policy);
    fill(&mut out.headers, &root.headers);
    if out.mirrors.is_empty() {
        out.mirrors.clone_from(&root.mirrors);
    }
}

type MergedMatches = (Vec<HttpMatchRequest>, Vec<(ObjectRef, String)>);

/// Every pair of matches that do not exclude each other. Each of the delegate's has to fit at least one of the root's.
fn merge_matches(
    root: &HttpRoute,
    sub: &HttpRoute,
    root_source: &RouteSource,
    sub_source: &RouteSource,
) -> Option<MergedMatches> {
    if root.r#match.is_empty() {
        return Some((sub.r#match.clone(), sub_source.matches.clone()));
    }
    if sub.r#match.is_empty() {
        return Some((root.r#match.clone(), root_source.matches.clone()));
    }
    let mut matches = Vec::new();
    let mut sources = Vec::new();
    for (narrow, source) in sub.r#match.iter().zip(&sub_source.matches) {
        let before = matches.len();
        for wide in root.r#match.iter().filter(|wide| !excludes(wide, narrow)) {
            matches.push(merge_match(wide, narrow));
            sources.push(source.clone());
        }
        if matches.len() == before {
            return None;
        }
    }
    Some((matches, sources))
}

fn merge_match(root: &HttpMatchRequest, sub: &HttpMatchRequest) -> HttpMatchRequest {
    let text = |own: &str, root: &str| {
        if own.is_empty() {
            root.to_owned()
        } else {
            own.to_owned()
        }
    };
    fn join<V: Clone>(
        root: &BTreeMap<String, V>,
        own: &BTreeMap<String, V>,
    ) -> BTreeMap<String, V> {
        let mut out = root.clone();
        out.extend(own.clone());
        out
    }
    HttpMatchRequest {
        name: match (root.name.is_empty(), sub.name.is_empty()) {
            (false, false) => format!("{}-{}", root.name, sub.name),
            _ => text(&sub.name, &root.name),
        },
        uri: sub.uri.clone().or_else(|| root.uri.clone()),
        scheme: sub.scheme.clone().or_else(|| root.scheme.clone()),
        method: sub.method.clone().or_else(|| root.method.clone()),
        authority: sub.authority.clone().or_else(|| root.authority.clone()),
        headers: join(&root.headers, &sub.headers),
        without_headers: join(&root.without_headers, &sub.without_headers),
        query_params: join(&root.query_params, &sub.query_params),
        port: if sub.port == 0 { root.port } else { sub.port },
        source_labels: join(&root.source_labels, &sub.source_labels),
        source_namespace: text(&sub.source_namespace, &root.source_namespace),
        gateways: if sub.gateways.is_empty() {
            root.gateways.clone()
        } else {
            sub.gateways.clone()
        },
        stat_prefix: text(&sub.stat_prefix, &root.stat_prefix),
        ignore_uri_case: sub.ignore_uri_case,
    }
}

/// Whether no request can satisfy both, as far as that can be told. Source: Istio, `hasConflict`.
fn excludes(root: &HttpMatchRequest, sub: &HttpMatchRequest) -> bool {
    let fields = [
        (&root.uri, &sub.uri),
        (&root.scheme, &sub.scheme),
        (&root.method, &sub.method),
        (&root.authority, &sub.authority),
    ];
    let maps = [
        (&root.headers, &sub.headers),
        (&root.without_headers, &sub.without_headers),
        (&root.query_params, &sub.query_params),
    ];
    let in_maps = maps.iter().any(|(root, sub)| {
        sub.iter()
            .any(|(key, value)| strings_exclude(root.get(key), Some(value)))
    });
    let labels_differ = sub.source_labels.iter().any(|(key, value)| {
        root.source_labels
            .get(key)
            .is_some_and(|other| other != value)
    });
    let gateways_differ = !root.gateways.is_empty()
        && !sub.gateways.is_empty()
        && sub
            .gateways
            .iter()
            .any(|gateway| !root.gateways.contains(gateway));
    fields
        .iter()
        .any(|(root, sub)| strings_exclude(root.as_ref(), sub.as_ref()))
        || in_maps
        || root.ignore_uri_case != sub.ignore_uri_case
        || (root.port > 0 && sub.port > 0 && root.port != sub.port)
        || (!root.source_namespace.is_empty() && root.source_namespace != sub.source_namespace)
        || labels_differ
        || gateways_differ
}

fn strings_exclude(root: Option<&StringMatch>, sub: Option<&StringMatch>) -> bool {
    let (Some(root), Some(sub)) = (root, sub) else {
        return false;
    };
    match (root, sub) {
        (StringMatch::Present, _) | (_, StringMatch::Present) => false,
        // Whether two expressions overlap is not worth finding out.
        (StringMatch::Regex(_), _) | (_, StringMatch::Regex(_)) => true,
        (StringMatch::Exact(root), StringMatch::Exact(sub)) => root != sub,
        (StringMatch::Exact(_), StringMatch::Prefix(_)) => true,
        (StringMatch::Prefix(root), StringMatch::Prefix(sub) | StringMatch::Exact(sub)) => {
            !sub.starts_with(root.as_str())
        }
    }
}

/// Completes every host and gateway name.
fn resolve(spec: &VirtualService, namespace: &str, suffix: &str) -> VirtualService {
    let mut out = spec.clone();
    let complete = |name: &mut String| {
        *name = host::resolve_short_name(&name.to_lowercase(), namespace, suffix)
    };
    let destination = |destination: &mut Option<Destination>| {
        if let Some(destination) = destination {
            complete(&mut destination.host);
        }
    };
    let gateways = |list: &mut Vec<String>| {
        for name in list {
            *name = gateway_name(name, namespace);
        }
    };
    out.hosts.iter_mut().for_each(complete);
    gateways(&mut out.gateways);
    for route in &mut out.http {
        route
            .r#match
            .iter_mut()
            .for_each(|m| gateways(&mut m.gateways));
        route
            .route
            .iter_mut()
            .for_each(|r| destination(&mut r.destination));
        destination(&mut route.mirror);
        route
            .mirrors
            .iter_mut()
            .for_each(|mirror| destination(&mut mirror.destination));
    }
    for route in &mut out.tcp {
        route
            .r#match
            .iter_mut()
            .for_each(|m| gateways(&mut m.gateways));
        route
            .route
            .iter_mut()
            .for_each(|r| destination(&mut r.destination));
    }
    for route in &mut out.tls {
        route
            .r#match
            .iter_mut()
            .for_each(|m| gateways(&mut m.gateways));
        route
            .route
            .iter_mut()
            .for_each(|r| destination(&mut r.destination));
    }
    out
}

/// `namespace/name`. A name alone is in the namespace of the virtual service; `name.namespace…` is an old way to write it.
fn gateway_name(name: &str, namespace: &str) -> String {
    if name == MESH_GATEWAY {
        return name.to_owned();
    }
    match (name.split_once('/'), name.split_once('.')) {
        (Some((".", gateway)), _) => format!("{namespace}/{gateway}"),
        (Some(_), _) => name.to_owned(),
        (None, Some((gateway, rest))) => {
            format!("{}/{gateway}", rest.split('.').next().unwrap_or_default())
        }
        (None, None) => format!("{namespace}/{name}"),
    }
}
