//! Load balancers: consistent hashing, localities, zones.

use std::collections::BTreeMap;

use super::Report;
use super::common::whole_milliseconds;
use crate::networking::{
    ConsistentHashLb, LoadBalancerSettings, LocalityLoadBalancerSetting,
    ZoneAwareLoadBalancerSetting,
};

/// Envoy's largest Maglev table.
const MAX_MAGLEV: u64 = 5_000_011;

/// Labels that localities are made of.
const TOPOLOGY: [&str; 3] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
];

pub(crate) fn check(
    settings: &LoadBalancerSettings,
    has_outlier_detection: bool,
    report: &mut Report<'_>,
) {
    report.some(
        "consistentHash",
        settings.consistent_hash.as_ref(),
        consistent_hash,
    );
    if settings.locality_lb_setting.is_some() && settings.zone_aware_lb_setting.is_some() {
        let message = "only one of localityLbSetting and zoneAwareLbSetting may be set";
        report.error_at("zoneAwareLbSetting", message);
    }
    report.some(
        "localityLbSetting",
        settings.locality_lb_setting.as_ref(),
        |report, locality| {
            check_locality(locality, has_outlier_detection, report);
        },
    );
    report.some(
        "zoneAwareLbSetting",
        settings.zone_aware_lb_setting.as_ref(),
        |report, zone| {
            check_zone_aware(zone, has_outlier_detection, report);
        },
    );
    report.some("warmup", settings.warmup.as_ref(), |report, warmup| {
        whole_milliseconds("duration", warmup.duration, report);
        if warmup
            .aggression
            .is_some_and(|aggression| aggression.get() <= 0.0)
        {
            report.error_at("aggression", "the aggression has to be greater than 0");
        }
    });
}

fn consistent_hash(report: &mut Report<'_>, hash: &ConsistentHashLb) {
    let keys = [
        hash.http_header_name.is_some(),
        hash.http_cookie.is_some(),
        hash.use_source_ip == Some(true),
        hash.http_query_parameter_name.is_some(),
    ];
    if keys.iter().filter(|is_set| **is_set).count() > 1 {
        report.error(
            "only one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName may be \
             set",
        );
    }
    report.some("httpCookie", hash.http_cookie.as_ref(), |report, cookie| {
        for (index, attribute) in cookie.attributes.iter().enumerate() {
            if cookie.attributes[..index]
                .iter()
                .any(|other| other.name == attribute.name)
            {
                let message = format!("the attribute `{}` is set twice", attribute.name);
                report.key("attributes", |report| {
                    report.index(index, |report| report.error_at("name", message));
                });
            }
        }
    });
    if hash.minimum_ring_size != 0 {
        report.key("minimumRingSize", |report| {
            report.warning(
                "`minimumRingSize` is deprecated; write `ringHash: {minimumRingSize: …}`",
                "it is read",
            );
            if hash.ring_hash.is_some() || hash.maglev.is_some() {
                report.error("only one of minimumRingSize, ringHash and maglev may be set");
            }
        });
    }
    if hash.ring_hash.is_some() && hash.maglev.is_some() {
        report.error_at("maglev", "only one of ringHash and maglev may be set");
    }
    report.some("maglev", hash.maglev.as_ref(), |report, maglev| {
        if maglev.table_size >= MAX_MAGLEV || !is_prime(maglev.table_size) {
            let message = format!("tableSize has to be a prime number below {MAX_MAGLEV}");
            report.error_at("tableSize", message);
        }
    });
}

/// Only asked of numbers below [`MAX_MAGLEV`].
fn is_prime(number: u64) -> bool {
    let mut factors = (2..).take_while(|factor| factor * factor <= number);
    number > 1 && factors.all(|factor| !number.is_multiple_of(factor))
}

