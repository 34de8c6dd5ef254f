//! Route configurations, virtual hosts, routes and their conditions.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use lateen_envoy::pb::envoy::config::route::v3 as rds;
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::alike::{Alike, Told};
use super::basic::{flag, metadata, non_empty, number, runtime_fraction, texts};
use super::error::Within as _;
use super::{XdsError, headers, matchers, overrides, rate_limit, rbac, retry, route_action};
use crate::provenance::{LATEEN_NAMESPACE, Provenance};
use crate::route::{
    Domain, HostIndex, PathMatch, RequireTls, Route, RouteAction, RouteConfig, RouteMatch,
    RouteTable, TlsContextMatch, VirtualHost, VirtualHosts,
};
use crate::value::{Metadata, Value};

/// Bytes of a direct response, at most, unless set otherwise. Source: Envoy.
const DEFAULT_DIRECT_RESPONSE_BYTES: u32 = 4096;

/// Compiles a route configuration that is at hand as a whole.
pub(super) fn compile(mut from: rds::RouteConfiguration) -> Result<RouteConfig, XdsError> {
    let hosts = std::mem::take(&mut from.virtual_hosts);
    let max_body = max_direct_response_bytes(&from);
    let check = |(index, host): (usize, &rds::VirtualHost)| CheckedHost::of(host, index, max_body);
    let checked = hosts.iter().enumerate().map(check).collect();
    let encoded = hosts.iter().map(|host| host.encode_to_vec().into());
    let encoded = encoded.collect();
    SplitRoutes {
        frame: from,
        hosts: encoded,
    }
    .finish(checked)
}

/// A route configuration whose virtual hosts are still as they came: each is read, checked and let go by itself, so that a large one is never
/// in memory as a whole, and several threads can share in it.
#[derive(Debug)]
pub(crate) struct SplitRoutes {
    /// All but the virtual hosts.
    frame: rds::RouteConfiguration,
    hosts: Vec<Bytes>,
}

/// A virtual host that was looked at.
#[derive(Debug)]
pub(crate) struct CheckedHost {
    /// Its domains; up to the first that is none.
    domains: Vec<Domain>,
    /// What it comes to if that is to be kept, or what is wrong with it.
    compiled: Result<Option<Box<VirtualHost>>, XdsError>,
}

impl CheckedHost {
    fn read(encoded: &[u8], index: usize, max_body: u32, alike: &mut Alike<()>) -> Self {
        let mut domains = Vec::new();
        let mut tell = |_: Told, text: &str| {
            let domain = Domain::parse(text);
            domain.map(|domain| domains.push(domain)).is_some()
        };
        let compiles = alike.find(encoded, max_body, &mut tell).is_some();
        if compiles && !VirtualHosts::keeps(index) {
            debug_assert!(
                rds::VirtualHost::decode(encoded)
                    .is_ok_and(|host| virtual_host(&host, max_body).is_ok())
            );
            let compiled = Ok(None);
            return Self { domains, compiled };
        }
        let checked = match rds::VirtualHost::decode(encoded) {
            Ok(host) => Self::of(&host, index, max_body),
            Err(error) => Self {
                domains: Vec::new(),
                compiled: Err(XdsError::from_error(&error)),
            },
        };
        if checked.compiled.is_ok() {
            alike.learn(());
        }
        checked
    }

    fn of(from: &rds::VirtualHost, index: usize, max_body: u32) -> Self {
        let parsed = from.domains.iter().map_while(|text| Domain::parse(text));
        let domains: Vec<Domain> = parsed.collect();
        let compiled = match from.domains.get(domains.len()) {
            Some(text) => {
                Err(XdsError::new(format!("{text:?} is no domain"))).at("domains", domains.len())
            }
            None => virtual_host(from, max_body)
                .map(|host| VirtualHosts::keeps(index).then(|| Box::new(host))),
        };
        Self { domains, compiled }
    }
}

impl SplitRoutes {
    /// Of a message; `None` if it cannot be read.
    pub(super) fn new(encoded: &Bytes) -> Option<Self> {
        /// `RouteConfiguration.virtual_hosts`.
        const FIELD: u32 = 2;
        let mut rest = encoded.clone();
        let (mut frame, mut hosts) = (Vec::new(), Vec::new());
        while rest.has_remaining() {
            let begin = encoded.len() - rest.remaining();
            let (field, wire) = decode_key(&mut rest).ok()?;
            if (field, wire) == (FIELD, WireType::LengthDelimited) {
                let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                if length > rest.remaining() {
                    return None;
                }
                hosts.push(rest.split_to(length));
            } else {
                skip_field(wire, field, &mut rest, DecodeContext::default()).ok()?;
                frame.extend_from_slice(&encoded[begin..encoded.len() - rest.remaining()]);
            }
        }
        let frame = rds::RouteConfiguration::decode(frame.as_slice()).ok()?;
        Some(Self { frame, hosts })
    }

