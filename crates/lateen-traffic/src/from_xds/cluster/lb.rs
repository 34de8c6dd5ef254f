//! Load balancing policies: the old enumeration, and the list of typed policies that replaces it.

use std::time::Duration;

use lateen_envoy::pb::envoy::config::cluster::v3 as cds;
use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::extensions::load_balancing_policies::{
    client_side_weighted_round_robin::v3 as utilization, common::v3 as common_lb,
    least_request::v3 as least_request, maglev::v3 as maglev, random::v3 as random,
    ring_hash::v3 as ring_hash, round_robin::v3 as round_robin, wrr_locality::v3 as wrr_locality,
};
use lateen_envoy::pb::envoy::r#type::v3 as ty;
use lateen_envoy::pb::google::protobuf as google;

use crate::cluster::{CommonLb, ConsistentHashing, LbPolicy, SlowStart, ZoneAware};
use crate::from_xds::basic::{flag, number, optional_duration, percent};
use crate::from_xds::error::Within as _;
use crate::from_xds::{XdsError, extension};
use crate::lb::{Metric, PRIME_DEFAULT, UtilizationWeights};

/// Ring sizes unless set otherwise, and the largest there may be. Source: Envoy.
const RING_MINIMUM: u64 = 1024;
const RING_MAXIMUM: u64 = 8 << 20;
/// Largest Maglev table. Source: Envoy.
const MAGLEV_MAXIMUM: u64 = 5_000_011;

/// The policy that weighs hosts by their reports.
const WEIGHTED: &str = "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin";
/// Times of that policy unless set otherwise, and the shortest between two updates. Source: Envoy.
const BLACKOUT: Duration = Duration::from_secs(10);
const EXPIRATION: Duration = Duration::from_secs(180);
const UPDATE: Duration = Duration::from_secs(1);
const SHORTEST_UPDATE: Duration = Duration::from_millis(100);

/// How hosts are weighed by their reports, if the first policy that is known does that.
pub(super) fn utilization(
    from: Option<&cds::LoadBalancingPolicy>,
) -> Result<Option<UtilizationWeights>, XdsError> {
    const PACKAGE: &str = "envoy.extensions.load_balancing_policies.";
    let policies = from.map_or(&[][..], |from| &from.policies);
    let configs = policies
        .iter()
        .filter_map(|policy| policy.typed_extension_config.as_ref());
    for any in configs.filter_map(|config| config.typed_config.as_ref()) {
        let name = extension::type_name(any)?;
        match name.strip_prefix(PACKAGE) {
            Some(WEIGHTED) => return by_utilization(&extension::message(any)?).map(Some),
            Some("wrr_locality.v3.WrrLocality") => {
                let wrapped: wrr_locality::WrrLocality = extension::message(any)?;
                return utilization(wrapped.endpoint_picking_policy.as_ref());
            }
            Some(_) => return Ok(None),
            None => {}
        }
    }
    Ok(None)
}

fn by_utilization(
    from: &utilization::ClientSideWeightedRoundRobin,
) -> Result<UtilizationWeights, XdsError> {
    if flag(from.enable_oob_load_report.as_ref(), false) {
        return Err(XdsError::new("is not supported").within("enable_oob_load_report"));
    }
    let time = |value: Option<&google::Duration>, field, default| {
        optional_duration(value, field).map(|time| time.unwrap_or(default))
    };
    let penalty = from
        .error_utilization_penalty
        .map_or(1.0, |value| f64::from(value.value));
    if !(penalty >= 0.0 && penalty.is_finite()) {
        return Err(XdsError::new("must not be negative").within("error_utilization_penalty"));
    }
    let update = time(
        from.weight_update_period.as_ref(),
        "weight_update_period",
        UPDATE,
    )?;
    let metrics = from.metric_names_for_computing_utilization.iter();
    Ok(UtilizationWeights {
        blackout: time(from.blackout_period.as_ref(), "blackout_period", BLACKOUT)?,
        expiration: time(
            from.weight_expiration_period.as_ref(),
            "weight_expiration_period",
            EXPIRATION,
        )?,
        update: update.max(SHORTEST_UPDATE),
        error_penalty: penalty,
        // One that no report can have never counts, as with Envoy.
        metrics: metrics.filter_map(|name| Metric::parse(name)).collect(),
    })
}

