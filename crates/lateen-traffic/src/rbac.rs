//! Role-based access control: Envoy's RBAC filter for connections and requests (`envoy.config.rbac.v3`).
//!
//! Istio's AuthorizationPolicy arrives in this form. A matcher that cannot be compiled refuses the whole resource: nothing
//! is ever served with a looser policy than was written.

mod explain;
mod index;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

pub use explain::{Side, Topic, Unmet};

use self::index::Index;

use crate::matcher::{HeaderMatcher, MetadataMatcher, StringMatcher};
use crate::request::{ConnectionInfo, FilterState, PeerTls, RequestView};
use crate::tls::SanMatcher;
use crate::value::{Metadata, Value};

/// What the filter decides by.
#[derive(Clone, Debug, Default)]
pub struct RbacConfig {
    /// The rules that are enforced; `None` allows everything.
    pub rules: Option<Arc<Rules>>,
    /// Rules that are only evaluated, for their statistics.
    pub shadow_rules: Option<Arc<Rules>>,
    /// The prefix of the rules' statistics.
    pub rules_stat_prefix: Arc<str>,
    /// The prefix of the shadow rules' statistics and dynamic metadata.
    pub shadow_rules_stat_prefix: Arc<str>,
    /// Where the shadow rules' verdict goes.
    pub shadow_keys: ShadowKeys,
}

/// Keys under which the verdict of shadow rules is found in dynamic metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShadowKeys {
    /// The name of the policy that matched.
    pub policy: Arc<str>,
    /// `allowed` or `denied`.
    pub result: Arc<str>,
}

impl ShadowKeys {
    /// The keys below a prefix (`shadow_rules_stat_prefix`).
    pub fn new(prefix: &str) -> Self {
        Self {
            policy: format!("{prefix}shadow_effective_policy_id").into(),
            result: format!("{prefix}shadow_engine_result").into(),
        }
    }
}

/// `envoy.config.rbac.v3.RBAC`.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What a match means.
    pub action: RbacAction,
    policies: Vec<Policy>,
    index: Index,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RbacAction {
    /// Allowed if one policy matches.
    Allow,
    /// Denied if one policy matches.
    Deny,
    /// Allowed in any case; a match is noted.
    Log,
}

/// One policy: some permission and some principal must match.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name (Istio: `ns[default]-policy[name]-rule[0]`).
    pub name: Arc<str>,
    /// What is asked for.
    pub permissions: Vec<Condition>,
    /// Who asks.
    pub principals: Vec<Condition>,
}

/// A condition: on what is asked for, or on who asks. Envoy has a message for each; what they look at is the same.
#[derive(Clone, Debug)]
pub enum Condition {
    /// All of them.
    And(Vec<Condition>),
    /// One of them.
    Or(Vec<Condition>),
    /// Not this.
    Not(Box<Condition>),
    /// Anything, anyone.
    Any,
    /// A header.
    Header(HeaderMatcher),
    /// The path without its query.
    UrlPath(StringMatcher),
    /// The path, by a template.
    UriTemplate(crate::route::UriTemplate),
    /// Dynamic metadata.
    Metadata(MetadataMatcher),
    /// The destination address.
    DestinationIp(IpNet),
    /// The destination port.
    DestinationPort(u16),
    /// The destination port, `start..end`.
    DestinationPortRange(u16, u32),
    /// The server name of the ClientHello.
    RequestedServerName(StringMatcher),
    /// A peer with a verified certificate, and this name in it if one is asked for.
    Authenticated(Option<StringMatcher>),
    /// A peer with a certificate one of whose SANs of a type matches (`envoy.rbac.matchers.mtls_authenticated`).
    MtlsAuthenticated(Option<SanMatcher>),
    /// The connection's peer, after the PROXY protocol.
    SourceIp(IpNet),
    /// The peer of the socket itself.
    DirectRemoteIp(IpNet),
    /// The client: for requests, after `x-forwarded-for`.
    RemoteIp(IpNet),
    /// A string in the filter state.
    FilterState {
        /// The object's key.
        key: Arc<str>,
        /// The condition on it.
        matcher: StringMatcher,
    },
}

