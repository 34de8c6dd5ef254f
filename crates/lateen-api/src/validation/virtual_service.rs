//! VirtualService.

use super::common::{self, Export, whole_milliseconds};
use super::{Report, forms, headers, reachability, routes};
use crate::host;
use crate::networking::{
    CorsPolicy, FaultAbort, FaultDelay, HttpDirectResponse, HttpFaultInjection, HttpMatchRequest,
    HttpMirrorPolicy, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, TcpRoute,
    TlsMatchAttributes, TlsRoute, VirtualService,
};
use crate::value::StringMatch;

/// Larger bodies than this are refused, in bytes: each is copied into every proxy.
const MAX_BODY: usize = 1 << 20;
/// Larger bodies than this are worth a warning, in bytes.
const LARGE_BODY: usize = 100 << 10;

pub(crate) fn check(spec: &VirtualService, report: &mut Report<'_>) {
    let is_delegate = spec.hosts.is_empty();
    if is_delegate {
        delegate(spec, report);
    }
    routes::gateways(&spec.gateways, report);
    hosts(spec, report);
    if spec.http.is_empty() && spec.tcp.is_empty() && spec.tls.is_empty() {
        report.error("one of http, tls and tcp has to have routes");
    }
    if !is_of_gateway(spec) {
        claims_need_gateway(spec, report);
    }
    report.each("http", &spec.http, |report, route| {
        http_route(route, is_delegate, report)
    });
    report.each("tls", &spec.tls, |report, route| {
        tls_route(route, spec, report)
    });
    report.each("tcp", &spec.tcp, tcp_route);
    common::export_to(&spec.export_to, Export::Other, report);
    reachability::check(spec, report);
}

/// Whether it applies to a gateway that is not the mesh.
fn is_of_gateway(spec: &VirtualService) -> bool {
    spec.gateways.iter().any(|gateway| gateway != "mesh")
}

/// What a VirtualService without hosts is for: being delegated to.
fn delegate(spec: &VirtualService, report: &mut Report<'_>) {
    let set = [
        ("gateways", !spec.gateways.is_empty()),
        ("tls", !spec.tls.is_empty()),
        ("tcp", !spec.tcp.is_empty()),
    ];
    for (name, _) in set.iter().filter(|(_, is_set)| *is_set) {
        let message =
            format!("a VirtualService without hosts is a delegate, which has no `{name}`");
        report.key(name, |report| report.error_with(message, "add `hosts`"));
    }
}

fn hosts(spec: &VirtualService, report: &mut Report<'_>) {
    let of_gateway = is_of_gateway(spec);
    let mut all_hold = true;
    report.each("hosts", &spec.hosts, |report, name| {
        let passed_through = of_gateway && !spec.tls.is_empty() && is_generated_sni(name);
        match forms::wildcard_name(name) {
            Some(_) if passed_through || forms::is_ip(name) => {}
            Some(why) => {
                report.error(why);
                all_hold = false;
            }
            None if name == "*" && !of_gateway => {
                report.error_with(
                    "`*` is not allowed as host of a route for the mesh",
                    "name the hosts, or bind the route to a gateway with `gateways`",
                );
                all_hold = false;
            }
            None => {}
        }
    });
    if !all_hold {
        return;
    }
    report.key("hosts", |report| {
        for (index, name) in spec.hosts.iter().enumerate() {
            let earlier = spec.hosts[..index]
                .iter()
                .find(|other| host::matches(other, name));
            if let Some(other) = earlier {
                let message = format!("`{name}` is already covered by `{other}`");
                report.index(index, |report| report.error(message));
            }
        }
    });
}

/// Names Istio makes for TLS that is passed through: `outbound_.80_._.host`.
fn is_generated_sni(name: &str) -> bool {
    name.strip_prefix("outbound_.").is_some_and(|rest| {
        let mut parts = rest.splitn(3, "_.");
        let (port, subset, host) = (parts.next(), parts.next(), parts.next());
        port.is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()))
            && subset.is_some()
            && host.is_some_and(|host| host.contains(|c: char| c.is_ascii_alphabetic()))
    })
}

