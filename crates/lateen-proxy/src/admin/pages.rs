//! The pages of the admin interface, but for the two large ones.

use std::fmt::Write;
use std::sync::{Arc, PoisonError};

use http::{Method, StatusCode};
use lateen_envoy::json;
use lateen_envoy::pb::envoy::admin::v3::server_info;
use lateen_envoy::pb::envoy::admin::v3::{
    Certificate, CertificateDetails, Certificates, CommandLineOptions, Memory, ServerInfo,
};
use lateen_envoy::pb::google::protobuf::Duration as ProtoDuration;
use lateen_telemetry::metrics::render;
use lateen_traffic::listener::ListenAddress;
use regex::Regex;

use super::{Context, Page, Query, clusters, config_dump, logging};
use crate::drains::Scope;
use crate::handle::State;
use crate::secrets::{self, Material};
use crate::tls::PeerCertificate;

const HELP: &[(&str, &str)] = &[
    ("/certs", "print certs on machine"),
    ("/clusters", "upstream cluster status"),
    ("/config_dump", "dump current configs"),
    ("/drain_listeners", "drain listeners"),
    (
        "/healthcheck/fail",
        "cause the server to fail health checks",
    ),
    ("/healthcheck/ok", "cause the server to pass health checks"),
    ("/help", "print out list of admin commands"),
    (
        "/hot_restart_version",
        "print the hot restart compatibility version",
    ),
    ("/listeners", "print listener info"),
    ("/logging", "query/change logging levels"),
    ("/memory", "print current allocation/heap usage"),
    ("/quitquitquit", "exit the server"),
    (
        "/ready",
        "print server state, return 200 if LIVE, otherwise return 503",
    ),
    ("/reopen_logs", "reopen access logs"),
    ("/reset_counters", "reset all counters to zero"),
    ("/runtime", "print runtime values"),
    ("/server_info", "print server version/status information"),
    ("/stats", "print server stats"),
    (
        "/stats/prometheus",
        "print server stats in prometheus format",
    ),
];

/// Answers a request to the admin port. What changes something has to be a POST, as in Envoy.
pub(super) fn admin(context: &Context, method: &Method, path: &str, query: &Query) -> Page {
    let changes = [
        "/drain_listeners",
        "/healthcheck/fail",
        "/healthcheck/ok",
        "/quitquitquit",
        "/reopen_logs",
        "/reset_counters",
    ];
    if changes.contains(&path) && method != Method::POST {
        return Page::refused(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Method {method} not allowed, POST required."),
        );
    }
    match path {
        "" => index(),
        "/help" => help(),
        "/certs" => certs(context),
        "/clusters" => clusters::page(context, query),
        "/config_dump" => config_dump::page(context, query),
        "/drain_listeners" => drain(context, query),
        "/healthcheck/fail" => health(context, true),
        "/healthcheck/ok" => health(context, false),
        // There is no other process to hand over to.
        "/hot_restart_version" => Page::text("disabled".to_owned()),
        // Lateen's own: the last denials, or one by its id.
        "/lateen/decisions" => Page::json(&context.shared.decisions.json(query.get("id"))),
        "/listeners" => listeners(context, query),
        "/logging" => logging::page(context, method, query),
        "/memory" => memory(),
        "/quitquitquit" => quit(context),
        "/ready" => ready(context),
        "/reopen_logs" => {
            context.shared.logs.reopen();
            ok()
        }
        "/reset_counters" => {
            context.shared.stats.registry.reset_counters();
            ok()
        }
        // Runtime layers are not supported; what is configured counts.
        "/runtime" => Page::json(&serde_json::json!({ "layers": [], "entries": {} })),
        "/server_info" => server_info(context),
        "/stats" => stats(context, query),
        "/stats/prometheus" => prometheus(context, query),
        _ => Page::not_found(),
    }
}

fn ok() -> Page {
    Page::text("OK\n".to_owned())
}

