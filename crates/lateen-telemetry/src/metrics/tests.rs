//! The registry as its users see it.

use std::time::Duration;

use super::*;

fn exposition(registry: &Registry) -> String {
    let mut text = String::new();
    render::prometheus(&registry.snapshot(), &render::Filter::default(), &mut text);
    text
}

#[test]
fn label_values_are_escaped_in_the_exposition() {
    let registry = Registry::default();
    let family = registry.counters(Descriptor::new("hits_total", "Hits\\ of\nall", &["path"]));
    family.handle(Shard::CONTROL, &["a\"b\\c\nd"]).add(3);
    assert_eq!(
        exposition(&registry),
        "# HELP hits_total Hits\\\\ of\\nall\n# TYPE hits_total counter\n\
         hits_total{path=\"a\\\"b\\\\c\\nd\"} 3\n"
    );
}

#[test]
fn a_histogram_is_exposed_cumulatively() {
    let registry = Registry::default();
    let family = registry.histograms(Descriptor::envoy("cluster.{cluster_name}.t"), &[0.5, 10.0]);
    let handle = family.handle(Shard::CONTROL, &["a"]);
    for value in [0, 7, 8, 11] {
        handle.record(value);
    }
    assert_eq!(
        exposition(&registry),
        "# TYPE envoy_cluster_t histogram\n\
         envoy_cluster_t_bucket{cluster_name=\"a\",le=\"0.5\"} 1\n\
         envoy_cluster_t_bucket{cluster_name=\"a\",le=\"10\"} 3\n\
         envoy_cluster_t_bucket{cluster_name=\"a\",le=\"+Inf\"} 4\n\
         envoy_cluster_t_sum{cluster_name=\"a\"} 26\n\
         envoy_cluster_t_count{cluster_name=\"a\"} 4\n"
    );
}

#[test]
fn a_series_without_labels_has_no_braces() {
    let registry = Registry::default();
    registry
        .gauges(Descriptor::envoy("server.live"))
        .handle(Shard::CONTROL, &[])
        .set(1);
    assert_eq!(
        exposition(&registry),
        "# TYPE envoy_server_live gauge\nenvoy_server_live 1\n"
    );
}

#[test]
fn stats_are_listed_under_envoys_names_with_histograms_last() {
    let registry = Registry::default();
    let families = envoy::ClusterFamilies::new(&registry);
    let stats = families.handles(Shard::worker(0), "outbound|80||a.b.svc.cluster.local;");
    stats.upstream_rq_total.inc();
    stats.upstream_rq_time.record(3);
    stats.response_class(204).unwrap().inc();
    assert!(stats.response_class(0).is_none() && stats.response_class(999).is_none());
    let filter = render::Filter {
        used_only: true,
        ..Default::default()
    };
    let mut text = String::new();
    render::text(&registry.snapshot(), &filter, &mut text);
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("cluster.outbound|80||a.b.svc.cluster.local.upstream_rq_2xx: 1")
    );
    assert_eq!(
        lines.next(),
        Some("cluster.outbound|80||a.b.svc.cluster.local.upstream_rq_total: 1")
    );
    let histogram = lines.next().unwrap();
    assert!(
        histogram.starts_with(
            "cluster.outbound|80||a.b.svc.cluster.local.upstream_rq_time: P0(nan,1) P25(nan,2)"
        ),
        "{histogram}"
    );
    assert_eq!(lines.next(), None);
}

#[test]
fn stats_as_json_have_values_and_quantiles() {
    let registry = Registry::default();
    registry
        .counters(Descriptor::envoy("a.b"))
        .handle(Shard::CONTROL, &[])
        .add(2);
    registry
        .histograms(Descriptor::envoy("a.h"), DEFAULT_BUCKETS)
        .handle(Shard::CONTROL, &[]);
    let json = render::json(&registry.snapshot(), &render::Filter::default());
    assert_eq!(
        json["stats"][0],
        serde_json::json!({ "name": "a.b", "value": 2 })
    );
    let histograms = &json["stats"][1]["histograms"];
    assert_eq!(
        histograms["supported_quantiles"].as_array().unwrap().len(),
        10
    );
    assert_eq!(
        histograms["computed_quantiles"][0]["values"][0]["cumulative"],
        Json::Null
    );
}

use serde_json::Value as Json;

