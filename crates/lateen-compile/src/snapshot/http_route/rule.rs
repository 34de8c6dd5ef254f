//! One rule of an HTTPRoute as the route of a virtual service.

use std::collections::BTreeMap;
use std::time::Duration;

use lateen_api::kube::{
    HttpBackendRef, HttpHeaderFilter, HttpNameMatch, HttpPathModifier, HttpRequestMirrorFilter,
    HttpRequestRedirectFilter, HttpRouteFilter, HttpRouteMatch, HttpRouteRetry, HttpRouteRule,
    HttpUrlRewriteFilter,
};
use lateen_api::networking::{
    Destination, HeaderOperations, Headers, HttpDirectResponse, HttpMatchRequest, HttpMirrorPolicy,
    HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, HttpRouteDestination, Percent, PortSelector,
    RedirectPortSelection, RegexRewrite,
};
use lateen_api::value::{Double, StringMatch};
use lateen_api::{Resource, parse_duration};

use super::ISTIO_GROUP;
use crate::snapshot::Inputs;

/// What a rule came to.
#[derive(Debug, Default)]
pub(super) struct Converted {
    /// None: the rule asks for something that would be missing, so that it is not served at all.
    pub(super) route: Option<HttpRoute>,
    pub(super) problems: Vec<Problem>,
}

/// Something that cannot be served as written.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) field: String,
    pub(super) message: String,
    pub(super) effect: &'static str,
}

/// The answer where no backend can be reached. Source: the Gateway API.
const NO_BACKEND: u32 = 500;
/// What is tried again where a rule asks for retries at all. Source: Istio.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled";

/// Converts a rule, without its matches.
pub(super) fn convert(
    inputs: &Inputs,
    resource: &Resource,
    rule: &HttpRouteRule,
    index: usize,
) -> Converted {
    let mut out = Converted::default();
    let mut route = HttpRoute {
        name: match rule.name.as_str() {
            "" => format!("{}.{}.{index}", resource.namespace(), resource.name()),
            name => name.to_owned(),
        },
        ..HttpRoute::default()
    };
    for (position, filter) in rule.filters.iter().enumerate() {
        if let Err(message) = apply_filter(inputs, resource, filter, &mut route) {
            // Without the filter requests would go where, and as, they must not.
            out.problems.push(Problem {
                field: format!("filters[{position}]"),
                message,
                effect: "the rule is left out",
            });
            return out;
        }
    }
    set_time(rule, &mut route);
    let backends = backends(inputs, resource, rule, &mut out.problems);
    if backends.is_empty() && route.redirect.is_none() {
        route.direct_response = Some(HttpDirectResponse {
            status: NO_BACKEND,
            body: None,
        });
    } else {
        route.route = backends;
    }
    out.route = Some(route);
    out
}

/// What a match asks of a request.
pub(super) fn request(one: &HttpRouteMatch) -> HttpMatchRequest {
    let path = one.path.as_ref();
    let value = match path.map_or("", |path| path.value.as_str()) {
        "" => "/".to_owned(),
        value => value.to_owned(),
    };
    let uri = match path.map_or("", |path| path.r#type.as_str()) {
        "Exact" => StringMatch::Exact(value),
        "RegularExpression" => StringMatch::Regex(value),
        _ if value == "/" => StringMatch::Prefix(value),
        _ => StringMatch::Prefix(value.trim_end_matches('/').to_owned()),
    };
    HttpMatchRequest {
        uri: Some(uri),
        method: (!one.method.is_empty()).then(|| StringMatch::Exact(one.method.clone())),
        headers: by_name(&one.headers, true),
        query_params: by_name(&one.query_params, false),
        ..HttpMatchRequest::default()
    }
}

/// Of several conditions on one name the first counts. Source: the Gateway API.
fn by_name(list: &[HttpNameMatch], folds: bool) -> BTreeMap<String, StringMatch> {
    let mut out = BTreeMap::new();
    for one in list {
        let name = if folds {
            one.name.to_ascii_lowercase()
        } else {
            one.name.clone()
        };
        let value = match one.r#type.as_str() {
            "RegularExpression" => StringMatch::Regex(one.value.clone()),
            _ => StringMatch::Exact(one.value.clone()),
        };
        out.entry(name).or_insert(value);
    }
    out
}

