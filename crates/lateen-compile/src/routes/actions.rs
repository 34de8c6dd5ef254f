//! What a virtual service does with a request: destinations, retries, rewrites, faults.

use std::collections::BTreeMap;

use lateen_api::networking::{
    ConsistentHashLb, CorsPolicy, Destination, FaultAbort, FaultDelay, HeaderOperations, Headers,
    HttpDirectResponse, HttpFaultInjection, HttpRedirect, HttpRetry, HttpRoute,
    HttpRouteDestination, Percent, RedirectPortSelection, UnmatchedPreflights,
};

use crate::proto::{
    any, bool_value, core, duration, envoy_type, exact, extensions, inline_string, matcher, re2,
    route, runtime_percent, u32_value,
};

use crate::meta::{LATEEN, string};
use crate::snapshot::Semantics;

use super::matches::string_matcher;
use super::translate::RouteContext;
use route::route_action::{ClusterSpecifier, HostRewriteSpecifier};

/// Istio's default: twice, where nothing can have reached the server or the server said it did nothing.
const RETRY_ON: &str =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
/// Inbound: only where the workload has not seen the request at all.
const INBOUND_RETRY_ON: &str = "reset-before-request";

/// How a request is tried again. None: not at all.
pub(super) fn retry_policy(
    written: Option<&HttpRetry>,
    consistent_hash: bool,
) -> Option<route::RetryPolicy> {
    let mut out = route::RetryPolicy {
        num_retries: u32_value(2),
        retry_on: RETRY_ON.to_owned(),
        host_selection_retry_max_attempts: 5,
        // With consistent hashing another host would be the wrong one.
        retry_host_predicate: if consistent_hash {
            Vec::new()
        } else {
            vec![previous_hosts()]
        },
        ..Default::default()
    };
    let Some(written) = written else {
        return Some(out);
    };
    out.num_retries = u32_value(u32::try_from(written.attempts).ok().filter(|n| *n > 0)?);
    if !written.retry_on.is_empty() {
        (out.retry_on, out.retriable_status_codes) = parse_retry_on(&written.retry_on);
    }
    out.per_try_timeout = written.per_try_timeout.map(duration);
    match written.retry_ignore_previous_hosts {
        Some(true) => out.retry_host_predicate = vec![previous_hosts()],
        Some(false) => out.retry_host_predicate.clear(),
        None => {}
    }
    if written.retry_remote_localities == Some(true) {
        out.retry_priority = Some(previous_priorities());
    }
    out.retry_back_off = written
        .backoff
        .map(|backoff| route::retry_policy::RetryBackOff {
            base_interval: Some(duration(backoff)),
            ..Default::default()
        });
    Some(out)
}

/// Says that nobody asked for the retries of a route: our own proxy then repeats, for methods that are not idempotent, only what
/// the server certainly did not act upon.
pub(super) fn mark_default_retries(out: &mut route::Route) {
    let lateen = out
        .metadata
        .get_or_insert_default()
        .filter_metadata
        .entry(LATEEN.to_owned())
        .or_default();
    lateen
        .fields
        .insert("retries".to_owned(), string("default"));
}

/// How a sidecar tries its own workload again.
pub(super) fn inbound_retry_policy() -> route::RetryPolicy {
    route::RetryPolicy {
        num_retries: u32_value(2),
        retry_on: INBOUND_RETRY_ON.to_owned(),
        ..Default::default()
    }
}

fn previous_hosts() -> route::retry_policy::RetryHostPredicate {
    route::retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(
            route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(
                &extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate {},
            )),
        ),
    }
}

fn previous_priorities() -> route::retry_policy::RetryPriority {
    use extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
    route::retry_policy::RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(
            route::retry_policy::retry_priority::ConfigType::TypedConfig(any(
                &PreviousPrioritiesConfig {
                    update_frequency: 2,
                },
            )),
        ),
    }
}

/// Status codes among the conditions become a list of their own, and the condition that refers to the list.
fn parse_retry_on(text: &str) -> (String, Vec<u32>) {
    let mut conditions = Vec::new();
    let mut codes = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        match part.parse::<u32>() {
            Ok(code) if (100..600).contains(&code) => codes.push(code),
            _ => conditions.push(part),
        }
    }
    if !codes.is_empty() && !conditions.contains(&"retriable-status-codes") {
        conditions.push("retriable-status-codes");
    }
    (conditions.join(","), codes)
}

