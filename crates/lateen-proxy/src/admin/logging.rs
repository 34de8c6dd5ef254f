//! `/logging`: the levels of the program's log, by Envoy's logger names.

use std::fmt::Write;

use http::{Method, StatusCode};

use super::{Context, Page, Query};

/// Envoy's loggers that `istioctl proxy-config log` and people's scripts set. Some have no counterpart in this proxy: their level is
/// kept and shown, and changes nothing.
pub const LOGGERS: [&str; 38] = [
    "admin",
    "assert",
    "client",
    "config",
    "connection",
    "conn_handler",
    "dns",
    "ext_authz",
    "ext_proc",
    "file",
    "filter",
    "forward_proxy",
    "grpc",
    "hc",
    "health_checker",
    "http",
    "http2",
    "init",
    "io",
    "jwt",
    "lua",
    "main",
    "matcher",
    "misc",
    "oauth2",
    "pool",
    "quic",
    "rate_limit_quota",
    "rbac",
    "rds",
    "router",
    "runtime",
    "secret",
    "stats",
    "tls",
    "tracing",
    "upstream",
    "wasm",
];

const LEVELS: [&str; 7] = [
    "trace", "debug", "info", "warning", "error", "critical", "off",
];

pub(super) fn page(context: &Context, method: &Method, query: &Query) -> Page {
    let Some(control) = &context.shared.config.log_control else {
        return Page::refused(
            StatusCode::NOT_IMPLEMENTED,
            "log levels are fixed in this process\n",
        );
    };
    if query.iter().next().is_some() {
        if method != Method::POST {
            return Page::refused(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("Method {method} not allowed, POST required."),
            );
        }
        for (name, level) in changes(query) {
            if !LEVELS.contains(&level.as_str()) {
                return Page::refused(StatusCode::BAD_REQUEST, "error: invalid logger level\n");
            }
            if !name.is_empty() && !LOGGERS.contains(&name.as_str()) {
                return Page::refused(StatusCode::BAD_REQUEST, "error: unknown logger name\n");
            }
            control.set(Some(name.as_str()).filter(|name| !name.is_empty()), &level);
        }
    }
    let mut out = String::from("active loggers:\n");
    for name in LOGGERS {
        let _ = writeln!(out, "  {name}: {}", control.level(name));
    }
    Page::text(out)
}

/// `level=debug` for all, `paths=http:debug,pool:info`, or `http=debug`.
fn changes(query: &Query) -> Vec<(String, String)> {
    let mut changes = Vec::new();
    for (key, value) in query.iter() {
        match key {
            "level" => changes.push((String::new(), value.to_owned())),
            "paths" => {
                let pairs = value.split(',').filter_map(|pair| pair.split_once(':'));
                changes.extend(pairs.map(|(name, level)| (name.to_owned(), level.to_owned())));
            }
            name => changes.push((name.to_owned(), value.to_owned())),
        }
    }
    changes
}
