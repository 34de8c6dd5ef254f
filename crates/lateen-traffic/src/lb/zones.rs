//! Zone-aware routing: a proxy keeps requests in its own zone as far as that gives every zone's hosts the same load.
//!
//! What is fixed is worked out here once for a set of hosts: of all requests that the proxies of a workload send, each zone's own
//! proxies send a share, and each zone's hosts are to take one. What a zone sends and its hosts can take stays in it; the rest goes
//! to zones that can take more. Source: Envoy, "Zone aware routing" and `ZoneAwareLoadBalancerBase`. Shares are in hundredths of a
//! percent, as Envoy's are, so that both give the same split.

use std::sync::Arc;

use crate::cluster::{CommonLb, ZoneAware};
use crate::endpoint::{EndpointSet, HealthStatus, Locality};

/// The whole, in the unit of shares.
const WHOLE: u64 = 10_000;

/// Where a proxy is, and where its peers are: the instances of its own workload, itself among them (Envoy's `local_cluster`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vicinity {
    locality: Locality,
    zones: Vec<PeerZone>,
    healthy: u64,
    available: u64,
    total: u64,
}

/// The peers of one locality.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PeerZone {
    locality: Arc<Locality>,
    healthy: Amount,
}

/// A number of hosts, and the sum of their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) hosts: u64,
    pub(super) weight: u64,
}

/// The hosts of one locality, the proxy's own first.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    /// As an index into the endpoint set's.
    pub(super) group: usize,
    pub(super) locality: Arc<Locality>,
    pub(super) healthy: Amount,
    /// Slices of the hosts that are healthy, and of those that are degraded.
    pub(super) slices: [usize; 2],
}

/// How requests are spread over zones.
#[derive(Clone, Debug)]
pub(super) struct Zones {
    pub(super) zones: Vec<Zone>,
    /// Of all requests, those that zones decide about, from 0 to 1.
    enabled: f64,
    split: Split,
}

#[derive(Clone, Debug)]
enum Split {
    /// Everything stays in the first zone.
    Local,
    /// Too few of the peers are well, and requests are to fail then.
    Nowhere,
    /// A part stays; the rest goes to zones by what they can take beyond what is sent in them.
    Residual {
        local: u64,
        capacity: Vec<u64>,
        total: u64,
    },
}

/// Which zone a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ZonePick {
    /// Zones are disregarded.
    Any,
    /// The one of an index.
    Zone(usize),
    /// To none.
    Nowhere,
}

impl Vicinity {
    /// The surroundings of a proxy at `locality`, with what is known of its peers. Only their first priority counts.
    pub fn new(locality: Locality, peers: &EndpointSet) -> Self {
        let mut this = Self {
            locality,
            zones: Vec::new(),
            healthy: 0,
            available: 0,
            total: 0,
        };
        for group in peers.localities.iter().filter(|group| group.priority == 0) {
            let endpoints = &peers.endpoints[group.endpoints.clone()];
            if endpoints.is_empty() {
                continue;
            }
            let mut healthy = Amount::default();
            for endpoint in endpoints {
                match endpoint.health {
                    HealthStatus::Unknown | HealthStatus::Healthy => {
                        healthy.add(endpoint.weight);
                        this.available += 1;
                    }
                    HealthStatus::Degraded => this.available += 1,
                    _ => {}
                }
            }
            this.total += endpoints.len() as u64;
            this.healthy += healthy.hosts;
            this.add(&group.locality, healthy);
        }
        this
    }

    fn add(&mut self, locality: &Arc<Locality>, healthy: Amount) {
        let known = self.zones.iter_mut();
        match known.into_iter().find(|zone| zone.locality == *locality) {
            Some(zone) => {
                zone.healthy.hosts += healthy.hosts;
                zone.healthy.weight += healthy.weight;
            }
            None => self.zones.push(PeerZone {
                locality: Arc::clone(locality),
                healthy,
            }),
        }
    }

    /// The proxy's own locality.
    pub const fn locality(&self) -> &Locality {
        &self.locality
    }

    /// Whether too few of the peers are well to say anything by them.
    fn in_panic(&self, threshold: f64) -> bool {
        #[expect(
            clippy::cast_precision_loss,
            reason = "numbers of hosts are far below 2^52"
        )]
        let share = match self.total {
            0 => 0.0,
            total => 100.0 * self.available as f64 / total as f64,
        };
        share < threshold.min(100.0)
    }

    /// The share of the peers that are in a locality.
    fn share(&self, locality: &Locality, by_weight: bool) -> u64 {
        let of = |zone: &PeerZone| zone.healthy.counted(by_weight);
        let total: u64 = self.zones.iter().map(of).sum();
        let zone = self.zones.iter().find(|zone| *zone.locality == *locality);
        share(zone.map_or(0, of), total)
    }

    /// Whether the proxy finds itself among its peers, and there are others elsewhere to share with.
    fn is_usable(&self, alone: bool) -> bool {
        (alone || self.zones.len() > 1)
            && self
                .zones
                .iter()
                .any(|zone| *zone.locality == self.locality)
    }
}

