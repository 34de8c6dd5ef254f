//! Locality: shares between localities, and which ones are to be used only when nearer ones fail.
//!
//! Source: Istio, `pilot/pkg/networking/core/loadbalancer`.

use std::collections::BTreeMap;

use lateen_api::networking::{LocalityDistribute, LocalityFailover};

use crate::clusters::{LocalityPolicy, Place};
use crate::model::Endpoint;
use crate::pod::Locality;
use crate::proto::{core, endpoint, u32_value};

/// The endpoints of one locality.
#[derive(Clone, Debug)]
pub(super) struct Group<'a> {
    locality: Locality,
    endpoints: Vec<(&'a Endpoint, endpoint::LbEndpoint)>,
    /// Set where shares between localities were asked for.
    weight: Option<u32>,
    priority: u32,
}

impl<'a> Group<'a> {
    pub(super) fn new(locality: Locality) -> Self {
        Self {
            locality,
            endpoints: Vec::new(),
            weight: None,
            priority: 0,
        }
    }

    pub(super) fn push(&mut self, from: &'a Endpoint, built: endpoint::LbEndpoint) {
        self.endpoints.push((from, built));
    }

    fn sum(&self) -> u32 {
        self.endpoints.iter().fold(0_u32, |sum, (from, _)| {
            sum.saturating_add(from.weight.max(1))
        })
    }

    pub(super) fn build(self) -> endpoint::LocalityLbEndpoints {
        let weight = self.weight.unwrap_or_else(|| self.sum());
        endpoint::LocalityLbEndpoints {
            locality: Some(core::Locality {
                region: self.locality.region,
                zone: self.locality.zone,
                sub_zone: self.locality.sub_zone,
            }),
            load_balancing_weight: u32_value(weight),
            priority: self.priority,
            lb_endpoints: self.endpoints.into_iter().map(|(_, built)| built).collect(),
            ..Default::default()
        }
    }
}

/// Applies a locality policy for a client at `place`. Failover needs outlier detection, without which a proxy would never
/// notice that a locality fails.
pub(super) fn apply(
    groups: &mut Vec<Group<'_>>,
    policy: &LocalityPolicy,
    place: &Place,
    outlier_detection: bool,
) {
    let setting = &policy.setting;
    if let Some(zones) = policy.zone_aware {
        if zones.is_enabled() {
            if !setting.failover_priority.is_empty() {
                prefer_labels(groups, &place.labels, &setting.failover_priority);
            }
            by_region(groups, &place.locality, &setting.failover);
        }
        return;
    }
    if !setting.distribute.is_empty() {
        distribute(groups, &place.locality, &setting.distribute);
        return;
    }
    if !outlier_detection && !policy.force {
        return;
    }
    if setting.failover_priority.is_empty() {
        fail_over(groups, &place.locality, &setting.failover);
        return;
    }
    prefer_labels(groups, &place.labels, &setting.failover_priority);
    if !setting.failover.is_empty() {
        fail_over(groups, &place.locality, &setting.failover);
    }
}

/// Whether a locality is in what a rule names: `region/zone/*`, each part optional.
fn matches(locality: &Locality, rule: &str) -> bool {
    let mut parts = rule.split('/');
    [&locality.region, &locality.zone, &locality.sub_zone]
        .into_iter()
        .all(|own| match parts.next() {
            None | Some("*") => true,
            Some(part) => part == own,
        })
}

/// Gives each locality the share the first matching rule names, split by what it had; localities not named get nothing.
fn distribute(groups: &mut Vec<Group<'_>>, client: &Locality, rules: &[LocalityDistribute]) {
    let Some(rule) = rules.iter().find(|rule| matches(client, &rule.from)) else {
        return;
    };
    let mut open: Vec<usize> = (0..groups.len()).collect();
    for (to, share) in &rule.to {
        let (named, rest): (Vec<_>, Vec<_>) = open
            .into_iter()
            .partition(|&index| matches(&groups[index].locality, to));
        open = rest;
        let total: u64 = named
            .iter()
            .map(|&index| u64::from(groups[index].sum()))
            .sum();
        for index in named {
            let part = u64::from(groups[index].sum()) * u64::from(*share);
            let weight = part.div_ceil(total.max(1));
            groups[index].weight = u32::try_from(weight).ok().filter(|weight| *weight > 0);
        }
    }
    for index in open {
        groups[index].endpoints.clear();
    }
    groups.retain(|group| !group.endpoints.is_empty());
}