fn help() -> Page {
    let mut out = String::from("admin commands are:\n");
    for (path, what) in HELP {
        let _ = writeln!(out, "  {path}: {what}");
    }
    Page::text(out)
}

/// The commands as a page of links. Everything on it is fixed text: nothing a peer sent is ever written as HTML.
fn index() -> Page {
    let mut body = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Envoy Admin</title></head><body>\n\
         <table class=\"home-table\"><thead><tr><th>Command</th><th>Description</th></tr></thead><tbody>\n",
    );
    for (path, what) in HELP {
        let name = path.trim_start_matches('/');
        let _ = writeln!(
            body,
            "<tr><td><a href=\"{name}\">{name}</a></td><td>{what}</td></tr>"
        );
    }
    body.push_str("</tbody></table></body></html>\n");
    Page {
        status: StatusCode::OK,
        kind: "text/html; charset=UTF-8",
        body,
    }
}

/// `LIVE` with 200, else the state with 503.
pub(super) fn ready(context: &Context) -> Page {
    let state = server_state(context);
    if state == server_info::State::Live {
        return Page::text("LIVE\n".to_owned());
    }
    Page::refused(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("{}\n", state.as_str_name()),
    )
}

/// Envoy's name for the state: a proxy whose health checks are to fail is draining, whatever it does otherwise.
fn server_state(context: &Context) -> server_info::State {
    match context.shared.state_now() {
        State::Initializing => server_info::State::PreInitializing,
        State::Live if !context.shared.fails_health_checks() => server_info::State::Live,
        State::Live | State::Draining | State::Stopped => server_info::State::Draining,
    }
}

/// Source: Envoy 1.40 administration interface, `/drain_listeners`.
fn drain(context: &Context, query: &Query) -> Page {
    let (graceful, skip_exit) = (query.has("graceful"), query.has("skip_exit"));
    if skip_exit && !graceful {
        return Page::refused(StatusCode::BAD_REQUEST, "skip_exit requires graceful\n");
    }
    let scope = if query.has("inboundonly") {
        Scope::Inbound
    } else {
        Scope::All
    };
    let shared = Arc::clone(&context.shared);
    if !graceful {
        shared.drains.stop(scope);
    } else if shared.drains.drain(scope) && !skip_exit {
        // It ends with the runtime, like everything else here.
        tokio::task::spawn_local(async move {
            tokio::time::sleep(shared.config.drain.listener).await;
            shared.drains.stop(scope);
        });
    }
    ok()
}

fn health(context: &Context, fail: bool) -> Page {
    context.shared.fail_health_checks(fail);
    ok()
}

fn quit(context: &Context) -> Page {
    let stop = context.orders.stop.clone();
    context.shared.advance(State::Draining);
    context.shared.drains.drain(Scope::All);
    // The answer goes out first.
    tokio::task::spawn_local(async move {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        stop.cancel();
    });
    ok()
}

/// Prometheus' text.
pub(super) fn prometheus(context: &Context, query: &Query) -> Page {
    let filter = match NameFilter::of(query) {
        Ok(filter) => filter,
        Err(page) => return page,
    };
    let mut out = String::new();
    let snapshot = context.shared.statistics();
    filter.with(query, |filter| {
        render::prometheus(&snapshot, filter, &mut out)
    });
    Page {
        status: StatusCode::OK,
        kind: render::PROMETHEUS_CONTENT_TYPE,
        body: out,
    }
}

fn stats(context: &Context, query: &Query) -> Page {
    if query.get("format") == Some("prometheus") {
        return prometheus(context, query);
    }
    let filter = match NameFilter::of(query) {
        Ok(filter) => filter,
        Err(page) => return page,
    };
    let snapshot = context.shared.statistics();
    if query.get("format") == Some("json") {
        return filter.with(query, |filter| Page::json(&render::json(&snapshot, filter)));
    }
    let mut out = String::new();
    filter.with(query, |filter| render::text(&snapshot, filter, &mut out));
    Page::text(out)
}