/// How localities decide, before a host does.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Localities {
    weighted: bool,
    zone_aware: ZoneAware,
    fail_on_panic: bool,
}

/// The policy, with what it says of localities itself. One from the old enumeration leaves that to the cluster's `common_lb_config`.
pub(super) fn policy(from: &cds::Cluster) -> Result<(LbPolicy, Localities), XdsError> {
    if let Some(typed) = &from.load_balancing_policy {
        return typed_policy(typed).within("load_balancing_policy");
    }
    enumerated(from).map(|policy| (policy, of_cluster(from)))
}

fn enumerated(from: &cds::Cluster) -> Result<LbPolicy, XdsError> {
    use cds::cluster::{LbConfig, LbPolicy as Kind};
    let hashing = hashing(from);
    Ok(match (from.lb_policy(), from.lb_config.as_ref()) {
        (Kind::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))) => LbPolicy::RoundRobin {
            slow_start: slow_start(config.slow_start_config.as_ref())?,
        },
        (Kind::RoundRobin, _) => LbPolicy::RoundRobin { slow_start: None },
        (Kind::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            LbPolicy::LeastRequest {
                choice_count: number(config.choice_count.as_ref()).unwrap_or(2).max(2),
                active_request_bias: bias(config.active_request_bias.as_ref())?,
                slow_start: slow_start(config.slow_start_config.as_ref())?,
            }
        }
        (Kind::LeastRequest, _) => LbPolicy::LeastRequest {
            choice_count: 2,
            active_request_bias: 1.0,
            slow_start: None,
        },
        (Kind::Random, _) => LbPolicy::Random,
        (Kind::RingHash, Some(LbConfig::RingHashLbConfig(config))) => {
            if config.hash_function()
                == cds::cluster::ring_hash_lb_config::HashFunction::MurmurHash2
            {
                return Err(XdsError::new("MURMUR_HASH_2 is not supported")
                    .within("ring_hash_lb_config.hash_function"));
            }
            ring(
                config.minimum_ring_size.as_ref(),
                config.maximum_ring_size.as_ref(),
                hashing,
            )?
        }
        (Kind::RingHash, _) => ring(None, None, hashing)?,
        (Kind::Maglev, Some(LbConfig::MaglevLbConfig(config))) => {
            maglev_table(config.table_size.as_ref(), hashing)?
        }
        (Kind::Maglev, _) => maglev_table(None, hashing)?,
        (Kind::ClusterProvided, _) => LbPolicy::ClusterProvided,
        (Kind::LoadBalancingPolicyConfig, _) => {
            return Err(XdsError::new("the policy is missing").within("load_balancing_policy"));
        }
    })
}

/// The first policy of the list that is known, as Envoy does.
fn typed_policy(from: &cds::LoadBalancingPolicy) -> Result<(LbPolicy, Localities), XdsError> {
    let configs = from
        .policies
        .iter()
        .filter_map(|policy| policy.typed_extension_config.as_ref());
    for any in configs.filter_map(|config| config.typed_config.as_ref()) {
        let name = extension::type_name(any)?;
        let known = match name
            .strip_prefix("envoy.extensions.load_balancing_policies.")
            .unwrap_or_default()
        {
            "round_robin.v3.RoundRobin" => typed_round_robin(&extension::message(any)?)?,
            "least_request.v3.LeastRequest" => typed_least_request(&extension::message(any)?)?,
            WEIGHTED => {
                let from: utilization::ClientSideWeightedRoundRobin = extension::message(any)?;
                let slow_start = typed_slow_start(from.slow_start_config.as_ref())?;
                (LbPolicy::RoundRobin { slow_start }, Localities::default())
            }
            "random.v3.Random" => typed_random(&extension::message(any)?),
            "ring_hash.v3.RingHash" => typed_ring_hash(&extension::message(any)?)?,
            "maglev.v3.Maglev" => typed_maglev(&extension::message(any)?)?,
            "cluster_provided.v3.ClusterProvided" => {
                (LbPolicy::ClusterProvided, Localities::default())
            }
            "wrr_locality.v3.WrrLocality" => {
                let wrapped: wrr_locality::WrrLocality = extension::message(any)?;
                let inner = wrapped.endpoint_picking_policy.unwrap_or_default();
                (typed_policy(&inner)?.0, Localities::weighted(true))
            }
            _ => continue,
        };
        return Ok(known);
    }
    Err(XdsError::new("none of the policies is supported").within("policies"))
}

