//! The levels of the program's log while it runs, by the names of Envoy's loggers, for `lateen proxy-config log`.
//!
//! Envoy's loggers stand for modules of this program; one without a counterpart keeps its level and changes nothing.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};

use lateen_proxy::{LOGGERS, LogControl};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The modules a logger of Envoy's stands for.
fn modules(logger: &str) -> &'static [&'static str] {
    match logger {
        "admin" => &["lateen_proxy::admin"],
        "client" | "upstream" => &["lateen_proxy::upstream", "lateen_proxy::cluster"],
        "config" | "init" | "rds" => &["lateen_proxy::control", "lateen_xds", "lateen_traffic"],
        "connection" | "conn_handler" => &["lateen_proxy::connection", "lateen_proxy::net"],
        "dns" => &["lateen_agent::dns", "lateen_proxy::control::dns"],
        "filter" | "rbac" | "jwt" | "ext_authz" => &["lateen_proxy::http::filters"],
        "file" | "secret" => &[
            "lateen_agent::sds",
            "lateen_proxy::secrets",
            "lateen_proxy::control::files",
        ],
        "http" => &["lateen_proxy::http"],
        "http2" => &["h2"],
        "main" => &[
            "lateen",
            "lateen_proxy::worker",
            "lateen_proxy::handle",
            "lateen_agent",
        ],
        "pool" => &["lateen_proxy::upstream::pool"],
        "router" => &["lateen_proxy::http::forward"],
        "stats" => &["lateen_telemetry"],
        "tls" => &["lateen_proxy::tls", "lateen_identity", "rustls"],
        _ => &[],
    }
}

/// What `tracing` calls one of Envoy's levels.
fn directive(level: &str) -> &str {
    match level {
        "warning" => "warn",
        "critical" => "error",
        other => other,
    }
}

/// Levels that can be changed.
#[derive(Debug)]
pub(crate) struct LogLevels {
    handle: Handle<EnvFilter, Registry>,
    levels: Mutex<Levels>,
}

#[derive(Debug)]
struct Levels {
    all: String,
    own: BTreeMap<String, String>,
}

impl Levels {
    /// The filter: the level of all, then those that differ. A logger that was set later than another of the same module wins by being more
    /// talkative: who asks for more wants to see it.
    fn directives(&self) -> String {
        let mut by_module: BTreeMap<&str, &str> = BTreeMap::new();
        for (logger, level) in &self.own {
            for module in modules(logger) {
                let kept = by_module.entry(module).or_insert(level);
                if rank(level) > rank(kept) {
                    *kept = level;
                }
            }
        }
        let mut out = directive(&self.all).to_owned();
        for (module, level) in by_module {
            out.push_str(&format!(",{module}={}", directive(level)));
        }
        out
    }
}

/// How talkative a level is.
fn rank(level: &str) -> usize {
    [
        "off", "critical", "error", "warning", "info", "debug", "trace",
    ]
    .iter()
    .position(|known| *known == level)
    .unwrap_or(0)
}

impl LogLevels {
    /// Starts logging to standard error: `RUST_LOG` if it is set, else `default` (one of Envoy's levels).
    pub(crate) fn start(default: &str) -> Self {
        let filter = EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| EnvFilter::new(directive(default)));
        let (filter, handle) = reload::Layer::new(filter);
        let lines = fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .init();
        Self {
            handle,
            levels: Mutex::new(Levels {
                all: default.to_owned(),
                own: BTreeMap::new(),
            }),
        }
    }
}

impl LogControl for LogLevels {
    fn level(&self, logger: &str) -> String {
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        levels.own.get(logger).unwrap_or(&levels.all).clone()
    }

    fn set(&self, logger: Option<&str>, level: &str) {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        match logger {
            None => {
                level.clone_into(&mut levels.all);
                levels.own.clear();
            }
            Some(logger) if LOGGERS.contains(&logger) => {
                levels.own.insert(logger.to_owned(), level.to_owned());
            }
            Some(_) => return,
        }
        let directives = levels.directives();
        drop(levels);
        if let Err(error) = self.handle.reload(EnvFilter::new(directives)) {
            tracing::error!(%error, "log levels cannot be changed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loggers_become_modules_and_the_more_talkative_wins() {
        let levels = |own: &[(&str, &str)]| {
            let own = own.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            Levels {
                all: "warning".to_owned(),
                own: own.collect(),
            }
            .directives()
        };
        assert_eq!(levels(&[]), "warn");
        assert_eq!(levels(&[("http2", "debug")]), "warn,h2=debug");
        assert_eq!(levels(&[("wasm", "trace")]), "warn");
        assert_eq!(
            levels(&[("rbac", "debug"), ("jwt", "error")]),
            "warn,lateen_proxy::http::filters=debug"
        );
        for logger in LOGGERS {
            let directives = levels(&[(logger, "critical")]);
            assert!(EnvFilter::try_new(&directives).is_ok(), "{directives}");
        }
    }
}
