//! Tests of zone-aware routing, with the numbers of Envoy's documentation.

use super::*;
use crate::cluster::{CommonLb, LbPolicy};
use crate::lb::tests::{ROUND_ROBIN, endpoints};
use crate::lb::{HostHealth, HostSet, LbState, NoHost, PickRequest};

/// Hosts in so many localities `r0`, `r1`, …
fn hosts(counts: &[usize]) -> EndpointSet {
    let weights: Vec<Vec<u32>> = counts.iter().map(|count| vec![1; *count]).collect();
    let groups: Vec<(u32, u32, &[u32])> = weights.iter().map(|list| (0, 0, &**list)).collect();
    endpoints(&groups)
}

fn at(region: &str, peers: &[usize]) -> Vicinity {
    let locality = Locality {
        region: region.into(),
        ..Locality::default()
    };
    Vicinity::new(locality, &hosts(peers))
}

fn near(
    policy: LbPolicy,
    zone_aware: ZoneAware,
    (upstream, unhealthy): (&[usize], &[usize]),
    vicinity: &Vicinity,
) -> HostSet {
    let common = CommonLb {
        zone_aware,
        ..CommonLb::default()
    };
    let endpoints = hosts(upstream);
    let health: Vec<HostHealth> = (0..endpoints.endpoints.len())
        .map(|host| match unhealthy.contains(&host) {
            true => HostHealth::Unhealthy,
            false => HostHealth::Healthy,
        })
        .collect();
    placed(policy, common, &endpoints, &health, vicinity)
}

fn placed(
    policy: LbPolicy,
    common: CommonLb,
    endpoints: &EndpointSet,
    health: &[HostHealth],
    vicinity: &Vicinity,
) -> HostSet {
    let mut set = HostSet::with_policy(policy, common, endpoints, health);
    set.keep_near(endpoints, health, vicinity);
    set
}

/// Percent of requests that each locality gets: as promised, and as picked.
fn split(set: &HostSet, upstream: &[usize]) -> Vec<u32> {
    let mut state = LbState::new(set, 1);
    let mut picked = vec![0_u32; upstream.len()];
    let locality = |host: usize| {
        let mut end = 0;
        let ends = upstream.iter().map(|count| {
            end += count;
            end
        });
        ends.into_iter().position(|end| host < end).unwrap()
    };
    const PICKS: u32 = 20_000;
    for number in 0..PICKS {
        let request = PickRequest {
            random: u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            hash: None,
            avoid: &[],
            attempts: 0,
            load: &|_| 0,
            avoid_priorities: &[],
        };
        picked[locality(state.pick(set, &request).unwrap().host)] += 1;
    }
    let mut promised = vec![0.0; upstream.len()];
    for (host, share) in set.shares().iter().enumerate() {
        promised[locality(host)] += share * 100.0;
    }
    for (picked, promised) in picked.iter().zip(&promised) {
        let picked = f64::from(*picked) * 100.0 / f64::from(PICKS);
        assert!((picked - promised).abs() < 1.5, "{picked} {promised}");
    }
    promised.iter().map(|share| share.round() as u32).collect()
}

fn spread(zone_aware: ZoneAware, upstream: &[usize], region: &str, peers: &[usize]) -> Vec<u32> {
    let set = near(ROUND_ROBIN, zone_aware, (upstream, &[]), &at(region, peers));
    split(&set, upstream)
}

#[test]
fn everything_stays_where_hosts_can_take_what_is_sent() {
    let zones = ZoneAware::default();
    assert_eq!(spread(zones, &[4, 4], "r0", &[2, 2]), [100, 0]);
    assert_eq!(spread(zones, &[4, 4], "r1", &[2, 2]), [0, 100]);
    // Half of the hosts are here, and a third of the proxies.
    assert_eq!(spread(zones, &[4, 4], "r0", &[1, 2]), [100, 0]);
}

#[test]
fn what_a_zone_cannot_take_goes_where_there_is_room() {
    // 20 % of the proxies send in a zone with 10 % of the hosts: half of that stays. Of the others 40 % send to 70 %, 40 % to 20 %.
    let upstream = [1, 7, 2];
    let peers = [2, 4, 4];
    assert_eq!(
        spread(ZoneAware::default(), &upstream, "r0", &peers),
        [50, 50, 0]
    );
    // There is room in two zones, in proportion 1 to 2.
    assert_eq!(
        spread(ZoneAware::default(), &[25, 50, 25], "r0", &[50, 40, 10]),
        [50, 20, 30]
    );
}

