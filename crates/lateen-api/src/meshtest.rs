//! Files of assertions about a mesh, `*.meshtest.yaml`: requests, and what is to become of them.
//!
//! Not an object of any API: a bare document, described in `docs/reference/meshtest.md`. Field tables only; what they mean is
//! known to `lateen-explain`, which runs them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::diagnostic::codes;
use crate::schema::decode::{Cx, Decode};
use crate::schema::{enumeration, object};
use crate::tree::{Node, Tree};
use crate::value::{Double, Value};

object! {
    /// A file of assertions.
    pub struct MeshTest {
        /// Files and directories of the mesh, from this file's directory; that directory itself if none are given.
        mesh: Vec<String>,
        /// Where short names are at home; `default` if not given.
        namespace: String,
        /// Who sends the requests, unless a test says otherwise.
        from: String,
        /// The gateway through which requests come from outside, unless a test says otherwise.
        gateway: String,
        /// The assertions.
        tests: Vec<MeshCase> [REQUIRED],
    }
}

object! {
    /// One request, and what is to become of it.
    pub struct MeshCase {
        /// What is asserted, in the user's words; the request if not given.
        name: String,
        /// `[METHOD] URL`, or a curl line.
        request: String [REQUIRED],
        /// Headers, beside those of the curl line.
        headers: BTreeMap<String, String>,
        /// The workload that sends it.
        from: String,
        /// The gateway workload through which it comes from outside.
        gateway: String,
        /// The identity in the certificate that a client outside presents.
        certificate: String,
        /// A token: its text, or the claims of one that its issuer is taken to have signed.
        token: Option<Value>,
        /// What external authorizers are taken to say.
        ext_authz: Option<MeshVerdict>,
        /// What is to become of it. Nothing said: that it succeeds.
        expect: Expect,
    }
}

object! {
    /// What is to become of a request. What is not said is not compared.
    pub struct Expect {
        /// Where it goes: `reviews`, `reviews/v1`, `reviews:9080/v1`, `deploy/reviews-v1`; several with their shares.
        to: Option<Destinations>,
        /// Whether it gets through.
        verdict: Option<MeshVerdict>,
        /// The object that decides, as `AuthorizationPolicy/default/allow-web`, or its name alone.
        by: String,
        /// The status that a proxy itself answers.
        status: Option<u32>,
        /// Where a redirect leads.
        location: String,
        /// The route's name.
        route: String,
        /// The path as the destination sees it.
        path: String,
        /// The host as the destination sees it.
        host: String,
        /// Headers as the destination sees them.
        headers: BTreeMap<String, String>,
        /// Headers that the destination must not see.
        without_headers: Vec<String>,
        /// Headers that the mesh sets on the response.
        response_headers: BTreeMap<String, String>,
        /// The time for the whole answer; `0s` is none.
        timeout: Option<Duration>,
        /// Retries after the first attempt.
        retries: Option<ExpectRetries>,
        /// Where copies go, with their shares.
        mirror: Option<Destinations>,
        /// What is injected.
        fault: Option<ExpectFault>,
        /// Limits of the destination's connection pool.
        limits: Option<ExpectLimits>,
        /// How the last proxy speaks to the destination.
        tls: Option<ExpectTls>,
        /// The client's identity as the destination sees it: `spiffe://…`, or `none`.
        identity: String,
    }
}

object! {
    /// A retry policy, field by field.
    pub struct RetryFields {
        /// Retries after the first attempt.
        attempts: Option<u32>,
        /// Time for each attempt.
        per_try_timeout: Option<Duration>,
        /// The conditions, as in a VirtualService; in any order.
        retry_on: String,
    }
}

object! {
    /// Limits of a connection pool.
    pub struct ExpectLimits {
        /// Connections.
        max_connections: Option<u32>,
        /// Requests waiting for a connection.
        max_pending_requests: Option<u32>,
        /// Requests under way.
        max_requests: Option<u32>,
        /// Retries under way.
        max_retries: Option<u32>,
    }
}

object! {
    /// Faults, with their shares in percent; 100 if not given.
    pub struct ExpectFault {
        /// How long requests wait.
        delay: Option<Duration>,
        /// How many of them.
        delay_percent: Option<Double>,
        /// The status that is answered.
        abort: Option<u32>,
        /// To how many of them.
        abort_percent: Option<Double>,
    }
}