/// What a policy may look at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The connection.
    pub connection: &'a ConnectionInfo<'a>,
    /// The peer's certificate.
    pub peer: &'a PeerTls<'a>,
    /// The request; `None` on connections.
    pub request: Option<&'a RequestView<'a>>,
    /// What filters wrote so far.
    pub dynamic_metadata: &'a Metadata,
    /// What filters left so far.
    pub filter_state: &'a FilterState,
}

/// The outcome of a set of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RbacDecision<'r> {
    /// Whether the connection or request may go on.
    pub allowed: bool,
    /// The policy that matched, if one did.
    pub policy: Option<&'r Arc<str>>,
    /// The action of the rules.
    pub action: RbacAction,
}

/// Why rules came to their outcome.
#[derive(Clone, Debug)]
pub struct RbacTrace {
    /// The action of the rules.
    pub action: RbacAction,
    /// The policies in order, up to the one that matched.
    pub policies: Vec<PolicyTrace>,
}

/// How one policy was evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTrace {
    /// Its name.
    pub name: Arc<str>,
    /// Whether what is asked for is in it.
    pub permission: bool,
    /// Whether who asks is in it.
    pub principal: bool,
    /// What kept it from matching; empty if it matched.
    pub unmet: Vec<Unmet>,
}

impl RbacConfig {
    /// Evaluates the rules that decide nothing; what they came to is to be noted by [`RbacConfig::note_shadow`].
    pub fn shadow(&self, subject: &Subject<'_>) -> Option<RbacDecision<'_>> {
        Some(self.shadow_rules.as_ref()?.decide(subject))
    }

    /// Writes the shadow rules' verdict into dynamic metadata, under the filter's name. A name that an earlier filter left stays
    /// if no policy matched, as in Envoy.
    pub fn note_shadow(&self, filter: &str, verdict: &RbacDecision<'_>, metadata: &mut Metadata) {
        let result = if verdict.allowed { "allowed" } else { "denied" };
        metadata.put(
            filter,
            &self.shadow_keys.result,
            Value::String(result.into()),
        );
        if let Some(policy) = verdict.policy {
            metadata.put(
                filter,
                &self.shadow_keys.policy,
                Value::String(policy.clone()),
            );
        }
    }
}

impl Rules {
    /// Rules by policies, in the order in which they are looked at: Envoy's is that of their names. One match is enough.
    pub fn new(action: RbacAction, policies: Vec<Policy>) -> Self {
        Self {
            action,
            index: Index::new(&policies),
            policies,
        }
    }

    /// The policies, in order.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// Evaluates the rules.
    pub fn decide(&self, subject: &Subject<'_>) -> RbacDecision<'_> {
        let matched = self.first_match(subject);
        self.decision(matched.map(|index| &self.policies[index]))
    }

    /// Evaluates the rules as [`Rules::decide`] does, and says how each policy up to the one that matched went.
    pub fn explain(&self, subject: &Subject<'_>) -> (RbacDecision<'_>, RbacTrace) {
        let matched = self.first_match(subject);
        let looked_at = matched.map_or(self.policies.len(), |index| index + 1);
        let trace = |policy: &Policy| PolicyTrace {
            name: policy.name.clone(),
            permission: policy.permits(subject),
            principal: policy.admits(subject),
            unmet: policy.unmet(subject),
        };
        (
            self.decision(matched.map(|index| &self.policies[index])),
            RbacTrace {
                action: self.action,
                policies: self.policies[..looked_at].iter().map(trace).collect(),
            },
        )
    }

    /// The one decision there is: the first policy that matches.
    fn first_match(&self, subject: &Subject<'_>) -> Option<usize> {
        self.index.first_match(&self.policies, subject)
    }

    fn decision<'r>(&self, matched: Option<&'r Policy>) -> RbacDecision<'r> {
        let allowed = match self.action {
            RbacAction::Allow => matched.is_some(),
            RbacAction::Deny => matched.is_none(),
            RbacAction::Log => true,
        };
        RbacDecision {
            allowed,
            policy: matched.map(|policy| &policy.name),
            action: self.action,
        }
    }
}

