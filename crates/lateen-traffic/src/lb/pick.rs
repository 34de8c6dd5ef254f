//! Picking a host, with the state that a worker keeps between picks.

use super::Availability;
use super::edf::Scheduler;
use super::host_set::{HostSet, LocalitySlice, PriorityLevel, Slice};
use super::priority::{HealthShare, PriorityLoad, priority_load};
use super::zones::ZonePick;
use crate::cluster::LbPolicy;

/// What a pick may look at.
#[derive(Clone, Copy)]
pub struct PickRequest<'a> {
    /// A fresh random number.
    pub random: u64,
    /// The request's hash, for consistent hashing; without one the random number stands in.
    pub hash: Option<u64>,
    /// Hosts not to take, by index (those already tried).
    pub avoid: &'a [usize],
    /// How often to pick again if the host is to be avoided. Then any other of its priority is taken, and if there is none, the last.
    pub attempts: u32,
    /// Active requests of a host, by index.
    pub load: &'a dyn Fn(usize) -> u32,
    /// Priorities not to use as long as there is another (those already tried).
    pub avoid_priorities: &'a [u32],
}

/// The host that was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Its index in the endpoint set.
    pub host: usize,
    /// Its priority.
    pub priority: u32,
    /// Among which hosts of the priority.
    pub availability: Availability,
    /// The locality drawn under locality-weighted balancing or zone-aware routing, as an index into the endpoint set's localities.
    pub locality: Option<usize>,
    /// Picks that were thrown away as they were to be avoided.
    pub retried: u32,
}

/// Why no host was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHost {
    /// There is no host, or none that may be used (`UH`, `no healthy upstream`).
    NoneAvailable,
    /// Too few hosts are healthy, and the cluster fails requests then (`fail_traffic_on_panic`).
    Panic,
    /// The cluster provides the host itself: there is nothing to pick.
    ClusterProvided,
}

/// A worker's state for one host set. Must be replaced together with the set.
#[derive(Debug)]
pub struct LbState {
    /// By slice; made at first use.
    hosts: Vec<Option<Scheduler>>,
    /// By level: among localities with healthy hosts, and with degraded ones.
    localities: Vec<[Option<Scheduler>; 2]>,
    seed: u64,
}

impl LbState {
    /// A fresh state. The random number decides where schedules begin.
    pub fn new(set: &HostSet, random: u64) -> Self {
        Self {
            hosts: vec![None; set.slices.len()],
            localities: vec![[None, None]; set.levels.len()],
            seed: random,
        }
    }

    /// Picks a host.
    ///
    /// # Errors
    /// No host may be used.
    pub fn pick(&mut self, set: &HostSet, request: &PickRequest<'_>) -> Result<Pick, NoHost> {
        if set.policy == LbPolicy::ClusterProvided {
            return Err(NoHost::ClusterProvided);
        }
        let mut retried = 0;
        loop {
            let pick = self.pick_once(set, request, retried)?;
            if !request.avoid.contains(&pick.host) {
                return Ok(Pick { retried, ..pick });
            }
            if retried >= request.attempts {
                let pick = another(set, request, pick).unwrap_or(pick);
                return Ok(Pick { retried, ..pick });
            }
            retried += 1;
        }
    }