    /// How many virtual hosts there are.
    pub(crate) fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Looks at some of the virtual hosts, of which those that are like one that compiled are not compiled.
    pub(crate) fn check(&self, some: Range<usize>, alike: &mut Alike<()>) -> Vec<CheckedHost> {
        let max_body = max_direct_response_bytes(&self.frame);
        let hosts = some.filter_map(|index| Some((index, self.hosts.get(index)?)));
        hosts
            .map(|(index, encoded)| CheckedHost::read(encoded, index, max_body, alike))
            .collect()
    }

    /// The route configuration, all of whose virtual hosts were looked at.
    pub(crate) fn finish(&self, checked: Vec<CheckedHost>) -> Result<RouteConfig, XdsError> {
        let from = &self.frame;
        refuse_unsupported(from)?;
        let max_body = max_direct_response_bytes(from);
        let mut vhosts = VirtualHosts::with_capacity(max_body, checked.len());
        let mut hosts = HostIndex::with_capacity(checked.iter().map(|one| one.domains.len()).sum());
        for (index, (host, encoded)) in checked.into_iter().zip(&self.hosts).enumerate() {
            for (position, domain) in host.domains.into_iter().enumerate() {
                hosts
                    .insert(domain, index)
                    .map_err(|other| self.taken(index, position, other))
                    .at("domains", position)
                    .at("virtual_hosts", index)?;
            }
            let compiled = host.compiled.at("virtual_hosts", index)?;
            vhosts.push(encoded.clone(), compiled);
        }
        frame(from, vhosts, hosts)
    }

    fn taken(&self, index: usize, position: usize, other: usize) -> XdsError {
        let host = |index: usize| rds::VirtualHost::decode(self.hosts.get(index)?.as_ref()).ok();
        let text = host(index).and_then(|mut host| {
            (position < host.domains.len()).then(|| host.domains.swap_remove(position))
        });
        let (text, name) = (text.unwrap_or_default(), host(other).map(|host| host.name));
        let name = name.unwrap_or_default();
        XdsError::new(format!(
            "the domain {text:?} is already that of virtual host {name:?}"
        ))
    }
}

fn max_direct_response_bytes(from: &rds::RouteConfiguration) -> u32 {
    number(from.max_direct_response_body_size_bytes.as_ref())
        .unwrap_or(DEFAULT_DIRECT_RESPONSE_BYTES)
}

fn frame(
    from: &rds::RouteConfiguration,
    vhosts: VirtualHosts,
    hosts: HostIndex,
) -> Result<RouteConfig, XdsError> {
    let metadata = metadata(from.metadata.as_ref());
    let internal = from
        .internal_only_headers
        .iter()
        .map(|name| headers::name(name));
    Ok(RouteConfig {
        name: from.name.as_str().into(),
        vhosts,
        hosts,
        ignore_port: from.ignore_port_in_host_matching,
        vhost_header: headers::optional_name(&from.vhost_header, "vhost_header")?,
        internal_only_headers: internal
            .collect::<Result<_, _>>()
            .within("internal_only_headers")?,
        request_headers: headers::mutations(
            &from.request_headers_to_add,
            &from.request_headers_to_remove,
            "request_headers",
        )?,
        response_headers: headers::mutations(
            &from.response_headers_to_add,
            &from.response_headers_to_remove,
            "response_headers",
        )?,
        most_specific_wins: from.most_specific_header_mutations_wins,
        mirrors: route_action::mirrors(&from.request_mirror_policies)?,
        per_filter: overrides::per_filter(&from.typed_per_filter_config)?,
        max_direct_response_bytes: max_direct_response_bytes(from),
        provenance: Provenance::from_metadata(&metadata),
        metadata,
    })
}

/// Compiles a virtual host again that compiled before.
pub(super) fn known_virtual_host(encoded: &[u8], max_body: u32) -> VirtualHost {
    let message = rds::VirtualHost::decode(encoded).ok();
    let compiled = message.and_then(|from| virtual_host(&from, max_body).ok());
    compiled.expect("this message, or one like it, compiled when it came")
}