#[test]
fn a_filter_chooses_by_stat_name_and_kind() {
    let registry = Registry::default();
    registry
        .counters(Descriptor::envoy("a.b"))
        .handle(Shard::CONTROL, &[]);
    registry
        .counters(Descriptor::envoy("a.c"))
        .handle(Shard::CONTROL, &[]);
    registry
        .gauges(Descriptor::envoy("a.bg"))
        .handle(Shard::CONTROL, &[]);
    let name = |name: &str| name.starts_with("a.b");
    let filter = render::Filter {
        name: Some(&name),
        kind: Some(render::StatKind::Counters),
        ..Default::default()
    };
    let mut text = String::new();
    render::text(&registry.snapshot(), &filter, &mut text);
    assert_eq!(text, "a.b: 0\n");
}

#[test]
fn a_full_family_counts_what_is_new_under_other() {
    let registry = Registry::new(Limits {
        series_per_family: 2,
        ..Limits::default()
    });
    let family = registry.counters(Descriptor::new("c_total", "", &["who"]));
    for who in ["a", "b", "c", "d", "a"] {
        family.handle(Shard::CONTROL, &[who]).inc();
    }
    let snapshot = registry.snapshot();
    assert_eq!(
        snapshot.counter("c_total", &[("who", "a")]),
        2,
        "known series go on"
    );
    assert_eq!(snapshot.counter("c_total", &[("who", "other")]), 2);
    assert_eq!(
        snapshot.counter("lateen_metrics_overflow_total", &[("family", "c_total")]),
        2
    );
}

#[test]
fn a_series_expires_only_when_idle_and_held_by_nobody() {
    let registry = Registry::default();
    let idle = Limits::default().idle;
    let family = registry.counters(Descriptor::new("c_total", "", &["who"]));
    let held = family.handle(Shard::worker(0), &["held"]);
    family.handle(Shard::worker(0), &["dropped"]).add(5);
    let start = Instant::now();
    registry.sweep(start);
    registry.sweep(start + idle / 2);
    assert_eq!(
        registry
            .snapshot()
            .counter("c_total", &[("who", "dropped")]),
        5,
        "value is kept"
    );
    registry.sweep(start + idle + Duration::from_secs(1));
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.value("c_total", &[("who", "dropped")]), None);
    assert_eq!(snapshot.counter("c_total", &[("who", "held")]), 0);
    held.inc();
    assert_eq!(
        registry.snapshot().counter("c_total", &[("who", "held")]),
        1
    );
}

#[test]
fn strings_of_expired_series_are_forgotten() {
    let registry = Registry::new(Limits {
        idle: Duration::ZERO,
        ..Limits::default()
    });
    let family = registry.counters(Descriptor::new("c_total", "", &["who"]));
    let before = registry.0.strings.len();
    family.handle(Shard::CONTROL, &["passing"]);
    assert_eq!(registry.0.strings.len(), before + 1);
    registry.sweep(Instant::now());
    assert!(registry.0.strings.len() <= before);
}

#[test]
fn counts_made_while_scraping_are_neither_lost_nor_doubled() {
    let registry = Registry::default();
    let family = registry.counters(Descriptor::new("c_total", "", &["who"]));
    std::thread::scope(|scope| {
        for index in 0..4u16 {
            let family = &family;
            scope.spawn(move || {
                for round in 0..1000 {
                    // Handles come and go, as a worker's cache lets them.
                    let who = if round % 2 == 0 { "a" } else { "b" };
                    family.handle(Shard::worker(index), &[who]).inc();
                }
            });
        }
        for _ in 0..50 {
            registry.sweep(Instant::now());
            registry.snapshot();
        }
    });
    assert_eq!(registry.snapshot().counter("c_total", &[]), 4000);
}

#[test]
fn a_family_asked_for_twice_is_one_family() {
    let registry = Registry::default();
    for _ in 0..2 {
        registry
            .counters(Descriptor::envoy("a.b"))
            .handle(Shard::CONTROL, &[])
            .inc();
    }
    assert_eq!(registry.snapshot().counter("envoy_a_b", &[]), 2);
}

#[test]
fn build_info_outlives_sweeps() {
    let registry = Registry::new(Limits {
        idle: Duration::ZERO,
        ..Limits::default()
    });
    envoy::build_info(&registry, "proxy", "1.30.0");
    registry.sweep(Instant::now());
    assert!(exposition(&registry).contains("istio_build{component=\"proxy\",tag=\"1.30.0\"} 1\n"));
}
