//! How load is shared among priorities, and when health is disregarded.
//!
//! Source: Envoy, "Priority levels" and "Panic threshold", and `LoadBalancerBase::recalculatePerPriorityState`. All shares are
//! whole percentages, as Envoy's are, so that both give the same split.

/// Hosts of one priority, counted by health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthShare {
    /// Healthy ones.
    pub healthy: u64,
    /// Degraded ones.
    pub degraded: u64,
    /// All.
    pub total: u64,
}

/// What one priority gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PriorityLoad {
    /// Percent of all requests that go to its healthy hosts (to all of them in a panic).
    pub healthy: u32,
    /// Percent of all requests that go to its degraded hosts.
    pub degraded: u32,
    /// Health is disregarded: too few hosts are available.
    pub panic: bool,
}

/// Shares load among priorities.
///
/// `overprovisioning` is a percentage (140 by default), `panic_threshold` one from 0 (never) to 100.
pub fn priority_load(
    levels: &[HealthShare],
    overprovisioning: u32,
    panic_threshold: f64,
) -> Vec<PriorityLoad> {
    let availability = |hosts: fn(&HealthShare) -> u64| {
        let share =
            |level: &HealthShare| percent(u64::from(overprovisioning) * hosts(level), level.total);
        levels.iter().map(share).collect::<Vec<u32>>()
    };
    let healthy = availability(|level| level.healthy);
    let degraded = availability(|level| level.degraded);
    let total = healthy.iter().chain(&degraded).sum::<u32>().min(100);
    let mut loads = vec![PriorityLoad::default(); levels.len()];
    distribute(&mut loads, &healthy, &degraded, total);
    let never = panic_threshold <= 0.0;
    if !(never && total == 0) {
        for (load, level) in loads.iter_mut().zip(levels) {
            load.panic = total != 100 && in_panic(level, panic_threshold);
        }
    } else if let Some(first) = loads.first_mut() {
        first.healthy = 100;
    }
    if !loads.is_empty() && loads.iter().all(|load| load.panic) {
        spread_by_size(&mut loads, levels);
    }
    loads
}

/// `part / whole`, where `part` is in percent already, at most 100.
fn percent(part: u64, whole: u64) -> u32 {
    match part.checked_div(whole) {
        Some(share) => u32::try_from(share.min(100)).unwrap_or(100),
        None => 0,
    }
}

fn in_panic(level: &HealthShare, threshold: f64) -> bool {
    let available =
        percent(100 * level.healthy, level.total) + percent(100 * level.degraded, level.total);
    f64::from(available) < threshold.min(100.0)
}

/// Fills healthy hosts first, from the highest priority down, then degraded ones; rounding goes to the first that got any.
fn distribute(loads: &mut [PriorityLoad], healthy: &[u32], degraded: &[u32], total: u32) {
    if total == 0 {
        return;
    }
    let mut left = 100;
    let mut take = |available: u32| {
        let load = left.min(available * 100 / total);
        left -= load;
        load
    };
    for (load, available) in loads.iter_mut().zip(healthy) {
        load.healthy = take(*available);
    }
    for (load, available) in loads.iter_mut().zip(degraded) {
        load.degraded = take(*available);
    }
    if let Some(first) = healthy.iter().position(|available| *available > 0) {
        loads[first].healthy += left;
    } else if let Some(first) = degraded.iter().position(|available| *available > 0) {
        loads[first].degraded += left;
    }
}