fn refuse_unsupported(from: &rds::RouteConfiguration) -> Result<(), XdsError> {
    let unsupported = [
        (from.vhds.is_some(), "vhds"),
        (
            !from.cluster_specifier_plugins.is_empty(),
            "cluster_specifier_plugins",
        ),
        (
            from.ignore_path_parameters_in_path_matching,
            "ignore_path_parameters_in_path_matching",
        ),
        (!from.route_specifiers.is_empty(), "route_specifiers"),
    ];
    match unsupported.into_iter().find(|(set, _)| *set) {
        Some((_, field)) => Err(XdsError::new("is not supported").within(field)),
        None => Ok(()),
    }
}

fn virtual_host(from: &rds::VirtualHost, max_body: u32) -> Result<VirtualHost, XdsError> {
    if from.matcher.is_some() {
        return Err(XdsError::new("matcher trees are not supported; use routes").within("matcher"));
    }
    if from.retry_policy_typed_config.is_some() {
        return Err(XdsError::new("is not supported").within("retry_policy_typed_config"));
    }
    let routes = from
        .routes
        .iter()
        .enumerate()
        .map(|(index, from)| route(from, max_body).map(Arc::new).at("routes", index));
    let routes: Vec<Arc<Route>> = routes.collect::<Result<_, _>>()?;
    let metadata = metadata(from.metadata.as_ref());
    #[expect(
        deprecated,
        reason = "Istio still writes CORS policies into virtual hosts"
    )]
    let cors = from
        .cors
        .as_ref()
        .map(route_action::cors)
        .transpose()
        .within("cors")?;
    Ok(VirtualHost {
        name: from.name.as_str().into(),
        domains: texts(&from.domains),
        table: RouteTable::new(&routes),
        routes,
        require_tls: match from.require_tls() {
            rds::virtual_host::TlsRequirementType::None => RequireTls::None,
            rds::virtual_host::TlsRequirementType::ExternalOnly => RequireTls::ExternalOnly,
            rds::virtual_host::TlsRequirementType::All => RequireTls::All,
        },
        request_headers: headers::mutations(
            &from.request_headers_to_add,
            &from.request_headers_to_remove,
            "request_headers",
        )?,
        response_headers: headers::mutations(
            &from.response_headers_to_add,
            &from.response_headers_to_remove,
            "response_headers",
        )?,
        retry: from
            .retry_policy
            .as_ref()
            .map(retry::compile)
            .transpose()
            .within("retry_policy")?
            .map(Arc::new),
        cors: cors.map(Arc::new),
        mirrors: route_action::mirrors(&from.request_mirror_policies)?,
        include_request_attempt_count: from.include_request_attempt_count,
        include_response_attempt_count: from.include_attempt_count_in_response,
        rate_limits: rate_limit::rules(&from.rate_limits)?,
        retry_buffer_limit: from
            .request_body_buffer_limit
            .as_ref()
            .map(|limit| limit.value),
        per_filter: overrides::per_filter(&from.typed_per_filter_config)?,
        provenance: Provenance::from_metadata(&metadata),
        metadata,
    })
}

fn route(from: &rds::Route, max_body: u32) -> Result<Route, XdsError> {
    let conditions = from
        .r#match
        .as_ref()
        .ok_or_else(|| XdsError::new("the match is missing").within("match"))?;
    let metadata = metadata(from.metadata.as_ref());
    let mut action = action(from, conditions, max_body)?;
    if let RouteAction::Forward(forward) = &mut action {
        mark_default_retries(forward, &metadata);
    }
    Ok(Route {
        name: from.name.as_str().into(),
        matcher: route_match(conditions).within("match")?,
        action,
        decorator: from
            .decorator
            .as_ref()
            .and_then(|decorator| non_empty(&decorator.operation)),
        request_headers: headers::mutations(
            &from.request_headers_to_add,
            &from.request_headers_to_remove,
            "request_headers",
        )?,
        response_headers: headers::mutations(
            &from.response_headers_to_add,
            &from.response_headers_to_remove,
            "response_headers",
        )?,
        per_filter: overrides::per_filter(&from.typed_per_filter_config)?,
        stat_prefix: non_empty(&from.stat_prefix),
        rate_limits: match from.action.as_ref() {
            Some(rds::route::Action::Route(forward)) => {
                rate_limit::rules(&forward.rate_limits).within("route")?
            }
            _ => Vec::new(),
        },
        retry_buffer_limit: from
            .request_body_buffer_limit
            .as_ref()
            .map(|limit| limit.value),
        provenance: Provenance::from_metadata(&metadata),
        metadata,
    })
}

