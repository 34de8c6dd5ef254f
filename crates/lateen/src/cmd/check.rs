//! `lateen check`: what will expire, and when. Exit status 1 when something has expired or is about to.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use lateen_control::expiry::{PEER_ROOT, secrets};
use lateen_identity::ca::{CaOptions, CertificateAuthority};
use lateen_identity::expiry::{Expiry, Urgency, sort};
use lateen_sources::files::Reader;
use serde_json::{Value, json};

use crate::certificates::held;
use crate::cli::{CheckArgs, Structured};
use crate::output::{print, print_json, print_yaml};
use crate::state::{StateDir, Up};
use crate::table::Table;

const DAY: u64 = 24 * 3600;

pub(crate) fn run(state: &StateDir, namespace: Option<&str>, args: &CheckArgs) -> Result<ExitCode> {
    let up = state.running()?;
    let now = SystemTime::now();
    let mut found = Vec::new();
    if let Some(up) = &up {
        found.extend(of_mesh(state, up, now)?);
    }
    let (paths, namespace) = match &up {
        _ if !args.filename.is_empty() => (args.filename.clone(), namespace.unwrap_or("default")),
        Some(up) => (up.paths.clone(), up.namespace.as_str()),
        // Says how to start a mesh; -f is in the usage.
        None => return state.expect_running().map(|_| ExitCode::FAILURE),
    };
    let files = Reader::new(paths, namespace).read().unwrap_or_default();
    found.extend(secrets(files.resources.iter()));
    sort(&mut found);
    match args.output {
        None => print(&table(&found, now))?,
        Some(Structured::Json) => print_json(&structured(&found, now))?,
        Some(Structured::Yaml) => print_yaml(&structured(&found, now))?,
    }
    let limit = args.within.map(|days| Duration::from_secs(days * DAY));
    let bad = found.iter().any(|expiry| is_bad(expiry, limit, now));
    Ok(if bad {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The authority's certificates, and what each proxy holds.
fn of_mesh(state: &StateDir, up: &Up, now: SystemTime) -> Result<Vec<Expiry>> {
    let ca = CertificateAuthority::open(up.ca_source(state), CaOptions::default(), now);
    let mut found = ca.context("opening the certificate authority")?.expiries();
    let own: Vec<String> = found.iter().map(|expiry| expiry.serial.clone()).collect();
    for proxy in held(state)? {
        for root in proxy
            .roots
            .iter()
            .filter(|root| !own.contains(&root.serial))
        {
            let other = Expiry::new(PEER_ROOT, root);
            if !found.contains(&other) {
                found.push(other);
            }
        }
        let first_to_end = proxy.chain.iter().min_by_key(|facts| facts.not_after);
        let own = first_to_end.map(|facts| Expiry::new("workload", facts).named(&proxy.pod));
        found.extend(own);
    }
    Ok(found)
}

/// Workloads' certificates renew themselves; that less than a third is left says that they do not.
fn is_bad(expiry: &Expiry, limit: Option<Duration>, now: SystemTime) -> bool {
    let renews_itself = expiry.what == "workload";
    let worst = if renews_itself {
        Urgency::Soon
    } else {
        Urgency::Critical
    };
    let late = limit.is_some_and(|limit| !renews_itself && expiry.remaining(now) < limit);
    expiry.urgency(now) >= worst || late
}

fn table(found: &[Expiry], now: SystemTime) -> String {
    let rows = found.iter().map(|expiry| {
        vec![
            expiry.what.clone(),
            expiry.name.clone(),
            expiry.until(),
            left(expiry.remaining(now)),
            state_of(expiry, now).to_owned(),
        ]
    });
    let header = ["WHAT", "NAME", "EXPIRES", "LEFT", "STATE"];
    Table::from_parts(&header, rows.collect()).render()
}

fn structured(found: &[Expiry], now: SystemTime) -> Value {
    found
        .iter()
        .map(|expiry| {
            json!({
                "what": expiry.what,
                "name": expiry.name,
                "serial": expiry.serial,
                "notAfter": expiry.until(),
                "secondsLeft": expiry.remaining(now).as_secs(),
                "state": state_of(expiry, now),
            })
        })
        .collect()
}

fn state_of(expiry: &Expiry, now: SystemTime) -> &'static str {
    match expiry.urgency(now) {
        Urgency::Fine => "fine",
        Urgency::Soon => "soon",
        Urgency::Critical => "critical",
        Urgency::Expired => "expired",
    }
}

/// The two largest units: `89d 3h`, `11h 59m`, `4m 10s`.
fn left(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours) = (seconds / DAY, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m {rest}s"),
        (0, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expiry(what: &str, life: u64, age: u64) -> (Expiry, SystemTime) {
        let from = SystemTime::UNIX_EPOCH;
        let expiry = Expiry {
            what: what.to_owned(),
            name: "a".to_owned(),
            serial: String::new(),
            not_before: from,
            not_after: from + Duration::from_secs(life),
        };
        (expiry, from + Duration::from_secs(age))
    }

    #[test]
    fn what_is_left_is_told_in_two_units() {
        let told = [3_700, 250, 90 * DAY].map(|s| left(Duration::from_secs(s)));
        assert_eq!(told, ["1h 1m", "4m 10s", "90d 0h"]);
    }

    #[test]
    fn a_certificate_that_should_have_renewed_itself_is_worse_than_one_nobody_renews() {
        let (workload, now) = expiry("workload", 900, 700);
        let (root, _) = expiry("root", 900, 700);
        assert!(is_bad(&workload, None, now));
        assert!(!is_bad(&root, None, now));
        assert!(is_bad(&root, Some(Duration::from_secs(300)), now));
    }
}