    fn pick_once(
        &mut self,
        set: &HostSet,
        request: &PickRequest<'_>,
        attempt: u32,
    ) -> Result<Pick, NoHost> {
        let random = mix(request.random.wrapping_add(u64::from(attempt)));
        let hashed = matches!(
            set.policy,
            LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. }
        );
        // A hash always leads to the same priority, or a client would wander between hosts.
        let draw = if hashed {
            request.hash.unwrap_or(request.random)
        } else {
            random
        };
        let (level, degraded) =
            choose_level(set, draw, request.avoid_priorities).ok_or(NoHost::NoneAvailable)?;
        let at = &set.levels[level];
        let (slice, availability, locality) = if at.load.panic {
            if set.common.fail_on_panic {
                return Err(NoHost::Panic);
            }
            (at.all, Availability::Panic, None)
        } else {
            let availability = if degraded {
                Availability::Degraded
            } else {
                Availability::Healthy
            };
            let (slice, locality) = match choose_zone(set, at, degraded, random)? {
                Some(chosen) => chosen,
                None => self.choose_slice(at, level, degraded, hashed, random),
            };
            (slice, availability, locality)
        };
        let host = if hashed {
            hash_pick(set, &set.slices[slice], request, attempt)
        } else {
            self.pick_from(set, slice, request, random)
        };
        let host = host.ok_or(NoHost::NoneAvailable)?;
        Ok(Pick {
            host,
            priority: at.priority,
            availability,
            locality,
            retried: 0,
        })
    }

    /// The hosts of a level to pick from: those of a locality that is drawn, or all of a kind.
    fn choose_slice(
        &mut self,
        at: &PriorityLevel,
        level: usize,
        degraded: bool,
        hashed: bool,
        random: u64,
    ) -> (usize, Option<usize>) {
        let (whole, localities) = if degraded {
            (at.degraded, &at.degraded_localities)
        } else {
            (at.healthy, &at.healthy_localities)
        };
        // Hash tables have the localities' weights in them already.
        if hashed || localities.is_empty() {
            return (whole, None);
        }
        let weight = |entry: &LocalitySlice| entry.effective_weight;
        let scheduler = self.localities[level][usize::from(degraded)].get_or_insert_with(|| {
            let weights: Vec<f64> = localities.iter().map(weight).collect();
            Scheduler::new(&weights, random)
        });
        let picked = scheduler.pick(|index| weight(&localities[index]));
        picked.map_or((whole, None), |index| {
            (localities[index].slice, Some(localities[index].locality))
        })
    }

    fn pick_from(
        &mut self,
        set: &HostSet,
        slice: usize,
        request: &PickRequest<'_>,
        random: u64,
    ) -> Option<usize> {
        let hosts = &set.slices[slice].hosts;
        match set.policy {
            _ if hosts.len() < 2 => hosts.first().copied(),
            LbPolicy::Random => hosts.get(index_of(random, hosts.len())).copied(),
            LbPolicy::LeastRequest { choice_count, .. } if set.slices[slice].equal_weights => {
                Some(least_loaded(hosts, choice_count, request, random))
            }
            LbPolicy::LeastRequest {
                active_request_bias,
                ..
            } => {
                let weight = |host: usize| {
                    let active = f64::from((request.load)(host)) + 1.0;
                    f64::from(set.weights[host]) / active.powf(active_request_bias)
                };
                self.scheduled(set, slice, weight)
            }
            _ => self.scheduled(set, slice, |host| f64::from(set.weights[host])),
        }
    }

    fn scheduled(
        &mut self,
        set: &HostSet,
        slice: usize,
        weight: impl Fn(usize) -> f64,
    ) -> Option<usize> {
        let hosts = &set.slices[slice].hosts;
        let scheduler = self.hosts[slice].get_or_insert_with(|| {
            let weights: Vec<f64> = hosts
                .iter()
                .map(|host| f64::from(set.weights[*host]))
                .collect();
            Scheduler::new(&weights, mix(self.seed ^ slice as u64))
        });
        scheduler
            .pick(|index| weight(hosts[index]))
            .map(|index| hosts[index])
    }
}

/// A host that is not to be avoided, of the same priority and as well as the one that was picked.
///
/// Envoy takes the last pick whatever it is. Hosts that just went away are the least loaded ones, so picking by load alone leads to them again
/// and again while one that would answer stands beside them.
fn another(set: &HostSet, request: &PickRequest<'_>, picked: Pick) -> Option<Pick> {
    let at = set
        .levels
        .iter()
        .find(|at| at.priority == picked.priority)?;
    let slice = match picked.availability {
        Availability::Healthy => at.healthy,
        Availability::Degraded => at.degraded,
        Availability::Panic => at.all,
    };
    let hosts = &set.slices[slice].hosts;
    let left = |host: &&usize| !request.avoid.contains(host);
    let count = hosts.iter().filter(left).count();
    let at = index_of(mix(request.random), count.max(1));
    let host = *hosts.iter().filter(left).nth(at)?;
    Some(Pick {
        host,
        locality: None,
        ..picked
    })
}