fn typed_round_robin(from: &round_robin::RoundRobin) -> Result<(LbPolicy, Localities), XdsError> {
    let slow_start = typed_slow_start(from.slow_start_config.as_ref())?;
    Ok((
        LbPolicy::RoundRobin { slow_start },
        localities(from.locality_lb_config.as_ref()),
    ))
}

fn typed_least_request(
    from: &least_request::LeastRequest,
) -> Result<(LbPolicy, Localities), XdsError> {
    let policy = LbPolicy::LeastRequest {
        choice_count: number(from.choice_count.as_ref()).unwrap_or(2).max(2),
        active_request_bias: bias(from.active_request_bias.as_ref())?,
        slow_start: typed_slow_start(from.slow_start_config.as_ref())?,
    };
    Ok((policy, localities(from.locality_lb_config.as_ref())))
}

fn typed_random(from: &random::Random) -> (LbPolicy, Localities) {
    let localities = localities(from.locality_lb_config.as_ref());
    (LbPolicy::Random, localities)
}

fn typed_ring_hash(from: &ring_hash::RingHash) -> Result<(LbPolicy, Localities), XdsError> {
    if from.hash_function() == ring_hash::ring_hash::HashFunction::MurmurHash2 {
        return Err(XdsError::new("MURMUR_HASH_2 is not supported").within("hash_function"));
    }
    let hashing = typed_hashing(from.consistent_hashing_lb_config.as_ref());
    let policy = ring(
        from.minimum_ring_size.as_ref(),
        from.maximum_ring_size.as_ref(),
        hashing,
    )?;
    let weighted = from.locality_weighted_lb_config.is_some();
    Ok((policy, Localities::weighted(weighted)))
}

fn typed_maglev(from: &maglev::Maglev) -> Result<(LbPolicy, Localities), XdsError> {
    let hashing = typed_hashing(from.consistent_hashing_lb_config.as_ref());
    Ok((
        maglev_table(from.table_size.as_ref(), hashing)?,
        Localities::weighted(from.locality_weighted_lb_config.is_some()),
    ))
}

impl Localities {
    fn weighted(weighted: bool) -> Self {
        Self {
            weighted,
            ..Self::default()
        }
    }
}

fn localities(from: Option<&common_lb::LocalityLbConfig>) -> Localities {
    use common_lb::locality_lb_config::LocalityConfigSpecifier;
    use common_lb::locality_lb_config::zone_aware_lb_config::LocalityBasis;
    let zones = match from.and_then(|from| from.locality_config_specifier.as_ref()) {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            return Localities::weighted(true);
        }
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) => zones,
        None => return Localities::default(),
    };
    let forced = zones.force_local_zone.as_ref();
    #[expect(
        deprecated,
        reason = "the old field still counts where the new one is not set"
    )]
    let forced_before = zones.force_locality_direct_routing.then_some(1);
    Localities {
        weighted: false,
        zone_aware: ZoneAware {
            enabled: percent(zones.routing_enabled.as_ref(), 100.0),
            min_cluster_size: zones.min_cluster_size.map_or(6, |size| size.value),
            force_local: forced
                .map(|forced| number(forced.min_size.as_ref()).unwrap_or(1))
                .or(forced_before),
            by_weight: zones.locality_basis() == LocalityBasis::HealthyHostsWeight,
        },
        fail_on_panic: zones.fail_traffic_on_panic,
    }
}

/// What a cluster says of localities beside its policy.
fn of_cluster(from: &cds::Cluster) -> Localities {
    use cds::cluster::common_lb_config::LocalityConfigSpecifier;
    let config = from.common_lb_config.as_ref();
    match config.and_then(|config| config.locality_config_specifier.as_ref()) {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => Localities::weighted(true),
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) => Localities {
            weighted: false,
            zone_aware: ZoneAware {
                enabled: percent(zones.routing_enabled.as_ref(), 100.0),
                min_cluster_size: zones.min_cluster_size.map_or(6, |size| size.value),
                ..ZoneAware::default()
            },
            fail_on_panic: zones.fail_traffic_on_panic,
        },
        None => Localities::default(),
    }
}