/// Header changes, and the authority if they set it.
#[derive(Default)]
pub(super) struct HeaderChanges {
    pub(super) request_add: Vec<core::HeaderValueOption>,
    pub(super) request_remove: Vec<String>,
    pub(super) response_add: Vec<core::HeaderValueOption>,
    pub(super) response_remove: Vec<String>,
    pub(super) authority: Option<String>,
}

pub(super) fn header_changes(headers: Option<&Headers>) -> HeaderChanges {
    let Some(headers) = headers else {
        return HeaderChanges::default();
    };
    let mut out = HeaderChanges::default();
    if let Some(request) = &headers.request {
        out.request_add = additions(request);
        out.request_remove = removals(request);
        out.authority = authority(&request.set).or_else(|| authority(&request.add));
    }
    if let Some(response) = &headers.response {
        out.response_add = additions(response);
        out.response_remove = removals(response);
    }
    out
}

/// Pseudo-headers and `host` cannot be changed as headers.
fn is_internal(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

fn authority(headers: &BTreeMap<String, String>) -> Option<String> {
    headers
        .iter()
        .find(|(name, _)| {
            name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
        })
        .map(|(_, value)| value.clone())
}

fn additions(operations: &HeaderOperations) -> Vec<core::HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction;
    let option = |action: HeaderAppendAction| {
        move |(name, value): (&String, &String)| core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: name.clone(),
                value: value.clone(),
                ..Default::default()
            }),
            append_action: action as i32,
            ..Default::default()
        }
    };
    let visible = |(name, _): &(&String, &String)| !is_internal(name);
    let set = operations.set.iter().filter(visible);
    let add = operations.add.iter().filter(visible);
    set.map(option(HeaderAppendAction::OverwriteIfExistsOrAdd))
        .chain(add.map(option(HeaderAppendAction::AppendIfExistsOrAdd)))
        .collect()
}

fn removals(operations: &HeaderOperations) -> Vec<String> {
    operations
        .remove
        .iter()
        .filter(|name| !is_internal(name))
        .cloned()
        .collect()
}