impl Policy {
    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.permits(subject) && self.admits(subject)
    }

    /// Whether what is asked for is in it.
    fn permits(&self, subject: &Subject<'_>) -> bool {
        self.permissions.iter().any(|rule| rule.matches(subject))
    }

    /// Whether who asks is in it.
    fn admits(&self, subject: &Subject<'_>) -> bool {
        self.principals.iter().any(|rule| rule.matches(subject))
    }
}

impl Condition {
    /// Whether it holds. Conditions on a request never hold for a connection.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let connection = subject.connection;
        let path = || subject.path();
        match self {
            Self::And(all) => all.iter().all(|rule| rule.matches(subject)),
            Self::Or(any) => any.iter().any(|rule| rule.matches(subject)),
            Self::Not(rule) => !rule.matches(subject),
            Self::Any => true,
            Self::Header(matcher) => subject
                .request
                .is_some_and(|request| matcher.matches(request)),
            Self::UrlPath(matcher) => path().is_some_and(|path| matcher.matches(path.as_bytes())),
            Self::UriTemplate(template) => path().is_some_and(|path| template.matches(path)),
            Self::Metadata(matcher) => matcher.matches(subject.dynamic_metadata),
            Self::DestinationIp(range) => contains(range, connection.local.ip()),
            Self::DestinationPort(wanted) => *wanted == connection.local.port(),
            Self::DestinationPortRange(start, end) => {
                let port = connection.local.port();
                *start <= port && u32::from(port) < *end
            }
            Self::RequestedServerName(matcher) => {
                matcher.matches(connection.server_name.unwrap_or_default().as_bytes())
            }
            Self::Authenticated(name) => is_authenticated(subject.peer, name.as_ref()),
            Self::MtlsAuthenticated(san) => {
                subject.peer.validated && san.as_ref().is_none_or(|san| san.matches(subject.peer))
            }
            Self::SourceIp(range) => contains(range, connection.remote.ip()),
            Self::DirectRemoteIp(range) => contains(range, connection.direct_remote.ip()),
            Self::RemoteIp(range) => contains(range, subject.client()),
            Self::FilterState { key, matcher } => subject
                .filter_state
                .get(key)
                .is_some_and(|value| matcher.matches(value.as_bytes())),
        }
    }
}

impl<'a> Subject<'a> {
    /// A request, with its own connection, peer, metadata and filter state.
    pub fn of_request(request: &'a RequestView<'a>) -> Self {
        Self {
            connection: request.connection,
            peer: request.peer,
            request: Some(request),
            dynamic_metadata: request.dynamic_metadata,
            filter_state: request.filter_state,
        }
    }

    fn path(&self) -> Option<&'a str> {
        self.request.map(|request| request.path_only())
    }

    fn client(&self) -> IpAddr {
        self.request
            .map_or(self.connection.remote, |request| request.client)
            .ip()
    }
}

fn contains(range: &IpNet, address: IpAddr) -> bool {
    range.contains(&address.to_canonical())
}

/// Source: Envoy's `AuthenticatedMatcher`: URI SANs, then DNS SANs, then the subject.
fn is_authenticated(peer: &PeerTls<'_>, name: Option<&StringMatcher>) -> bool {
    let Some(name) = name else {
        return peer.is_tls && peer.presented;
    };
    let mut sans = peer.uri_sans.iter().chain(peer.dns_sans);
    peer.is_tls
        && (sans.any(|san| name.matches(san.as_bytes())) || name.matches(peer.subject.as_bytes()))
}

#[cfg(test)]
mod tests;