fn hashing(from: &cds::Cluster) -> ConsistentHashing {
    let config = from
        .common_lb_config
        .as_ref()
        .and_then(|common| common.consistent_hashing_lb_config.as_ref());
    config.map_or_else(ConsistentHashing::default, |config| ConsistentHashing {
        use_hostname: config.use_hostname_for_hashing,
        hash_balance_factor: number(config.hash_balance_factor.as_ref()).unwrap_or(0),
    })
}

fn typed_hashing(from: Option<&common_lb::ConsistentHashingLbConfig>) -> ConsistentHashing {
    from.map_or_else(ConsistentHashing::default, |config| ConsistentHashing {
        use_hostname: config.use_hostname_for_hashing,
        hash_balance_factor: number(config.hash_balance_factor.as_ref()).unwrap_or(0),
    })
}

fn ring(
    minimum: Option<&google::UInt64Value>,
    maximum: Option<&google::UInt64Value>,
    hashing: ConsistentHashing,
) -> Result<LbPolicy, XdsError> {
    let minimum_ring_size = minimum.map_or(RING_MINIMUM, |size| size.value).max(1);
    let maximum_ring_size = maximum.map_or(RING_MAXIMUM, |size| size.value);
    if minimum_ring_size > maximum_ring_size || maximum_ring_size > RING_MAXIMUM {
        return Err(XdsError::new("the ring's sizes are out of range").within("maximum_ring_size"));
    }
    Ok(LbPolicy::RingHash {
        minimum_ring_size,
        maximum_ring_size,
        hashing,
    })
}

fn maglev_table(
    size: Option<&google::UInt64Value>,
    hashing: ConsistentHashing,
) -> Result<LbPolicy, XdsError> {
    let table_size = size.map_or(PRIME_DEFAULT, |size| size.value);
    if table_size > MAGLEV_MAXIMUM || !is_prime(table_size) {
        return Err(
            XdsError::new("the table's size must be a prime up to 5000011").within("table_size"),
        );
    }
    Ok(LbPolicy::Maglev {
        table_size,
        hashing,
    })
}

fn is_prime(number: u64) -> bool {
    number > 1
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

fn bias(from: Option<&core::RuntimeDouble>) -> Result<f64, XdsError> {
    let bias = from.map_or(1.0, |bias| bias.default_value);
    if bias >= 0.0 && bias.is_finite() {
        return Ok(bias);
    }
    Err(XdsError::new("must not be negative").within("active_request_bias"))
}

fn slow_start(from: Option<&cds::cluster::SlowStartConfig>) -> Result<Option<SlowStart>, XdsError> {
    let Some(from) = from else { return Ok(None) };
    slow_start_of(
        from.slow_start_window.as_ref(),
        from.aggression.as_ref(),
        from.min_weight_percent.as_ref(),
    )
}

fn typed_slow_start(
    from: Option<&common_lb::SlowStartConfig>,
) -> Result<Option<SlowStart>, XdsError> {
    let Some(from) = from else { return Ok(None) };
    slow_start_of(
        from.slow_start_window.as_ref(),
        from.aggression.as_ref(),
        from.min_weight_percent.as_ref(),
    )
}

fn slow_start_of(
    window: Option<&google::Duration>,
    aggression: Option<&core::RuntimeDouble>,
    min_weight: Option<&ty::Percent>,
) -> Result<Option<SlowStart>, XdsError> {
    let window = optional_duration(window, "slow_start_window")?
        .filter(|window: &Duration| !window.is_zero());
    let aggression = aggression.map_or(1.0, |aggression| aggression.default_value);
    if aggression.is_nan() || aggression <= 0.0 {
        return Err(XdsError::new("must be positive").within("aggression"));
    }
    Ok(window.map(|window| SlowStart {
        window,
        aggression,
        min_weight_percent: percent(min_weight, 10.0),
    }))
}

/// Settings for every policy.
pub(super) fn common(from: &cds::Cluster, localities: Localities) -> CommonLb {
    let config = from.common_lb_config.as_ref();
    let threshold = config.and_then(|config| config.healthy_panic_threshold.as_ref());
    CommonLb {
        panic_threshold: percent(threshold, 50.0),
        locality_weighted: localities.weighted,
        fail_on_panic: localities.fail_on_panic,
        ignore_new_hosts_until_checked: config
            .is_some_and(|config| config.ignore_new_hosts_until_first_hc),
        zone_aware: localities.zone_aware,
    }
}