impl Amount {
    pub(super) fn add(&mut self, weight: u32) {
        self.hosts += 1;
        self.weight += u64::from(weight.max(1));
    }

    const fn counted(self, by_weight: bool) -> u64 {
        if by_weight { self.weight } else { self.hosts }
    }
}

fn share(part: u64, total: u64) -> u64 {
    (WHOLE * part).checked_div(total).unwrap_or(0)
}

impl Zones {
    /// How requests to the hosts of `zones` are spread; `None` where zones decide nothing.
    pub(super) fn new(zones: Vec<Zone>, common: &CommonLb, vicinity: &Vicinity) -> Option<Self> {
        let settings = &common.zone_aware;
        let panic = vicinity.in_panic(common.panic_threshold);
        let healthy: u64 = zones.iter().map(|zone| zone.healthy.hosts).sum();
        let usable = zones.len() > 1
            && settings.enabled > 0.0
            && vicinity.is_usable(settings.force_local.is_some())
            && healthy >= settings.min_cluster_size
            && (!panic || common.fail_on_panic);
        usable.then(|| Self {
            split: match panic {
                true => Split::Nowhere,
                false => Split::new(&zones, settings, vicinity),
            },
            enabled: settings.enabled / 100.0,
            zones,
        })
    }

    /// Draws a zone. `random` gives a fresh number each time.
    pub(super) fn pick(&self, mut random: impl FnMut() -> u64) -> ZonePick {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a share drawn from a million parts"
        )]
        let drawn = (random() % 1_000_000) as f64 / 1e6;
        if drawn >= self.enabled {
            return ZonePick::Any;
        }
        let (local, capacity, total) = match &self.split {
            Split::Local => return ZonePick::Zone(0),
            Split::Nowhere => return ZonePick::Nowhere,
            Split::Residual {
                local,
                capacity,
                total,
            } => (*local, capacity, *total),
        };
        if random() % WHOLE < local {
            return ZonePick::Zone(0);
        }
        if total == 0 {
            // Roundings alone lead here, and Envoy takes any zone then.
            let count = self.zones.len().max(1) as u64;
            return ZonePick::Zone(usize::try_from(random() % count).unwrap_or(0));
        }
        let mut left = random() % total;
        for (zone, room) in capacity.iter().enumerate() {
            match left.checked_sub(*room) {
                None => return ZonePick::Zone(zone),
                Some(rest) => left = rest,
            }
        }
        ZonePick::Any
    }

    /// The part of all requests that zones decide about, between 0 and 1.
    pub(super) const fn enabled(&self) -> f64 {
        self.enabled
    }

    /// What each zone gets of all requests, between 0 and 1.
    pub(super) fn shares(&self) -> Vec<f64> {
        let count = self.zones.len();
        let mut out = vec![0.0; count];
        match &self.split {
            Split::Local => out[0] = 1.0,
            Split::Nowhere => {}
            #[expect(
                clippy::cast_precision_loss,
                reason = "hundredths of a percent, and sums of them"
            )]
            Split::Residual {
                local,
                capacity,
                total,
            } => {
                let local = (*local as f64 / WHOLE as f64).min(1.0);
                for (share, room) in out.iter_mut().zip(capacity) {
                    *share = (1.0 - local)
                        * match total {
                            0 => 1.0 / count as f64,
                            total => *room as f64 / *total as f64,
                        };
                }
                out[0] += local;
            }
        }
        out.iter_mut().for_each(|share| *share *= self.enabled);
        out
    }
}

impl Split {
    fn new(zones: &[Zone], settings: &ZoneAware, vicinity: &Vicinity) -> Self {
        let by_weight = settings.by_weight;
        let counted = |zone: &Zone| zone.healthy.counted(by_weight);
        let total: u64 = zones.iter().map(counted).sum();
        // What each zone can take, and what is sent in it; of one that has no host left it is of no interest what is sent.
        let take = |zone: &Zone| share(counted(zone), total);
        let sent = |zone: &Zone| match counted(zone) {
            0 => 0,
            _ => vicinity.share(&zone.locality, by_weight),
        };
        let own = zones
            .first()
            .filter(|zone| *zone.locality == vicinity.locality);
        let mut local = 0;
        if let Some(own) = own {
            let (take, sent) = (take(own), sent(own));
            let forced = settings
                .force_local
                .is_some_and(|least| own.healthy.hosts >= u64::from(least));
            if (take > 0 && take >= sent) || forced {
                return Self::Local;
            }
            local = (take * WHOLE).checked_div(sent).unwrap_or(0);
        }
        let capacity: Vec<u64> = zones
            .iter()
            .enumerate()
            .map(|(index, zone)| match (index, own) {
                (0, Some(_)) => 0,
                _ => take(zone).saturating_sub(sent(zone)),
            })
            .collect();
        Self::Residual {
            local,
            total: capacity.iter().sum(),
            capacity,
        }
    }
}

#[cfg(test)]
mod tests;
