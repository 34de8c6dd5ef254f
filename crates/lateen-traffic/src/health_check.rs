//! Active health checks: what hosts are asked, how often, and how many answers change what is thought of a host.
//!
//! Source: Envoy's "Health checking" and `health_checker_base_impl.cc`.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use crate::matcher::StringMatcher;
use crate::value::Metadata;

/// The active health check of a cluster (`envoy.config.core.v3.HealthCheck`).
#[derive(Clone, Debug)]
pub struct HealthCheck {
    /// How long a host has to answer.
    pub timeout: Duration,
    /// The waits between checks.
    pub intervals: Intervals,
    /// Failures in a row until a host is unhealthy. What shows plainly that it is counts at once.
    pub unhealthy_threshold: u32,
    /// Successes in a row until it is healthy again. The first answer ever counts at once.
    pub healthy_threshold: u32,
    /// Whether a connection is kept from one check to the next.
    pub reuse_connection: bool,
    /// What is offered by ALPN; empty for what the cluster offers.
    pub alpn: Arc<[Arc<str>]>,
    /// What the transport socket is chosen by in place of the endpoint's metadata.
    pub transport_match: Option<Metadata>,
    /// What is asked.
    pub checker: Checker,
}

/// The waits between checks of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// At most so long before the first one.
    pub initial_jitter: Duration,
    /// At most so much longer than said below.
    pub jitter: Duration,
    /// The same, percent.
    pub jitter_percent: u32,
    /// Of a healthy host.
    pub healthy: Duration,
    /// Of an unhealthy host.
    pub unhealthy: Duration,
    /// Of a host on its way to being healthy.
    pub healthy_edge: Duration,
    /// Of a host on its way to being unhealthy.
    pub unhealthy_edge: Duration,
    /// While nobody has ever connected to the cluster: of a host that is not healthy.
    pub no_traffic: Duration,
    /// The same, of a healthy host.
    pub no_traffic_healthy: Duration,
}

/// What a host is asked.
#[derive(Clone, Debug)]
pub enum Checker {
    /// A request.
    Http(Box<HttpCheck>),
    /// A connection and, if need be, some bytes.
    Tcp(TcpCheck),
    /// A call of `grpc.health.v1.Health/Check`.
    Grpc(GrpcCheck),
}

/// A request.
#[derive(Clone, Debug)]
pub struct HttpCheck {
    /// The host asked for; the cluster's name if none. An endpoint's own goes before it.
    pub host: Option<Arc<str>>,
    /// Path and query.
    pub path: Arc<str>,
    /// The method.
    pub method: Method,
    /// Whether it is asked over HTTP/2.
    pub http2: bool,
    /// Its body.
    pub send: Arc<[u8]>,
    /// What the answer's body has to hold, in this order.
    pub receive: Vec<Arc<[u8]>>,
    /// How much of the answer's body is looked at; none for all of it.
    pub response_buffer: Option<usize>,
    /// Further headers; `true` adds to what is there.
    pub headers: Vec<(HeaderName, HeaderValue, bool)>,
    /// Headers that are not sent.
    pub without_headers: Vec<HeaderName>,
    /// Statuses of a healthy host, ends excluded.
    pub expected: Vec<(u16, u16)>,
    /// Statuses that count as one failure of several.
    pub retriable: Vec<(u16, u16)>,
    /// What `x-envoy-upstream-healthchecked-cluster` has to say.
    pub service: Option<StringMatcher>,
}

/// A connection.
#[derive(Clone, Debug)]
pub struct TcpCheck {
    /// What is sent; nothing if empty.
    pub send: Arc<[u8]>,
    /// What has to come, in this order, with anything in between; nothing if empty.
    pub receive: Vec<Arc<[u8]>>,
    /// The header of the PROXY protocol that goes before.
    pub proxy: Option<crate::cluster::ProxyVersion>,
}

/// A call.
#[derive(Clone, Debug)]
pub struct GrpcCheck {
    /// The service asked about.
    pub service: Arc<str>,
    /// The authority; the cluster's name if none. An endpoint's own goes before it.
    pub authority: Option<Arc<str>>,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue, bool)>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The host is well.
    Healthy {
        /// It says that it is better not asked (`x-envoy-degraded`).
        degraded: bool,
    },
    /// It says that it is not.
    Unhealthy,
    /// It says something that may pass.
    Retriable,
    /// It says nothing: no connection, or no answer in time.
    Network,
}

/// What is thought of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// There was an answer, or a failure to answer.
    pub known: bool,
    /// It is well.
    pub healthy: bool,
    /// It is better not asked.
    pub degraded: bool,
}

/// A host's checks so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostCheck {
    verdict: Verdict,
    successes: u32,
    failures: u32,
}

impl HostCheck {
    /// What is thought of the host now.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Takes an answer; how long to wait until the next check. `traffic`: whether anybody has connected to the cluster. `random` decides
    /// the jitter.
    pub fn take(
        &mut self,
        check: &HealthCheck,
        answer: Answer,
        traffic: bool,
        random: [u64; 2],
    ) -> Duration {
        let moving = match answer {
            Answer::Healthy { degraded } => {
                self.verdict.degraded = degraded;
                self.success(check)
            }
            _ => self.failure(check, answer == Answer::Unhealthy),
        };
        self.verdict.known = true;
        let good = matches!(answer, Answer::Healthy { .. });
        check.intervals.after(good, moving, traffic, random)
    }

    /// Whether the host is on its way to another state.
    fn success(&mut self, check: &HealthCheck) -> bool {
        self.failures = 0;
        if self.verdict.healthy {
            return false;
        }
        self.successes += 1;
        self.verdict.healthy = !self.verdict.known || self.successes >= check.healthy_threshold;
        !self.verdict.healthy
    }

