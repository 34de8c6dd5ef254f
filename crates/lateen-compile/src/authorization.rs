//! AuthorizationPolicy to Envoy's RBAC and ext_authz filters.
//!
//! The order is Istio's: CUSTOM, then (after authentication) AUDIT, DENY, ALLOW. Where a rule cannot be expressed, a denial gets
//! broader and an allowance is left out: a policy is never served looser than it was written.

mod matchers;
mod provider;
mod rules;
mod trust_domains;

use std::collections::{BTreeMap, HashMap};

use lateen_api::security::{Action, AuthorizationPolicy};

use crate::attachment::Workload;
use crate::names::ObjectRef;
use crate::proto::{any, extensions, hcm, http_filter, listener, network_filter, rbac};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

use extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
pub(crate) use provider::{Authorizer, resolve};
use trust_domains::TrustDomains;

pub(crate) const HTTP_RBAC: &str = "envoy.filters.http.rbac";
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";
const HTTP_EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";
const NETWORK_EXT_AUTHZ: &str = "envoy.filters.network.ext_authz";
/// The prefix of the network filters' statistics.
const TCP_STAT_PREFIX: &str = "tcp.";

/// A policy with what its annotations say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PolicyConfig {
    pub(crate) object: ObjectRef,
    pub(crate) spec: AuthorizationPolicy,
    /// Whether its verdict is only recorded.
    pub(crate) dry_run: bool,
}

impl PolicyConfig {
    /// The provider a CUSTOM policy names.
    pub(crate) fn provider(&self) -> Option<&str> {
        (self.spec.action == Action::Custom).then(|| {
            let provider = self.spec.provider.as_ref();
            provider.map_or("", |provider| provider.name.as_str())
        })
    }
}

/// The policies of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Policies {
    list: Vec<Shared<PolicyConfig>>,
    trust_domains: TrustDomains,
    /// The authorizers that CUSTOM policies name; none for a name that is no usable provider.
    providers: BTreeMap<String, Option<Authorizer>>,
}

impl Policies {
    /// The policies that hold for a workload.
    pub(crate) fn of_workload(snapshot: &Snapshot, workload: &Workload<'_>) -> Self {
        let list = snapshot.authorization(workload);
        if list.is_empty() {
            return Self::default();
        }
        let mesh = snapshot.mesh();
        let providers = list
            .iter()
            .filter_map(|policy| policy.provider())
            .map(|name| (name.to_owned(), snapshot.authorizer(name).ok()))
            .collect();
        Self {
            list,
            trust_domains: TrustDomains::new(&mesh.trust_domain, &mesh.trust_domain_aliases),
            providers,
        }
    }

    /// The filters of HTTP connections that ask external authorizers. They stand before authentication.
    pub(crate) fn custom_http_filters(&self) -> Vec<hcm::HttpFilter> {
        let mut out = Vec::new();
        for (provider, custom) in self.custom(Protocol::Http) {
            let authorizer = custom.authorizer.map(|authorizer| {
                http_filter(HTTP_EXT_AUTHZ, any(&authorizer.http_filter(provider)))
            });
            let shadow = authorizer.is_some();
            out.push(http_filter(
                HTTP_RBAC,
                any(&HttpRbac {
                    shadow_rules_stat_prefix: custom.shadow_prefix(shadow),
                    shadow_rules: shadow.then(|| custom.rules.clone()),
                    rules: (!shadow).then(|| custom.denial()),
                    ..Default::default()
                }),
            ));
            out.extend(authorizer);
        }
        out
    }

    /// The filters of opaque connections that ask external authorizers.
    pub(crate) fn custom_network_filters(&self) -> Vec<listener::Filter> {
        let mut out = Vec::new();
        for (provider, custom) in self.custom(Protocol::Tcp) {
            let authorizer = custom.authorizer.map(|found| found.tcp_filter(provider));
            if authorizer == Some(None) {
                continue; // an authorizer that only knows HTTP is not asked about connections (Istio)
            }
            let shadow = authorizer.is_some();
            out.push(network_filter(
                NETWORK_RBAC,
                any(&NetworkRbac {
                    shadow_rules_stat_prefix: custom.shadow_prefix(shadow),
                    shadow_rules: shadow.then(|| custom.rules.clone()),
                    rules: (!shadow).then(|| custom.denial()),
                    stat_prefix: TCP_STAT_PREFIX.to_owned(),
                    ..Default::default()
                }),
            ));
            if let Some(Some(filter)) = authorizer {
                out.push(network_filter(NETWORK_EXT_AUTHZ, any(&filter)));
            }
        }
        out
    }