fn check_locality(
    setting: &LocalityLoadBalancerSetting,
    has_outlier_detection: bool,
    report: &mut Report<'_>,
) {
    if !setting.distribute.is_empty() && !setting.failover.is_empty() {
        report.error_at("failover", "only one of distribute and failover may be set");
        return;
    }
    if !setting.failover.is_empty() {
        report.each(
            "failoverPriority",
            &setting.failover_priority,
            |report, label| {
                if TOPOLOGY.contains(&label.as_str()) {
                    report.error(format!("`{label}` does not go with `failover`"));
                }
            },
        );
    }
    distribution(setting, report);
    let fails_over = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
    needs_outlier_detection(fails_over, has_outlier_detection, report);
    report.each("failover", &setting.failover, |report, failover| {
        region_failover(&failover.from, &failover.to, report);
    });
}

fn check_zone_aware(
    setting: &ZoneAwareLoadBalancerSetting,
    has_outlier_detection: bool,
    report: &mut Report<'_>,
) {
    report.each(
        "failoverPriority",
        &setting.failover_priority,
        |report, label| {
            if TOPOLOGY.contains(&label.as_str()) {
                report.error(format!(
                    "`{label}` is taken care of by zone-aware balancing itself"
                ));
            }
        },
    );
    let fails_over = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
    needs_outlier_detection(fails_over, has_outlier_detection, report);
    report.each("failover", &setting.failover, |report, failover| {
        region_failover(&failover.from, &failover.to, report);
    });
}

fn needs_outlier_detection(fails_over: bool, has_outlier_detection: bool, report: &mut Report<'_>) {
    if fails_over && !has_outlier_detection {
        report.warning(
            "failover needs an `outlierDetection`, which tells healthy endpoints from others",
            "traffic fails over only when an endpoint is not ready",
        );
    }
}

fn region_failover(from: &str, to: &str, report: &mut Report<'_>) {
    if from == to {
        report.error("failover is from one region to another");
    }
    if from.contains(['/', '*']) || to.contains(['/', '*']) {
        report.error("failover is between regions, without zones and wildcards");
    }
}

fn distribution(setting: &LocalityLoadBalancerSetting, report: &mut Report<'_>) {
    report.each("distribute", &setting.distribute, |report, distribute| {
        if distribute
            .to
            .values()
            .any(|weight| !(1..=100).contains(weight))
        {
            report.error_at("to", "a locality's weight is between 1 and 100");
            return;
        }
        let total: u64 = distribute
            .to
            .values()
            .map(|weight| u64::from(*weight))
            .sum();
        if total != 100 {
            report.error_at(
                "to",
                format!("the weights have to sum up to 100; they make {total}"),
            );
        }
        let localities: Vec<&str> = distribute.to.keys().map(String::as_str).collect();
        report.key("to", |report| distinct(&localities, report));
    });
    let sources: Vec<&str> = setting.distribute.iter().map(|d| d.from.as_str()).collect();
    report.key("distribute", |report| distinct(&sources, report));
}

/// Localities (`region/zone/subzone`, perhaps ending in `*`) that do not overlap.
fn distinct(localities: &[&str], report: &mut Report<'_>) {
    let mut seen: BTreeMap<Vec<&str>, &str> = BTreeMap::new();
    for locality in localities {
        let wildcards = locality.matches('*').count();
        if wildcards > 1 || (wildcards == 1 && !locality.ends_with('*')) {
            report.error(format!("`{locality}`: a wildcard can only be at the end"));
            return;
        }
        let parts: Vec<&str> = locality.split('/').collect();
        if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) {
            report.error(format!(
                "`{locality}` is not region, region/zone or region/zone/subzone"
            ));
            return;
        }
        let parts: Vec<&str> = parts.into_iter().take_while(|part| *part != "*").collect();
        let overlap = seen
            .iter()
            .find(|(other, _)| other.starts_with(&parts) || parts.starts_with(other));
        if let Some((_, other)) = overlap {
            report.error(format!("`{locality}` overlaps with `{other}`"));
            return;
        }
        seen.insert(parts, locality);
    }
}

#[cfg(test)]
mod tests {
    use super::is_prime;

    #[test]
    fn primes_are_known() {
        let found: Vec<u64> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(found, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65537));
    }
}