/// How far a locality is: same sub-zone 0, zone 1, region 2, elsewhere 3.
fn distance(client: &Locality, server: &Locality) -> u32 {
    if client.region != server.region {
        3
    } else if client.zone != server.zone {
        2
    } else if client.sub_zone != server.sub_zone {
        1
    } else {
        0
    }
}

/// Nearer localities first; of the far ones, those the rule names for the client's region before all others.
fn fail_over(groups: &mut [Group<'_>], client: &Locality, rules: &[LocalityFailover]) {
    let rule = rules.iter().find(|rule| rule.from == client.region);
    for group in groups.iter_mut() {
        let mut distance = distance(client, &group.locality);
        if distance == 3 && rule.is_some_and(|rule| rule.to != group.locality.region) {
            distance = 4;
        }
        group.priority = group.priority * 5 + distance;
    }
    close_gaps(groups);
}

/// The client's region first, then the one the rule names for it, then all others: within a region proxies weigh zones themselves.
fn by_region(groups: &mut [Group<'_>], client: &Locality, rules: &[LocalityFailover]) {
    let rule = rules.iter().find(|rule| rule.from == client.region);
    for group in groups.iter_mut() {
        let region = &group.locality.region;
        let distance = match rule {
            _ if *region == client.region => 0,
            Some(rule) if rule.to == *region => 1,
            _ => 2,
        };
        group.priority = group.priority * 3 + distance;
    }
    close_gaps(groups);
}

/// Splits every locality by how many of the leading labels an endpoint shares with the client; more is better.
fn prefer_labels(
    groups: &mut Vec<Group<'_>>,
    client: &BTreeMap<String, String>,
    labels: &[String],
) {
    let mut split: Vec<Group<'_>> = Vec::new();
    for group in groups.drain(..) {
        let mut by_priority: BTreeMap<u32, Group<'_>> = BTreeMap::new();
        for (from, built) in group.endpoints {
            let priority = label_priority(client, from, labels);
            let entry = by_priority.entry(priority).or_insert_with(|| Group {
                priority,
                ..Group::new(group.locality.clone())
            });
            entry.push(from, built);
        }
        split.extend(by_priority.into_values());
    }
    *groups = split;
    close_gaps(groups);
}

/// The number of labels from the first that differs on. A label may name the value to prefer: `key=value`.
fn label_priority(client: &BTreeMap<String, String>, server: &Endpoint, labels: &[String]) -> u32 {
    let shared = labels
        .iter()
        .take_while(|label| {
            let (key, wanted) = match label.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (
                    label.as_str(),
                    client.get(label.as_str()).map(String::as_str),
                ),
            };
            server_label(server, key) == wanted.unwrap_or_default()
        })
        .count();
    u32::try_from(labels.len() - shared).unwrap_or(u32::MAX)
}

/// An endpoint's label; its place counts as labels where it has none.
fn server_label<'a>(server: &'a Endpoint, key: &str) -> &'a str {
    if let Some(value) = server.labels.get(key) {
        return value;
    }
    match key {
        "topology.kubernetes.io/region" => &server.locality.region,
        "topology.kubernetes.io/zone" => &server.locality.zone,
        "topology.istio.io/subzone" => &server.locality.sub_zone,
        "topology.istio.io/network" => &server.network,
        "topology.istio.io/cluster" => &server.cluster_id,
        _ => "",
    }
}

