//! DestinationRule, and the parts of its traffic policy that other kinds use too.

use super::common::{self, Export, whole_milliseconds};
use super::{Report, forms, load_balancer, routes};
use crate::networking::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, DestinationRule, H2UpgradePolicy,
    HttpSettings, OutlierDetection, PortTrafficPolicy, Subset, TcpSettings, TrafficPolicy,
    TunnelSettings,
};

pub(crate) fn check(spec: &DestinationRule, report: &mut Report<'_>) {
    if let Some(why) = forms::wildcard_name(&spec.host).filter(|_| !spec.host.is_empty()) {
        report.error_at("host", why);
    }
    report.some(
        "trafficPolicy",
        spec.traffic_policy.as_ref(),
        traffic_policy,
    );
    report.key("subsets", |report| {
        for (index, subset) in spec.subsets.iter().enumerate() {
            let is_double = spec.subsets[..index]
                .iter()
                .any(|other| other.name == subset.name);
            report.index(index, |report| check_subset(subset, is_double, report));
        }
    });
    let export = if spec.workload_selector.is_some() {
        Export::Selecting
    } else {
        Export::Other
    };
    common::export_to(&spec.export_to, export, report);
    report.some(
        "workloadSelector",
        spec.workload_selector.as_ref(),
        |report, selector| {
            if selector.match_labels.is_empty() {
                let effect = "the rule applies to every workload of its namespace";
                report.warning("the selector has no labels", effect);
            }
        },
    );
}

fn check_subset(subset: &Subset, is_double: bool, report: &mut Report<'_>) {
    if is_double {
        report.error_at(
            "name",
            format!("the subset `{}` is defined twice", subset.name),
        );
    }
    if !subset.name.is_empty() {
        routes::subset_name("name", &subset.name, report);
    }
    common::labels("labels", &subset.labels, report);
    report.some(
        "trafficPolicy",
        subset.traffic_policy.as_ref(),
        traffic_policy,
    );
}

fn traffic_policy(report: &mut Report<'_>, policy: &TrafficPolicy) {
    if *policy == TrafficPolicy::default() {
        report.error("the traffic policy is empty");
        return;
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        report.error_at(
            "proxyProtocol",
            "only one of tunnel and proxyProtocol may be set",
        );
    }
    let outlier = policy.outlier_detection.as_ref();
    report.some("outlierDetection", outlier, outlier_detection);
    report.some(
        "connectionPool",
        policy.connection_pool.as_ref(),
        connection_pool,
    );
    report.some(
        "loadBalancer",
        policy.load_balancer.as_ref(),
        |report, settings| {
            load_balancer::check(settings, outlier.is_some(), report);
        },
    );
    report.some("tls", policy.tls.as_ref(), client_tls);
    report.each(
        "portLevelSettings",
        &policy.port_level_settings,
        port_policy,
    );
    report.some("tunnel", policy.tunnel.as_ref(), tunnel);
}

fn port_policy(report: &mut Report<'_>, policy: &PortTrafficPolicy) {
    match &policy.port {
        None => report.error("`port` is required"),
        Some(port) if port.number > 65535 => {
            report.key("port", |report| report.error_at("number", forms::PORT));
        }
        Some(_) => {}
    }
    let outlier = policy.outlier_detection.as_ref();
    let says_nothing = outlier.is_none()
        && policy.connection_pool.is_none()
        && policy.load_balancer.is_none()
        && policy.tls.is_none();
    if says_nothing {
        report.error("the traffic policy of this port is empty");
    }
    report.some("outlierDetection", outlier, outlier_detection);
    report.some(
        "connectionPool",
        policy.connection_pool.as_ref(),
        connection_pool,
    );
    report.some(
        "loadBalancer",
        policy.load_balancer.as_ref(),
        |report, settings| {
            load_balancer::check(settings, outlier.is_some(), report);
        },
    );
    report.some("tls", policy.tls.as_ref(), client_tls);
}

fn tunnel(report: &mut Report<'_>, tunnel: &TunnelSettings) {
    if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
        report.error_at("protocol", "a tunnel's protocol is CONNECT or POST");
    }
    if !forms::is_ip(&tunnel.target_host)
        && let Some(why) = forms::dns_name(&tunnel.target_host)
    {
        report.error_at("targetHost", why);
    }
    if !forms::is_port(tunnel.target_port) {
        report.error_at("targetPort", forms::PORT);
    }
}