/// The action of a route to destinations. `route` gets what Envoy keeps beside the action.
pub(super) fn destinations(
    out: &mut route::Route,
    written: &HttpRoute,
    authority: Option<String>,
    context: &RouteContext<'_>,
) {
    let timeout = duration(written.timeout.unwrap_or_default());
    let mut action = route::RouteAction {
        // Without a timeout of its own a route has none, nor limits what gRPC clients ask for.
        timeout: Some(timeout),
        ..Default::default()
    };
    set_max_grpc_timeout(&mut action, timeout);
    if context.semantics == Semantics::Gateway {
        use route::route_action::ClusterNotFoundResponseCode as Missing;
        action.cluster_not_found_response_code = Missing::InternalServerError as i32;
    }
    let mut authority = authority;
    if let Some(rewrite) = &written.rewrite {
        if let Some(regex) = &rewrite.uri_regex_rewrite {
            action.regex_rewrite = Some(matcher::RegexMatchAndSubstitute {
                pattern: Some(re2(&regex.r#match)),
                substitution: regex.rewrite.clone(),
            });
        } else if rewrite.uri == "/" && context.semantics == Semantics::Gateway {
            action.regex_rewrite = Some(without_prefix(out.r#match.as_ref()));
        } else if !rewrite.uri.is_empty() {
            action.prefix_rewrite.clone_from(&rewrite.uri);
        }
        if !rewrite.authority.is_empty() {
            authority = Some(rewrite.authority.clone());
        }
    }
    action.host_rewrite_specifier = authority.map(HostRewriteSpecifier::HostRewriteLiteral);
    action.request_mirror_policies = mirrors(written, context);
    let retries = written.retries.as_ref().or(context.default_retry);
    if retries.is_none() {
        mark_default_retries(out);
    }
    match written.route.as_slice() {
        [only] => {
            let hashed = single(out, &mut action, only, context);
            action.retry_policy = retry_policy(retries, hashed);
        }
        several => {
            weighted(&mut action, several, context);
            action.retry_policy = retry_policy(retries, false);
        }
    }
    out.action = Some(route::route::Action::Route(action));
}

/// Takes a prefix of whole segments away; what is left begins with a slash.
fn without_prefix(matched: Option<&route::RouteMatch>) -> matcher::RegexMatchAndSubstitute {
    let prefix = match matched.and_then(|matched| matched.path_specifier.as_ref()) {
        Some(route::route_match::PathSpecifier::PathSeparatedPrefix(prefix)) => prefix.as_str(),
        _ => "",
    };
    matcher::RegexMatchAndSubstitute {
        pattern: Some(re2(&format!("^{}(/?)(.*)", literal(prefix)))),
        substitution: r"/\2".to_owned(),
    }
}

/// A text as an expression that means just it.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !(c.is_alphanumeric()
            || matches!(
                c,
                '/' | '_' | '%' | '~' | '!' | '@' | '=' | ',' | ':' | ';' | '\''
            ))
        {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Envoy deprecated the field for one that stock clients of older versions do not read; Istio still sends it.
#[expect(
    deprecated,
    reason = "Istio sends it, and older proxies read nothing else"
)]
fn set_max_grpc_timeout(action: &mut route::RouteAction, timeout: crate::proto::PbDuration) {
    action.max_grpc_timeout = Some(timeout);
}

fn single(
    out: &mut route::Route,
    action: &mut route::RouteAction,
    to: &HttpRouteDestination,
    context: &RouteContext<'_>,
) -> bool {
    let Some(destination) = &to.destination else {
        return false;
    };
    action.cluster_specifier = Some(ClusterSpecifier::Cluster(context.cluster(destination)));
    let changes = header_changes(to.headers.as_ref());
    out.request_headers_to_add.extend(changes.request_add);
    out.request_headers_to_remove.extend(changes.request_remove);
    out.response_headers_to_add.extend(changes.response_add);
    out.response_headers_to_remove
        .extend(changes.response_remove);
    if action.host_rewrite_specifier.is_none() {
        action.host_rewrite_specifier = changes
            .authority
            .map(HostRewriteSpecifier::HostRewriteLiteral);
    }
    let hash = context.hash(destination);
    action.hash_policy.extend(hash.and_then(hash_policy));
    hash.is_some()
}

fn weighted(
    action: &mut route::RouteAction,
    to: &[HttpRouteDestination],
    context: &RouteContext<'_>,
) {
    use route::weighted_cluster::{ClusterWeight, cluster_weight};
    let mut clusters = Vec::new();
    for entry in to {
        let weight = u32::try_from(entry.weight).unwrap_or(0);
        let (Some(destination), true) = (&entry.destination, weight > 0) else {
            continue;
        };
        let changes = header_changes(entry.headers.as_ref());
        clusters.push(ClusterWeight {
            name: context.cluster(destination),
            weight: u32_value(weight),
            request_headers_to_add: changes.request_add,
            request_headers_to_remove: changes.request_remove,
            response_headers_to_add: changes.response_add,
            response_headers_to_remove: changes.response_remove,
            host_rewrite_specifier: changes
                .authority
                .map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
            ..Default::default()
        });
        action
            .hash_policy
            .extend(context.hash(destination).and_then(hash_policy));
    }
    action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(route::WeightedCluster {
        clusters,
        ..Default::default()
    }));
}

fn mirrors(
    written: &HttpRoute,
    context: &RouteContext<'_>,
) -> Vec<route::route_action::RequestMirrorPolicy> {
    let policy = |destination: &Destination, percent: envoy_type::FractionalPercent| {
        route::route_action::RequestMirrorPolicy {
            cluster: context.cluster(destination),
            runtime_fraction: Some(runtime_percent(percent)),
            trace_sampled: bool_value(false),
            ..Default::default()
        }
    };
    let share = |percent: Option<&Percent>| match percent {
        Some(percent) => Some(fraction(percent)).filter(|share| share.numerator > 0),
        None => Some(whole_percent(100)),
    };
    let mut out = Vec::new();
    if let Some(destination) = &written.mirror {
        let share = match (&written.mirror_percentage, written.mirror_percent) {
            (None, Some(percent)) => (percent > 0).then(|| whole_percent(percent)),
            (percentage, _) => share(percentage.as_ref()),
        };
        out.extend(share.map(|share| policy(destination, share)));
    }
    for mirror in &written.mirrors {
        if let (Some(destination), Some(share)) =
            (&mirror.destination, share(mirror.percentage.as_ref()))
        {
            out.push(policy(destination, share));
        }
    }
    out
}

/// A percentage to a ten-thousandth of a percent, as Istio counts.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=1,000,000 first"
)]
fn fraction(percent: &Percent) -> envoy_type::FractionalPercent {
    envoy_type::FractionalPercent {
        numerator: (percent.value.get().clamp(0.0, 100.0) * 10_000.0) as u32,
        denominator: envoy_type::fractional_percent::DenominatorType::Million as i32,
    }
}

