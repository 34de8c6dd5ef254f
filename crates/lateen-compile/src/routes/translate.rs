//! The HTTP routes of one virtual service for one listener.

use std::collections::{BTreeMap, HashMap};

use lateen_api::networking::{
    ConsistentHashLb, Destination, HttpMatchRequest, HttpRetry, HttpRoute, TrafficPolicy,
};

use crate::filters::{CORS, FAULT};
use crate::meta::Meta;
use crate::names;
use crate::proto::{any, route};
use crate::rules::MergedRule;
use crate::shared::Shared;
use crate::snapshot::{Semantics, VirtualServiceConfig};

use super::actions;
use super::matches::{is_catch_all, route_match};

/// What routes need to know of the service a destination names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct DestinationFacts {
    /// The port, if it has only one.
    pub(crate) only_port: Option<u32>,
    /// For an alias, the name it stands for.
    pub(crate) external_name: Option<String>,
}

/// What a virtual service is translated for.
pub(crate) struct RouteContext<'a> {
    /// The port of the listener.
    pub(crate) port: u32,
    /// `mesh`, or `namespace/name` of the gateway.
    pub(crate) gateway: &'a str,
    /// Whether the listener ends TLS.
    pub(crate) tls: bool,
    /// The labels of the client's workload.
    pub(crate) labels: &'a BTreeMap<String, String>,
    /// The client's namespace.
    pub(crate) namespace: &'a str,
    pub(crate) destinations: &'a BTreeMap<String, DestinationFacts>,
    pub(crate) rules: &'a BTreeMap<String, Shared<MergedRule>>,
    pub(crate) default_retry: Option<&'a HttpRetry>,
    /// Whose rules the virtual service follows.
    pub(crate) semantics: Semantics,
}

impl<'a> RouteContext<'a> {
    /// The cluster a destination means: of the port it names, else the only port of the service, else the listener's.
    pub(super) fn cluster(&self, destination: &Destination) -> String {
        let facts = self.destinations.get(&destination.host);
        cluster_of(destination, facts, self.port)
    }

    /// The consistent hash of a destination: the subset's before the rule's, a port's before the general one.
    pub(super) fn hash(&self, destination: &Destination) -> Option<&'a ConsistentHashLb> {
        consistent_hash(self.rules.get(&destination.host)?, destination)
    }

    fn applies(&self, written: &HttpMatchRequest) -> bool {
        if written.port != 0 && written.port != self.port {
            return false;
        }
        if !written.gateways.is_empty() {
            return written
                .gateways
                .iter()
                .any(|gateway| gateway == self.gateway);
        }
        crate::labels::is_subset(&written.source_labels, self.labels)
            && (written.source_namespace.is_empty() || written.source_namespace == self.namespace)
    }
}

/// The cluster a destination means.
pub(crate) fn cluster_of(
    destination: &Destination,
    facts: Option<&DestinationFacts>,
    listener_port: u32,
) -> String {
    let host = facts
        .and_then(|facts| facts.external_name.as_deref())
        .unwrap_or(&destination.host);
    let port = match &destination.port {
        Some(port) => port.number,
        None => facts
            .and_then(|facts| facts.only_port)
            .unwrap_or(listener_port),
    };
    names::outbound_cluster(&destination.subset, host, port)
}

fn consistent_hash<'a>(
    rule: &'a MergedRule,
    destination: &Destination,
) -> Option<&'a ConsistentHashLb> {
    let port = destination.port.as_ref().map(|port| port.number);
    let of = |policy: Option<&'a TrafficPolicy>| {
        policy.and_then(|policy| policy.load_balancer.as_ref()?.consistent_hash.as_ref())
    };
    let of_port = |policy: Option<&'a TrafficPolicy>| {
        let settings = policy?
            .port_level_settings
            .iter()
            .find(|settings| port.is_some() && settings.port.as_ref().map(|p| p.number) == port)?;
        settings.load_balancer.as_ref()?.consistent_hash.as_ref()
    };
    let general = rule.spec.traffic_policy.as_ref();
    let subset = rule
        .spec
        .subsets
        .iter()
        .find(|subset| subset.name == destination.subset)
        .and_then(|subset| subset.traffic_policy.as_ref());
    of_port(subset)
        .or_else(|| of(subset))
        .or_else(|| of_port(general))
        .or_else(|| of(general))
}

/// The consistent hash of a service's own port.
pub(crate) fn service_hash(rule: &MergedRule, port: u32) -> Option<&ConsistentHashLb> {
    let policy = rule.spec.traffic_policy.as_ref()?;
    let of_port = policy
        .port_level_settings
        .iter()
        .find(|settings| settings.port.as_ref().is_some_and(|p| p.number == port))
        .and_then(|settings| settings.load_balancer.as_ref()?.consistent_hash.as_ref());
    of_port.or_else(|| policy.load_balancer.as_ref()?.consistent_hash.as_ref())
}

