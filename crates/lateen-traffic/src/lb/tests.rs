//! Tests of picking: each policy's distribution, health, panics, localities, retries.

use std::sync::Arc;

use super::*;
use crate::cluster::{CommonLb, ConsistentHashing, LbPolicy};
use crate::endpoint::{Endpoint, EndpointAddress, EndpointSet, Locality, LocalityGroup};
use crate::value::Metadata;

/// Groups of (priority, locality weight, host weights).
pub(super) fn endpoints(groups: &[(u32, u32, &[u32])]) -> EndpointSet {
    let mut set = EndpointSet::empty("c");
    for (index, (priority, weight, hosts)) in groups.iter().enumerate() {
        let locality = Arc::new(Locality {
            region: format!("r{index}").into(),
            ..Locality::default()
        });
        let start = set.endpoints.len();
        for weight in *hosts {
            let number = u8::try_from(set.endpoints.len()).unwrap();
            set.endpoints.push(Arc::new(Endpoint {
                health_check: Default::default(),
                address: EndpointAddress::Socket(([10, 0, 0, number], 80).into()),
                additional_addresses: vec![],
                hostname: "".into(),
                weight: *weight,
                health: Default::default(),
                metadata: Metadata::default(),
                locality: locality.clone(),
            }));
        }
        let endpoints = start..set.endpoints.len();
        set.localities.push(LocalityGroup {
            locality,
            priority: *priority,
            weight: *weight,
            metadata: Metadata::default(),
            endpoints,
        });
    }
    set
}

pub(super) const ROUND_ROBIN: LbPolicy = LbPolicy::RoundRobin { slow_start: None };
const LEAST_REQUEST: LbPolicy = LbPolicy::LeastRequest {
    choice_count: 2,
    active_request_bias: 1.0,
    slow_start: None,
};
const HASHING: ConsistentHashing = ConsistentHashing {
    use_hostname: false,
    hash_balance_factor: 0,
};
const RING: LbPolicy = LbPolicy::RingHash {
    minimum_ring_size: 1024,
    maximum_ring_size: 8 << 20,
    hashing: HASHING,
};
const MAGLEV: LbPolicy = LbPolicy::Maglev {
    table_size: 65_537,
    hashing: HASHING,
};

fn set(
    policy: LbPolicy,
    common: CommonLb,
    endpoints: &EndpointSet,
    unhealthy: &[usize],
) -> HostSet {
    let health: Vec<HostHealth> = (0..endpoints.endpoints.len())
        .map(|host| {
            if unhealthy.contains(&host) {
                HostHealth::Unhealthy
            } else {
                HostHealth::Healthy
            }
        })
        .collect();
    HostSet::with_policy(policy, common, endpoints, &health)
}

fn request(random: u64) -> PickRequest<'static> {
    PickRequest {
        random,
        hash: None,
        avoid: &[],
        attempts: 0,
        load: &|_| 0,
        avoid_priorities: &[],
    }
}