/// Claims are matched by the gateway, which has verified the token.
fn claims_need_gateway(spec: &VirtualService, report: &mut Report<'_>) {
    report.each("http", &spec.http, |report, route| {
        report.each("match", &route.r#match, |report, matched| {
            for (key, names) in [
                ("headers", &matched.headers),
                ("withoutHeaders", &matched.without_headers),
            ] {
                for name in names.keys().filter(|name| headers::is_jwt_claim(name)) {
                    report.key(key, |report| {
                        let message = "claims of a JWT can only be matched at a gateway";
                        report.error_at(name, message);
                    });
                }
            }
        });
    });
}

fn http_route(route: &HttpRoute, is_delegate: bool, report: &mut Report<'_>) {
    conflicts(route, is_delegate, report);
    report.each("match", &route.r#match, http_match);
    report.some("headers", route.headers.as_ref(), headers::manipulations);
    report.some("corsPolicy", route.cors_policy.as_ref(), cors);
    report.some("fault", route.fault.as_ref(), fault);
    mirrors(route, report);
    report.some("redirect", route.redirect.as_ref(), |report, r| {
        redirect(r, route, report)
    });
    report.some(
        "directResponse",
        route.direct_response.as_ref(),
        direct_response,
    );
    whole_milliseconds("timeout", route.timeout, report);
    report.some("retries", route.retries.as_ref(), retries);
    report.some("rewrite", route.rewrite.as_ref(), |report, r| {
        rewrite(r, route, report)
    });
    report.each("route", &route.route, |report, to| {
        report.some("destination", to.destination.as_ref(), routes::destination);
        report.some("headers", to.headers.as_ref(), headers::manipulations);
    });
    let weights: Vec<i32> = route.route.iter().map(|to| to.weight).collect();
    routes::weights(&weights, report);
}

/// What may not stand together in one route.
fn conflicts(route: &HttpRoute, is_delegate: bool, report: &mut Report<'_>) {
    if route.delegate.is_some() {
        if is_delegate {
            report.error_at("delegate", "a delegate cannot delegate further");
        }
        for (name, set) in [
            ("redirect", route.redirect.is_some()),
            ("route", !route.route.is_empty()),
        ] {
            if set && !is_delegate {
                report.error_at(name, format!("a route that delegates cannot have `{name}`"));
            }
        }
        return;
    }
    let answer = match (&route.redirect, &route.direct_response) {
        (Some(_), _) => "redirect",
        (None, Some(_)) => "directResponse",
        (None, None) => {
            if route.route.is_empty() {
                report.error("a route needs one of route, redirect and directResponse");
            }
            return;
        }
    };
    let others = [
        ("route", !route.route.is_empty()),
        ("fault", route.fault.is_some()),
        ("rewrite", route.rewrite.is_some()),
        (
            "directResponse",
            answer == "redirect" && route.direct_response.is_some(),
        ),
    ];
    for (name, _) in others.iter().filter(|(_, is_set)| *is_set) {
        report.error_at(
            name,
            format!("a route cannot have both `{answer}` and `{name}`"),
        );
    }
}

fn http_match(report: &mut Report<'_>, matched: &HttpMatchRequest) {
    report.some("uri", matched.uri.as_ref(), routes::regex_match);
    report.some("scheme", matched.scheme.as_ref(), routes::string_match);
    report.some("method", matched.method.as_ref(), routes::string_match);
    report.some(
        "authority",
        matched.authority.as_ref(),
        routes::string_match,
    );
    for (key, names) in [
        ("headers", &matched.headers),
        ("withoutHeaders", &matched.without_headers),
    ] {
        report.key(key, |report| {
            for (name, value) in names {
                report.key(name, |report| header_match(name, value, key, report));
            }
        });
    }
    report.key("queryParams", |report| {
        for (name, value) in &matched.query_params {
            report.key(name, |report| routes::string_match(report, value));
        }
    });
    routes::match_port(matched.port, report);
    common::labels("sourceLabels", &matched.source_labels, report);
    routes::gateways(&matched.gateways, report);
    if !matched.source_namespace.is_empty() && !forms::is_dns_label(&matched.source_namespace) {
        let message = format!("`{}` is not a namespace", matched.source_namespace);
        report.error_at("sourceNamespace", message);
    }
}

fn header_match(name: &str, value: &StringMatch, key: &str, report: &mut Report<'_>) {
    if let Some(why) = headers::match_name(name) {
        report.error(why);
    }
    // `regex: "*"` asks for presence in withoutHeaders, though it is no expression.
    if key == "withoutHeaders" && *value == StringMatch::Regex("*".to_owned()) {
        return;
    }
    routes::string_match(report, value);
}

fn mirrors(route: &HttpRoute, report: &mut Report<'_>) {
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        report.error_at("mirrors", "a route cannot have both `mirror` and `mirrors`");
    }
    report.some("mirror", route.mirror.as_ref(), routes::destination);
    report.each(
        "mirrors",
        &route.mirrors,
        |report, mirror: &HttpMirrorPolicy| {
            report.some(
                "destination",
                mirror.destination.as_ref(),
                routes::destination,
            );
            report.some("percentage", mirror.percentage.as_ref(), plain_percent);
        },
    );
    report.some(
        "mirrorPercentage",
        route.mirror_percentage.as_ref(),
        plain_percent,
    );
    report.some(
        "mirrorPercent",
        route.mirror_percent.as_ref(),
        |report, percent| {
            if *percent > 100 {
                report.error("a percentage is between 0 and 100");
            }
            report.warning(
                "`mirrorPercent` is deprecated; write `mirrorPercentage`",
                "it is read",
            );
        },
    );
}

