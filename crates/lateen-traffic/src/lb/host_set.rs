//! What is fixed between changes of membership and health: levels, panics, localities, hash tables.

use super::HostHealth;
use super::hash_table::{HashEntry, HashTable};
use super::priority::{HealthShare, PriorityLoad, priority_load};
use super::zones::{Amount, Vicinity, Zone, Zones};
use crate::cluster::{Cluster, CommonLb, LbPolicy};
use crate::endpoint::{Endpoint, EndpointSet, LocalityGroup};

/// Steps of a weight that slow start tells apart.
const SCALE: u32 = 100;

/// The hosts of a cluster, prepared for picking.
#[derive(Clone, Debug)]
pub struct HostSet {
    pub(super) policy: LbPolicy,
    pub(super) common: CommonLb,
    /// By host index.
    pub(super) weights: Vec<u32>,
    pub(super) levels: Vec<PriorityLevel>,
    pub(super) slices: Vec<Slice>,
    pub(super) overprovisioning: u32,
    pub(super) hash_balance_factor: u32,
    /// How zones decide among the hosts of priority 0.
    pub(super) zones: Option<Zones>,
}

/// A list of hosts to pick from.
#[derive(Clone, Debug, Default)]
pub(super) struct Slice {
    pub(super) hosts: Vec<usize>,
    pub(super) equal_weights: bool,
    pub(super) table: Option<HashTable>,
    pub(super) total_weight: u64,
}

/// One priority.
#[derive(Clone, Debug)]
pub struct PriorityLevel {
    /// The priority, 0 highest.
    pub priority: u32,
    /// Its hosts by health.
    pub share: HealthShare,
    /// What it gets.
    pub load: PriorityLoad,
    pub(super) healthy: usize,
    pub(super) degraded: usize,
    pub(super) all: usize,
    /// Under locality-weighted balancing.
    pub(super) healthy_localities: Vec<LocalitySlice>,
    pub(super) degraded_localities: Vec<LocalitySlice>,
}

/// The hosts of one locality in a level, with the weight they have by their health.
#[derive(Clone, Debug)]
pub struct LocalitySlice {
    /// The locality, as an index into the endpoint set's.
    pub locality: usize,
    /// `weight * min(1, overprovisioning * available / all)`.
    pub effective_weight: f64,
    pub(super) slice: usize,
}

impl HostSet {
    /// Prepares a cluster's hosts. `health` is by endpoint index; hosts beyond its end are what the control plane says.
    pub fn new(cluster: &Cluster, endpoints: &EndpointSet, health: &[HostHealth]) -> Self {
        Self::near(cluster, endpoints, health, None)
    }

    /// The same for a proxy that knows where it and its peers are.
    pub fn near(
        cluster: &Cluster,
        endpoints: &EndpointSet,
        health: &[HostHealth],
        vicinity: Option<&Vicinity>,
    ) -> Self {
        let mut set = Self::with_policy(cluster.lb_policy, cluster.common_lb, endpoints, health);
        if let Some(vicinity) = vicinity {
            set.keep_near(endpoints, health, vicinity);
        }
        set
    }

    /// Has zones decide, where they may.
    pub(super) fn keep_near(
        &mut self,
        endpoints: &EndpointSet,
        health: &[HostHealth],
        vicinity: &Vicinity,
    ) {
        let (policy, common) = (self.policy, self.common);
        if !policy.heeds_zones() || common.locality_weighted {
            return;
        }
        let builder = Builder {
            endpoints,
            health,
            policy,
            common,
        };
        let zones = builder.zones(vicinity, &mut self.slices);
        self.zones = Zones::new(zones, &common, vicinity);
    }