fn apply_filter(
    inputs: &Inputs,
    resource: &Resource,
    filter: &HttpRouteFilter,
    route: &mut HttpRoute,
) -> Result<(), String> {
    let missing = || format!("`{}` needs settings of the same name", filter.r#type);
    match filter.r#type.as_str() {
        "RequestHeaderModifier" => {
            let settings = filter
                .request_header_modifier
                .as_ref()
                .ok_or_else(missing)?;
            route.headers.get_or_insert_default().request = Some(operations(settings));
        }
        "ResponseHeaderModifier" => {
            let settings = filter
                .response_header_modifier
                .as_ref()
                .ok_or_else(missing)?;
            route.headers.get_or_insert_default().response = Some(operations(settings));
        }
        "RequestRedirect" => {
            let settings = filter.request_redirect.as_ref().ok_or_else(missing)?;
            route.redirect = Some(redirect(settings));
        }
        "URLRewrite" => {
            let settings = filter.url_rewrite.as_ref().ok_or_else(missing)?;
            route.rewrite = rewrite(settings);
        }
        "RequestMirror" => {
            let settings = filter.request_mirror.as_ref().ok_or_else(missing)?;
            route.mirrors.push(mirror(inputs, resource, settings)?);
        }
        other => return Err(format!("the filter `{other}` is not served")),
    }
    Ok(())
}

fn operations(filter: &HttpHeaderFilter) -> HeaderOperations {
    let map = |list: &[lateen_api::kube::HttpHeader]| {
        list.iter()
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect()
    };
    HeaderOperations {
        set: map(&filter.set),
        add: map(&filter.add),
        remove: filter.remove.clone(),
    }
}

fn redirect(settings: &HttpRequestRedirectFilter) -> HttpRedirect {
    let mut out = HttpRedirect {
        redirect_code: settings.status_code.unwrap_or(302),
        authority: settings.hostname.clone(),
        scheme: settings.scheme.clone(),
        port: settings.port.map(u32::from),
        ..HttpRedirect::default()
    };
    if settings.port.is_none() {
        out.derive_port = Some(if settings.scheme.is_empty() {
            RedirectPortSelection::FromRequestPort
        } else {
            RedirectPortSelection::FromProtocolDefault
        });
    }
    match &settings.path {
        Some(HttpPathModifier {
            replace_full_path: Some(path),
            ..
        }) => out.uri.clone_from(path),
        Some(HttpPathModifier {
            replace_prefix_match: Some(prefix),
            ..
        }) => out.prefix_rewrite.clone_from(prefix),
        _ => {}
    }
    out
}

fn rewrite(settings: &HttpUrlRewriteFilter) -> Option<HttpRewrite> {
    let mut out = HttpRewrite {
        authority: settings.hostname.clone(),
        ..HttpRewrite::default()
    };
    match &settings.path {
        Some(HttpPathModifier {
            replace_full_path: Some(path),
            ..
        }) => {
            out.uri_regex_rewrite = Some(RegexRewrite {
                r#match: "/.*".to_owned(),
                rewrite: path.clone(),
            });
        }
        Some(HttpPathModifier {
            replace_prefix_match: Some(prefix),
            ..
        }) => {
            out.uri = match prefix.trim_end_matches('/') {
                "" => "/".to_owned(),
                prefix => prefix.to_owned(),
            };
        }
        _ => {}
    }
    (out != HttpRewrite::default()).then_some(out)
}

fn mirror(
    inputs: &Inputs,
    resource: &Resource,
    settings: &HttpRequestMirrorFilter,
) -> Result<HttpMirrorPolicy, String> {
    let to = &settings.backend_ref;
    let destination = destination(
        inputs,
        resource,
        (&to.group, &to.kind),
        (&to.namespace, &to.name),
        to.port,
    )?;
    let percentage = match (&settings.fraction, settings.percent) {
        (Some(fraction), _) => {
            let whole = f64::from(fraction.denominator.unwrap_or(100).max(1));
            Some(100.0 * f64::from(fraction.numerator) / whole)
        }
        (None, percent) => percent.map(f64::from),
    };
    Ok(HttpMirrorPolicy {
        destination: Some(destination),
        percentage: percentage.map(|value| Percent {
            value: Double::from(value),
        }),
    })
}

