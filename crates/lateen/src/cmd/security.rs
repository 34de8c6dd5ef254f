//! `lateen authn` and `lateen authz`: how workloads recognise each other, and who may do what, in istioctl's tables.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use lateen_api::Diagnostic;
use lateen_compile::DEAD_RULES;
use lateen_control::findings::{Extent, findings, settings};
use lateen_explain::security::{self, Access, TlsCheck};
use lateen_explain::{Asked, Mesh, Options, Place};
use serde_json::{Value, json};

use crate::cli::{AuthnCommand, AuthzCommand, ReportOutput, Structured};
use crate::output::{self, print_json, print_yaml};
use crate::state::StateDir;
use crate::table::Table;
use crate::world;

pub(crate) fn authn(
    state: &StateDir,
    namespace: Option<&str>,
    command: AuthnCommand,
) -> Result<ExitCode> {
    match command {
        AuthnCommand::Migration { output } => super::migration::run(state, namespace, output),
        AuthnCommand::TlsCheck {
            target,
            service,
            filename,
        } => {
            let mesh = world::mesh(state, namespace, &filename)?;
            tls_check(&mesh, namespace, &target, service.as_deref())
        }
    }
}

fn tls_check(
    mesh: &Mesh,
    namespace: Option<&str>,
    target: &str,
    service: Option<&str>,
) -> Result<ExitCode> {
    let client = mesh.find(target, namespace)?;
    if mesh.proxy(client).is_none() {
        eprintln!(
            "{} has no sidecar: it speaks plain text to everybody",
            client.name
        );
    }
    let all = security::tls_check(mesh, client);
    let wanted = |check: &&TlsCheck| {
        let wanted = service.map(str::to_ascii_lowercase);
        wanted.is_none_or(|wanted| check.host.contains(&wanted))
    };
    let rows: Vec<&TlsCheck> = all.iter().filter(wanted).collect();
    let table = Table::from_parts(
        &[
            "HOST:PORT",
            "STATUS",
            "SERVER",
            "CLIENT",
            "AUTHN POLICY",
            "DESTINATION RULE",
        ],
        rows.iter().map(|check| tls_row(check)).collect(),
    );
    output::print(&table.render())?;
    Ok(exit(rows.iter().all(|check| check.agrees())))
}

fn tls_row(check: &TlsCheck) -> Vec<String> {
    let server: Vec<&str> = check.server.iter().map(|mode| mode.as_str()).collect();
    let automatic = if check.automatic { " (auto)" } else { "" };
    vec![
        format!("{}:{}", check.host, check.port),
        if check.agrees() { "OK" } else { "CONFLICT" }.to_owned(),
        if server.is_empty() {
            "-".to_owned()
        } else {
            server.join("/")
        },
        format!("{}{automatic}", check.client.as_str()),
        named(check.peer_authentication.as_ref()),
        named(check.destination_rule.as_ref()),
    ]
}

/// An object as istioctl names it, `namespace/name`, with its line.
fn named(place: Option<&Place>) -> String {
    let Some(place) = place else {
        return "-".to_owned();
    };
    let name = place
        .object
        .split_once('/')
        .map_or(place.object.as_str(), |(_, name)| name);
    match &place.source {
        Some(source) => format!("{name} ({source})"),
        None => name.to_owned(),
    }
}