/// Envoy's `filter`: a regular expression found anywhere in the name.
struct NameFilter(Option<Regex>);

impl NameFilter {
    fn of(query: &Query) -> Result<Self, Page> {
        let Some(text) = query.get("filter").filter(|text| !text.is_empty()) else {
            return Ok(Self(None));
        };
        let regex = regex::RegexBuilder::new(text).size_limit(1 << 20).build();
        let invalid = |_| Page::refused(StatusCode::BAD_REQUEST, "Invalid re2 regex");
        regex.map(|regex| Self(Some(regex))).map_err(invalid)
    }

    fn with<T>(&self, query: &Query, render: impl FnOnce(&render::Filter<'_>) -> T) -> T {
        let accepts = |name: &str| self.0.as_ref().is_none_or(|regex| regex.is_match(name));
        let kind = match query.get("type") {
            Some("Counters") => Some(render::StatKind::Counters),
            Some("Gauges") => Some(render::StatKind::Gauges),
            Some("Histograms") => Some(render::StatKind::Histograms),
            _ => None,
        };
        let name: Option<&dyn Fn(&str) -> bool> = if self.0.is_some() {
            Some(&accepts)
        } else {
            None
        };
        render(&render::Filter {
            used_only: query.has("usedonly"),
            name,
            kind,
        })
    }
}

fn listeners(context: &Context, query: &Query) -> Page {
    let live = context.shared.live();
    let bound = context.shared.bound();
    let address = |name: &str, configured: &ListenAddress| match configured {
        ListenAddress::Socket(address) => bound
            .iter()
            .find(|(listener, _)| &**listener == name)
            .map_or(*address, |(_, bound)| {
                if address.port() == 0 {
                    *bound
                } else {
                    *address
                }
            })
            .to_string(),
        ListenAddress::Pipe(path) => path.to_string(),
        ListenAddress::Internal => format!("envoy_internal://{name}/"),
    };
    let all: Vec<(String, String)> = live
        .program
        .listeners()
        .iter()
        .map(|(name, listener)| (name.to_string(), address(name, &listener.address)))
        .collect();
    if query.get("format") == Some("json") {
        let statuses: Vec<_> = all
            .iter()
            .map(|(name, address)| listener_status(name, address))
            .collect();
        return Page::json(&serde_json::json!({ "listener_statuses": statuses }));
    }
    let mut out = String::new();
    for (name, address) in all {
        let _ = writeln!(out, "{name}::{address}");
    }
    Page::text(out)
}

fn listener_status(name: &str, address: &str) -> serde_json::Value {
    let local = match address.parse::<std::net::SocketAddr>() {
        Ok(at) => serde_json::json!({
            "socket_address": { "address": at.ip().to_string(), "port_value": at.port() }
        }),
        Err(_) => serde_json::json!({ "pipe": { "path": address } }),
    };
    serde_json::json!({ "name": name, "local_address": local })
}

fn certs(context: &Context) -> Page {
    let live = context.shared.live();
    let details = |name: &str, key: &rustls::sign::CertifiedKey| -> Vec<CertificateDetails> {
        key.cert
            .iter()
            .map(|der| certificate_details(name, der))
            .collect()
    };
    let mut certificates = Vec::new();
    for (name, material) in live.secrets.iter() {
        certificates.push(match &**material {
            Material::Certificate(key) => Certificate {
                ca_cert: Vec::new(),
                cert_chain: details(name, key),
            },
            Material::Validation { settings, .. } => Certificate {
                ca_cert: roots(name, settings),
                cert_chain: Vec::new(),
            },
        });
    }
    Page::json(&json::to_value(&Certificates { certificates }))
}

fn roots(name: &str, settings: &lateen_traffic::tls::Validation) -> Vec<CertificateDetails> {
    let pem = settings
        .trusted_ca
        .as_ref()
        .and_then(|source| secrets::read(source).ok());
    let roots = pem.and_then(|pem| secrets::certificates(&pem).ok());
    roots
        .unwrap_or_default()
        .iter()
        .map(|der| certificate_details(name, der))
        .collect()
}

fn certificate_details(
    name: &str,
    der: &rustls_pki_types::CertificateDer<'_>,
) -> CertificateDetails {
    use lateen_envoy::pb::envoy::admin::v3::{SubjectAlternateName, subject_alternate_name::Name};
    use lateen_envoy::pb::google::protobuf::Timestamp;
    use x509_parser::prelude::{FromDer, X509Certificate};
    let names = PeerCertificate::read(der).unwrap_or_default();
    let uris = names.uri_sans.into_iter().map(Name::Uri);
    let dns = names.dns_sans.into_iter().map(Name::Dns);
    let mut details = CertificateDetails {
        path: name.to_owned(),
        subject_alt_names: uris
            .chain(dns)
            .map(|name| SubjectAlternateName { name: Some(name) })
            .collect(),
        ..CertificateDetails::default()
    };
    if let Ok((_, parsed)) = X509Certificate::from_der(der) {
        let time = |seconds: i64| Some(Timestamp { seconds, nanos: 0 });
        let (from, until) = (
            parsed.validity().not_before.timestamp(),
            parsed.validity().not_after.timestamp(),
        );
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let left = until - i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        details.serial_number = parsed
            .raw_serial()
            .iter()
            .fold(String::new(), |mut out, byte| {
                let _ = write!(out, "{byte:02x}");
                out
            });
        details.valid_from = time(from);
        details.expiration_time = time(until);
        details.days_until_expiration = u64::try_from(left / 86_400).unwrap_or(0);
    }
    details
}

fn memory() -> Page {
    // Resident pages; allocators differ too much for the rest to mean anything.
    let resident = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
        .map_or(0, |pages| pages * 4096);
    let memory = Memory {
        allocated: resident,
        heap_size: resident,
        ..Memory::default()
    };
    Page::json(&json::to_value(&memory))
}

fn server_info(context: &Context) -> Page {
    let elapsed = context.started.elapsed();
    let uptime = Some(ProtoDuration {
        seconds: i64::try_from(elapsed.as_secs()).unwrap_or(0),
        nanos: 0,
    });
    let state = server_state(context);
    let info = ServerInfo {
        version: format!(
            "lateen/{}/Clean/RELEASE/aws-lc-rs",
            env!("CARGO_PKG_VERSION")
        ),
        state: state.into(),
        uptime_current_epoch: uptime,
        uptime_all_epochs: uptime,
        node: Some(context.shared.config.node.clone()),
        hot_restart_version: "disabled".to_owned(),
        command_line_options: Some(command_line(context)),
        ..ServerInfo::default()
    };
    let mut shown = json::to_value(&info);
    // Envoy prints the state even where it is the default (`LIVE`), and scripts wait for it.
    if let Some(fields) = shown.as_object_mut() {
        fields
            .entry("state")
            .or_insert_with(|| state.as_str_name().into());
    }
    Page::json(&shown)
}

/// What Envoy shows as its command line, as far as it has a counterpart.
fn command_line(context: &Context) -> CommandLineOptions {
    let config = &context.shared.config;
    let drain = config.drain.listener;
    CommandLineOptions {
        concurrency: u32::try_from(config.concurrency).unwrap_or(u32::MAX),
        service_cluster: config.node.cluster.clone(),
        service_node: config.node.id.clone(),
        drain_time: Some(ProtoDuration {
            seconds: i64::try_from(drain.as_secs()).unwrap_or(0),
            nanos: i32::try_from(drain.subsec_nanos()).unwrap_or(0),
        }),
        disable_hot_restart: true,
        ..CommandLineOptions::default()
    }
}

impl Context {
    /// Calls `with` with what was received.
    pub(super) fn with_dump<T>(&self, with: impl FnOnce(&crate::control::Dump) -> T) -> T {
        with(&self.dump.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
