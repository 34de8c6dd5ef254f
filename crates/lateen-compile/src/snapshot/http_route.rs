//! The Gateway API's HTTPRoute for services: a virtual service of the mesh for each service that routes of a namespace name.
//!
//! Routes for the Gateway API's Gateways are not served, and that is said. Source: the Gateway API's GEP-1426, and Istio,
//! `pilot/pkg/config/kube/gateway`.

mod rule;

use std::collections::BTreeMap;

use lateen_api::kube::{HttpRouteSpec, ParentReference};
use lateen_api::networking::{HttpMatchRequest, HttpRoute, VirtualService};
use lateen_api::value::StringMatch;
use lateen_api::{Diagnostic, Resource, kube};

use crate::diagnostics::{ROUTE_PARENT, on_resource};
use crate::model::Visibility;
use crate::names::{MESH_GATEWAY, ObjectRef};

use super::derived::{Aged, Derived};
use super::virtual_services::{RouteSource, Semantics};
use super::{Inputs, VirtualServiceConfig, reference, sorted};

/// The API groups that parents and backends are of.
const ISTIO_GROUP: &str = "networking.istio.io";

/// Routes with where they came from.
type Routes = Vec<(HttpRoute, RouteSource)>;

/// The routes of one namespace for one host.
#[derive(Default)]
struct ForHost {
    since: String,
    routes: Routes,
}

/// A virtual service for each namespace and host that routes are for. The oldest route comes first, and of all rules the most
/// specific.
pub(super) fn derive(inputs: &Inputs) -> Derived {
    let mut out = Derived::default();
    let mut hosts: BTreeMap<(String, String), ForHost> = BTreeMap::new();
    for (resource, route) in sorted::<kube::HttpRoute>(&inputs.resources) {
        add(
            inputs,
            resource,
            &route.spec,
            &mut hosts,
            &mut out.diagnostics,
        );
    }
    for ((namespace, host), mut found) in hosts {
        found.routes.sort_by_key(|(route, _)| specificity(route));
        let (http, http_sources) = found.routes.into_iter().unzip();
        let name = format!("{namespace}~{host}");
        let item = VirtualServiceConfig {
            object: ObjectRef::new("VirtualService", &namespace, &name),
            spec: VirtualService {
                hosts: vec![host],
                gateways: vec![MESH_GATEWAY.to_owned()],
                http,
                ..VirtualService::default()
            },
            gateways: vec![MESH_GATEWAY.to_owned()],
            visibility: Visibility::Public,
            semantics: Semantics::Gateway,
            from_tls_route: false,
            http_sources,
        };
        out.virtual_services.push(Aged {
            since: found.since,
            item,
        });
    }
    out
}

fn add(
    inputs: &Inputs,
    resource: &Resource,
    spec: &HttpRouteSpec,
    hosts: &mut BTreeMap<(String, String), ForHost>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut routes: Option<Routes> = None;
    for (index, parent) in spec.parent_refs.iter().enumerate() {
        let Some(host) = parent_host(inputs, resource, parent) else {
            diagnostics.push(not_served(resource, parent, index));
            continue;
        };
        let built = routes.get_or_insert_with(|| rules(inputs, resource, spec, diagnostics));
        let mut built = built.clone();
        if let Some(port) = parent.port {
            limit_to_port(&mut built, u32::from(port));
        }
        let key = (resource.namespace().to_owned(), host);
        let entry = hosts.entry(key).or_insert_with(|| ForHost {
            since: resource.meta.creation_timestamp.clone(),
            routes: Vec::new(),
        });
        entry.routes.extend(built);
    }
}

fn not_served(resource: &Resource, parent: &ParentReference, index: usize) -> Diagnostic {
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let message = format!("routes of a {kind} (`{}`) are not served", parent.name);
    let field = format!("spec.parentRefs[{index}]");
    on_resource(ROUTE_PARENT, resource, &field, message)
        .effect("the route does nothing there")
        .fix("attach it to a Service, or write a Gateway and a VirtualService of networking.istio.io/v1")
}

/// The host that a parent stands for, if it is one of the mesh.
fn parent_host(inputs: &Inputs, resource: &Resource, parent: &ParentReference) -> Option<String> {
    let namespace = match parent.namespace.as_str() {
        "" => resource.namespace(),
        namespace => namespace,
    };
    match (parent.group.as_deref(), parent.kind.as_deref()) {
        (Some(""), Some("Service")) => {
            let suffix = &inputs.settings.domain_suffix;
            Some(format!("{}.{namespace}.svc.{suffix}", parent.name))
        }
        (Some(ISTIO_GROUP), Some("ServiceEntry")) => {
            sorted::<lateen_api::networking::ServiceEntry>(&inputs.resources)
                .into_iter()
                .find(|(entry, _)| entry.namespace() == namespace && entry.name() == parent.name)
                .and_then(|(_, entry)| Some(entry.hosts.first()?.to_lowercase()))
        }
        (Some(ISTIO_GROUP), Some("Hostname")) => Some(parent.name.to_lowercase()),
        _ => None,
    }
}

/// Every rule, once for each of its matches, so that they can be ordered one by one.
fn rules(
    inputs: &Inputs,
    resource: &Resource,
    spec: &HttpRouteSpec,
    diagnostics: &mut Vec<Diagnostic>,
) -> Routes {
    let mut out = Routes::new();
    for (index, written) in spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        let converted = rule::convert(inputs, resource, written, index);
        for problem in converted.problems {
            let field = format!("{path}.{}", problem.field);
            diagnostics.push(
                on_resource(ROUTE_PARENT, resource, &field, problem.message).effect(problem.effect),
            );
        }
        let Some(route) = converted.route else {
            continue;
        };
        let object = reference(resource);
        if written.matches.is_empty() {
            let source = RouteSource {
                object: object.clone(),
                path: path.clone(),
                matches: vec![(object, path)],
            };
            let all = HttpMatchRequest {
                uri: Some(StringMatch::Prefix("/".to_owned())),
                ..HttpMatchRequest::default()
            };
            out.push((with_match(&route, all), source));
            continue;
        }
        for (position, one) in written.matches.iter().enumerate() {
            let field = format!("{path}.matches[{position}]");
            let source = RouteSource {
                object: object.clone(),
                path: path.clone(),
                matches: vec![(object.clone(), field)],
            };
            out.push((with_match(&route, rule::request(one)), source));
        }
    }
    out
}

fn with_match(route: &HttpRoute, one: HttpMatchRequest) -> HttpRoute {
    HttpRoute {
        r#match: vec![one],
        ..route.clone()
    }
}

fn limit_to_port(routes: &mut Routes, port: u32) {
    for (route, _) in routes {
        for one in &mut route.r#match {
            one.port = port;
        }
    }
}

/// The Gateway API's order: exact paths, then the longest prefix, then expressions; a method; more headers; more query
/// parameters. What compares equal keeps its order.
fn specificity(route: &HttpRoute) -> impl Ord + use<> {
    use std::cmp::Reverse;
    let Some(one) = route.r#match.first() else {
        return Reverse((0, 0, false, 0, 0));
    };
    let (rank, length) = match &one.uri {
        Some(StringMatch::Exact(path)) => (3, path.len()),
        Some(StringMatch::Prefix(path)) => (2, path.len()),
        Some(StringMatch::Regex(path)) => (1, path.len()),
        Some(StringMatch::Present) | None => (0, 0),
    };
    Reverse((
        rank,
        length,
        one.method.is_some(),
        one.headers.len(),
        one.query_params.len(),
    ))
}

#[cfg(test)]
mod tests;