fn action(
    from: &rds::Route,
    conditions: &rds::RouteMatch,
    max_body: u32,
) -> Result<RouteAction, XdsError> {
    use rds::route::Action;
    match from.action.as_ref() {
        Some(Action::Route(forward)) => Ok(RouteAction::Forward(Box::new(
            route_action::forward(forward, conditions).within("route")?,
        ))),
        Some(Action::Redirect(redirect)) => Ok(RouteAction::Redirect(Box::new(
            route_action::redirect(redirect).within("redirect")?,
        ))),
        Some(Action::DirectResponse(direct)) => route_action::direct_response(direct, max_body)
            .within("direct_response")
            .map(RouteAction::DirectResponse),
        Some(Action::NonForwardingAction(_)) => Ok(RouteAction::NonForwarding),
        Some(Action::FilterAction(_)) => {
            Err(XdsError::new("is not supported").within("filter_action"))
        }
        None => Err(XdsError::new("the route does nothing")),
    }
}

/// Lateen's control plane says which retry policies are the mesh's default rather than the user's
/// (`filter_metadata["lateen"]["retries"] = "default"`); those repeat only what is safe to repeat.
fn mark_default_retries(forward: &mut crate::route::Forward, metadata: &Metadata) {
    let is_default = metadata
        .get(LATEEN_NAMESPACE, &["retries"])
        .and_then(Value::as_str)
        == Some("default");
    if let (true, Some(policy)) = (is_default, &mut forward.retry) {
        Arc::make_mut(policy).is_mesh_default = true;
    }
}

/// Compiles the conditions of a route, or of a rule that is written like one.
pub(super) fn route_match(from: &rds::RouteMatch) -> Result<RouteMatch, XdsError> {
    if !from.cookies.is_empty() {
        return Err(XdsError::new("is not supported; match the header `cookie`").within("cookies"));
    }
    if !from.filter_state.is_empty() {
        return Err(XdsError::new("is not supported").within("filter_state"));
    }
    let query = from.query_parameters.iter().enumerate();
    let query =
        query.map(|(index, matcher)| matchers::query(matcher).at("query_parameters", index));
    let dynamic = from.dynamic_metadata.iter().enumerate();
    let dynamic =
        dynamic.map(|(index, matcher)| matchers::metadata(matcher).at("dynamic_metadata", index));
    Ok(RouteMatch {
        path: path_match(from)?,
        headers: matchers::headers(&from.headers, "headers")?,
        query: query.collect::<Result<_, _>>()?,
        grpc: from.grpc.is_some(),
        tls: from.tls_context.as_ref().map(|context| TlsContextMatch {
            presented: context.presented.as_ref().map(|value| value.value),
            validated: context.validated.as_ref().map(|value| value.value),
        }),
        dynamic_metadata: dynamic.collect::<Result<_, _>>()?,
        fraction: from
            .runtime_fraction
            .as_ref()
            .map(runtime_fraction)
            .transpose()
            .within("runtime_fraction")?,
    })
}

fn path_match(from: &rds::RouteMatch) -> Result<PathMatch, XdsError> {
    use rds::route_match::PathSpecifier;
    let ignore_case = !flag(from.case_sensitive.as_ref(), true);
    let missing = || XdsError::new("the path condition is missing").within("path_specifier");
    Ok(match from.path_specifier.as_ref().ok_or_else(missing)? {
        PathSpecifier::Prefix(prefix) => PathMatch::Prefix {
            prefix: prefix.as_str().into(),
            ignore_case,
        },
        PathSpecifier::Path(path) => PathMatch::Exact {
            path: path.as_str().into(),
            ignore_case,
        },
        PathSpecifier::SafeRegex(regex) => {
            PathMatch::Regex(matchers::regex(regex).within("safe_regex")?)
        }
        PathSpecifier::ConnectMatcher(_) => PathMatch::Connect,
        PathSpecifier::PathSeparatedPrefix(prefix) => segment_prefix(prefix, ignore_case)?,
        PathSpecifier::PathMatchPolicy(policy) => {
            PathMatch::Template(rbac::template(policy).within("path_match_policy")?)
        }
    })
}

/// Source: Envoy, `RouteMatch.path_separated_prefix`: no query, no fragment, no slash at the end.
fn segment_prefix(prefix: &str, ignore_case: bool) -> Result<PathMatch, XdsError> {
    let valid = prefix.starts_with('/')
        && prefix.len() > 1
        && !prefix.ends_with('/')
        && !prefix.contains(['?', '#']);
    if !valid {
        return Err(
            XdsError::new(format!("{prefix:?} is no prefix of segments"))
                .within("path_separated_prefix"),
        );
    }
    Ok(PathMatch::SegmentPrefix {
        prefix: prefix.into(),
        ignore_case,
    })
}