fn plain_percent(report: &mut Report<'_>, percent: &crate::networking::Percent) {
    if !(0.0..=100.0).contains(&percent.value.get()) {
        report.error_at("value", "a percentage is between 0 and 100");
    }
}

const CORS_METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*",
];

fn cors(report: &mut Report<'_>, policy: &CorsPolicy) {
    report.each(
        "allowOrigins",
        &policy.allow_origins,
        |report, origin| match origin {
            StringMatch::Exact(text) | StringMatch::Prefix(text) if !text.is_empty() => {}
            StringMatch::Regex(_) => routes::regex_match(report, origin),
            _ => report.error("an origin needs one of exact, prefix and regex, with text"),
        },
    );
    report.each("allowMethods", &policy.allow_methods, |report, method| {
        if !CORS_METHODS.contains(&method.as_str()) {
            report.error(format!("`{method}` is not an HTTP method"));
        }
    });
    for (key, names) in [
        ("allowHeaders", &policy.allow_headers),
        ("exposeHeaders", &policy.expose_headers),
    ] {
        report.each(key, names, |report, name| {
            if name != "*" && !headers::is_token(name) {
                report.error(format!("`{name}` is not a header name"));
            }
        });
    }
    if policy.max_age.is_some_and(|age| age.subsec_nanos() > 0) {
        report.error_at("maxAge", "browsers know only whole seconds");
    }
}

fn fault(report: &mut Report<'_>, fault: &HttpFaultInjection) {
    if fault.abort.is_none() && fault.delay.is_none() {
        report.error("a fault needs `abort` or `delay`");
    }
    report.some("abort", fault.abort.as_ref(), abort);
    report.some("delay", fault.delay.as_ref(), delay);
}

fn abort(report: &mut Report<'_>, abort: &FaultAbort) {
    report.some("percentage", abort.percentage.as_ref(), routes::percent);
    if abort.http2_error.is_some() {
        report.error_at(
            "http2Error",
            "aborting with an HTTP/2 error is not supported",
        );
    } else if let Some(status) = &abort.grpc_status {
        if !GRPC_STATUSES.contains(&status.as_str()) {
            report.key("grpcStatus", |report| {
                let message = format!("`{status}` is not a gRPC status");
                report.error_with(message, "write its name, such as NOT_FOUND or UNAVAILABLE");
            });
        }
    } else if let Some(status) = abort.http_status {
        report.key("httpStatus", |report| {
            http_status(report, i64::from(status))
        });
    } else {
        report.warning("the abort has no status", "nothing is aborted");
    }
}