pub(crate) fn authz(
    state: &StateDir,
    namespace: Option<&str>,
    command: AuthzCommand,
) -> Result<ExitCode> {
    match command {
        AuthzCommand::Check { target, filename } => {
            check(state, namespace, &target, &filename)?;
            Ok(ExitCode::SUCCESS)
        }
        AuthzCommand::DeadRules { filename, output } => {
            dead_rules(state, namespace, filename, output)
        }
        AuthzCommand::Denials { target, output } => {
            super::decisions::list(state, namespace, target.as_deref(), output)
        }
        AuthzCommand::WhoCan {
            to,
            method,
            path,
            port,
            header,
            filename,
            output,
        } => {
            let mesh = world::mesh(state, namespace, &filename)?;
            let asked = request(&mesh, namespace, (&to, port), (&method, &path, &header))?;
            let target = mesh.find(&to, namespace)?;
            let options = Options {
                now: output::now().unsigned_abs(),
                ..Options::default()
            };
            let found = security::who_can(&mesh, target, &asked, options);
            who_can(&asked, &found, output)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The findings about access rules, with their snippets.
fn dead_rules(
    state: &StateDir,
    namespace: Option<&str>,
    filename: Vec<PathBuf>,
    format: ReportOutput,
) -> Result<ExitCode> {
    let (paths, home) = if filename.is_empty() {
        let up = state.running()?;
        let up = up.context("no mesh is running here; give its files with -f DIR")?;
        (up.paths, up.namespace)
    } else {
        (filename, namespace.unwrap_or("default").to_owned())
    };
    let mut loaded = world::read(paths, &home)?;
    let resources = loaded.resources.to_vec();
    let settings = settings(&resources, true);
    let mut found = findings(&resources, &settings, true, Extent::Part);
    let wanted = |found: &Diagnostic| {
        let of = found
            .resource
            .as_ref()
            .map(|resource| resource.namespace.as_str());
        DEAD_RULES.contains(&found.code) && namespace.is_none_or(|wanted| of == Some(wanted))
    };
    found.retain(wanted);
    let none = found.is_empty();
    match format {
        ReportOutput::Json => print_json(&json!(found))?,
        ReportOutput::Text if none => output::print("Every access rule may decide something.\n")?,
        ReportOutput::Text => {
            loaded.diagnostics = found;
            output::print(&super::validate::report(&loaded, output::colour()))?;
        }
    }
    Ok(exit(none))
}

fn check(
    state: &StateDir,
    namespace: Option<&str>,
    target: &str,
    filename: &[PathBuf],
) -> Result<()> {
    let mesh = world::mesh(state, namespace, filename)?;
    let pod = mesh.find(target, namespace)?;
    let proxy = mesh
        .proxy(pod)
        .with_context(|| format!("{} has no proxy, so no policy holds for it", pod.name))?;
    let policies = security::policies(&proxy);
    if policies.is_empty() {
        return output::print("No AuthorizationPolicy is in force: everything is allowed.\n");
    }
    let rows = policies.iter().map(|applied| {
        let mut parts = applied.object.split('/').skip(1);
        let (ns, name) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let dry_run = if applied.dry_run { " (dry run)" } else { "" };
        let place = mesh.places().of(&applied.object, "spec");
        vec![
            format!("{}{dry_run}", applied.action),
            format!("{name}.{ns}"),
            applied.rules.to_string(),
            place
                .source
                .map_or_else(|| "-".to_owned(), |source| source.to_string()),
        ]
    });
    let table = Table::from_parts(
        &["ACTION", "AuthorizationPolicy", "RULES", "SOURCE"],
        rows.collect(),
    );
    output::print(&table.render())
}

/// The request by which the target is asked: to the service that leads to it.
fn request(
    mesh: &Mesh,
    namespace: Option<&str>,
    (to, port): (&str, Option<u16>),
    (method, path, headers): (&str, &str, &[String]),
) -> Result<Asked> {
    let target = mesh.find(to, namespace)?;
    let (host, port) = security::service_of(mesh, target, port).with_context(|| {
        let port = port.map_or_else(String::new, |port| format!(" on port {port}"));
        format!("no Service leads to {}{port}", target.name)
    })?;
    let slash = if path.starts_with('/') { "" } else { "/" };
    let url = format!("http://{host}:{port}{slash}{path}");
    Ok(Asked::parse(
        Some(&method.to_ascii_uppercase()),
        &url,
        headers,
    )?)
}

fn who_can(asked: &Asked, found: &[Access], output: Option<Structured>) -> Result<()> {
    let data = || -> Value {
        let list: Vec<Value> = found
            .iter()
            .map(|access| {
                json!({
                    "from": access.from,
                    "identity": access.identity,
                    "allowed": access.branch.outcome.succeeds(),
                    "outcome": access.branch.outcome,
                })
            })
            .collect();
        json!({"request": format!("{} {}", asked.method, asked.url), "workloads": list})
    };
    match output {
        Some(Structured::Json) => print_json(&data()),
        Some(Structured::Yaml) => print_yaml(&data()),
        None => {
            let rows = found.iter().map(|access| {
                let outcome = &access.branch.outcome;
                vec![
                    access.from.clone(),
                    if outcome.succeeds() { "yes" } else { "no" }.to_owned(),
                    access.identity.clone().unwrap_or_else(|| "none".to_owned()),
                    why(access),
                ]
            });
            let table = Table::from_parts(&["WORKLOAD", "CAN", "IDENTITY", "WHY"], rows.collect());
            output::print(&format!(
                "{} {}\n\n{}",
                asked.method,
                asked.url,
                table.render()
            ))
        }
    }
}

/// The access step that decided, else how it ended.
fn why(access: &Access) -> String {
    let outcome = &access.branch.outcome;
    if !outcome.succeeds() {
        let place = outcome
            .place
            .as_ref()
            .and_then(|place| place.source.as_ref());
        let place = place.map_or_else(String::new, |source| format!(" ({source})"));
        return format!("{}{place}", outcome.summary);
    }
    let steps = access.branch.steps.iter().rev();
    let mut decisive = steps.filter(|step| step.stage == lateen_explain::Stage::Authorization);
    decisive.next().map_or_else(
        || "no policy is in force".to_owned(),
        |step| step.what.clone(),
    )
}

fn exit(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