    /// Prepares hosts for a policy.
    pub fn with_policy(
        policy: LbPolicy,
        common: CommonLb,
        endpoints: &EndpointSet,
        health: &[HostHealth],
    ) -> Self {
        let builder = Builder {
            endpoints,
            health,
            policy,
            common,
        };
        let mut set = Self {
            policy,
            common,
            weights: endpoints
                .endpoints
                .iter()
                .map(|endpoint| endpoint.weight.max(1))
                .collect(),
            levels: Vec::new(),
            slices: Vec::new(),
            overprovisioning: endpoints.overprovisioning_factor,
            hash_balance_factor: match policy {
                LbPolicy::RingHash { hashing, .. } | LbPolicy::Maglev { hashing, .. } => {
                    hashing.hash_balance_factor
                }
                _ => 0,
            },
            zones: None,
        };
        let mut priorities: Vec<u32> = endpoints
            .localities
            .iter()
            .map(|group| group.priority)
            .collect();
        priorities.sort_unstable();
        priorities.dedup();
        for priority in priorities {
            let level = builder.level(priority, &mut set.slices);
            set.levels.push(level);
        }
        let shares: Vec<HealthShare> = set.levels.iter().map(|level| level.share).collect();
        let loads = priority_load(&shares, set.overprovisioning, common.panic_threshold);
        for (level, load) in set.levels.iter_mut().zip(loads) {
            level.load = load;
        }
        builder.hash_tables(&mut set);
        set
    }

    /// Lets hosts count for a part of their weight only, by host: slow start. `factors` are above 0 and at most 1.
    pub fn scale(&mut self, factors: &[f64]) {
        for (weight, factor) in self.weights.iter_mut().zip(factors) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a weight times at most the scale; saturates"
            )]
            let scaled = (f64::from(*weight) * f64::from(SCALE) * factor) as u32;
            *weight = scaled.max(1);
        }
        self.weigh_slices();
    }

    /// Brings slices in line with the weights of their hosts.
    pub(super) fn weigh_slices(&mut self) {
        for slice in &mut self.slices {
            let weights = || slice.hosts.iter().map(|host| self.weights[*host]);
            slice.equal_weights = weights().all(|weight| Some(weight) == weights().next());
            slice.total_weight = weights().map(u64::from).sum();
        }
    }

    /// Whether zones decide, of priority 0.
    pub const fn keeps_to_zones(&self) -> bool {
        self.zones.is_some()
    }

    /// The levels, the highest priority first.
    pub fn levels(&self) -> &[PriorityLevel] {
        &self.levels
    }

    /// The share of requests each host gets in the long run, by index and between 0 and 1, if all have the same load. Under
    /// consistent hashing this is over all hashes.
    pub fn shares(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.weights.len()];
        for level in &self.levels {
            let healthy = f64::from(level.load.healthy) / 100.0;
            if level.load.panic {
                if !self.common.fail_on_panic {
                    self.spread(level.all, healthy, &mut out);
                }
                continue;
            }
            let degraded = f64::from(level.load.degraded) / 100.0;
            if let Some(zones) = self.zones.as_ref().filter(|_| level.priority == 0) {
                self.spread_zones(
                    zones,
                    (level.healthy, level.degraded),
                    (healthy, degraded),
                    &mut out,
                );
                continue;
            }
            self.spread_level(level.healthy, &level.healthy_localities, healthy, &mut out);
            self.spread_level(
                level.degraded,
                &level.degraded_localities,
                degraded,
                &mut out,
            );
        }
        out
    }

    fn spread_level(
        &self,
        whole: usize,
        localities: &[LocalitySlice],
        share: f64,
        out: &mut [f64],
    ) {
        if localities.is_empty() {
            return self.spread(whole, share, out);
        }
        let total: f64 = localities.iter().map(|entry| entry.effective_weight).sum();
        for entry in localities {
            self.spread(entry.slice, share * entry.effective_weight / total, out);
        }
    }

    fn spread_zones(
        &self,
        zones: &Zones,
        (healthy, degraded): (usize, usize),
        (share_healthy, share_degraded): (f64, f64),
        out: &mut [f64],
    ) {
        let shares = zones.shares();
        let rest = 1.0 - zones.enabled();
        self.spread(healthy, share_healthy * rest, out);
        self.spread(degraded, share_degraded * rest, out);
        for (zone, share) in zones.zones.iter().zip(shares) {
            self.spread(zone.slices[0], share_healthy * share, out);
            self.spread(zone.slices[1], share_degraded * share, out);
        }
    }

    fn spread(&self, slice: usize, share: f64, out: &mut [f64]) {
        let slice = &self.slices[slice];
        let weight = |host: usize| match self.policy {
            // Random picks disregard weights.
            LbPolicy::Random => 1.0,
            _ => f64::from(self.weights[host]),
        };
        let total: f64 = slice.hosts.iter().map(|host| weight(*host)).sum();
        for host in &slice.hosts {
            out[*host] += share * weight(*host) / total;
        }
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }
}