const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
];

fn http_status(report: &mut Report<'_>, status: i64) {
    // 600 is Istio's upper bound too.
    if !(200..=600).contains(&status) {
        report.error(format!(
            "{status} is not an HTTP status between 200 and 599"
        ));
    }
}

fn delay(report: &mut Report<'_>, delay: &FaultDelay) {
    report.some("percentage", delay.percentage.as_ref(), routes::percent);
    whole_milliseconds("fixedDelay", delay.fixed_delay, report);
    if delay.exponential_delay.is_some() {
        report.error_at("exponentialDelay", "an exponential delay is not supported");
    }
    if !(0..=100).contains(&delay.percent) {
        report.error_at("percent", "a percentage is between 0 and 100");
    }
}

fn redirect(redirect: &HttpRedirect, route: &HttpRoute, report: &mut Report<'_>) {
    if !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty() {
        report.error_at(
            "prefixRewrite",
            "only one of uri and prefixRewrite may be set",
        );
    }
    let by_prefix =
        |matched: &HttpMatchRequest| matches!(matched.uri, None | Some(StringMatch::Prefix(_)));
    if !redirect.prefix_rewrite.is_empty() && !route.r#match.iter().all(by_prefix) {
        let message = "prefixRewrite needs all matches of the route to be by prefix";
        report.error_at("prefixRewrite", message);
    }
    let says_nothing = redirect.uri.is_empty()
        && redirect.prefix_rewrite.is_empty()
        && redirect.authority.is_empty()
        && redirect.port.is_none()
        && redirect.derive_port.is_none()
        && redirect.scheme.is_empty();
    if says_nothing {
        report.error("a redirect needs one of uri, prefixRewrite, authority, scheme and port");
    }
    if redirect.redirect_code != 0 && !(300..=399).contains(&redirect.redirect_code) {
        report.error_at("redirectCode", "a redirect's status is between 300 and 399");
    }
    if !matches!(redirect.scheme.as_str(), "" | "http" | "https") {
        report.error_at("scheme", "a redirect's scheme is http or https");
    }
    if redirect.port.is_some_and(|port| port > 65535) {
        report.error_at("port", forms::PORT);
    }
}

fn direct_response(report: &mut Report<'_>, response: &HttpDirectResponse) {
    report.key("status", |report| {
        http_status(report, i64::from(response.status))
    });
    report.some("body", response.body.as_ref(), |report, body| {
        let text = body.string.as_ref().map_or(0, String::len);
        let size = body.bytes.as_ref().map_or(text, |bytes| bytes.0.len());
        if size > MAX_BODY {
            report.error("a direct response has at most 1 MiB");
        } else if size > LARGE_BODY {
            report.warning("this direct response is large", "it is sent to every proxy");
        }
    });
}

const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

pub(crate) fn retries(report: &mut Report<'_>, retries: &HttpRetry) {
    if retries.attempts < 0 {
        report.error_at("attempts", "attempts cannot be negative");
    }
    let configured = retries.per_try_timeout.is_some()
        || !retries.retry_on.is_empty()
        || retries.retry_remote_localities.is_some();
    whole_milliseconds("perTryTimeout", retries.per_try_timeout, report);
    whole_milliseconds("backoff", retries.backoff, report);
    if retries.attempts == 0 && configured {
        report.error_with(
            "retries are configured, but `attempts` is 0, which turns them off",
            "set `attempts`, or leave the rest out",
        );
    }
    for condition in retries
        .retry_on
        .split(',')
        .filter(|_| !retries.retry_on.is_empty())
    {
        if !RETRY_ON.contains(&condition) && !is_known_status(condition) {
            report.key("retryOn", |report| {
                let message = format!("`{condition}` is not a condition for retries");
                report.error_with(
                    message,
                    format!("known are status codes and {}", RETRY_ON.join(", ")),
                );
            });
        }
    }
}