/// Everything is in panic: by the number of hosts.
fn spread_by_size(loads: &mut [PriorityLoad], levels: &[HealthShare]) {
    let total: u64 = levels.iter().map(|level| level.total).sum();
    let mut left = 100;
    for (load, level) in loads.iter_mut().zip(levels) {
        load.healthy = percent(100 * level.total, total);
        load.degraded = 0;
        left -= load.healthy;
    }
    let first = levels.iter().position(|level| level.total > 0).unwrap_or(0);
    loads[first].healthy += left;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(healthy: u64, total: u64) -> HealthShare {
        HealthShare {
            healthy,
            degraded: 0,
            total,
        }
    }

    /// Without panics, as in the tables of Envoy's documentation.
    fn healthy_loads(levels: &[HealthShare]) -> Vec<u32> {
        priority_load(levels, 140, 0.0)
            .iter()
            .map(|load| load.healthy)
            .collect()
    }

    #[test]
    fn two_priorities_share_as_in_envoys_table() {
        // Envoy, "Priority levels": healthy share of P=0, traffic to P=0, traffic to P=1 (fully healthy).
        for (share, first, second) in [
            (100, 100, 0),
            (72, 100, 0),
            (71, 99, 1),
            (50, 70, 30),
            (25, 35, 65),
            (0, 0, 100),
        ] {
            assert_eq!(
                healthy_loads(&[level(share, 100), level(100, 100)]),
                [first, second],
                "{share}% healthy"
            );
        }
    }

    #[test]
    fn a_total_below_100_is_normalised_as_in_envoys_table() {
        assert_eq!(healthy_loads(&[level(25, 100), level(25, 100)]), [50, 50]);
        assert_eq!(healthy_loads(&[level(25, 100), level(0, 100)]), [100, 0]);
    }

    #[test]
    fn three_priorities_share_as_in_envoys_table() {
        for (shares, loads) in [
            ([100, 100, 100], [100, 0, 0]),
            ([72, 72, 100], [100, 0, 0]),
            ([71, 71, 100], [99, 1, 0]),
            ([50, 50, 100], [70, 30, 0]),
            ([50, 100, 100], [70, 30, 0]),
            ([25, 25, 100], [35, 35, 30]),
            // The sum is capped at 100 before it divides, so this is not a third each.
            ([25, 25, 25], [35, 35, 30]),
            ([20, 20, 10], [40, 40, 20]),
        ] {
            let levels = shares.map(|share| level(share, 100));
            assert_eq!(healthy_loads(&levels), loads, "{shares:?}");
        }
    }

    #[test]
    fn degraded_hosts_take_what_healthy_ones_cannot() {
        // Envoy, "Degraded endpoints": P=0 (healthy, degraded, unhealthy).
        let level = |healthy, degraded| HealthShare {
            healthy,
            degraded,
            total: 100,
        };
        for (shares, loads) in [
            (level(100, 0), (100, 0)),
            (level(71, 29), (99, 1)),
            (level(25, 65), (35, 65)),
            (level(5, 0), (100, 0)),
        ] {
            let load = priority_load(&[shares], 140, 0.0)[0];
            assert_eq!((load.healthy, load.degraded), loads, "{shares:?}");
        }
    }

    #[test]
    fn a_level_panics_below_the_threshold_unless_others_can_take_everything() {
        let panics = |levels: &[HealthShare]| {
            priority_load(levels, 140, 50.0)
                .iter()
                .map(|load| load.panic)
                .collect::<Vec<_>>()
        };
        assert_eq!(panics(&[level(72, 100), level(72, 100)]), [false, false]);
        assert_eq!(panics(&[level(30, 100), level(100, 100)]), [false, false]);
        assert_eq!(panics(&[level(20, 100), level(20, 100)]), [true, true]);
        assert_eq!(panics(&[level(60, 100), level(5, 100)]), [false, true]);
        assert_eq!(panics(&[level(49, 100)]), [true]);
        assert_eq!(panics(&[level(50, 100)]), [false]);
    }

    #[test]
    fn a_total_panic_spreads_by_the_number_of_hosts() {
        let loads = priority_load(&[level(0, 3), level(0, 1)], 140, 50.0);
        assert_eq!(
            loads.iter().map(|load| load.healthy).collect::<Vec<_>>(),
            [75, 25]
        );
    }

    #[test]
    fn without_hosts_the_first_priority_gets_everything() {
        assert_eq!(
            healthy_loads(&[HealthShare::default(), HealthShare::default()]),
            [100, 0]
        );
        assert_eq!(
            priority_load(&[level(0, 4)], 140, 0.0),
            [PriorityLoad {
                healthy: 100,
                degraded: 0,
                panic: false
            }]
        );
        assert!(priority_load(&[], 140, 50.0).is_empty());
    }
}