impl PriorityLevel {
    /// Its localities, as picks among healthy hosts see them; empty without locality-weighted balancing.
    pub fn localities(&self) -> &[LocalitySlice] {
        &self.healthy_localities
    }
}

struct Builder<'b> {
    endpoints: &'b EndpointSet,
    health: &'b [HostHealth],
    policy: LbPolicy,
    common: CommonLb,
}

impl Builder<'_> {
    fn health_of(&self, host: usize) -> HostHealth {
        self.health
            .get(host)
            .copied()
            .unwrap_or_else(|| self.endpoints.endpoints[host].health.into())
    }

    fn weight_of(&self, host: usize) -> u64 {
        u64::from(self.endpoints.endpoints[host].weight.max(1))
    }

    fn groups(&self, priority: u32) -> impl Iterator<Item = (usize, &LocalityGroup)> {
        self.endpoints
            .localities
            .iter()
            .enumerate()
            .filter(move |(_, group)| group.priority == priority)
    }

    fn hosts(&self, priority: u32, wanted: Option<HostHealth>) -> Vec<usize> {
        let hosts = self
            .groups(priority)
            .flat_map(|(_, group)| group.endpoints.clone());
        hosts
            .filter(|host| wanted.is_none_or(|wanted| self.health_of(*host) == wanted))
            .collect()
    }

    fn level(&self, priority: u32, slices: &mut Vec<Slice>) -> PriorityLevel {
        let healthy = self.hosts(priority, Some(HostHealth::Healthy));
        let degraded = self.hosts(priority, Some(HostHealth::Degraded));
        let all = self.hosts(priority, None);
        let count = |hosts: &[usize]| {
            if self.endpoints.weighted_priority_health {
                hosts.iter().map(|host| self.weight_of(*host)).sum()
            } else {
                hosts.len() as u64
            }
        };
        let share = HealthShare {
            healthy: count(&healthy),
            degraded: count(&degraded),
            total: count(&all) - count(&self.hosts(priority, Some(HostHealth::Excluded))),
        };
        PriorityLevel {
            priority,
            share,
            load: PriorityLoad::default(),
            healthy: self.add_slice(healthy, slices),
            degraded: self.add_slice(degraded, slices),
            all: self.add_slice(all, slices),
            healthy_localities: self.localities(priority, HostHealth::Healthy, slices),
            degraded_localities: self.localities(priority, HostHealth::Degraded, slices),
        }
    }

    fn add_slice(&self, hosts: Vec<usize>, slices: &mut Vec<Slice>) -> usize {
        let first = hosts.first().map(|host| self.weight_of(*host));
        let equal_weights = hosts
            .iter()
            .all(|host| Some(self.weight_of(*host)) == first);
        let total_weight = hosts.iter().map(|host| self.weight_of(*host)).sum();
        slices.push(Slice {
            hosts,
            equal_weights,
            table: None,
            total_weight,
        });
        slices.len() - 1
    }

    /// Source: Envoy's `HostSetImpl::effectiveLocalityWeight`.
    fn localities(
        &self,
        priority: u32,
        wanted: HostHealth,
        slices: &mut Vec<Slice>,
    ) -> Vec<LocalitySlice> {
        let mut out = Vec::new();
        if !self.common.locality_weighted {
            return out;
        }
        for (locality, group) in self.groups(priority) {
            let hosts: Vec<usize> = group
                .endpoints
                .clone()
                .filter(|host| self.health_of(*host) == wanted)
                .collect();
            #[expect(
                clippy::cast_precision_loss,
                reason = "numbers of hosts are far below 2^52"
            )]
            let ratio = hosts.len() as f64 / group.endpoints.len().max(1) as f64;
            let overprovisioned = f64::from(self.endpoints.overprovisioning_factor) / 100.0 * ratio;
            let effective_weight = f64::from(group.weight) * overprovisioned.min(1.0);
            if effective_weight > 0.0 {
                out.push(LocalitySlice {
                    locality,
                    effective_weight,
                    slice: self.add_slice(hosts, slices),
                });
            }
        }
        out
    }

    /// The localities of priority 0, the proxy's own first, the others by name.
    fn zones(&self, vicinity: &Vicinity, slices: &mut Vec<Slice>) -> Vec<Zone> {
        let mut groups: Vec<(usize, &LocalityGroup)> = self
            .groups(0)
            .filter(|(_, group)| !group.endpoints.is_empty())
            .collect();
        groups.sort_by_key(|(_, group)| (*group.locality != *vicinity.locality(), &group.locality));
        let same =
            |a: &(usize, &LocalityGroup), b: &(usize, &LocalityGroup)| a.1.locality == b.1.locality;
        let chunks = groups.chunk_by(same);
        chunks.map(|chunk| self.zone(chunk, slices)).collect()
    }

    fn zone(&self, groups: &[(usize, &LocalityGroup)], slices: &mut Vec<Slice>) -> Zone {
        let hosts = |wanted: HostHealth| -> Vec<usize> {
            let all = groups.iter().flat_map(|(_, group)| group.endpoints.clone());
            all.filter(|host| self.health_of(*host) == wanted).collect()
        };
        let (group, first) = groups[0];
        let healthy = hosts(HostHealth::Healthy);
        let mut amount = Amount::default();
        for host in &healthy {
            amount.add(self.endpoints.endpoints[*host].weight);
        }
        Zone {
            group,
            locality: first.locality.clone(),
            healthy: amount,
            slices: [
                self.add_slice(healthy, slices),
                self.add_slice(hosts(HostHealth::Degraded), slices),
            ],
        }
    }

    /// One table for each list of hosts that a level gives requests to.
    fn hash_tables(&self, set: &mut HostSet) {
        if !matches!(
            self.policy,
            LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. }
        ) {
            return;
        }
        for level in &set.levels {
            let used = if level.load.panic {
                [Some(level.all), None]
            } else {
                [Some(level.healthy), Some(level.degraded)]
            };
            for slice in used.into_iter().flatten() {
                let entries = self.hash_entries(&set.slices[slice]);
                set.slices[slice].table = self.table(&entries);
            }
        }
    }

    fn table(&self, entries: &[HashEntry]) -> Option<HashTable> {
        match self.policy {
            _ if entries.is_empty() => None,
            LbPolicy::RingHash {
                minimum_ring_size,
                maximum_ring_size,
                ..
            } => Some(HashTable::ring(
                entries,
                minimum_ring_size,
                maximum_ring_size,
            )),
            LbPolicy::Maglev { table_size, .. } => Some(HashTable::maglev(entries, table_size)),
            _ => None,
        }
    }

    fn hash_entries(&self, slice: &Slice) -> Vec<HashEntry> {
        let use_hostname = match self.policy {
            LbPolicy::RingHash { hashing, .. } | LbPolicy::Maglev { hashing, .. } => {
                hashing.use_hostname
            }
            _ => false,
        };
        let weights: Vec<f64> = slice
            .hosts
            .iter()
            .map(|host| self.hash_weight(*host, slice))
            .collect();
        let total: f64 = weights.iter().sum();
        let entries = slice
            .hosts
            .iter()
            .zip(weights)
            .filter(|(_, weight)| *weight > 0.0)
            .map(|(host, weight)| HashEntry {
                host: u32::try_from(*host).unwrap_or(u32::MAX),
                key: hash_key(&self.endpoints.endpoints[*host], use_hostname),
                share: weight / total,
            });
        entries.collect()
    }

    /// A host's weight; under locality-weighted balancing its part of its locality's.
    fn hash_weight(&self, host: usize, slice: &Slice) -> f64 {
        let weight = f64::from(self.endpoints.endpoints[host].weight.max(1));
        let group = self
            .endpoints
            .group_of(host)
            .filter(|_| self.common.locality_weighted);
        let Some(group) = group else { return weight };
        let peers = slice
            .hosts
            .iter()
            .filter(|peer| group.endpoints.contains(peer));
        let locality: f64 = peers
            .map(|peer| f64::from(self.endpoints.endpoints[*peer].weight.max(1)))
            .sum();
        f64::from(group.weight) * weight / locality.max(1.0)
    }
}

fn hash_key(endpoint: &Endpoint, use_hostname: bool) -> String {
    // A control plane may give the key itself. Source: Envoy, `envoy.lb` metadata `hash_key`.
    if let Some(crate::value::Value::String(key)) = endpoint.metadata.get("envoy.lb", &["hash_key"])
    {
        return key.to_string();
    }
    if use_hostname && !endpoint.hostname.is_empty() {
        endpoint.hostname.to_string()
    } else {
        endpoint.address.to_string()
    }
}