enumeration! {
    /// Whether a request gets through.
    pub enum MeshVerdict {
        Allow = "allow",
        Deny = "deny",
    }
}

enumeration! {
    /// How a proxy speaks to a destination; as in a DestinationRule.
    pub enum ExpectTls {
        IstioMutual = "ISTIO_MUTUAL",
        Mutual = "MUTUAL",
        Simple = "SIMPLE",
        Disable = "DISABLE",
    }
}

/// Retries: a number, or a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExpectRetries(pub RetryFields);

impl Decode for ExpectRetries {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if let Tree::Scalar(_) = node.tree {
            let attempts = u32::decode(node, cx)?;
            return Some(Self(RetryFields {
                attempts: Some(attempts),
                ..RetryFields::default()
            }));
        }
        RetryFields::decode(node, cx).map(Self)
    }
}

/// Destinations with their shares in percent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Destinations(pub Vec<(String, Double)>);

impl Decode for Destinations {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.tree {
            Tree::Scalar(_) => {
                let only = String::decode(node, cx)?;
                Some(Self(vec![(only, Double::new(100.0))]))
            }
            Tree::Map(entries) => {
                let shares = entries.iter().filter_map(|entry| {
                    let share = cx.in_key(&entry.key, |cx| share(&entry.value, cx))?;
                    Some((entry.key.to_string(), share))
                });
                Some(Self(shares.collect()))
            }
            Tree::Empty | Tree::List(_) => {
                cx.wrong_type(
                    node,
                    "a destination such as reviews/v1, or destinations with their shares",
                );
                None
            }
        }
    }
}

/// A share in percent: `80`, `80%`, `33.3%`.
fn share(node: &Node, cx: &mut Cx<'_>) -> Option<Double> {
    let text = node.raw_text().unwrap_or_default();
    let number = text.trim_end_matches('%').trim().parse::<f64>().ok();
    let found = number.filter(|share| (0.0..=100.0).contains(share));
    if found.is_none() {
        let message = format!("expected a share in percent, found {}", node.describe());
        let fix = Some("write a number from 0 to 100, such as 80 or 80%".to_owned());
        cx.error(node.span, codes::BAD_FORM, message, fix);
    }
    found.map(Double::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SourceFile, parse_document};

    fn read(text: &str) -> (MeshTest, Vec<String>) {
        let (test, _, found) = parse_document(&SourceFile::new("x.meshtest.yaml", text));
        let messages = found.into_iter().map(|d| {
            let line = d.span.as_ref().map_or(0, |span| span.line);
            format!("{line}: {} {}", d.message, d.fix.unwrap_or_default())
        });
        (test, messages.collect())
    }

    #[test]
    fn destinations_and_retries_have_short_forms() {
        let (test, found) = read(
            "tests:\n- request: http://reviews/\n  expect: {to: reviews/v1, retries: 2}\n\
             - request: http://reviews/\n  expect:\n    to: {reviews/v1: 80, reviews/v2: 20%}\n    retries: {attempts: 3, perTryTimeout: 2s}\n",
        );
        assert_eq!(found, Vec::<String>::new());
        let expect = |index: usize| test.tests[index].expect.clone();
        let only = expect(0).to.unwrap().0;
        assert_eq!(only, [("reviews/v1".to_owned(), Double::new(100.0))]);
        assert_eq!(expect(0).retries.unwrap().0.attempts, Some(2));
        assert_eq!(expect(1).to.unwrap().0[1].1, Double::new(20.0));
        assert_eq!(
            expect(1).retries.unwrap().0.per_try_timeout,
            Some(Duration::from_secs(2))
        );
    }

    #[test]
    fn mistakes_are_shown_where_they_stand() {
        let (_, found) = read(
            "tests:\n- request: http://reviews/\n  expects: {}\n- request: x\n  expect: {to: {v1: lots}, tls: STRICT}\n- name: no request\n",
        );
        let shown = found.join("\n");
        assert!(shown.contains("3: unknown field `expects`"), "{shown}");
        assert!(shown.contains("`expect`"), "{shown}");
        assert!(shown.contains("5: expected a share in percent"), "{shown}");
        assert!(shown.contains("unsupported value `STRICT`"), "{shown}");
        assert!(shown.contains("`request` is required"), "{shown}");
    }
}
