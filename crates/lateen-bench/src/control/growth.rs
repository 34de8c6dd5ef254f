//! How the cost of each change grows: cases that differ in nothing but that one has ten times the services, or the proxies, of the other.

use super::Case;
use crate::report::{Figures, Row};

/// What is compared, and what the ratio is called.
const FIGURES: &[(&str, &str)] = &[
    ("cpu_ms", "cpu_ratio"),
    ("bytes_sent", "bytes_ratio"),
    ("compiled", "compiled_ratio"),
    ("converged_ms_max", "converged_ratio"),
];
/// By how much the larger case is larger.
const FACTOR: usize = 10;

/// A row for each change of each pair of cases, of ratios of medians.
pub(super) fn rows(measured: &[(Case, Vec<Row>)]) -> Vec<Row> {
    let mut out = Vec::new();
    for (small, few) in measured {
        for (large, many) in measured {
            let Some(what) = difference(*small, *large) else {
                continue;
            };
            out.extend(
                few.iter()
                    .zip(many)
                    .filter_map(|(few, many)| row(&what, few, many)),
            );
        }
    }
    out
}

/// What there is ten times as much of, if that is all.
fn difference(small: Case, large: Case) -> Option<String> {
    if (small.scoped, small.delta) != (large.scoped, large.delta) {
        return None;
    }
    let scoped = if small.scoped {
        "Sidecars"
    } else {
        "no Sidecars"
    };
    let (services, proxies) = (small.services, small.proxies);
    let times = |a: usize, b: usize| b == a * FACTOR;
    if times(services, large.services) && proxies == large.proxies {
        Some(format!(
            "services from {services} to {}, {proxies} proxies, {scoped}",
            large.services
        ))
    } else if times(proxies, large.proxies) && services == large.services {
        Some(format!(
            "proxies from {proxies} to {}, {services} services, {scoped}",
            large.proxies
        ))
    } else {
        None
    }
}

fn row(what: &str, few: &Row, many: &Row) -> Option<Row> {
    let change = few.case.rsplit(": ").next()?;
    let ratio = |(figure, name): &(&str, &'static str)| {
        let (few, many) = (few.spread(figure)?.median, many.spread(figure)?.median);
        (few > 0.0).then_some((*name, many / few))
    };
    let ratios: Figures = FIGURES.iter().filter_map(ratio).collect();
    (!ratios.is_empty()).then(|| Row {
        case: format!("growth, {what}: {change}"),
        subject: "lateen".to_owned(),
        runs: vec![ratios],
    })
}