    /// The same; `plain`: the host itself said it.
    fn failure(&mut self, check: &HealthCheck, plain: bool) -> bool {
        self.successes = 0;
        if !self.verdict.healthy {
            return false;
        }
        self.failures += 1;
        self.verdict.healthy = !plain && self.failures < check.unhealthy_threshold;
        self.verdict.healthy
    }
}

impl Intervals {
    /// The wait before the first check.
    pub fn first(&self, random: u64) -> Duration {
        part_of(self.initial_jitter, random)
    }

    fn after(&self, good: bool, moving: bool, traffic: bool, random: [u64; 2]) -> Duration {
        let base = match (traffic, good, moving) {
            (false, true, _) => self.no_traffic_healthy,
            (false, false, _) => self.no_traffic,
            (true, true, false) => self.healthy,
            (true, true, true) => self.healthy_edge,
            (true, false, false) => self.unhealthy,
            (true, false, true) => self.unhealthy_edge,
        };
        let share = base.saturating_mul(self.jitter_percent) / 100;
        base + part_of(share, random[0]) + part_of(self.jitter, random[1])
    }
}

/// A part of a time, in milliseconds.
fn part_of(most: Duration, random: u64) -> Duration {
    let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.checked_rem(most).unwrap_or(0))
}

/// Whether all blocks are in some bytes in their order, with anything between them.
pub fn holds(bytes: &[u8], blocks: &[Arc<[u8]>]) -> bool {
    let mut rest = bytes;
    blocks.iter().all(|block| {
        if block.is_empty() {
            return true;
        }
        let found = rest
            .windows(block.len())
            .position(|window| window == &**block);
        match found {
            Some(at) => {
                rest = &rest[at + block.len()..];
                true
            }
            None => false,
        }
    })
}

/// Whether a status is in one of some ranges, ends excluded.
pub fn is_in(status: u16, ranges: &[(u16, u16)]) -> bool {
    ranges
        .iter()
        .any(|(from, to)| (*from..*to).contains(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn check() -> HealthCheck {
        HealthCheck {
            timeout: s(1),
            intervals: Intervals {
                initial_jitter: Duration::ZERO,
                jitter: Duration::ZERO,
                jitter_percent: 0,
                healthy: s(10),
                unhealthy: s(20),
                healthy_edge: s(30),
                unhealthy_edge: s(40),
                no_traffic: s(50),
                no_traffic_healthy: s(60),
            },
            unhealthy_threshold: 2,
            healthy_threshold: 3,
            reuse_connection: true,
            alpn: Arc::default(),
            transport_match: None,
            checker: Checker::Tcp(TcpCheck {
                send: Arc::default(),
                receive: Vec::new(),
                proxy: None,
            }),
        }
    }

    const GOOD: Answer = Answer::Healthy { degraded: false };

    /// The waits after some answers, and whether the host is healthy then.
    fn course(answers: &[Answer]) -> Vec<(u64, bool)> {
        let mut host = HostCheck::default();
        let taken = answers.iter().map(|answer| {
            let wait = host.take(&check(), *answer, true, [0, 0]);
            (wait.as_secs(), host.verdict().healthy)
        });
        taken.collect()
    }

    #[test]
    fn the_first_answer_counts_at_once_and_later_ones_by_the_thresholds() {
        use Answer::{Network, Retriable, Unhealthy};
        assert_eq!(course(&[GOOD, GOOD]), [(10, true), (10, true)]);
        assert_eq!(
            course(&[GOOD, Network, Retriable, GOOD, GOOD, GOOD]),
            [
                (10, true),
                (40, true),
                (20, false),
                (30, false),
                (30, false),
                (10, true)
            ]
        );
        // What the host itself says counts at once.
        assert_eq!(course(&[GOOD, Unhealthy]), [(10, true), (20, false)]);
        // A success in between begins the count anew.
        assert_eq!(
            course(&[GOOD, Network, GOOD, Network]),
            [(10, true), (40, true), (10, true), (40, true)]
        );
        assert_eq!(course(&[Network, GOOD]), [(20, false), (30, false)]);
    }

    #[test]
    fn hosts_without_traffic_are_asked_less_often_and_jitter_adds() {
        let mut host = HostCheck::default();
        assert_eq!(host.take(&check(), GOOD, false, [0, 0]), s(60));
        assert_eq!(host.take(&check(), Answer::Unhealthy, false, [0, 0]), s(50));
        let mut jittered = check();
        jittered.intervals.jitter_percent = 50;
        jittered.intervals.jitter = s(1);
        let wait = HostCheck::default().take(&jittered, GOOD, true, [4999, 999]);
        assert_eq!(wait, Duration::from_millis(10_000 + 4999 + 999));
        assert_eq!(check().intervals.first(7), Duration::ZERO);
    }

    #[test]
    fn degraded_hosts_are_healthy_and_known_as_such() {
        let mut host = HostCheck::default();
        host.take(&check(), Answer::Healthy { degraded: true }, true, [0, 0]);
        let verdict = host.verdict();
        assert!(verdict.known && verdict.healthy && verdict.degraded);
    }

    #[test]
    fn blocks_are_looked_for_in_their_order() {
        let blocks = |list: &[&str]| {
            list.iter()
                .map(|b| Arc::from(b.as_bytes()))
                .collect::<Vec<Arc<[u8]>>>()
        };
        assert!(holds(b"xPONGyOKz", &blocks(&["PONG", "OK"])));
        assert!(!holds(b"xOKyPONGz", &blocks(&["PONG", "OK"])));
        assert!(holds(b"", &blocks(&[])));
        assert!(is_in(204, &[(200, 205)]) && !is_in(205, &[(200, 205)]));
    }
}
