//! What both did, made comparable, and where it differs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::case::{Case, OneOrMany};
use super::client::Reply;
use super::resources::LOG_FIELDS;
use super::upstream::Seen;

/// What a proxy did with a case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) replies: Vec<Reply>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) log: Vec<Vec<String>>,
    pub(crate) milliseconds: u64,
    pub(crate) counted: Value,
}

/// One thing that differs.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) at: String,
    pub(crate) envoy: String,
    pub(crate) lateen: String,
}

/// Where the two differ.
pub(crate) fn differences(case: &Case, envoy: &Observed, lateen: &Observed) -> Vec<Difference> {
    let mut out = Vec::new();
    if case.repeat > 1 && case.tolerance.is_some() {
        shares(case, envoy, lateen, &mut out);
        return out;
    }
    let tell = |observed: &Observed| {
        json!({
            "replies": list(observed.replies.iter().map(|reply| normal(&reply.what)), case),
            "seen": list(hosts_in_order(observed, case).into_iter().map(|seen| normal(&seen.what)), case),
            "seen_by": case.same_host.then(|| hosts_in_order(observed, case).into_iter().map(|seen| seen.host.clone()).collect::<Vec<_>>()),
            "hosts": case.same_host.then(|| list(observed.replies.iter().map(|reply| json!(reply.host)), case)),
            "log": list(observed.log.iter().map(|line| log_line(line)), case),
            "stats": observed.counted,
        })
    };
    walk("", &tell(envoy), &tell(lateen), &mut out);
    out
}

/// What hosts saw; where hosts must be the same, one host after the other, as what goes out at the same time arrives in any order.
fn hosts_in_order<'o>(observed: &'o Observed, case: &Case) -> Vec<&'o Seen> {
    let mut seen: Vec<&Seen> = observed.seen.iter().collect();
    if case.same_host {
        seen.sort_by_key(|seen| &seen.host);
    }
    seen
}

/// Repeated cases are compared without their order.
fn list(items: impl Iterator<Item = Value>, case: &Case) -> Value {
    let mut items: Vec<Value> = items.collect();
    if case.repeat > 1 {
        items.sort_by_cached_key(Value::to_string);
    }
    Value::Array(items)
}

fn log_line(line: &[String]) -> Value {
    let mut map = serde_json::Map::new();
    for ((name, _), value) in LOG_FIELDS.iter().zip(line) {
        if *name != "client" {
            map.insert((*name).to_owned(), json!(value));
        }
    }
    Value::Object(map)
}

/// Takes out what differs between any two runs.
fn normal(value: &Value) -> Value {
    let mut value = value.clone();
    let Some(headers) = value.get_mut("headers").and_then(Value::as_object_mut) else {
        return value;
    };
    for name in ["date", "x-case", "x-host"] {
        headers.shift_remove(name);
    }
    for (name, values) in headers.iter_mut() {
        let first = values[0].as_str().unwrap_or_default().to_owned();
        match name.as_str() {
            "x-request-id" if first.len() == 36 => {
                // Its letter that says why a request is traced is no chance.
                *values = json!(format!(
                    "an id with {}",
                    first.get(14..15).unwrap_or_default()
                ));
            }
            "b3" | "traceparent" | "x-b3-traceid" | "x-b3-spanid" | "x-b3-parentspanid" => {
                *values = json!(trace(&first));
            }
            "x-datadog-trace-id" | "x-datadog-parent-id" if first.len() > 6 => {
                *values = json!("an id");
            }
            "x-datadog-tags" | "tracestate" => *values = json!(state(&first)),
            "sw8" => *values = json!(segment(&first)),
            "x-forwarded-port" => *values = json!("a port"),
            "x-envoy-upstream-service-time" => *values = json!("a time"),
            // What is left of a timeout after earlier tries.
            "x-envoy-expected-rq-timeout-ms" => {
                let left: f64 = first.parse().unwrap_or(-1.0);
                *values = json!(format!("about {}", (left / 1000.0).ceil() * 1000.0));
            }
            "set-cookie" => *values = json!(cookie(&first)),
            _ => {}
        }
    }
    value
}

/// What a request says of its trace, without the ids that were made for it. Those that a case sends begin with `5ee`.
fn trace(text: &str) -> String {
    let part = |part: &str| match part.len() {
        16 | 32 if !part.starts_with("5ee") => format!("{} digits", part.len()),
        _ => part.to_owned(),
    };
    text.split('-').map(part).collect::<Vec<_>>().join("-")
}

/// What is handed on with a trace, without ids that were made.
fn state(text: &str) -> String {
    let made = |part: &str| {
        part.len() == 16 && !part.starts_with("5ee") && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let mut out = String::new();
    for part in text.split_inclusive([',', ';', ':', '=']) {
        let end = part.len() - part.ends_with([',', ';', ':', '=']) as usize;
        let (value, separator) = part.split_at(end);
        out.push_str(if made(value) { "16 digits" } else { value });
        out.push_str(separator);
    }
    out
}

/// SkyWalking's context, without ids that were made and the host's port.
fn segment(text: &str) -> String {
    use base64::Engine as _;
    let part = |part: &str| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(part);
        let read = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match read {
            Some(read) if read.len() == 36 => "an id".to_owned(),
            Some(read) if read.len() > 1 => read,
            _ => part.to_owned(),
        }
    };
    text.split('-').map(part).collect::<Vec<_>>().join("|")
}

