//! The proxy's last denials, for who asks why: each with an id, what was asked for by whom, and the rule that decided.
//!
//! Only a denial costs anything. Each worker has a ring of its own, so that its lock is free but for the moment in which somebody looks.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};
use lateen_traffic::jwt::TokenCheck;
use lateen_traffic::rbac::{RbacAction, Rules, Subject};
use lateen_traffic::{ConnectionInfo, PeerTls};
use serde_json::{Value, json};

/// The header in which a client is told a denial's id, if it may know.
pub(crate) static DECISION: HeaderName = HeaderName::from_static("x-lateen-decision");

/// Denials that a worker keeps.
const KEPT: usize = 256;
/// Denials of a worker within a second whose rules are gone through for what was missing: a flood is not to cost more than its answers.
const EXPLAINED_PER_SECOND: u32 = 50;
/// Bytes of the host, and of the path, that are kept.
const LONGEST: usize = 256;
/// Reasons that are kept of a denial.
const REASONS: usize = 16;

/// Which clients are told the ids of denials (`x-lateen-decision`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DecisionIds {
    /// None.
    #[default]
    Nobody,
    /// Workloads of the mesh, by mutual TLS. At gateways the header is taken out of answers.
    Mesh,
    /// All, also clients outside the mesh.
    Everybody,
}

impl DecisionIds {
    /// Reads the setting; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "off" | "false" => Some(Self::Nobody),
            "mesh" | "true" => Some(Self::Mesh),
            "all" => Some(Self::Everybody),
            _ => None,
        }
    }
}

/// What denied a request.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// Access rules, and the policy that matched, if one did.
    Rules(Arc<Rules>, Option<Arc<str>>),
    /// A token, or that there is none; why, by the provider's name, if that was to be found out.
    Token(Vec<(Arc<str>, String)>),
    /// An external authorizer, by its cluster.
    Authorizer(Arc<str>),
}

/// What was denied.
#[derive(Debug)]
pub(crate) struct Denied<'a> {
    /// The connection.
    pub(crate) connection: &'a ConnectionInfo<'a>,
    /// Its peer.
    pub(crate) peer: &'a PeerTls<'a>,
    /// The client's address.
    pub(crate) client: SocketAddr,
    /// Method, host and path of a request; `None` for a connection.
    pub(crate) request: Option<(&'a str, &'a str, &'a str)>,
    /// The status it was answered with; 0 for a connection.
    pub(crate) status: u16,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub(crate) details: &'a str,
}

/// One denial.
#[derive(Debug)]
struct Denial {
    id: u64,
    at: u64,
    cause: Cause,
    status: u16,
    details: Box<str>,
    request: Option<[Box<str>; 3]>,
    client: SocketAddr,
    destination: SocketAddr,
    identity: Option<Box<str>>,
    /// What kept each rule from allowing it, by the rule's name.
    reasons: Vec<(Arc<str>, String)>,
}

#[derive(Debug, Default)]
struct Ring {
    last: VecDeque<Denial>,
    second: u64,
    explained: u32,
}

/// The last denials of all workers.
#[derive(Debug)]
pub(crate) struct Decisions(Box<[Mutex<Ring>]>);

impl Decisions {
    /// Rings for so many workers.
    pub(crate) fn new(workers: u16) -> Self {
        Self((0..workers.max(1)).map(|_| Mutex::default()).collect())
    }

    /// Keeps a denial, and gives it an id. `subject` is what its rules were asked about.
    pub(crate) fn note(
        &self,
        worker: u16,
        mut cause: Cause,
        denied: &Denied<'_>,
        subject: &Subject<'_>,
    ) -> u64 {
        let now = seconds();
        let id = rand::random();
        let mut ring = self.ring(worker);
        let reasons = match &mut cause {
            Cause::Rules(rules, None) if ring.may_explain(now) => reasons(rules, subject),
            Cause::Token(reasons) => std::mem::take(reasons),
            _ => Vec::new(),
        };
        if ring.last.len() == KEPT {
            ring.last.pop_front();
        }
        let sans = denied.peer.uri_sans.first();
        ring.last.push_back(Denial {
            id,
            at: now,
            cause,
            status: denied.status,
            details: shortened(denied.details),
            request: denied.request.map(|(method, host, path)| {
                // A query may hold what is nobody's business.
                [method, host, lateen_traffic::path::without_query(path)].map(shortened)
            }),
            client: denied.client,
            destination: denied.connection.local,
            identity: sans.map(|san| san.as_str().into()),
            reasons,
        });
        id
    }

    /// Whether a denial of this second may still be looked into. What does costs as much as the decision did.
    pub(crate) fn may_explain(&self, worker: u16) -> bool {
        self.ring(worker).may_explain(seconds())
    }

    fn ring(&self, worker: u16) -> MutexGuard<'_, Ring> {
        let ring = &self.0[usize::from(worker) % self.0.len()];
        ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The denials that are kept, or the one with an id; the latest first.
    pub(crate) fn json(&self, id: Option<&str>) -> Value {
        let mut found: Vec<(u64, Value)> = Vec::new();
        for ring in &self.0 {
            let ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
            let wanted = |denial: &&Denial| id.is_none_or(|id| text(denial.id) == id);
            found.extend(ring.last.iter().filter(wanted).map(|d| (d.at, d.json())));
        }
        found.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        found.into_iter().map(|(_, value)| value).collect()
    }
}