/// Envoy wants priorities 0, 1, 2 … without gaps.
fn close_gaps(groups: &mut [Group<'_>]) {
    let mut used: Vec<u32> = groups.iter().map(|group| group.priority).collect();
    used.sort_unstable();
    used.dedup();
    for group in groups {
        if let Ok(rank) = used.binary_search(&group.priority) {
            group.priority = u32::try_from(rank).unwrap_or(u32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(locality: &str) -> Endpoint {
        Endpoint {
            addresses: vec!["10.0.0.1".to_owned()],
            locality: Locality::parse(locality),
            weight: 1,
            ..Endpoint::default()
        }
    }

    fn groups<'a>(endpoints: &'a [Endpoint]) -> Vec<Group<'a>> {
        endpoints
            .iter()
            .map(|from| {
                let mut group = Group::new(from.locality.clone());
                group.push(from, endpoint::LbEndpoint::default());
                group
            })
            .collect()
    }

    fn policy(setting: lateen_api::networking::LocalityLoadBalancerSetting) -> LocalityPolicy {
        LocalityPolicy {
            setting,
            force: false,
            zone_aware: None,
        }
    }

    fn place(locality: &str) -> Place {
        Place {
            locality: Locality::parse(locality),
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn nearer_localities_come_first_without_gaps() {
        let endpoints = ["r1/z1/s1", "r1/z2/s1", "r2/z1/s1", "r3/z1/s1"].map(endpoint);
        let mut groups = groups(&endpoints);
        let setting = lateen_api::networking::LocalityLoadBalancerSetting {
            failover: vec![LocalityFailover {
                from: "r1".to_owned(),
                to: "r3".to_owned(),
            }],
            ..Default::default()
        };
        apply(&mut groups, &policy(setting), &place("r1/z1/s1"), true);
        let priorities: Vec<_> = groups.iter().map(|group| group.priority).collect();
        assert_eq!(priorities, [0, 1, 3, 2]);
    }

    #[test]
    fn failover_needs_outlier_detection() {
        let endpoints = ["r1/z1", "r2/z1"].map(endpoint);
        let mut groups = groups(&endpoints);
        apply(
            &mut groups,
            &policy(Default::default()),
            &place("r1/z1"),
            false,
        );
        assert!(groups.iter().all(|group| group.priority == 0));
    }

    #[test]
    fn zone_aware_clients_are_told_regions_apart_and_no_zones() {
        let endpoints = ["r1/z1", "r1/z2", "r2/z1", "r3/z1"].map(endpoint);
        let lb = |enabled| lateen_api::networking::LoadBalancerSettings {
            zone_aware_lb_setting: Some(lateen_api::networking::ZoneAwareLoadBalancerSetting {
                enabled,
                failover: vec![lateen_api::networking::ZoneAwareFailover {
                    from: "r1".to_owned(),
                    to: "r3".to_owned(),
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let mesh = crate::mesh::Mesh::default();
        let priorities = |enabled| {
            let mut groups = groups(&endpoints);
            let policy = LocalityPolicy::of(&mesh, Some(&lb(enabled)), None).unwrap();
            apply(&mut groups, &policy, &place("r1/z1"), false);
            groups
                .iter()
                .map(|group| group.priority)
                .collect::<Vec<_>>()
        };
        assert_eq!(priorities(None), [0, 0, 2, 1]);
        assert_eq!(priorities(Some(false)), [0, 0, 0, 0]);
    }

    #[test]
    fn shares_leave_out_localities_that_are_not_named() {
        let endpoints = ["r1/z1", "r1/z2", "r2/z1"].map(endpoint);
        let mut groups = groups(&endpoints);
        let setting = lateen_api::networking::LocalityLoadBalancerSetting {
            distribute: vec![LocalityDistribute {
                from: "r1/*".to_owned(),
                to: BTreeMap::from([("r1/z1/*".to_owned(), 80), ("r1/z2/*".to_owned(), 20)]),
            }],
            ..Default::default()
        };
        apply(&mut groups, &policy(setting), &place("r1/z1"), false);
        let weights: Vec<_> = groups.iter().map(|group| group.weight).collect();
        assert_eq!(weights, [Some(80), Some(20)]);
    }
}