fn counts(set: &HostSet, picks: u64) -> Vec<u64> {
    let mut state = LbState::new(set, 7);
    let mut counts = vec![0; set.len()];
    for number in 0..picks {
        counts[state
            .pick(set, &request(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
            .unwrap()
            .host] += 1;
    }
    counts
}

fn plain(policy: LbPolicy, endpoints: &EndpointSet, unhealthy: &[usize]) -> HostSet {
    set(policy, CommonLb::default(), endpoints, unhealthy)
}

#[test]
fn round_robin_takes_turns_in_proportion_to_weights() {
    assert_eq!(
        counts(
            &plain(ROUND_ROBIN, &endpoints(&[(0, 0, &[1, 1, 1])]), &[]),
            300
        ),
        [100, 100, 100]
    );
    assert_eq!(
        counts(
            &plain(ROUND_ROBIN, &endpoints(&[(0, 0, &[1, 2, 3])]), &[]),
            600
        ),
        [100, 200, 300]
    );
}

#[test]
fn random_reaches_every_host_about_equally() {
    for count in counts(
        &plain(LbPolicy::Random, &endpoints(&[(0, 0, &[1; 4])]), &[]),
        40_000,
    ) {
        assert!((9_500..10_500).contains(&count), "{count}");
    }
}

#[test]
fn least_request_avoids_the_loaded_host() {
    let set = plain(LEAST_REQUEST, &endpoints(&[(0, 0, &[1, 1, 1])]), &[]);
    let mut state = LbState::new(&set, 1);
    let load = |host: usize| if host == 0 { 100 } else { 0 };
    let picks = (0..3000_u64).map(|number| {
        let request = PickRequest {
            load: &load,
            ..request(number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
        };
        state.pick(&set, &request).unwrap().host
    });
    // Only two draws of the loaded host in a row lead to it: one in nine.
    let loaded = picks.filter(|host| *host == 0).count();
    assert!((230..450).contains(&loaded), "{loaded}");
}

#[test]
fn weighted_least_request_lowers_the_weight_of_loaded_hosts() {
    let set = plain(LEAST_REQUEST, &endpoints(&[(0, 0, &[1, 3])]), &[]);
    assert_eq!(counts(&set, 400), [100, 300]);
    let mut state = LbState::new(&set, 0);
    let load = |host: usize| if host == 1 { 5 } else { 0 };
    let picks = (0..300).map(|number| {
        state
            .pick(
                &set,
                &PickRequest {
                    load: &load,
                    ..request(number)
                },
            )
            .unwrap()
            .host
    });
    let second = picks.filter(|host| *host == 1).count();
    assert!(
        (95..=105).contains(&second),
        "weight 3 with 5 active requests counts as 0.5: {second}"
    );
}

#[test]
fn unhealthy_hosts_get_nothing_until_a_panic() {
    let four = endpoints(&[(0, 0, &[1; 4])]);
    assert_eq!(
        counts(&plain(ROUND_ROBIN, &four, &[0, 1]), 100),
        [0, 0, 50, 50]
    );
    let panicking = plain(ROUND_ROBIN, &four, &[0, 1, 2]);
    assert_eq!(counts(&panicking, 100), [25; 4]);
    let pick = LbState::new(&panicking, 0)
        .pick(&panicking, &request(0))
        .unwrap();
    assert_eq!(pick.availability, Availability::Panic);
}

#[test]
fn a_cluster_may_rather_fail_than_panic() {
    let four = endpoints(&[(0, 0, &[1; 4])]);
    let failing = set(
        ROUND_ROBIN,
        CommonLb {
            fail_on_panic: true,
            ..CommonLb::default()
        },
        &four,
        &[0, 1, 2],
    );
    assert_eq!(
        LbState::new(&failing, 0).pick(&failing, &request(0)),
        Err(NoHost::Panic)
    );
    let never = set(
        ROUND_ROBIN,
        CommonLb {
            panic_threshold: 0.0,
            ..CommonLb::default()
        },
        &four,
        &[0, 1, 2, 3],
    );
    assert_eq!(
        LbState::new(&never, 0).pick(&never, &request(0)),
        Err(NoHost::NoneAvailable)
    );
}

#[test]
fn without_hosts_nothing_is_picked() {
    let empty = plain(ROUND_ROBIN, &EndpointSet::empty("c"), &[]);
    assert_eq!(
        LbState::new(&empty, 0).pick(&empty, &request(0)),
        Err(NoHost::NoneAvailable)
    );
    let group = plain(RING, &endpoints(&[(0, 1, &[])]), &[]);
    assert_eq!(
        LbState::new(&group, 0).pick(&group, &request(0)),
        Err(NoHost::NoneAvailable)
    );
    let provided = plain(LbPolicy::ClusterProvided, &endpoints(&[(0, 1, &[1])]), &[]);
    assert_eq!(
        LbState::new(&provided, 0).pick(&provided, &request(0)),
        Err(NoHost::ClusterProvided)
    );
}

#[test]
fn lower_priorities_take_over_in_proportion() {
    // Half of the first priority is healthy: 70 % stay there, 30 % go on.
    let set = plain(
        ROUND_ROBIN,
        &endpoints(&[(0, 0, &[1; 4]), (1, 0, &[1; 2])]),
        &[0, 1],
    );
    let counts = counts(&set, 10_000);
    let first: u64 = counts[..4].iter().sum();
    assert_eq!(&counts[..2], [0, 0]);
    assert!((6_700..7_300).contains(&first), "{first}");
}

#[test]
fn localities_are_drawn_by_weight_and_health() {
    let common = CommonLb {
        locality_weighted: true,
        ..CommonLb::default()
    };
    let two = endpoints(&[(0, 1, &[1, 1]), (0, 3, &[1, 1])]);
    let drawn = counts(&set(ROUND_ROBIN, common, &two, &[]), 400);
    assert_eq!([drawn[0] + drawn[1], drawn[2] + drawn[3]], [100, 300]);
    // Half of the second locality is healthy: it counts 3 * 1.4 * 0.5 = 2.1.
    let drawn = counts(&set(ROUND_ROBIN, common, &two, &[3]), 310);
    assert_eq!(drawn[3], 0);
    assert!((205..=215).contains(&drawn[2]), "{drawn:?}");
    let zero = endpoints(&[(0, 0, &[1]), (0, 1, &[1])]);
    assert_eq!(counts(&set(ROUND_ROBIN, common, &zero, &[]), 10), [0, 10]);
}

#[test]
fn retries_avoid_hosts_and_priorities_already_tried() {
    let set = plain(
        ROUND_ROBIN,
        &endpoints(&[(0, 0, &[1, 1]), (1, 0, &[1])]),
        &[],
    );
    let mut state = LbState::new(&set, 0);
    for random in 0..20 {
        let pick = state
            .pick(
                &set,
                &PickRequest {
                    avoid: &[0],
                    attempts: 5,
                    ..request(random)
                },
            )
            .unwrap();
        assert_eq!(pick.host, 1);
        let pick = state
            .pick(
                &set,
                &PickRequest {
                    avoid_priorities: &[0],
                    ..request(random)
                },
            )
            .unwrap();
        assert_eq!(pick.priority, 1);
        let pick = state
            .pick(
                &set,
                &PickRequest {
                    avoid_priorities: &[0, 1],
                    ..request(random)
                },
            )
            .unwrap();
        assert_eq!(pick.priority, 0, "with all priorities tried it begins anew");
        let pick = state
            .pick(
                &set,
                &PickRequest {
                    avoid: &[0, 1],
                    attempts: 3,
                    ..request(random)
                },
            )
            .unwrap();
        assert_eq!(pick.retried, 3, "the last pick is taken in the end");
    }
}

#[test]
fn a_retry_finds_the_one_host_that_is_left_however_loaded_it_is() {
    let set = plain(LEAST_REQUEST, &endpoints(&[(0, 0, &[1, 1, 1])]), &[]);
    let load = |host: usize| if host == 1 { 50 } else { 0 };
    for random in 0..200 {
        let retry = PickRequest {
            avoid: &[0, 2],
            attempts: 5,
            load: &load,
            ..request(random)
        };
        let pick = LbState::new(&set, 0).pick(&set, &retry).unwrap();
        assert_eq!(pick.host, 1, "{random}");
    }
}

fn hashed(set: &HostSet, hash: u64) -> usize {
    let mut state = LbState::new(set, 0);
    state
        .pick(
            set,
            &PickRequest {
                hash: Some(hash),
                ..request(0)
            },
        )
        .unwrap()
        .host
}

fn keys() -> impl Iterator<Item = u64> {
    (0..4000_u64).map(|number| crate::route::xx_hash64(&number.to_le_bytes(), 0))
}

#[test]
fn consistent_hashing_keeps_most_keys_when_a_host_goes() {
    let hosts = endpoints(&[(0, 0, &[1; 10])]);
    for policy in [RING, MAGLEV] {
        let (before, after) = (plain(policy, &hosts, &[]), plain(policy, &hosts, &[4]));
        let moved = keys()
            .filter(|key| {
                hashed(&before, *key) != 4 && hashed(&before, *key) != hashed(&after, *key)
            })
            .count();
        assert!(keys().all(|key| hashed(&after, key) != 4));
        assert!(
            moved < 500,
            "{policy:?}: {moved} of 4000 keys moved needlessly"
        );
    }
}

#[test]
fn consistent_hashing_follows_weights() {
    let hosts = endpoints(&[(0, 0, &[1, 3])]);
    for policy in [RING, MAGLEV] {
        let set = plain(policy, &hosts, &[]);
        let heavy = keys().filter(|key| hashed(&set, *key) == 1).count();
        assert!((2_700..3_300).contains(&heavy), "{policy:?}: {heavy}");
    }
}

#[test]
fn a_retry_leaves_the_hashed_host() {
    let hosts = endpoints(&[(0, 0, &[1; 5])]);
    for policy in [RING, MAGLEV] {
        let set = plain(policy, &hosts, &[]);
        for key in keys().take(50) {
            let first = hashed(&set, key);
            let retry = PickRequest {
                hash: Some(key),
                avoid: &[first],
                attempts: 20,
                ..request(0)
            };
            assert_ne!(
                LbState::new(&set, 0).pick(&set, &retry).unwrap().host,
                first
            );
        }
    }
}

#[test]
fn a_bounded_load_spills_over() {
    let hashing = ConsistentHashing {
        hash_balance_factor: 150,
        ..HASHING
    };
    let policy = LbPolicy::Maglev {
        table_size: 65_537,
        hashing,
    };
    let set = plain(policy, &endpoints(&[(0, 0, &[1; 3])]), &[]);
    let calm = hashed(&set, 42);
    let load = move |host: usize| if host == calm { 100 } else { 0 };
    let busy = PickRequest {
        hash: Some(42),
        load: &load,
        ..request(0)
    };
    assert_ne!(LbState::new(&set, 0).pick(&set, &busy).unwrap().host, calm);
}

#[test]
fn a_maglev_table_is_full_and_even() {
    let hosts = endpoints(&[(0, 0, &[1; 3])]);
    let policy = LbPolicy::Maglev {
        table_size: 997,
        hashing: HASHING,
    };
    let set = plain(policy, &hosts, &[]);
    let table = set.slices[set.levels[0].healthy].table.as_ref().unwrap();
    let mut counts = [0; 3];
    for slot in 0..997 {
        counts[table.find(slot, 0).unwrap()] += 1;
    }
    assert!(
        counts.iter().all(|count| (330..=335).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn a_young_host_gets_a_part_of_its_share_until_its_window_is_over() {
    let endpoints = endpoints(&[(0, 1, &[1, 1])]);
    let settings = crate::cluster::SlowStart {
        window: std::time::Duration::from_secs(100),
        aggression: 1.0,
        min_weight_percent: 10.0,
    };
    let share_at = |age: u64| {
        let mut hosts = set(ROUND_ROBIN, CommonLb::default(), &endpoints, &[]);
        let factor = settings.factor(std::time::Duration::from_secs(age));
        hosts.scale(&[1.0, factor]);
        let mut state = LbState::new(&hosts, 7);
        let request = |random| PickRequest {
            random,
            hash: None,
            avoid: &[],
            attempts: 0,
            load: &|_| 0,
            avoid_priorities: &[],
        };
        let picks = (0..1100).filter(|n| state.pick(&hosts, &request(*n)).unwrap().host == 1);
        picks.count()
    };
    assert!((90..=110).contains(&share_at(1)), "the least share");
    assert!(
        (350..=380).contains(&share_at(50)),
        "half the weight is a third of the picks"
    );
    assert!((540..=560).contains(&share_at(200)));
}