    /// The filters of HTTP connections that decide by themselves. They stand after authentication.
    pub(crate) fn http_filters(&self) -> Vec<hcm::HttpFilter> {
        let build = |built: Built| {
            let config = HttpRbac {
                shadow_rules_stat_prefix: shadow_prefix(built.shadow.as_ref()),
                rules: built.enforced,
                shadow_rules: built.shadow,
                ..Default::default()
            };
            http_filter(HTTP_RBAC, any(&config))
        };
        self.build(Protocol::Http).into_iter().map(build).collect()
    }

    /// The filters of opaque connections that decide by themselves.
    pub(crate) fn network_filters(&self) -> Vec<listener::Filter> {
        let build = |built: Built| {
            let config = NetworkRbac {
                shadow_rules_stat_prefix: shadow_prefix(built.shadow.as_ref()),
                rules: built.enforced,
                shadow_rules: built.shadow,
                stat_prefix: TCP_STAT_PREFIX.to_owned(),
                ..Default::default()
            };
            network_filter(NETWORK_RBAC, any(&config))
        };
        self.build(Protocol::Tcp).into_iter().map(build).collect()
    }

    /// One filter per kind of action that any policy has.
    fn build(&self, protocol: Protocol) -> Vec<Built> {
        [
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
            let rules = slot.get_or_insert_with(|| no_rules(effect));
            rules
                .policies
                .extend(self.policy(policy, "", effect, protocol));
        }
        (built.enforced.is_some() || built.shadow.is_some()).then_some(built)
    }

    /// The rules that decide what authorizers are asked about, by provider. A workload has one provider at most: which of several
    /// were to be asked first would be chance, so none is asked and all that their policies match is denied.
    ///
    /// Dry runs are left out: nothing can record what an authorizer would have said.
    fn custom(&self, protocol: Protocol) -> BTreeMap<&str, Custom<'_>> {
        let mut out: BTreeMap<&str, Custom<'_>> = BTreeMap::new();
        for policy in &self.list {
            let Some(provider) = policy.provider().filter(|_| !policy.dry_run) else {
                continue;
            };
            let custom = out.entry(provider).or_insert_with(|| Custom {
                authorizer: self.providers.get(provider).and_then(Option::as_ref),
                rules: no_rules(rbac::rbac::Action::Deny),
            });
            let prefix = match provider {
                "" => format!("{}-", provider::MATCH_PREFIX),
                name => format!("{}-{name}-", provider::MATCH_PREFIX),
            };
            let rules = self.policy(policy, &prefix, rbac::rbac::Action::Deny, protocol);
            custom.rules.policies.extend(rules);
        }
        if out.len() > 1 {
            for custom in out.values_mut() {
                custom.authorizer = None;
            }
        }
        out
    }

    /// The rules of a policy, by the names Istio gives them; one that never matches if it has none.
    fn policy(
        &self,
        policy: &PolicyConfig,
        prefix: &str,
        effect: rbac::rbac::Action,
        protocol: Protocol,
    ) -> Vec<(String, rbac::Policy)> {
        let object = &policy.object;
        let name = |index: usize| {
            format!(
                "{prefix}ns[{}]-policy[{}]-rule[{index}]",
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

/// The policies of one external authorizer.
struct Custom<'a> {
    /// None if it cannot be asked.
    authorizer: Option<&'a Authorizer>,
    rules: rbac::Rbac,
}

impl Custom<'_> {
    /// Denies what the authorizer would be asked about.
    fn denial(&self) -> rbac::Rbac {
        let named = |(name, policy): (&String, &rbac::Policy)| {
            (
                format!("{name}-deny-due-to-bad-CUSTOM-action"),
                policy.clone(),
            )
        };
        rbac::Rbac {
            policies: self.rules.policies.iter().map(named).collect(),
            ..no_rules(rbac::rbac::Action::Deny)
        }
    }

    fn shadow_prefix(&self, shadow: bool) -> String {
        let prefix = if shadow { provider::SHADOW_PREFIX } else { "" };
        prefix.to_owned()
    }
}

fn no_rules(action: rbac::rbac::Action) -> rbac::Rbac {
    rbac::Rbac {
        action: action as i32,
        policies: HashMap::new(),
        ..Default::default()
    }
}

/// Where the verdict of rules that are only recorded is found. Istio sets it without such rules, too.
fn shadow_prefix(rules: Option<&rbac::Rbac>) -> String {
    let action = rules.map(rbac::Rbac::action);
    match action.unwrap_or(rbac::rbac::Action::Allow) {
        rbac::rbac::Action::Allow => "istio_dry_run_allow_".to_owned(),
        rbac::rbac::Action::Deny => "istio_dry_run_deny_".to_owned(),
        rbac::rbac::Action::Log => String::new(),
    }
}

#[cfg(test)]
mod tests;
