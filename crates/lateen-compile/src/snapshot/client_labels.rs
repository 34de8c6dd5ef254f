//! Which labels of a client can matter to what it sends: those that routes, rules and locality preferences name.
//!
//! Proxies that differ in other labels alone get the same outbound configuration, made once.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::networking::{LoadBalancerSettings, TrafficPolicy, VirtualService};

use crate::clusters::DISTRIBUTION_LABELS;
use crate::mesh::Mesh;
use crate::rules::{MergedRule, RuleIndex};
use crate::shared::Shared;

use super::VirtualServiceConfig;

/// The keys of those labels.
pub(super) fn client_labels(
    mesh: &Mesh,
    virtual_services: &[Shared<VirtualServiceConfig>],
    rules: &RuleIndex,
) -> BTreeSet<String> {
    let mut out: BTreeSet<String> = DISTRIBUTION_LABELS.map(str::to_owned).into();
    for config in virtual_services {
        out.extend(sources(&config.spec).flat_map(BTreeMap::keys).cloned());
    }
    for rule in rules.iter() {
        let selector = rule.spec.workload_selector.as_ref();
        out.extend(selector.iter().flat_map(|s| s.match_labels.keys()).cloned());
        out.extend(preferred(rule).map(key));
    }
    let wide = mesh.locality_lb.iter();
    out.extend(wide.flat_map(|setting| &setting.failover_priority).map(key));
    out
}

/// Whether two virtual services name the same ones.
pub(super) fn are_named_alike(a: &VirtualService, b: &VirtualService) -> bool {
    let named = |spec| -> BTreeSet<&String> { sources(spec).flat_map(BTreeMap::keys).collect() };
    named(a) == named(b)
}

/// `key` or `key=value`.
fn key(preference: &String) -> String {
    let key = preference
        .split_once('=')
        .map_or(&**preference, |(key, _)| key);
    key.to_owned()
}

fn sources(spec: &VirtualService) -> impl Iterator<Item = &BTreeMap<String, String>> {
    let http = spec.http.iter().flat_map(|route| &route.r#match);
    let tcp = spec.tcp.iter().flat_map(|route| &route.r#match);
    let tls = spec.tls.iter().flat_map(|route| &route.r#match);
    http.map(|m| &m.source_labels)
        .chain(tcp.map(|m| &m.source_labels))
        .chain(tls.map(|m| &m.source_labels))
}

/// The labels by which a rule says where requests are to stay.
fn preferred(rule: &MergedRule) -> impl Iterator<Item = &String> {
    let subsets = rule.spec.subsets.iter();
    let policies = subsets
        .filter_map(|subset| subset.traffic_policy.as_ref())
        .chain(&rule.spec.traffic_policy);
    policies.flat_map(load_balancers).flat_map(|settings| {
        let setting = settings.locality_lb_setting.as_ref();
        setting.into_iter().flat_map(|s| &s.failover_priority)
    })
}

fn load_balancers(policy: &TrafficPolicy) -> impl Iterator<Item = &LoadBalancerSettings> {
    let ports = policy.port_level_settings.iter();
    policy
        .load_balancer
        .iter()
        .chain(ports.filter_map(|port| port.load_balancer.as_ref()))
}
