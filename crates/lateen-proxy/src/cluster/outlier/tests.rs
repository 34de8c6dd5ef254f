//! Outlier detection over paused time.

use super::*;
use lateen_telemetry::metrics::Registry;
use lateen_traffic::cluster::{Enforcing, FailurePercentage, SuccessRate};

/// A detection that takes two of anything in a row, and looks at rates of ten requests.
fn settings() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 2,
        consecutive_gateway_failure: 2,
        consecutive_local_origin_failure: 2,
        split_external_local_origin_errors: false,
        enforcing: Enforcing {
            consecutive_5xx: 100,
            consecutive_gateway_failure: 0,
            consecutive_local_origin_failure: 100,
            success_rate: 100,
            local_origin_success_rate: 100,
            failure_percentage: 0,
            failure_percentage_local_origin: 0,
        },
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(300),
        max_ejection_time_jitter: Duration::ZERO,
        max_ejection_percent: 100,
        always_eject_one_host: false,
        success_rate: SuccessRate {
            minimum_hosts: 3,
            request_volume: 10,
            stdev_factor: 1000,
        },
        failure_percentage: FailurePercentage {
            threshold: 50,
            minimum_hosts: 1,
            request_volume: 10,
        },
        successful_active_health_check_uneject_host: true,
    }
}

struct Cluster {
    outliers: Outliers,
    hosts: Vec<(Arc<HostRecord>, Arc<HostCounts>)>,
    settings: OutlierDetection,
}

impl Cluster {
    fn new(hosts: u16, settings: OutlierDetection) -> Self {
        let families = OutlierFamilies::new(&Registry::default());
        let outliers = Outliers::new(&families, &"up".into());
        let hosts = (0..hosts).map(|port| {
            let host = outliers.host(&HostAddress::Ip(([127, 0, 0, 1], port).into()));
            let counts = host.shard();
            (host, counts)
        });
        let hosts = hosts.collect();
        Self {
            outliers,
            hosts,
            settings,
        }
    }

    fn record(&self, host: usize, ended: &[Ended]) {
        let (record, counts) = &self.hosts[host];
        for ended in ended {
            let size = self.hosts.len();
            self.outliers
                .record((record, counts), *ended, &self.settings, size, 0);
        }
    }

    fn out(&self) -> Vec<usize> {
        let all = 0..self.hosts.len();
        all.filter(|host| self.hosts[*host].0.is_out()).collect()
    }

    async fn sweep(&self, seconds: u64) {
        // The first look begins the first interval.
        let tick = || {
            self.outliers
                .tick(Instant::now(), Some(&self.settings), |_, _| false)
        };
        tick();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tick();
    }
}

const NONE: [usize; 0] = [];

#[tokio::test(start_paused = true)]
async fn errors_in_a_row_eject_and_a_success_between_begins_anew() {
    use Ended::Status;
    let cluster = Cluster::new(2, settings());
    cluster.record(0, &[Status(500), Status(200), Status(502)]);
    assert_eq!(cluster.out(), NONE);
    cluster.record(0, &[Status(500)]);
    assert_eq!(cluster.out(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_host_comes_back_at_the_sweep_after_its_time_and_stays_out_longer_the_next_time() {
    let cluster = Cluster::new(2, settings());
    let failing = [Ended::Status(503); 2];
    cluster.record(0, &failing);
    cluster.sweep(20).await;
    assert_eq!(cluster.out(), [0]);
    cluster.sweep(10).await;
    assert_eq!(cluster.out(), NONE);
    cluster.record(0, &failing);
    cluster.sweep(50).await;
    assert_eq!(cluster.out(), [0]);
    cluster.sweep(10).await;
    assert_eq!(cluster.out(), NONE);
    // Two sweeps without an ejection forgive both.
    cluster.sweep(10).await;
    cluster.sweep(10).await;
    cluster.record(0, &failing);
    cluster.sweep(30).await;
    assert_eq!(cluster.out(), NONE);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_enforced_is_only_detected() {
    let mut settings = settings();
    settings.consecutive_5xx = 9;
    let cluster = Cluster::new(2, settings);
    cluster.record(0, &[Ended::Status(503); 2]);
    assert_eq!(cluster.out(), NONE);
    let stats = cluster.outliers.stats();
    let gateway = &stats.ejections_detected_consecutive_gateway_failure;
    assert_eq!(
        (gateway.value(), stats.ejections_enforced_total.value()),
        (1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn failures_of_this_side_count_apart_if_told_and_reaching_the_host_ends_their_row() {
    let mut settings = settings();
    let cluster = Cluster::new(2, settings);
    cluster.record(0, &[Ended::LocalFailure, Ended::Status(500)]);
    assert_eq!(cluster.out(), [0], "without a split both are of one row");
    settings.split_external_local_origin_errors = true;
    let cluster = Cluster::new(2, settings);
    cluster.record(0, &[Ended::LocalFailure, Ended::Status(500)]);
    assert_eq!(cluster.out(), NONE);
    cluster.record(0, &[Ended::Connected { last: false }, Ended::Timeout]);
    assert_eq!(cluster.out(), NONE);
    cluster.record(0, &[Ended::LocalFailure]);
    assert_eq!(cluster.out(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_made_ends_the_row_of_those_that_were_not() {
    let cluster = Cluster::new(2, settings());
    let made = Ended::Connected { last: true };
    cluster.record(0, &[Ended::LocalFailure, made, Ended::Timeout]);
    assert_eq!(cluster.out(), NONE);
    cluster.record(0, &[Ended::LocalFailure]);
    assert_eq!(cluster.out(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_host_with_a_low_success_rate_is_ejected_at_the_sweep() {
    let mut settings = settings();
    settings.consecutive_5xx = 0;
    let cluster = Cluster::new(3, settings);
    for host in 0..3 {
        cluster.record(host, &[Ended::Status(200); 9]);
    }
    cluster.record(0, &[Ended::Status(500)]);
    cluster.record(1, &[Ended::Status(200)]);
    cluster.record(2, &[Ended::Status(200)]);
    assert_eq!(cluster.out(), NONE);
    cluster.sweep(10).await;
    assert_eq!(cluster.out(), [0]);
    let stats = cluster.outliers.stats();
    assert_eq!(stats.ejections_enforced_success_rate.value(), 1);
    // Nothing was asked since: nobody stands out.
    cluster.sweep(10).await;
    assert_eq!(cluster.out(), [0]);
}

#[tokio::test(start_paused = true)]
async fn without_outlier_detection_nobody_is_out() {
    let cluster = Cluster::new(2, settings());
    cluster.record(1, &[Ended::Status(500); 2]);
    assert_eq!(cluster.out(), [1]);
    cluster.outliers.tick(Instant::now(), None, |_, _| false);
    assert_eq!(cluster.out(), NONE);
    assert_eq!(cluster.outliers.stats().ejections_active.value(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_are_ejected_than_may_be() {
    let mut settings = settings();
    settings.max_ejection_percent = 50;
    let cluster = Cluster::new(3, settings);
    for host in 0..3 {
        cluster.record(host, &[Ended::Status(500); 2]);
    }
    assert_eq!(cluster.out(), [0]);
    assert_eq!(cluster.outliers.stats().ejections_overflow.value(), 2);
}