#[test]
fn a_zone_without_hosts_sends_everything_away() {
    let set = near(
        ROUND_ROBIN,
        ZoneAware::default(),
        (&[2, 4, 4], &[0, 1]),
        &at("r0", &[2, 2, 2]),
    );
    assert_eq!(split(&set, &[2, 4, 4]), [0, 50, 50]);
    // Nor has one that the proxy's own zone is not among.
    assert_eq!(
        spread(ZoneAware::default(), &[0, 4, 4], "r0", &[2, 2, 2]),
        [0, 50, 50]
    );
}

#[test]
fn zones_are_disregarded_where_they_cannot_say_anything() {
    let zones = ZoneAware::default();
    let even = [50, 50];
    assert_eq!(spread(zones, &[2, 2], "r0", &[2, 2]), even, "too few hosts");
    assert_eq!(
        spread(zones, &[4, 4], "r0", &[2]),
        even,
        "peers in one zone"
    );
    assert_eq!(
        spread(zones, &[4, 4], "r9", &[2, 2]),
        even,
        "no peer where the proxy is"
    );
    let off = ZoneAware {
        enabled: 0.0,
        ..zones
    };
    assert_eq!(spread(off, &[4, 4], "r0", &[2, 2]), even, "switched off");
    let half = ZoneAware {
        enabled: 50.0,
        ..zones
    };
    assert_eq!(spread(half, &[4, 4], "r0", &[2, 2]), [75, 25]);
    let small = ZoneAware {
        min_cluster_size: 1,
        ..zones
    };
    assert_eq!(spread(small, &[1, 1], "r0", &[2, 2]), [100, 0]);
}

#[test]
fn all_may_be_told_to_stay() {
    let forced = ZoneAware {
        force_local: Some(2),
        ..ZoneAware::default()
    };
    assert_eq!(spread(forced, &[2, 8], "r0", &[9, 1]), [100, 0]);
    assert_eq!(spread(forced, &[1, 9], "r0", &[5, 5]), [20, 80]);
    assert_eq!(spread(forced, &[4, 4], "r0", &[2]), [100, 0]);
}

#[test]
fn weights_count_where_they_are_asked_for() {
    let by_weight = ZoneAware {
        by_weight: true,
        min_cluster_size: 1,
        ..ZoneAware::default()
    };
    let upstream = endpoints(&[(0, 0, &[1]), (0, 0, &[3])]);
    let mut common = CommonLb {
        zone_aware: by_weight,
        ..CommonLb::default()
    };
    let vicinity = at("r0", &[1, 1]);
    let set = placed(ROUND_ROBIN, common, &upstream, &[], &vicinity);
    // A quarter of the weight is here, and half of what is sent.
    let here: f64 = set.shares()[0];
    assert!((here - 0.5).abs() < 0.01, "{here}");
    common.zone_aware.by_weight = false;
    let set = placed(ROUND_ROBIN, common, &upstream, &[], &vicinity);
    assert!(set.shares()[0] > 0.99);
}

#[test]
fn peers_that_are_not_well_say_nothing_and_may_stop_all() {
    let mut peers = hosts(&[2, 2]);
    for endpoint in &mut peers.endpoints[..3] {
        Arc::make_mut(endpoint).health = HealthStatus::Unhealthy;
    }
    let locality = peers.localities[0].locality.as_ref().clone();
    let vicinity = Vicinity::new(locality, &peers);
    let upstream = hosts(&[4, 4]);
    let mut common = CommonLb::default();
    let set = placed(ROUND_ROBIN, common, &upstream, &[], &vicinity);
    assert_eq!(split(&set, &[4, 4]), [50, 50]);
    common.fail_on_panic = true;
    let set = placed(ROUND_ROBIN, common, &upstream, &[], &vicinity);
    let request = PickRequest {
        random: 1,
        hash: None,
        avoid: &[],
        attempts: 0,
        load: &|_| 0,
        avoid_priorities: &[],
    };
    let picked = LbState::new(&set, 0).pick(&set, &request);
    assert_eq!(picked, Err(NoHost::Panic));
    assert!(set.shares().iter().all(|share| *share == 0.0));
}

#[test]
fn a_hash_knows_no_zones() {
    let ring = LbPolicy::RingHash {
        minimum_ring_size: 1024,
        maximum_ring_size: 8 << 20,
        hashing: Default::default(),
    };
    let vicinity = at("r0", &[2, 2]);
    let set = near(ring, ZoneAware::default(), (&[4, 4], &[]), &vicinity);
    assert!(set.zones.is_none());
}