impl Ring {
    fn may_explain(&mut self, now: u64) -> bool {
        if self.second != now {
            (self.second, self.explained) = (now, 0);
        }
        self.explained += 1;
        self.explained <= EXPLAINED_PER_SECOND
    }
}

impl Denial {
    fn json(&self) -> Value {
        let (cause, policy, action) = match &self.cause {
            Cause::Rules(rules, policy) => (
                "rules",
                policy.as_deref(),
                Some(match rules.action {
                    RbacAction::Allow => "ALLOW",
                    RbacAction::Deny => "DENY",
                    RbacAction::Log => "LOG",
                }),
            ),
            Cause::Token(_) => ("token", None, None),
            Cause::Authorizer(_) => ("authorizer", None, None),
        };
        let cluster = match &self.cause {
            Cause::Authorizer(cluster) => Some(&**cluster),
            Cause::Rules(..) | Cause::Token(_) => None,
        };
        let reasons = self.reasons.iter();
        json!({
            "id": text(self.id),
            "time": self.at,
            "cause": cause,
            "action": action,
            "policy": policy,
            "authorizer": cluster,
            "status": self.status,
            "details": self.details,
            "request": self.request.as_ref().map(|[method, host, path]| {
                json!({"method": method, "host": host, "path": path})
            }),
            "client": self.client.to_string(),
            "destination": self.destination.to_string(),
            "identity": self.identity,
            "rules": reasons.map(|(name, why)| json!({"rule": name, "why": why})).collect::<Vec<_>>(),
        })
    }
}

/// What keeps each rule from allowing it.
fn reasons(rules: &Rules, subject: &Subject<'_>) -> Vec<(Arc<str>, String)> {
    let (_, trace) = rules.explain(subject);
    let each = trace.policies.into_iter().take(REASONS).map(|policy| {
        let unmet: Vec<String> = policy.unmet.iter().map(ToString::to_string).collect();
        (policy.name, unmet.join("; "))
    });
    each.collect()
}

/// Why tokens were not taken, by provider. `checks` are in the order in which they were made.
pub(crate) fn token_reasons(checks: Vec<TokenCheck>) -> Vec<(Arc<str>, String)> {
    let failed = checks.into_iter().filter(|check| check.result.is_err());
    let each = failed.take(REASONS).map(|check| {
        let provider = check.provider.unwrap_or_else(|| Arc::from(""));
        let why = match check.location {
            Some(location) => format!("{location}: {}", check.why),
            None => check.why,
        };
        (provider, why)
    });
    each.collect()
}

/// Seconds since 1970.
fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// An id as clients see it.
fn text(id: u64) -> String {
    format!("d-{id:016x}")
}

/// The header's value for an id.
pub(crate) fn header_value(id: u64) -> Option<HeaderValue> {
    HeaderValue::try_from(text(id)).ok()
}

fn shortened(text: &str) -> Box<str> {
    if text.len() <= LONGEST {
        return text.into();
    }
    let mut end = LONGEST;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end]).into()
}

#[cfg(test)]
mod tests {
    use lateen_traffic::request::FilterState;
    use lateen_traffic::value::Metadata;

    use super::*;

    fn note(decisions: &Decisions, path: &str) -> u64 {
        let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let connection = ConnectionInfo::plain(address, address);
        let (peer, metadata, state) = (PeerTls::default(), Metadata::default(), FilterState::new());
        let denied = Denied {
            connection: &connection,
            peer: &peer,
            client: address,
            request: Some(("GET", "web", path)),
            status: 403,
            details: "rbac_access_denied_matched_policy[none]",
        };
        let subject = Subject {
            connection: &connection,
            peer: &peer,
            request: None,
            dynamic_metadata: &metadata,
            filter_state: &state,
        };
        let rules = Arc::new(Rules::new(RbacAction::Allow, vec![]));
        decisions.note(0, Cause::Rules(rules, None), &denied, &subject)
    }

    #[test]
    fn a_denial_is_found_by_its_id_without_the_query_that_came_with_it() {
        let decisions = Decisions::new(2);
        note(&decisions, "/other");
        let id = note(&decisions, "/admin?token=secret");
        let found = decisions.json(Some(&text(id)));
        assert_eq!(found[0]["request"]["path"], "/admin");
        assert_eq!(found[0]["action"], "ALLOW");
        assert_eq!(found.as_array().unwrap().len(), 1);
        assert_eq!(decisions.json(None).as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let decisions = Decisions::new(1);
        let long = format!("/{}", "é".repeat(LONGEST));
        for _ in 0..KEPT + 10 {
            note(&decisions, &long);
        }
        let all = decisions.json(None);
        assert_eq!(all.as_array().unwrap().len(), KEPT);
        assert!(all[0]["request"]["path"].as_str().unwrap().len() <= LONGEST + 4);
    }

    #[test]
    fn the_setting_is_read_or_refused() {
        assert_eq!(DecisionIds::parse("mesh"), Some(DecisionIds::Mesh));
        assert_eq!(DecisionIds::parse("all"), Some(DecisionIds::Everybody));
        assert_eq!(DecisionIds::parse(""), Some(DecisionIds::Nobody));
        assert_eq!(DecisionIds::parse("evrybody"), None);
    }
}