/// The routes of a virtual service, in order, up to the first that takes everything.
pub(crate) fn routes(
    config: &VirtualServiceConfig,
    context: &RouteContext<'_>,
) -> Vec<route::Route> {
    let context = &RouteContext {
        semantics: config.semantics,
        ..*context
    };
    let mut out: Vec<route::Route> = Vec::new();
    for (index, written) in config.spec.http.iter().enumerate() {
        if written.r#match.is_empty() {
            out.extend(one(config, index, written, None, context));
            return out;
        }
        for position in 0..written.r#match.len() {
            let Some(built) = one(config, index, written, Some(position), context) else {
                continue;
            };
            let last = is_catch_all(&built);
            out.push(built);
            if last {
                return out;
            }
        }
    }
    out
}

fn one(
    config: &VirtualServiceConfig,
    index: usize,
    written: &HttpRoute,
    position: Option<usize>,
    context: &RouteContext<'_>,
) -> Option<route::Route> {
    let m = position.and_then(|position| written.r#match.get(position));
    if m.is_some_and(|m| !context.applies(m)) {
        return None;
    }
    let changes = actions::header_changes(written.headers.as_ref());
    let mut out = route::Route {
        name: name(written, m),
        r#match: Some(route_match(m, context.semantics)),
        metadata: metadata(config, index, position).build(),
        stat_prefix: m.map_or_else(String::new, |m| m.stat_prefix.clone()),
        request_headers_to_add: changes.request_add,
        request_headers_to_remove: changes.request_remove,
        response_headers_to_add: changes.response_add,
        response_headers_to_remove: changes.response_remove,
        ..Default::default()
    };
    if let Some(redirect) = &written.redirect {
        let action = actions::redirect(redirect, context.port, context.tls)?;
        out.action = Some(route::route::Action::Redirect(action));
    } else if let Some(response) = &written.direct_response {
        let action = actions::direct_response(response);
        out.action = Some(route::route::Action::DirectResponse(action));
    } else {
        actions::destinations(&mut out, written, changes.authority, context);
    }
    out.decorator = Some(route::Decorator {
        operation: operation(&out, &config.object.name, context.port),
        ..Default::default()
    });
    out.typed_per_filter_config = per_filter_config(written);
    Some(out)
}

fn name(written: &HttpRoute, m: Option<&HttpMatchRequest>) -> String {
    match m.map_or("", |m| m.name.as_str()) {
        "" => written.name.clone(),
        name => format!("{}.{name}", written.name),
    }
}

fn metadata(config: &VirtualServiceConfig, index: usize, position: Option<usize>) -> Meta {
    let meta = Meta::default().config(&config.object, &format!("spec.http[{index}]"));
    match config.http_sources.get(index) {
        None => meta,
        Some(source) => {
            // Where a delegate decided, it is named; the root stays in Istio's own field, as in Istio.
            let (object, path) = source.of_match(position);
            meta.provenance(object, path)
        }
    }
}

fn per_filter_config(
    written: &HttpRoute,
) -> HashMap<String, lateen_envoy::pb::google::protobuf::Any> {
    let mut out = HashMap::new();
    if let Some(fault) = written.fault.as_ref().and_then(actions::fault) {
        out.insert(FAULT.to_owned(), any(&fault));
    }
    if let Some(cors) = &written.cors_policy {
        out.insert(CORS.to_owned(), any(&actions::cors(cors)));
    }
    out
}

/// The name of a request's span: the destination, or the virtual service, with the path as matched.
fn operation(built: &route::Route, name: &str, port: u32) -> String {
    use route::route_match::PathSpecifier;
    let path = match built
        .r#match
        .as_ref()
        .and_then(|m| m.path_specifier.as_ref())
    {
        Some(PathSpecifier::Prefix(prefix)) => format!("{prefix}*"),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => format!("{prefix}*"),
        Some(PathSpecifier::Path(path)) => path.clone(),
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex.clone(),
        _ => "/*".to_owned(),
    };
    if let Some(route::route::Action::Route(action)) = &built.action
        && let Some(route::route_action::ClusterSpecifier::Cluster(cluster)) =
            &action.cluster_specifier
        && let Some(parsed) = names::parse_outbound(cluster)
    {
        return format!("{}:{}{path}", parsed.host, parsed.port);
    }
    format!("{name}:{port}{path}")
}

/// The labels that any virtual service looks at, so that other labels of a workload do not make its routes another input.
pub(crate) fn relevant_labels<'a>(
    configs: impl Iterator<Item = &'a Shared<VirtualServiceConfig>>,
    labels: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for config in configs {
        let http = config.spec.http.iter().flat_map(|route| &route.r#match);
        let tcp = config.spec.tcp.iter().flat_map(|route| &route.r#match);
        let tls = config.spec.tls.iter().flat_map(|route| &route.r#match);
        let keys = http
            .flat_map(|m| m.source_labels.keys())
            .chain(tcp.flat_map(|m| m.source_labels.keys()))
            .chain(tls.flat_map(|m| m.source_labels.keys()));
        for key in keys {
            if let Some(value) = labels.get(key) {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    out
}