/// Whether it is the number of a registered HTTP status.
fn is_known_status(text: &str) -> bool {
    const KNOWN: &[u16] = &[
        100, 101, 102, 103, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303,
        304, 305, 307, 308, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413,
        414, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 500, 501, 502,
        503, 504, 505, 506, 507, 508, 510, 511,
    ];
    text.parse()
        .is_ok_and(|status: u16| KNOWN.contains(&status))
}

fn rewrite(rewrite: &HttpRewrite, route: &HttpRoute, report: &mut Report<'_>) {
    if !rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_some() {
        report.error_at(
            "uriRegexRewrite",
            "only one of uri and uriRegexRewrite may be set",
        );
    }
    if rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_none() && rewrite.authority.is_empty()
    {
        report.error("a rewrite needs one of uri, uriRegexRewrite and authority");
    }
    report.some(
        "uriRegexRewrite",
        rewrite.uri_regex_rewrite.as_ref(),
        |report, regex| {
            if regex.r#match.is_empty() || regex.rewrite.is_empty() {
                report.error("both `match` and `rewrite` have to be set");
            } else if let Some(why) = forms::regex(&regex.r#match) {
                report.error_at("match", why);
            }
        },
    );
    let set_by_headers = route
        .headers
        .as_ref()
        .and_then(|headers| headers.request.as_ref())
        .is_some_and(|to| {
            to.set
                .keys()
                .chain(to.add.keys())
                .any(|name| headers::is_authority(name))
        });
    if !rewrite.authority.is_empty() && set_by_headers {
        report.error_at(
            "authority",
            "the authority is also set under `headers`; do it once",
        );
    }
}

fn tls_route(route: &TlsRoute, spec: &VirtualService, report: &mut Report<'_>) {
    if route.r#match.is_empty() {
        report.error("a TLS route needs a match by `sniHosts`");
    }
    report.each("match", &route.r#match, |report, matched| {
        tls_match(matched, spec, report)
    });
    if route.route.is_empty() {
        report.error("a TLS route needs a `route`");
    }
    routes::route_destinations(&route.route, report);
}

fn tls_match(matched: &TlsMatchAttributes, spec: &VirtualService, report: &mut Report<'_>) {
    if matched.sni_hosts.is_empty() {
        report.error("a TLS match needs `sniHosts`");
    }
    report.each("sniHosts", &matched.sni_hosts, |report, name| {
        sni_host(name, spec, report)
    });
    routes::subnets("destinationSubnets", &matched.destination_subnets, report);
    routes::match_port(matched.port, report);
    common::labels("sourceLabels", &matched.source_labels, report);
    routes::gateways(&matched.gateways, report);
}

fn sni_host(name: &str, spec: &VirtualService, report: &mut Report<'_>) {
    if forms::is_ip(name) {
        let message = format!("`{name}` is an IP address, which clients do not send as SNI");
        report.warning(message, "the match rarely holds");
        return;
    }
    if let Some(why) = forms::wildcard_name(name)
        && !(is_of_gateway(spec) && is_generated_sni(name))
    {
        report.error(why);
        return;
    }
    if !spec.hosts.iter().any(|host| host::is_subset_of(name, host)) {
        report.error_with(
            format!("`{name}` is not covered by the `hosts` of this VirtualService"),
            "add it to `hosts`",
        );
    }
}

fn tcp_route(report: &mut Report<'_>, route: &TcpRoute) {
    report.each("match", &route.r#match, |report, matched| {
        routes::subnets("destinationSubnets", &matched.destination_subnets, report);
        routes::match_port(matched.port, report);
        common::labels("sourceLabels", &matched.source_labels, report);
        routes::gateways(&matched.gateways, report);
    });
    if route.route.is_empty() {
        report.error("a TCP route needs a `route`");
    }
    routes::route_destinations(&route.route, report);
}
