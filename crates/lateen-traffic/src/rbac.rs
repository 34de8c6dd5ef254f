//! Role-based access control: Envoy's RBAC filter for connections and requests (`envoy.config.rbac.v3`).
//!
//! Istio's AuthorizationPolicy arrives in this form. A matcher that cannot be compiled refuses the whole resource: nothing
//! is ever served with a looser policy than was written.

mod explain;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

pub use explain::{Side, Topic, Unmet};

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
    /// The policies, in name order. One match is enough.
    pub policies: Vec<Policy>,
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
    pub permissions: Vec<Permission>,
    /// Who asks.
    pub principals: Vec<Principal>,
}

/// A condition on what is asked for.
#[derive(Clone, Debug)]
pub enum Permission {
    /// All of them.
    And(Vec<Permission>),
    /// One of them.
    Or(Vec<Permission>),
    /// Anything.
    Any,
    /// A header.
    Header(HeaderMatcher),
    /// The path without its query.
    UrlPath(StringMatcher),
    /// The path, by a template.
    UriTemplate(crate::route::UriTemplate),
    /// The destination address.
    DestinationIp(IpNet),
    /// The destination port.
    DestinationPort(u16),
    /// The destination port, `start..end`.
    DestinationPortRange(u16, u32),
    /// Dynamic metadata.
    Metadata(MetadataMatcher),
    /// Not this.
    Not(Box<Permission>),
    /// The server name of the ClientHello.
    RequestedServerName(StringMatcher),
}

/// A condition on who asks.
#[derive(Clone, Debug)]
pub enum Principal {
    /// All of them.
    And(Vec<Principal>),
    /// One of them.
    Or(Vec<Principal>),
    /// Anyone.
    Any,
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
    /// A header.
    Header(HeaderMatcher),
    /// The path without its query.
    UrlPath(StringMatcher),
    /// Dynamic metadata.
    Metadata(MetadataMatcher),
    /// A string in the filter state.
    FilterState {
        /// The object's key.
        key: Arc<str>,
        /// The condition on it.
        matcher: StringMatcher,
    },
    /// Not this.
    Not(Box<Principal>),
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
    /// Evaluates the rules.
    pub fn decide(&self, subject: &Subject<'_>) -> RbacDecision<'_> {
        let matched = self.policies.iter().find(|policy| policy.matches(subject));
        self.decision(matched)
    }

    /// Evaluates the rules, and says how each policy went.
    pub fn explain(&self, subject: &Subject<'_>) -> (RbacDecision<'_>, RbacTrace) {
        let mut policies = Vec::new();
        let mut matched = None;
        for policy in &self.policies {
            let permission = policy.permissions.iter().any(|rule| rule.matches(subject));
            let principal = policy.principals.iter().any(|rule| rule.matches(subject));
            policies.push(PolicyTrace {
                name: policy.name.clone(),
                permission,
                principal,
                unmet: policy.unmet(subject),
            });
            if permission && principal {
                matched = Some(policy);
                break;
            }
        }
        (
            self.decision(matched),
            RbacTrace {
                action: self.action,
                policies,
            },
        )
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
        self.permissions.iter().any(|rule| rule.matches(subject))
            && self.principals.iter().any(|rule| rule.matches(subject))
    }
}

impl Permission {
    /// Whether what is asked for is meant. Conditions on a request never hold for a connection.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let port = subject.connection.local.port();
        match self {
            Self::And(all) => all.iter().all(|rule| rule.matches(subject)),
            Self::Or(any) => any.iter().any(|rule| rule.matches(subject)),
            Self::Any => true,
            Self::Header(matcher) => subject
                .request
                .is_some_and(|request| matcher.matches(request)),
            Self::UrlPath(matcher) => subject
                .path()
                .is_some_and(|path| matcher.matches(path.as_bytes())),
            Self::UriTemplate(template) => {
                subject.path().is_some_and(|path| template.matches(path))
            }
            Self::DestinationIp(range) => contains(range, subject.connection.local.ip()),
            Self::DestinationPort(wanted) => *wanted == port,
            Self::DestinationPortRange(start, end) => *start <= port && u32::from(port) < *end,
            Self::Metadata(matcher) => matcher.matches(subject.dynamic_metadata),
            Self::Not(rule) => !rule.matches(subject),
            Self::RequestedServerName(matcher) => matcher.matches(
                subject
                    .connection
                    .server_name
                    .unwrap_or_default()
                    .as_bytes(),
            ),
        }
    }
}

impl Principal {
    /// Whether the one who asks is meant. Conditions on a request never hold for a connection.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::And(all) => all.iter().all(|rule| rule.matches(subject)),
            Self::Or(any) => any.iter().any(|rule| rule.matches(subject)),
            Self::Any => true,
            Self::Authenticated(None) => subject.peer.is_tls && subject.peer.presented,
            Self::Authenticated(Some(matcher)) => {
                subject.peer.is_tls && name_matches(subject.peer, matcher)
            }
            Self::MtlsAuthenticated(san) => {
                subject.peer.validated && san.as_ref().is_none_or(|san| san.matches(subject.peer))
            }
            Self::SourceIp(range) => contains(range, subject.connection.remote.ip()),
            Self::DirectRemoteIp(range) => contains(range, subject.connection.direct_remote.ip()),
            Self::RemoteIp(range) => contains(range, subject.client()),
            Self::Header(matcher) => subject
                .request
                .is_some_and(|request| matcher.matches(request)),
            Self::UrlPath(matcher) => subject
                .path()
                .is_some_and(|path| matcher.matches(path.as_bytes())),
            Self::Metadata(matcher) => matcher.matches(subject.dynamic_metadata),
            Self::FilterState { key, matcher } => subject
                .filter_state
                .get(key)
                .is_some_and(|value| matcher.matches(value.as_bytes())),
            Self::Not(rule) => !rule.matches(subject),
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
fn name_matches(peer: &PeerTls<'_>, matcher: &StringMatcher) -> bool {
    let sans = || peer.uri_sans.iter().chain(peer.dns_sans);
    sans().any(|san| matcher.matches(san.as_bytes())) || matcher.matches(peer.subject.as_bytes())
}

#[cfg(test)]
mod tests;
