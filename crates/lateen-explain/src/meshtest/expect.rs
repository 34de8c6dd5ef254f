//! Comparing what is asserted with what happens. Each check is one field of `expect`; what is not said is not compared.

use std::time::Duration;

use lateen_api::meshtest::{
    Destinations, Expect, ExpectFault, ExpectLimits, ExpectRetries, MeshVerdict,
};

use crate::mesh::Mesh;
use crate::report::{Branch, End, Explanation, LimitFacts, percent, seconds};

/// Shares are equal if they differ by less than this, percent: weights are whole numbers, shares of three are not.
const TOLERANCE: f64 = 0.5;

/// What is compared.
pub(super) struct Checks<'c> {
    pub(super) mesh: &'c Mesh,
    /// Where short names are at home.
    pub(super) namespace: &'c str,
    pub(super) explanation: &'c Explanation,
}

/// The field of `expect`, and what is wrong.
type Found = (&'static str, String);

impl Checks<'_> {
    /// Everything that is not as asserted.
    pub(super) fn run(&self, expect: &Expect) -> Vec<Found> {
        let mut found = Vec::new();
        self.outcome(expect, &mut found);
        if let Some(to) = &expect.to {
            self.shares("to", to, &mut found, |branch, name| {
                self.leads_to(branch, name)
            });
        }
        self.request(expect, &mut found);
        self.policies(expect, &mut found);
        found
    }

    fn branches(&self) -> &[Branch] {
        &self.explanation.branches
    }

    fn outcome(&self, expect: &Expect, found: &mut Vec<Found>) {
        match (expect.verdict, expect.status) {
            (Some(MeshVerdict::Deny), _) => {
                for branch in self
                    .branches()
                    .iter()
                    .filter(|b| b.outcome.end != End::Denied)
                {
                    found.push(("verdict", format!("expected deny, {}", told(branch))));
                }
            }
            (verdict, status) => {
                // A status says all there is to say of an answer of the mesh's own.
                let field = if verdict.is_some() { "verdict" } else { "" };
                let failed = |branch: &&Branch| !branch.outcome.succeeds();
                for branch in self.branches().iter().filter(failed) {
                    if verdict.is_some() || status.is_none() {
                        found.push((field, format!("expected success, {}", told(branch))));
                    }
                }
            }
        }
        if let Some(status) = expect.status {
            let answered = |branch: &&Branch| branch.outcome.status.map(u32::from) != Some(status);
            for branch in self.branches().iter().filter(answered) {
                found.push(("status", format!("expected {status}, {}", told(branch))));
            }
        }
        if !expect.by.is_empty() {
            for branch in self.branches() {
                let by = deciders(branch);
                let is = |object: &String| {
                    *object == expect.by || object.rsplit('/').next() == Some(&expect.by)
                };
                if !by.iter().any(is) {
                    let by = if by.is_empty() {
                        "nobody".to_owned()
                    } else {
                        by.join(", ")
                    };
                    found.push(("by", format!("expected {}, it is {by}", expect.by)));
                }
            }
        }
    }

    /// Compares shares of branches with those asserted.
    fn shares(
        &self,
        field: &'static str,
        wanted: &Destinations,
        found: &mut Vec<Found>,
        leads: impl Fn(&Branch, &str) -> bool,
    ) {
        for (name, share) in &wanted.0 {
            let of = self.branches().iter().filter(|branch| leads(branch, name));
            let actual: f64 = of.map(|branch| branch.percent).sum();
            if (actual - share.get()).abs() >= TOLERANCE {
                let all: Vec<String> = self.branches().iter().map(destination).collect();
                let message = format!(
                    "expected {} to {name}, it is {}: {}",
                    percent(share.get()),
                    percent(actual),
                    all.join(", ")
                );
                found.push((field, message));
            }
        }
    }

    /// Whether a branch leads to `reviews`, `reviews:9080/v1`, `deploy/reviews-v1`, or a cluster by name.
    fn leads_to(&self, branch: &Branch, name: &str) -> bool {
        let is_workload = ["deploy/", "sts/", "ds/", "rs/", "job/", "pod/"]
            .iter()
            .any(|kind| name.starts_with(kind));
        if is_workload {
            let Some(workload) = &branch.facts.workload else {
                return false;
            };
            return workload == name || *workload == format!("{name}.{}", self.namespace);
        }
        let Some(cluster) = &branch.facts.cluster else {
            return false;
        };
        cluster == name || self.is_cluster(cluster, name)
    }

    /// Whether a cluster is the one meant by `host[:port][/subset]`.
    fn is_cluster(&self, cluster: &str, name: &str) -> bool {
        let (host, subset) = name
            .split_once('/')
            .map_or((name, None), |(h, s)| (h, Some(s)));
        let (host, port) = host
            .rsplit_once(':')
            .map_or((host, None), |(h, p)| (h, Some(p)));
        let mut parts = cluster.splitn(4, '|').skip(1);
        let (Some(own_port), Some(own_subset), Some(own_host)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let suffix = self.mesh.domain_suffix();
        let full = [
            host.to_owned(),
            format!("{host}.{}.svc.{suffix}", self.namespace),
            format!("{host}.svc.{suffix}"),
        ];
        full.iter().any(|full| full == own_host)
            && port.is_none_or(|port| port == own_port)
            && subset.is_none_or(|subset| subset == own_subset)
    }

    /// What the destination sees of the request, and the client of the mesh's own part in the answer.
    fn request(&self, expect: &Expect, found: &mut Vec<Found>) {
        for branch in self.branches() {
            let facts = &branch.facts;
            let texts = [
                ("location", &expect.location, &facts.location),
                ("route", &expect.route, &facts.route),
                ("path", &expect.path, &facts.path),
                ("host", &expect.host, &facts.host),
            ];
            for (field, wanted, actual) in texts {
                if !wanted.is_empty() && actual.as_ref() != Some(wanted) {
                    found.push((field, differs(wanted, actual.as_deref())));
                }
            }
            for (name, wanted) in &expect.headers {
                let actual = facts.headers.get(&name.to_ascii_lowercase());
                if actual != Some(wanted) {
                    let message =
                        format!("{name}: {}", differs(wanted, actual.map(String::as_str)));
                    found.push(("headers", message));
                }
            }
            for name in &expect.without_headers {
                if let Some(value) = facts.headers.get(&name.to_ascii_lowercase()) {
                    found.push((
                        "withoutHeaders",
                        format!("{name}: expected none, it is {value:?}"),
                    ));
                }
            }
            for (name, wanted) in &expect.response_headers {
                let actual = facts.response_headers.get(&name.to_ascii_lowercase());
                if actual != Some(wanted) {
                    let message =
                        format!("{name}: {}", differs(wanted, actual.map(String::as_str)));
                    found.push(("responseHeaders", message));
                }
            }
            if !expect.identity.is_empty() {
                let actual = facts.identity.as_deref().unwrap_or("none");
                if actual != expect.identity {
                    found.push(("identity", differs(&expect.identity, Some(actual))));
                }
            }
            if let Some(tls) = expect.tls {
                let actual = facts.tls.map(crate::report::TlsMode::as_str);
                if actual != Some(tls.as_str()) {
                    found.push(("tls", differs(tls.as_str(), actual)));
                }
            }
        }
        // Branches mostly agree; what they agree in is said once.
        found.dedup();
    }

    /// Times, tries, copies and faults.
    fn policies(&self, expect: &Expect, found: &mut Vec<Found>) {
        let Some(first) = self.branches().first() else {
            return;
        };
        let facts = &first.facts;
        if let Some(wanted) = expect.timeout {
            let actual = facts.timeout.unwrap_or_default();
            if actual != wanted {
                found.push(("timeout", durations(wanted, actual)));
            }
        }
        if let Some(ExpectRetries(wanted)) = &expect.retries {
            let none = crate::report::RetryFacts {
                attempts: 0,
                on: String::new(),
                per_try_timeout: None,
            };
            let actual = facts.retries.as_ref().unwrap_or(&none);
            if wanted
                .attempts
                .is_some_and(|attempts| attempts != actual.attempts)
            {
                let wanted = wanted.attempts.unwrap_or_default();
                let message = format!("expected {wanted} retries, there are {}", actual.attempts);
                found.push(("retries", message));
            }
            if let Some(each) = wanted.per_try_timeout
                && actual.per_try_timeout != Some(each)
            {
                let own = actual.per_try_timeout.unwrap_or_default();
                found.push((
                    "retries",
                    format!("perTryTimeout: {}", durations(each, own)),
                ));
            }
            if !wanted.retry_on.is_empty() && conditions(&wanted.retry_on) != conditions(&actual.on)
            {
                let message = format!("retryOn: {}", differs(&wanted.retry_on, Some(&actual.on)));
                found.push(("retries", message));
            }
        }
        if let Some(Destinations(wanted)) = &expect.mirror {
            for (name, share) in wanted {
                let of = facts
                    .mirrors
                    .iter()
                    .filter(|m| self.is_cluster(&m.cluster, name));
                let actual: f64 = of.map(|mirror| mirror.percent).sum();
                if (actual - share.get()).abs() >= TOLERANCE {
                    let (wanted, actual) = (percent(share.get()), percent(actual));
                    found.push((
                        "mirror",
                        format!("expected {wanted} to {name}, it is {actual}"),
                    ));
                }
            }
        }
        if let Some(wanted) = &expect.fault {
            self.fault(wanted, first, found);
        }
        if let Some(wanted) = &expect.limits {
            // Subsets have limits of their own, so every branch is looked at.
            for branch in self.branches() {
                limits(wanted, branch.facts.limits.unwrap_or_default(), found);
            }
            found.dedup();
        }
    }

    fn fault(&self, wanted: &ExpectFault, branch: &Branch, found: &mut Vec<Found>) {
        let actual = branch.facts.fault.clone().unwrap_or_default();
        let share = |wanted: Option<lateen_api::value::Double>| wanted.map_or(100.0, |w| w.get());
        let off = |wanted: f64, actual: f64| (wanted - actual).abs() >= TOLERANCE;
        if let Some(delay) = wanted.delay {
            let own = actual.delay.unwrap_or_default();
            if own != delay {
                found.push(("fault", format!("delay: {}", durations(delay, own))));
            } else if !delay.is_zero() && off(share(wanted.delay_percent), actual.delay_percent) {
                let (wanted, own) = (share(wanted.delay_percent), actual.delay_percent);
                let message = format!(
                    "delay: expected for {}, it is for {}",
                    percent(wanted),
                    percent(own)
                );
                found.push(("fault", message));
            }
        }
        if let Some(abort) = wanted.abort {
            let own = actual.abort_status.map(u32::from);
            if own != Some(abort) {
                let own = own.map(|own| own.to_string());
                let message = format!("abort: {}", differs(&abort.to_string(), own.as_deref()));
                found.push(("fault", message));
            } else if off(share(wanted.abort_percent), actual.abort_percent) {
                let (wanted, own) = (share(wanted.abort_percent), actual.abort_percent);
                let message = format!(
                    "abort: expected for {}, it is for {}",
                    percent(wanted),
                    percent(own)
                );
                found.push(("fault", message));
            }
        }
    }
}

fn limits(wanted: &ExpectLimits, actual: LimitFacts, found: &mut Vec<Found>) {
    let all = [
        (
            "maxConnections",
            wanted.max_connections,
            actual.max_connections,
        ),
        (
            "maxPendingRequests",
            wanted.max_pending_requests,
            actual.max_pending_requests,
        ),
        ("maxRequests", wanted.max_requests, actual.max_requests),
        ("maxRetries", wanted.max_retries, actual.max_retries),
    ];
    for (name, wanted, actual) in all {
        if wanted.is_some() && wanted != actual {
            let (wanted, actual) = (wanted.unwrap_or_default(), actual);
            let actual =
                actual.map_or_else(|| "there is none".to_owned(), |a| format!("it is {a}"));
            found.push(("limits", format!("{name}: expected {wanted}, {actual}")));
        }
    }
}

/// The objects whose access rules decided.
fn deciders(branch: &Branch) -> Vec<String> {
    let touched = branch.facts.touched.iter();
    let mut out: Vec<String> = touched
        .map(|(object, _)| object.clone())
        .chain(
            branch
                .outcome
                .place
                .iter()
                .map(|place| place.object.clone()),
        )
        .filter(|object| !object.starts_with("VirtualService/"))
        .collect();
    out.sort();
    out.dedup();
    out
}

fn told(branch: &Branch) -> String {
    let share = if branch.percent >= 100.0 {
        String::new()
    } else {
        format!("in {} of cases ", percent(branch.percent))
    };
    let status = branch
        .outcome
        .status
        .map_or_else(String::new, |s| format!("{s}: "));
    let place = match &branch.outcome.place {
        Some(place) if !branch.outcome.succeeds() => format!(", by {place}"),
        _ => String::new(),
    };
    format!("{share}it is {status}{}{place}", branch.outcome.summary)
}

fn destination(branch: &Branch) -> String {
    let to = match (&branch.facts.cluster, &branch.facts.workload) {
        (Some(cluster), Some(workload)) => {
            format!("{} ({workload})", crate::walk::short(cluster))
        }
        (Some(cluster), None) => crate::walk::short(cluster),
        (None, Some(workload)) => workload.clone(),
        (None, None) => branch.outcome.summary.clone(),
    };
    format!("{} {to}", percent(branch.percent))
}

fn differs(wanted: &str, actual: Option<&str>) -> String {
    match actual {
        Some(actual) => format!("expected {wanted:?}, it is {actual:?}"),
        None => format!("expected {wanted:?}, there is none"),
    }
}

fn durations(wanted: Duration, actual: Duration) -> String {
    let show = |duration: Duration| {
        if duration.is_zero() {
            "none".to_owned()
        } else {
            seconds(duration)
        }
    };
    format!("expected {}, it is {}", show(wanted), show(actual))
}

/// Conditions of retries, in any order.
fn conditions(text: &str) -> Vec<&str> {
    let mut out: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|t| !t.is_empty())
        .collect();
    out.sort_unstable();
    out
}