fn whole_percent(percent: u32) -> envoy_type::FractionalPercent {
    envoy_type::FractionalPercent {
        numerator: percent.min(100),
        denominator: envoy_type::fractional_percent::DenominatorType::Hundred as i32,
    }
}

/// What a consistent hash is made from.
pub(super) fn hash_policy(hash: &ConsistentHashLb) -> Option<route::route_action::HashPolicy> {
    use route::route_action::hash_policy::{
        ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
    };
    let specifier = if let Some(name) = &hash.http_header_name {
        PolicySpecifier::Header(Header {
            header_name: name.clone(),
            ..Default::default()
        })
    } else if let Some(cookie) = &hash.http_cookie {
        PolicySpecifier::Cookie(Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.map(duration),
            path: cookie.path.clone(),
            attributes: cookie
                .attributes
                .iter()
                .map(|a| CookieAttribute {
                    name: a.name.clone(),
                    value: a.value.clone(),
                })
                .collect(),
        })
    } else if let Some(source_ip) = hash.use_source_ip {
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip })
    } else if let Some(name) = &hash.http_query_parameter_name {
        PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() })
    } else {
        return None;
    };
    Some(route::route_action::HashPolicy {
        policy_specifier: Some(specifier),
        terminal: false,
    })
}

/// A redirect. A code that HTTP does not have for redirects leaves the route without an action, which is refused before.
pub(super) fn redirect(
    written: &HttpRedirect,
    port: u32,
    tls: bool,
) -> Option<route::RedirectAction> {
    use route::redirect_action::{
        PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
    };
    let code = match written.redirect_code {
        0 | 301 => RedirectResponseCode::MovedPermanently,
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => return None,
    };
    let path = if written.prefix_rewrite.is_empty() {
        PathRewriteSpecifier::PathRedirect(written.uri.clone())
    } else {
        PathRewriteSpecifier::PrefixRewrite(written.prefix_rewrite.clone())
    };
    Some(route::RedirectAction {
        host_redirect: written.authority.clone(),
        port_redirect: redirect_port(written, port, tls),
        response_code: code as i32,
        path_rewrite_specifier: Some(path),
        scheme_rewrite_specifier: (!written.scheme.is_empty())
            .then(|| SchemeRewriteSpecifier::SchemeRedirect(written.scheme.clone())),
        ..Default::default()
    })
}

/// The port to name; 0 for none, also where it is the scheme's own.
fn redirect_port(written: &HttpRedirect, port: u32, tls: bool) -> u32 {
    let chosen = match (written.port, written.derive_port) {
        (Some(port), _) => port,
        (None, Some(RedirectPortSelection::FromRequestPort)) => port,
        _ => return 0,
    };
    let scheme = match (written.scheme.as_str(), tls) {
        ("", true) => "https",
        ("", false) => "http",
        (scheme, _) => scheme,
    };
    match (chosen, scheme) {
        (80, "http") | (443, "https") => 0,
        (port, _) => port,
    }
}

pub(super) fn direct_response(written: &HttpDirectResponse) -> route::DirectResponseAction {
    let body = written
        .body
        .as_ref()
        .and_then(|body| match (&body.string, &body.bytes) {
            (Some(text), _) => Some(inline_string(text)),
            (None, Some(bytes)) => Some(crate::clusters::inline_bytes(bytes.as_ref())),
            (None, None) => None,
        });
    route::DirectResponseAction {
        status: written.status,
        body,
        ..Default::default()
    }
}