/// The hosts of a zone that is drawn, where zones decide: their slice and locality.
///
/// # Errors
/// Too few of the proxy's peers are well, and requests are to fail then.
fn choose_zone(
    set: &HostSet,
    at: &PriorityLevel,
    degraded: bool,
    random: u64,
) -> Result<Option<(usize, Option<usize>)>, NoHost> {
    let Some(zones) = set.zones.as_ref().filter(|_| at.priority == 0) else {
        return Ok(None);
    };
    let mut drawn = random;
    let picked = zones.pick(|| {
        drawn = mix(drawn);
        drawn
    });
    let index = match picked {
        ZonePick::Any => return Ok(None),
        ZonePick::Nowhere => return Err(NoHost::Panic),
        ZonePick::Zone(index) => index,
    };
    let zone = zones.zones.get(index);
    Ok(zone.map(|zone| (zone.slices[usize::from(degraded)], Some(zone.group))))
}

/// The level for a number, as an index, and whether its degraded hosts are meant.
fn choose_level(set: &HostSet, random: u64, avoid: &[u32]) -> Option<(usize, bool)> {
    if !avoid.is_empty()
        && let Some(loads) = loads_without(set, avoid)
    {
        return choose_by_load(loads.iter(), random);
    }
    choose_by_load(set.levels.iter().map(|level| &level.load), random)
}

/// Source: Envoy's `LoadBalancerBase::choosePriority`: percentages counted off, healthy hosts of all levels first.
fn choose_by_load<'l>(
    loads: impl Iterator<Item = &'l PriorityLoad> + Clone,
    random: u64,
) -> Option<(usize, bool)> {
    let mut left = random % 100;
    let healthy = loads
        .clone()
        .map(|load| load.healthy)
        .enumerate()
        .map(|(level, share)| (level, false, share));
    let degraded = loads
        .map(|load| load.degraded)
        .enumerate()
        .map(|(level, share)| (level, true, share));
    for (level, degraded, share) in healthy.chain(degraded) {
        match left.checked_sub(u64::from(share)) {
            None => return Some((level, degraded)),
            Some(rest) => left = rest,
        }
    }
    None
}

/// Loads with some priorities left out; `None` if nothing would be left. Only retries come here, so it may allocate.
fn loads_without(set: &HostSet, avoid: &[u32]) -> Option<Vec<PriorityLoad>> {
    let share = |level: &PriorityLevel| {
        if avoid.contains(&level.priority) {
            HealthShare {
                total: level.share.total,
                ..HealthShare::default()
            }
        } else {
            level.share
        }
    };
    let shares: Vec<HealthShare> = set.levels.iter().map(share).collect();
    let usable = shares
        .iter()
        .any(|share| share.healthy + share.degraded > 0);
    usable.then(|| priority_load(&shares, set.overprovisioning, 0.0))
}

/// The least loaded of some hosts drawn at random ("power of two choices").
fn least_loaded(hosts: &[usize], choices: u32, request: &PickRequest<'_>, random: u64) -> usize {
    let mut random = random;
    let mut best = hosts[index_of(random, hosts.len())];
    let mut best_load = (request.load)(best);
    for _ in 1..choices.max(2) {
        random = mix(random);
        let other = hosts[index_of(random, hosts.len())];
        let load = (request.load)(other);
        if load < best_load {
            (best, best_load) = (other, load);
        }
    }
    best
}

/// The host of the request's hash; under bounded loads the next one that is not overloaded.
fn hash_pick(
    set: &HostSet,
    slice: &Slice,
    request: &PickRequest<'_>,
    attempt: u32,
) -> Option<usize> {
    let table = slice.table.as_ref()?;
    let hash = request.hash.unwrap_or(request.random);
    if set.hash_balance_factor == 0 {
        return table.find(hash, attempt);
    }
    let active: u64 = slice
        .hosts
        .iter()
        .map(|host| u64::from((request.load)(*host)))
        .sum();
    let overloaded = |host: usize| {
        let fair = (active + 1) * u64::from(set.weights[host]) * u64::from(set.hash_balance_factor);
        u64::from((request.load)(host)) * 100 * slice.total_weight.max(1) >= fair
    };
    let tries = u32::try_from(slice.hosts.len())
        .unwrap_or(u32::MAX)
        .saturating_mul(4);
    let candidates =
        || (attempt..attempt.saturating_add(tries)).filter_map(|next| table.find(hash, next));
    candidates()
        .find(|host| !overloaded(*host))
        .or_else(|| table.find(hash, attempt))
}

fn index_of(random: u64, length: usize) -> usize {
    usize::try_from(random % length.max(1) as u64).unwrap_or(0)
}

/// One step of SplitMix64: turns one random number into many.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}
