//! The verbs.

pub(crate) mod analyze;
pub(crate) mod app;
pub(crate) mod ca;
pub(crate) mod check;
pub(crate) mod decisions;
pub(crate) mod describe;
pub(crate) mod down;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod istiod;
pub(crate) mod logs;
pub(crate) mod migration;
pub(crate) mod proxy;
pub(crate) mod proxy_config;
pub(crate) mod proxy_status;
pub(crate) mod security;
pub(crate) mod test;
pub(crate) mod up;
pub(crate) mod validate;

use std::io::Write as _;

use anyhow::Result;
use clap_complete::Shell;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::cli::{self, Structured};
use crate::output::{print, print_json, print_yaml};

/// Prints an error with its chain of causes, one line.
pub(crate) fn report_error(error: &anyhow::Error) {
    // Standard error may be closed; there is nobody left to tell then.
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
}

/// Starts logging to standard error: `RUST_LOG` if it is set, else the level given.
pub(crate) fn start_logging(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}

/// Prints a completion script.
pub(crate) fn completion(shell: Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), cli::called(), &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Prints the version, and the version of Istio whose configuration is meant.
pub(crate) fn version(output: Option<Structured>) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let value = json!({"version": version, "istioVersion": ISTIO_VERSION});
    match output {
        None => print(&format!(
            "lateen {version} (Istio {ISTIO_VERSION} configuration)\n"
        )),
        Some(Structured::Json) => print_json(&value),
        Some(Structured::Yaml) => print_yaml(&value),
    }
}

/// The release of Istio whose configuration this binary reads.
pub(crate) const ISTIO_VERSION: &str = "1.30.0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        cli::command().debug_assert();
    }
}
