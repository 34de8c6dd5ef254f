//! Denials that proxies made: the one a client was told the id of (`lateen explain ID`), and the last ones (`lateen authz denials`).

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use lateen_compile::Pod;
use lateen_explain::{Mesh, Place, security};
use lateen_sources::plan::PodState;
use serde_json::{Value, json};

use crate::admin;
use crate::cli::Structured;
use crate::output::{self, print_json, print_yaml};
use crate::state::StateDir;
use crate::table::Table;
use crate::target;
use crate::world;

/// Whether a text is the id of a denial.
pub(crate) fn is_id(text: &str) -> bool {
    text.strip_prefix("d-")
        .is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A denial and where it was made.
struct Found {
    pod: PodState,
    denial: Value,
}

/// Explains the denial with an id.
pub(crate) fn explain(
    state: &StateDir,
    namespace: Option<&str>,
    (id, pod): (&str, Option<&str>),
    output: Option<Structured>,
) -> Result<ExitCode> {
    let id = id.to_ascii_lowercase();
    let path = format!("/lateen/decisions?id={id}");
    let Some(found) = ask(state, namespace, pod, &path)?.into_iter().next() else {
        bail!(
            "no proxy knows {id}: each keeps its last 256 denials of each worker until it ends; \
             `lateen authz denials` lists what they know"
        );
    };
    let mesh = world::mesh(state, None, &[])?;
    let value = located(&found, &mesh);
    match output {
        None => output::print(&text(&found, &value)?)?,
        Some(Structured::Json) => print_json(&value)?,
        Some(Structured::Yaml) => print_yaml(&value)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists the last denials.
pub(crate) fn list(
    state: &StateDir,
    namespace: Option<&str>,
    pod: Option<&str>,
    output: Option<Structured>,
) -> Result<ExitCode> {
    let mut found = ask(state, namespace, pod, "/lateen/decisions")?;
    found.sort_by_key(|found| std::cmp::Reverse(found.denial["time"].as_u64()));
    let mesh = world::mesh(state, None, &[])?;
    let all: Vec<Value> = found.iter().map(|found| located(found, &mesh)).collect();
    match output {
        Some(Structured::Json) => print_json(&json!(all))?,
        Some(Structured::Yaml) => print_yaml(&json!(all))?,
        None if all.is_empty() => output::print("No proxy has denied anything.\n")?,
        None => {
            let rows = found.iter().zip(&all).map(|(found, value)| {
                vec![
                    age(&found.denial),
                    text_of(&found.denial["id"]),
                    format!("{}.{}", found.pod.name, found.pod.namespace),
                    asked(&found.denial),
                    text_of(&found.denial["identity"]),
                    why(value),
                ]
            });
            let header = ["AGE", "ID", "DENIED BY", "REQUEST", "IDENTITY", "WHY"];
            output::print(&Table::from_parts(&header, rows.collect()).render())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the proxies of the pods asked for say; all that have one if none is named.
fn ask(
    state: &StateDir,
    namespace: Option<&str>,
    pod: Option<&str>,
    path: &str,
) -> Result<Vec<Found>> {
    state.expect_running()?;
    let pods = state.read_pods()?;
    let asked: Vec<&PodState> = match pod {
        Some(pod) => vec![target::find(&pods, pod, namespace)?],
        None => pods
            .iter()
            .filter(|pod| namespace.is_none_or(|wanted| pod.namespace == wanted))
            .filter(|pod| admin::has_proxy(pod))
            .collect(),
    };
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for pod in &asked {
        match admin::ask_apart(state, pod, path) {
            Ok(answer) => {
                let list: Vec<Value> = serde_json::from_slice(&answer)
                    .with_context(|| format!("the answer of {} is not JSON", pod.name))?;
                found.extend(list.into_iter().map(|denial| Found {
                    pod: (*pod).clone(),
                    denial,
                }));
            }
            Err(error) => failed.push((pod, error)),
        }
    }
    for (pod, error) in &failed {
        eprintln!(
            "note: {} keeps no denials that can be read: {error:#}",
            pod.name
        );
    }
    Ok(found)
}

/// A denial with the places of its rules: access rules say whose they are themselves, rules for tokens are numbered at each workload.
fn located(found: &Found, mesh: &Mesh) -> Value {
    let mut value = found.denial.clone();
    let own = |pod: &&Pod| pod.name == found.pod.name && pod.namespace == found.pod.namespace;
    let pod = mesh.pods().iter().find(own);
    let place = |name: &Value| -> Option<Place> {
        let name = name.as_str()?;
        security::rule_place(mesh.places(), name).or_else(|| mesh.token_rule_of(pod?, name))
    };
    value["pod"] = json!(format!("{}.{}", found.pod.name, found.pod.namespace));
    value["place"] = json!(place(&value["policy"]));
    if let Some(rules) = value["rules"].as_array_mut() {
        for rule in rules {
            rule["place"] = json!(place(&rule["rule"]));
        }
    }
    value
}

fn text(found: &Found, value: &Value) -> Result<String> {
    let denial = &found.denial;
    let status = match denial["status"].as_u64() {
        None | Some(0) => "the connection was closed".to_owned(),
        Some(status) => status.to_string(),
    };
    let mut out = format!("{}  {status}  {}\n", text_of(&denial["id"]), asked(denial));
    let line = |out: &mut String, name: &str, what: &str| writeln!(out, "  {name:<12} {what}");
    line(
        &mut out,
        "denied by",
        &format!(
            "{}.{}, {} ago",
            found.pod.name,
            found.pod.namespace,
            age(denial)
        ),
    )?;
    let identity = match denial["identity"].as_str() {
        Some(identity) => identity.to_owned(),
        None => "none: it came without a certificate of the mesh".to_owned(),
    };
    line(&mut out, "identity", &identity)?;
    line(&mut out, "client", &text_of(&denial["client"]))?;
    line(&mut out, "why", &why(value))?;
    line(&mut out, "details", &text_of(&denial["details"]))?;
    let verb = if value["cause"] == "rules" { "it " } else { "" };
    for rule in value["rules"].as_array().into_iter().flatten() {
        let name = rule_name(&rule["place"], &rule["rule"]);
        writeln!(
            out,
            "    ~ {name}: {verb}{}{}",
            text_of(&rule["why"]),
            source(&rule["place"])
        )?;
    }
    Ok(out)
}

/// `GET http://web/admin`, or where a connection went.
fn asked(denial: &Value) -> String {
    match &denial["request"] {
        Value::Null => format!("a connection to {}", text_of(&denial["destination"])),
        request => format!(
            "{} {}{}",
            text_of(&request["method"]),
            text_of(&request["host"]),
            text_of(&request["path"])
        ),
    }
}

/// What decided, in a line.
fn why(value: &Value) -> String {
    let stands = source(&value["place"]);
    match (value["cause"].as_str(), value["policy"].as_str()) {
        (Some("rules"), Some(_)) => {
            format!(
                "denied by {}{stands}",
                rule_name(&value["place"], &value["policy"])
            )
        }
        (Some("rules"), None) => match value["rules"].as_array().map(Vec::len) {
            None | Some(0) => "no ALLOW policy allows it".to_owned(),
            Some(1) => "no ALLOW policy allows it: the only rule does not match".to_owned(),
            Some(count) => format!("no ALLOW policy allows it: none of {count} rules matches"),
        },
        (Some("token"), _) => match value["rules"].as_array().map(Vec::as_slice) {
            Some([rule]) => format!(
                "no good token for {}{}",
                rule_name(&rule["place"], &rule["rule"]),
                source(&rule["place"])
            ),
            Some([_, ..]) => "no good token for any of the rules".to_owned(),
            _ => format!("its token: {}", text_of(&value["details"])),
        },
        (Some("authorizer"), _) => {
            format!(
                "the external authorizer {} refused it",
                text_of(&value["authorizer"])
            )
        }
        _ => text_of(&value["details"]),
    }
}

fn rule_name(place: &Value, name: &Value) -> String {
    if name == "" {
        return "no rule".to_owned();
    }
    match (place["object"].as_str(), place["field"].as_str()) {
        (Some(object), Some(field)) => {
            format!("{object} {}", field.trim_start_matches("spec."))
        }
        _ => text_of(name),
    }
}

fn source(place: &Value) -> String {
    match (&place["source"]["file"], &place["source"]["line"]) {
        (Value::String(file), line) if line.is_u64() => format!("   {file}:{line}"),
        _ => String::new(),
    }
}

fn age(denial: &Value) -> String {
    let then = denial["time"].as_i64().unwrap_or_default();
    let seconds = output::now().saturating_sub(then).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_told_from_a_url() {
        assert!(is_id("d-00ff00ff00ff00ff"));
        assert!(!is_id("d-00ff") && !is_id("http://d-00ff00ff00ff00ff/") && !is_id("details"));
    }

    #[test]
    fn a_denial_says_which_rule_decided_or_that_none_allows() {
        let place = json!({"object": "AuthorizationPolicy/shop/no", "field": "spec.rules[0]",
            "source": {"file": "a.yaml", "line": 7}});
        let denied =
            json!({"cause": "rules", "policy": "ns[shop]-policy[no]-rule[0]", "place": place});
        assert_eq!(
            why(&denied),
            "denied by AuthorizationPolicy/shop/no rules[0]   a.yaml:7"
        );
        let rule = json!({"rule": "origins-0", "why": "header authorization: it expired 7 s ago",
            "place": {"object": "RequestAuthentication/shop/jwt", "field": "spec.jwtRules[0]",
            "source": {"file": "a.yaml", "line": 9}}});
        let token = json!({"cause": "token", "rules": [rule], "details": "jwt_authn_access_denied{Jwt_is_expired}"});
        assert_eq!(
            why(&token),
            "no good token for RequestAuthentication/shop/jwt jwtRules[0]   a.yaml:9"
        );
        let implicit = json!({"cause": "rules", "policy": null, "rules": [{}, {}]});
        assert_eq!(
            why(&implicit),
            "no ALLOW policy allows it: none of 2 rules matches"
        );
    }
}
