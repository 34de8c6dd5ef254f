//! `lateen proxy-config`: asks a proxy's admin interface, or reads a saved dump, and prints tables, JSON or YAML.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cli::{ConfigOutput, ProxyConfigCommand, ProxyTarget};
use crate::output::{now, print_json, print_yaml};
use crate::proxy_config::dump::ConfigDump;
use crate::proxy_config::{Filter, Rows, cluster, listener, route, secret};
use crate::state::StateDir;

pub(crate) fn run(
    state: &StateDir,
    namespace: Option<&str>,
    command: ProxyConfigCommand,
) -> Result<()> {
    let ask = Ask { state, namespace };
    match command {
        ProxyConfigCommand::Listener {
            target,
            address,
            port,
            kind,
        } => {
            let filter = Filter {
                address,
                port,
                kind,
                ..Filter::default()
            };
            let dump = ask.dump(&target)?;
            let chosen = listener::select(dump.listeners(), &filter);
            print(&target, &chosen, || listener::rows(&chosen))
        }
        ProxyConfigCommand::Cluster {
            target,
            fqdn,
            direction,
            port,
            subset,
        } => {
            let filter = Filter {
                fqdn,
                direction,
                port,
                subset,
                ..Filter::default()
            };
            let dump = ask.dump(&target)?;
            let chosen = cluster::select(dump.clusters(), &filter);
            print(&target, &chosen, || cluster::rows(&chosen))
        }
        ProxyConfigCommand::Route { target, name } => {
            let dump = ask.dump(&target)?;
            let chosen = route::select(
                dump.routes(),
                &Filter {
                    name,
                    ..Filter::default()
                },
            );
            print(&target, &chosen, || route::rows(&chosen))
        }
        ProxyConfigCommand::Endpoint {
            target,
            address,
            port,
            cluster,
            status,
        } => {
            let filter = Filter {
                address,
                port,
                cluster,
                status,
                ..Filter::default()
            };
            let clusters = ask.clusters(&target)?;
            let statuses: Vec<&Value> =
                crate::proxy_config::dump::list(&clusters, "cluster_statuses").collect();
            print(&target, &statuses, || {
                cluster::endpoint_rows(&clusters, &filter)
            })
        }
        ProxyConfigCommand::Secret { target } => secrets(&ask, &target),
        ProxyConfigCommand::Bootstrap { target } => bootstrap(&ask, &target),
        ProxyConfigCommand::Log {
            target,
            level,
            reset,
        } => log(&ask, &target, level.as_deref(), reset),
        ProxyConfigCommand::All { target } => all(&ask, &target),
    }
}

/// Where answers come from.
struct Ask<'a> {
    state: &'a StateDir,
    namespace: Option<&'a str>,
}

impl Ask<'_> {
    fn dump(&self, target: &ProxyTarget) -> Result<ConfigDump> {
        ConfigDump::parse(&self.fetch(target, "/config_dump?include_eds")?)
    }

    fn clusters(&self, target: &ProxyTarget) -> Result<Value> {
        let text = self.fetch(target, "/clusters?format=json")?;
        serde_json::from_slice(&text).context("the proxy's /clusters is not JSON")
    }

    fn fetch(&self, target: &ProxyTarget, path: &str) -> Result<Vec<u8>> {
        if let Some(file) = &target.file {
            return std::fs::read(file).with_context(|| format!("reading {}", file.display()));
        }
        let name = target
            .target
            .as_deref()
            .context("name a pod, or a file with -f")?;
        self.admin(name, "GET", path)
    }

    fn admin(&self, target: &str, method: &str, path: &str) -> Result<Vec<u8>> {
        crate::admin::ask(self.state, self.namespace, target, (method, path))
    }
}

fn print(target: &ProxyTarget, chosen: &[&Value], rows: impl FnOnce() -> Rows) -> Result<()> {
    match target.output.unwrap_or_default() {
        ConfigOutput::Short => print_rows(&rows()),
        ConfigOutput::Json => print_json(&json!(chosen)),
        ConfigOutput::Yaml => print_yaml(&json!(chosen)),
    }
}

fn print_rows(rows: &Rows) -> Result<()> {
    crate::output::print(&rows.table().render())
}

fn secrets(ask: &Ask<'_>, target: &ProxyTarget) -> Result<()> {
    let items = secret::items(&ask.dump(target)?.secrets(), now());
    match target.output.unwrap_or_default() {
        ConfigOutput::Short => print_rows(&secret::rows(&items)),
        ConfigOutput::Json => print_json(&secret::json(&items)),
        ConfigOutput::Yaml => print_yaml(&secret::json(&items)),
    }
}

fn bootstrap(ask: &Ask<'_>, target: &ProxyTarget) -> Result<()> {
    let dump = ask.dump(target)?;
    let bootstrap = dump
        .bootstrap()
        .context("the config dump holds no bootstrap")?;
    // istioctl's default here is JSON, and `short` is the versions only.
    match target.output {
        None | Some(ConfigOutput::Json) => print_json(&json!({ "bootstrap": bootstrap })),
        Some(ConfigOutput::Yaml) => print_yaml(&json!({ "bootstrap": bootstrap })),
        Some(ConfigOutput::Short) => {
            let node = &bootstrap["node"];
            let version = node["metadata"]["ISTIO_VERSION"]
                .as_str()
                .unwrap_or("unknown");
            let agent = node["user_agent_name"].as_str().unwrap_or("unknown");
            crate::output::print(&format!("Istio Version: {version}\nProxy: {agent}\n"))
        }
    }
}

fn log(ask: &Ask<'_>, target: &str, level: Option<&str>, reset: bool) -> Result<()> {
    let changes: Vec<String> = match (level, reset) {
        (_, true) => vec!["/logging?level=warning".to_owned()],
        (None, false) => vec!["/logging".to_owned()],
        (Some(levels), false) => levels
            .split(',')
            .map(|part| match part.split_once(':') {
                Some((logger, level)) => format!("/logging?{logger}={level}"),
                None => format!("/logging?level={part}"),
            })
            .collect(),
    };
    let mut answer = Vec::new();
    for change in changes {
        answer = ask.admin(target, "POST", &change)?;
    }
    crate::output::print(&String::from_utf8_lossy(&answer))
}

fn all(ask: &Ask<'_>, target: &ProxyTarget) -> Result<()> {
    let text = ask.fetch(target, "/config_dump?include_eds")?;
    let dump = ConfigDump::parse(&text)?;
    match target.output.unwrap_or_default() {
        ConfigOutput::Json => return print_json(&serde_json::from_slice(&text)?),
        ConfigOutput::Yaml => return print_yaml(&serde_json::from_slice(&text)?),
        ConfigOutput::Short => {}
    }
    let none = Filter::default();
    let items = secret::items(&dump.secrets(), now());
    let mut sections = vec![
        cluster::rows(&cluster::select(dump.clusters(), &none)),
        listener::rows(&listener::select(dump.listeners(), &none)),
        route::rows(&route::select(dump.routes(), &none)),
        secret::rows(&items),
    ];
    if target.file.is_none() {
        sections.push(cluster::endpoint_rows(&ask.clusters(target)?, &none));
    }
    let text: Vec<String> = sections.iter().map(|rows| rows.table().render()).collect();
    crate::output::print(&text.join("\n"))
}