fn set_time(rule: &HttpRouteRule, route: &mut HttpRoute) {
    route.retries = rule.retry.as_ref().map(retries);
    let Some(timeouts) = &rule.timeouts else {
        return;
    };
    let duration = |text: &str| {
        parse_duration(text)
            .ok()
            .filter(|duration| *duration > Duration::ZERO)
    };
    route.timeout = duration(&timeouts.request);
    if let Some(each) = duration(&timeouts.backend_request) {
        match &mut route.retries {
            Some(retries) => retries.per_try_timeout = Some(each),
            None => route.timeout = Some(each),
        }
    }
}

fn retries(written: &HttpRouteRetry) -> HttpRetry {
    let attempts = i32::try_from(written.attempts.unwrap_or(2)).unwrap_or(i32::MAX);
    let codes: String = written
        .codes
        .iter()
        .map(|code| format!(",{code}"))
        .collect();
    HttpRetry {
        attempts,
        retry_on: if attempts == 0 {
            String::new()
        } else {
            format!("{RETRY_ON}{codes}")
        },
        backoff: parse_duration(&written.backoff).ok(),
        ..HttpRetry::default()
    }
}

/// Backends that take a share of requests. One that cannot be reached keeps its share, which is answered with 500: its cluster
/// does not exist.
fn backends(
    inputs: &Inputs,
    resource: &Resource,
    rule: &HttpRouteRule,
    problems: &mut Vec<Problem>,
) -> Vec<HttpRouteDestination> {
    let taking = |to: &&HttpBackendRef| to.weight != Some(0);
    let several = rule.backend_refs.iter().filter(taking).count() > 1;
    let mut out = Vec::new();
    for (position, to) in rule.backend_refs.iter().enumerate() {
        if to.weight == Some(0) {
            continue;
        }
        let kind = (to.group.as_str(), to.kind.as_str());
        let name = (to.namespace.as_str(), to.name.as_str());
        let found = destination(inputs, resource, kind, name, to.port)
            .and_then(|destination| Ok((destination, backend_headers(to)?)));
        let (destination, headers) = found.unwrap_or_else(|message| {
            problems.push(Problem {
                field: format!("backendRefs[{position}]"),
                message,
                effect: "its share of requests is answered with 500",
            });
            (unreachable_backend(), None)
        });
        let weight = i32::try_from(to.weight.unwrap_or(1)).unwrap_or(i32::MAX);
        out.push(HttpRouteDestination {
            destination: Some(destination),
            weight: if several { weight } else { 0 },
            headers,
        });
    }
    out
}

/// A name nobody can have, so that the cluster is missing.
fn unreachable_backend() -> Destination {
    Destination {
        host: "unreachable-backend.invalid".to_owned(),
        port: Some(PortSelector { number: 1 }),
        ..Destination::default()
    }
}

fn backend_headers(to: &HttpBackendRef) -> Result<Option<Headers>, String> {
    let mut route = Headers::default();
    for filter in &to.filters {
        match filter.r#type.as_str() {
            "RequestHeaderModifier" => {
                route.request = filter.request_header_modifier.as_ref().map(operations);
            }
            "ResponseHeaderModifier" => {
                route.response = filter.response_header_modifier.as_ref().map(operations);
            }
            other => return Err(format!("the filter `{other}` is not served for a backend")),
        }
    }
    Ok((route != Headers::default()).then_some(route))
}

/// The service that a reference means. Another namespace's needs its consent, which is written in kinds that are not read.
fn destination(
    inputs: &Inputs,
    resource: &Resource,
    (group, kind): (&str, &str),
    (namespace, name): (&str, &str),
    port: Option<u16>,
) -> Result<Destination, String> {
    let own = resource.namespace();
    let host = match (group, kind) {
        ("", "" | "Service") if namespace.is_empty() || namespace == own => {
            format!("{name}.{own}.svc.{}", inputs.settings.domain_suffix)
        }
        ("", "" | "Service") => {
            return Err(format!(
                "service `{name}` is of namespace `{namespace}`, and ReferenceGrants are not read"
            ));
        }
        (ISTIO_GROUP, "Hostname") if namespace.is_empty() => name.to_lowercase(),
        _ => return Err(format!("a backend of the kind `{kind}` is not served")),
    };
    let number = port.ok_or("a backend needs a `port`")?;
    Ok(Destination {
        host,
        port: Some(PortSelector {
            number: u32::from(number),
        }),
        ..Destination::default()
    })
}
