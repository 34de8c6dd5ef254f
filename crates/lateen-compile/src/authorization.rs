//! AuthorizationPolicy to Envoy's RBAC filters.
//!
//! The order is Istio's: CUSTOM, then (after authentication) AUDIT, DENY, ALLOW. Where a rule cannot be expressed, a denial gets
//! broader and an allowance is left out: a policy is never served looser than it was written.

mod matchers;
mod rules;

use std::collections::{BTreeMap, HashMap};

use lateen_api::security::{Action, AuthorizationPolicy};

use crate::names::ObjectRef;
use crate::proto::{any, extensions, hcm, http_filter, listener, network_filter, rbac};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

use extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use extensions::filters::network::rbac::v3::Rbac as NetworkRbac;

const HTTP_RBAC: &str = "envoy.filters.http.rbac";
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";

/// A policy with what its annotations say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PolicyConfig {
    pub(crate) object: ObjectRef,
    pub(crate) spec: AuthorizationPolicy,
    /// Whether its verdict is only recorded.
    pub(crate) dry_run: bool,
}

/// The policies of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Policies {
    list: Vec<Shared<PolicyConfig>>,
    /// The mesh's trust domain, then its former ones.
    trust_domains: Vec<String>,
}

impl Policies {
    /// The policies that hold for a workload.
    pub(crate) fn of_workload(
        snapshot: &Snapshot,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let list = snapshot.authorization(namespace, labels);
        if list.is_empty() {
            return Self::default();
        }
        let mesh = snapshot.mesh();
        let mut trust_domains = vec![mesh.trust_domain.clone()];
        trust_domains.extend(mesh.trust_domain_aliases.iter().cloned());
        Self {
            list,
            trust_domains,
        }
    }

    /// The filters of HTTP connections.
    pub(crate) fn http_filters(&self) -> Vec<hcm::HttpFilter> {
        let build = |built: Built| {
            let stat_prefix = shadow_prefix(built.shadow.as_ref());
            let config = HttpRbac {
                rules: built.enforced,
                shadow_rules: built.shadow,
                shadow_rules_stat_prefix: stat_prefix,
                ..Default::default()
            };
            http_filter(HTTP_RBAC, any(&config))
        };
        self.build(Protocol::Http).into_iter().map(build).collect()
    }

    /// The filters of opaque connections.
    pub(crate) fn network_filters(&self) -> Vec<listener::Filter> {
        let build = |built: Built| {
            let shadow_prefix = shadow_prefix(built.shadow.as_ref());
            let config = NetworkRbac {
                rules: built.enforced,
                shadow_rules: built.shadow,
                shadow_rules_stat_prefix: shadow_prefix,
                stat_prefix: "tcp.".to_owned(),
                ..Default::default()
            };
            network_filter(NETWORK_RBAC, any(&config))
        };
        self.build(Protocol::Tcp).into_iter().map(build).collect()
    }

    /// One filter per kind of action that any policy has.
    fn build(&self, protocol: Protocol) -> Vec<Built> {
        [
            // Nobody answers for an external authorizer here yet: what it would be asked about is refused.
            (Action::Custom, rbac::rbac::Action::Deny),
            (Action::Audit, rbac::rbac::Action::Log),
            (Action::Deny, rbac::rbac::Action::Deny),
            (Action::Allow, rbac::rbac::Action::Allow),
        ]
        .into_iter()
        .filter_map(|(action, effect)| self.one_action(action, effect, protocol))
        .collect()
    }

    fn one_action(
        &self,
        action: Action,
        effect: rbac::rbac::Action,
        protocol: Protocol,
    ) -> Option<Built> {
        let mut built = Built::default();
        for policy in self
            .list
            .iter()
            .filter(|policy| policy.spec.action == action)
        {
            let slot = if policy.dry_run {
                &mut built.shadow
            } else {
                &mut built.enforced
            };
            let rules = slot.get_or_insert_with(|| rbac::Rbac {
                action: effect as i32,
                policies: HashMap::new(),
                ..Default::default()
            });
            rules.policies.extend(self.policy(policy, effect, protocol));
        }
        (built.enforced.is_some() || built.shadow.is_some()).then_some(built)
    }

    /// The rules of a policy, by the names Istio gives them; one that never matches if it has none.
    fn policy(
        &self,
        policy: &PolicyConfig,
        effect: rbac::rbac::Action,
        protocol: Protocol,
    ) -> Vec<(String, rbac::Policy)> {
        let object = &policy.object;
        let suffix = if policy.spec.action == Action::Custom {
            "-deny-due-to-bad-CUSTOM-action"
        } else {
            ""
        };
        let name = |index: usize| {
            format!(
                "ns[{}]-policy[{}]-rule[{index}]{suffix}",
                object.namespace, object.name
            )
        };
        if policy.spec.rules.is_empty() {
            return vec![(name(0), rules::never())];
        }
        let context = rules::RuleContext {
            namespace: &object.namespace,
            trust_domains: &self.trust_domains,
            effect,
            protocol,
        };
        policy
            .spec
            .rules
            .iter()
            .enumerate()
            .filter_map(|(index, rule)| Some((name(index), rules::policy(rule, &context)?)))
            .collect()
    }
}

/// What the connection is understood as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    Tcp,
}

/// The rules of one filter.
#[derive(Default)]
struct Built {
    enforced: Option<rbac::Rbac>,
    shadow: Option<rbac::Rbac>,
}

/// Where the verdict of rules that are only recorded is found.
fn shadow_prefix(rules: Option<&rbac::Rbac>) -> String {
    match rules.map(|rules| rules.action()) {
        Some(rbac::rbac::Action::Allow) => "istio_dry_run_allow_".to_owned(),
        Some(rbac::rbac::Action::Deny) => "istio_dry_run_deny_".to_owned(),
        _ => String::new(),
    }
}