/// Faults to inject. None if there is none that Envoy has.
pub(super) fn fault(
    written: &HttpFaultInjection,
) -> Option<extensions::filters::http::fault::v3::HttpFault> {
    let delay = written.delay.as_ref().and_then(delay);
    let abort = written.abort.as_ref().and_then(abort);
    if delay.is_none() && abort.is_none() {
        return None;
    }
    Some(extensions::filters::http::fault::v3::HttpFault {
        delay,
        abort,
        ..Default::default()
    })
}

fn delay(written: &FaultDelay) -> Option<extensions::filters::common::fault::v3::FaultDelay> {
    use extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
    let fixed = written.fixed_delay?;
    let percentage = match &written.percentage {
        Some(percentage) => fraction(percentage),
        None => whole_percent(u32::try_from(written.percent).unwrap_or(0)),
    };
    Some(FaultDelay {
        percentage: Some(percentage),
        fault_delay_secifier: Some(fault_delay::FaultDelaySecifier::FixedDelay(duration(fixed))),
    })
}

fn abort(written: &FaultAbort) -> Option<extensions::filters::http::fault::v3::FaultAbort> {
    use extensions::filters::http::fault::v3::fault_abort::ErrorType;
    let error = match (written.http_status, &written.grpc_status) {
        (Some(status), _) => ErrorType::HttpStatus(u32::try_from(status).ok()?),
        (None, Some(name)) => ErrorType::GrpcStatus(grpc_status(name)?),
        (None, None) => return None,
    };
    Some(extensions::filters::http::fault::v3::FaultAbort {
        percentage: Some(
            written
                .percentage
                .as_ref()
                .map_or_else(|| whole_percent(0), fraction),
        ),
        error_type: Some(error),
        ..Default::default()
    })
}

/// The number of a gRPC status.
fn grpc_status(name: &str) -> Option<u32> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES
        .iter()
        .position(|known| *known == name)
        .and_then(|index| u32::try_from(index).ok())
}

pub(super) fn cors(written: &CorsPolicy) -> extensions::filters::http::cors::v3::CorsPolicy {
    let origins = if written.allow_origins.is_empty() {
        written
            .allow_origin
            .iter()
            .map(|origin| exact(origin))
            .collect()
    } else {
        written
            .allow_origins
            .iter()
            .filter_map(string_matcher)
            .collect()
    };
    extensions::filters::http::cors::v3::CorsPolicy {
        allow_origin_string_match: origins,
        allow_methods: written.allow_methods.join(","),
        allow_headers: written.allow_headers.join(","),
        expose_headers: written.expose_headers.join(","),
        max_age: written
            .max_age
            .map_or_else(String::new, |age| age.as_secs().to_string()),
        allow_credentials: written.allow_credentials.and_then(bool_value),
        filter_enabled: Some(runtime_percent(whole_percent(100))),
        forward_not_matching_preflights: bool_value(
            written.unmatched_preflights != UnmatchedPreflights::Ignore,
        ),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_in_retry_conditions_become_a_list() {
        assert_eq!(
            parse_retry_on("connect-failure, 503,gateway-error"),
            (
                "connect-failure,gateway-error,retriable-status-codes".to_owned(),
                vec![503]
            )
        );
        assert_eq!(parse_retry_on("5xx").0, "5xx");
    }

    #[test]
    fn zero_attempts_mean_no_retry() {
        let none = HttpRetry {
            attempts: 0,
            ..Default::default()
        };
        assert!(retry_policy(Some(&none), false).is_none());
        assert_eq!(retry_policy(None, false).unwrap().num_retries, u32_value(2));
        assert!(
            retry_policy(None, true)
                .unwrap()
                .retry_host_predicate
                .is_empty()
        );
    }

    #[test]
    fn a_redirect_names_no_port_that_its_scheme_implies() {
        let written = HttpRedirect {
            scheme: "https".to_owned(),
            port: Some(443),
            ..Default::default()
        };
        assert_eq!(redirect(&written, 80, false).unwrap().port_redirect, 0);
        let written = HttpRedirect {
            redirect_code: 200,
            ..Default::default()
        };
        assert!(redirect(&written, 80, false).is_none());
    }
}