/// A cookie whose value was made for the client.
fn cookie(text: &str) -> String {
    match text
        .split_once("=\"")
        .and_then(|(name, rest)| Some((name, rest.split_once('"')?.1)))
    {
        Some((name, rest)) => format!("{name}=a value{rest}"),
        None => text.to_owned(),
    }
}

fn walk(at: &str, envoy: &Value, lateen: &Value, out: &mut Vec<Difference>) {
    match (envoy, lateen) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let inner = if at.is_empty() {
                    key.clone()
                } else {
                    format!("{at}.{key}")
                };
                let (a, b) = (a.get(key), b.get(key));
                walk(
                    &inner,
                    a.unwrap_or(&Value::Null),
                    b.unwrap_or(&Value::Null),
                    out,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if at.matches('.').count() < 2 => {
            for index in 0..a.len().max(b.len()) {
                let (a, b) = (a.get(index), b.get(index));
                walk(
                    &format!("{at}[{index}]"),
                    a.unwrap_or(&Value::Null),
                    b.unwrap_or(&Value::Null),
                    out,
                );
            }
        }
        _ if envoy != lateen => out.push(Difference {
            at: at.to_owned(),
            envoy: envoy.to_string(),
            lateen: lateen.to_string(),
        }),
        _ => {}
    }
}

/// Compares how often each outcome and each host came.
fn shares(case: &Case, envoy: &Observed, lateen: &Observed, out: &mut Vec<Difference>) {
    let tolerance = case.tolerance.unwrap_or(0.1);
    let outcomes = |observed: &Observed| {
        count(
            observed
                .replies
                .iter()
                .map(|reply| format!("{} {:?}", reply.status, reply.host)),
        )
    };
    let hosts = |observed: &Observed| count(observed.seen.iter().map(|seen| seen.host.clone()));
    near(
        "outcomes",
        &outcomes(envoy),
        &outcomes(lateen),
        tolerance,
        case.repeat,
        out,
    );
    near(
        "hosts",
        &hosts(envoy),
        &hosts(lateen),
        tolerance,
        case.repeat,
        out,
    );
}

fn count(items: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}

#[expect(clippy::cast_precision_loss, reason = "counts of some hundreds")]
fn near(
    at: &str,
    envoy: &BTreeMap<String, usize>,
    lateen: &BTreeMap<String, usize>,
    tolerance: f64,
    of: usize,
    out: &mut Vec<Difference>,
) {
    let keys: BTreeSet<&String> = envoy.keys().chain(lateen.keys()).collect();
    for key in keys {
        let share = |counts: &BTreeMap<String, usize>| {
            counts.get(key).copied().unwrap_or(0) as f64 / of as f64
        };
        if (share(envoy) - share(lateen)).abs() > tolerance {
            out.push(Difference {
                at: format!("{at}.{key}"),
                envoy: share(envoy).to_string(),
                lateen: share(lateen).to_string(),
            });
        }
    }
}

/// What a proxy did otherwise than the case expects.
pub(crate) fn unexpected(case: &Case, who: &str, observed: &Observed) -> Vec<String> {
    let expect = &case.expect;
    let mut out = Vec::new();
    if let Some(wanted) = &expect.status {
        let statuses: Vec<u16> = observed.replies.iter().map(|reply| reply.status).collect();
        let holds = match wanted {
            OneOrMany::One(one) => statuses.iter().all(|status| status == one),
            OneOrMany::Many(many) => *many == statuses,
        };
        if !holds {
            out.push(format!("{who}: statuses {statuses:?}"));
        }
    }
    if let Some(wanted) = expect.seen
        && observed.seen.len() != wanted
    {
        out.push(format!("{who}: hosts saw {} requests", observed.seen.len()));
    }
    let field = |name: &str| {
        let at = LOG_FIELDS.iter().position(|(field, _)| *field == name);
        observed.log.last().and_then(|line| line.get(at?).cloned())
    };
    for (name, wanted) in [("flags", &expect.flags), ("details", &expect.details)] {
        if wanted.is_some() && field(name) != *wanted {
            out.push(format!("{who}: {name} {:?}", field(name)));
        }
    }
    if let Some(part) = &expect.body
        && !observed
            .replies
            .last()
            .is_some_and(|reply| reply.body.contains(part))
    {
        out.push(format!(
            "{who}: the body is {:?}",
            observed.replies.last().map(|r| &r.body)
        ));
    }
    if expect.nothing && observed.replies.iter().any(|reply| !reply.body.is_empty()) {
        out.push(format!("{who}: something came back"));
    }
    if let Some((least, most)) = case.takes
        && !(least..=most).contains(&observed.milliseconds)
    {
        out.push(format!("{who}: took {} ms", observed.milliseconds));
    }
    out
}