fn outlier_detection(report: &mut Report<'_>, outlier: &OutlierDetection) {
    if outlier.consecutive_errors != 0 {
        report.key("consecutiveErrors", |report| {
            report.warning(
                "`consecutiveErrors` is deprecated; write `consecutive5xxErrors` or \
                 `consecutiveGatewayErrors`",
                "it is ignored",
            );
        });
    }
    let local = outlier.consecutive_local_origin_failures.unwrap_or(0) > 0;
    if local && !outlier.split_external_local_origin_errors {
        let message = "consecutiveLocalOriginFailures needs `splitExternalLocalOriginErrors: true`";
        report.error_at("consecutiveLocalOriginFailures", message);
    }
    for (key, percent) in [
        ("maxEjectionPercent", outlier.max_ejection_percent),
        ("minHealthPercent", outlier.min_health_percent),
    ] {
        if !(0..=100).contains(&percent) {
            report.error_at(key, "a percentage is between 0 and 100");
        }
    }
    whole_milliseconds("interval", outlier.interval, report);
    whole_milliseconds("baseEjectionTime", outlier.base_ejection_time, report);
}

pub(crate) fn connection_pool(report: &mut Report<'_>, pool: &ConnectionPoolSettings) {
    if pool.http.is_none() && pool.tcp.is_none() {
        report.error("the connection pool needs `tcp` or `http`");
    }
    report.some("http", pool.http.as_ref(), http_settings);
    report.some("tcp", pool.tcp.as_ref(), tcp_settings);
}

fn http_settings(report: &mut Report<'_>, http: &HttpSettings) {
    not_negative(
        &[
            ("http1MaxPendingRequests", http.http1_max_pending_requests),
            ("http2MaxRequests", http.http2_max_requests),
            ("maxRequestsPerConnection", http.max_requests_per_connection),
            ("maxRetries", http.max_retries),
            ("maxConcurrentStreams", http.max_concurrent_streams),
        ],
        report,
    );
    if http.h2_upgrade_policy == H2UpgradePolicy::Upgrade && http.use_client_protocol {
        let message = "useClientProtocol does not go with `h2UpgradePolicy: UPGRADE`";
        report.error_at("useClientProtocol", message);
    }
    report.some(
        "http2KeepAlive",
        http.http2_keep_alive.as_ref(),
        |report, keepalive| {
            for (key, duration) in [
                ("interval", keepalive.interval),
                ("timeout", keepalive.timeout),
            ] {
                if duration.is_none() {
                    report.error(format!("`{key}` is required"));
                }
                whole_milliseconds(key, duration, report);
            }
        },
    );
    whole_milliseconds("idleTimeout", http.idle_timeout, report);
}

fn tcp_settings(report: &mut Report<'_>, tcp: &TcpSettings) {
    not_negative(&[("maxConnections", tcp.max_connections)], report);
    whole_milliseconds("connectTimeout", tcp.connect_timeout, report);
    whole_milliseconds("maxConnectionDuration", tcp.max_connection_duration, report);
    whole_milliseconds("idleTimeout", tcp.idle_timeout, report);
    report.some(
        "tcpKeepalive",
        tcp.tcp_keepalive.as_ref(),
        |report, keepalive| {
            whole_milliseconds("time", keepalive.time, report);
            whole_milliseconds("interval", keepalive.interval, report);
        },
    );
}

fn not_negative(fields: &[(&str, i32)], report: &mut Report<'_>) {
    for (key, _) in fields.iter().filter(|(_, value)| *value < 0) {
        report.error_at(key, format!("{key} cannot be negative"));
    }
}

fn client_tls(report: &mut Report<'_>, tls: &ClientTlsSettings) {
    let (simple, mutual) = (
        tls.mode == ClientTlsMode::Simple,
        tls.mode == ClientTlsMode::Mutual,
    );
    if tls.insecure_skip_verify == Some(true) && (simple || mutual) {
        let names_trust = !tls.ca_certificates.is_empty()
            || !tls.subject_alt_names.is_empty()
            || (simple && !tls.credential_name.is_empty());
        if names_trust {
            report.error_at(
                "insecureSkipVerify",
                "insecureSkipVerify verifies nothing: leave out caCertificates, subjectAltNames \
                 and, for SIMPLE, credentialName",
            );
        }
    }
    let has_files = !tls.client_certificate.is_empty()
        || !tls.private_key.is_empty()
        || !tls.ca_certificates.is_empty()
        || !tls.ca_crl.is_empty();
    if !tls.credential_name.is_empty() {
        if has_files && (simple || mutual) {
            let message = "credentialName replaces the files; leave them out";
            report.error_at("credentialName", message);
        }
        return;
    }
    if mutual {
        for (key, value) in [
            ("clientCertificate", &tls.client_certificate),
            ("privateKey", &tls.private_key),
        ] {
            if value.is_empty() {
                report.error(format!(
                    "the mode MUTUAL needs `{key}`, or `credentialName`"
                ));
            }
        }
    }
}
