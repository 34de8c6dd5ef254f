//! Fault injection: delays and aborts for a share of requests (`envoy.filters.http.fault`).

use std::time::Duration;

use crate::matcher::{Fraction, HeaderMatcher};
use crate::request::RequestView;

/// `HTTPFault`, of the filter or of a route.
#[derive(Clone, Debug, Default)]
pub struct Fault {
    /// A delay before the request goes on.
    pub delay: Option<Delay>,
    /// An answer in place of the upstream's.
    pub abort: Option<Abort>,
    /// Only requests to this cluster; empty for all.
    pub upstream_cluster: String,
    /// Only requests that match all of them.
    pub headers: Vec<HeaderMatcher>,
    /// Only requests from these downstream nodes (`x-envoy-downstream-service-node`).
    pub downstream_nodes: Vec<String>,
    /// Faults under way at the same time, at most.
    pub max_active_faults: Option<u32>,
}

/// A delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// How long.
    pub duration: DelayDuration,
    /// For which share.
    pub percentage: Fraction,
}

/// A delay's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayDuration {
    /// Fixed.
    Fixed(Duration),
    /// Milliseconds in the request header `x-envoy-fault-delay-request`.
    Header,
}

/// An abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// The answer.
    pub status: AbortStatus,
    /// For which share.
    pub percentage: Fraction,
}

/// What an abort answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStatus {
    /// An HTTP status.
    Http(u16),
    /// A gRPC status.
    Grpc(u32),
    /// The status in `x-envoy-fault-abort-request` or `x-envoy-fault-abort-grpc-request`.
    Header,
}

/// What to do to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injection {
    /// Wait so long first.
    pub delay: Option<Duration>,
    /// Answer this then. Never [`AbortStatus::Header`].
    pub abort: Option<AbortStatus>,
}

impl Fault {
    /// Decides by two random numbers, one for the delay and one for the abort. `active` is the number of faults under way.
    pub fn decide(
        &self,
        request: &RequestView<'_>,
        cluster: &str,
        active: u64,
        random: (u64, u64),
    ) -> Injection {
        if !self.applies(request, cluster)
            || self
                .max_active_faults
                .is_some_and(|max| active >= u64::from(max))
        {
            return Injection::default();
        }
        Injection {
            delay: self.delay.and_then(|delay| delay.decide(request, random.0)),
            abort: self.abort.and_then(|abort| abort.decide(request, random.1)),
        }
    }

    fn applies(&self, request: &RequestView<'_>, cluster: &str) -> bool {
        (self.upstream_cluster.is_empty() || self.upstream_cluster == cluster)
            && (self.downstream_nodes.is_empty()
                || text(request, "x-envoy-downstream-service-node")
                    .is_some_and(|node| self.downstream_nodes.iter().any(|wanted| wanted == node)))
            && self.headers.iter().all(|matcher| matcher.matches(request))
    }
}

impl Delay {
    fn decide(self, request: &RequestView<'_>, random: u64) -> Option<Duration> {
        let duration = match self.duration {
            DelayDuration::Fixed(duration) => duration,
            DelayDuration::Header => {
                Duration::from_millis(number(request, "x-envoy-fault-delay-request")?)
            }
        };
        let share = lowered(
            self.percentage,
            number(request, "x-envoy-fault-delay-request-percentage"),
        );
        share.hit(random).then_some(duration)
    }
}

impl Abort {
    fn decide(self, request: &RequestView<'_>, random: u64) -> Option<AbortStatus> {
        let status = match self.status {
            AbortStatus::Header => from_headers(request)?,
            fixed => fixed,
        };
        let share = lowered(
            self.percentage,
            number(request, "x-envoy-fault-abort-request-percentage"),
        );
        share.hit(random).then_some(status)
    }
}

fn from_headers(request: &RequestView<'_>) -> Option<AbortStatus> {
    if let Some(code) = number(request, "x-envoy-fault-abort-request") {
        let code = u16::try_from(code)
            .ok()
            .filter(|code| (200..600).contains(code))?;
        return Some(AbortStatus::Http(code));
    }
    let code = number(request, "x-envoy-fault-abort-grpc-request")?;
    Some(AbortStatus::Grpc(u32::try_from(code).ok()?))
}

/// A request may lower its share, never raise it. Source: Envoy, fault filter, "percentage headers".
fn lowered(share: Fraction, header: Option<u64>) -> Fraction {
    let asked = header
        .and_then(|numerator| u32::try_from(numerator).ok())
        .unwrap_or(share.numerator);
    Fraction {
        numerator: asked.min(share.numerator),
        ..share
    }
}

fn text<'r>(request: &RequestView<'r>, name: &str) -> Option<&'r str> {
    request.headers.get(name)?.to_str().ok()
}

fn number(request: &RequestView<'_>, name: &str) -> Option<u64> {
    text(request, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Request;

    const HALF: Fraction = Fraction {
        numerator: 50,
        denominator: 100,
    };

    fn fault() -> Fault {
        Fault {
            delay: Some(Delay {
                duration: DelayDuration::Fixed(Duration::from_secs(7)),
                percentage: HALF,
            }),
            abort: Some(Abort {
                status: AbortStatus::Http(555),
                percentage: HALF,
            }),
            ..Fault::default()
        }
    }

    fn decide(fault: &Fault, request: &Request, random: (u64, u64)) -> Injection {
        request.with(|request| fault.decide(request, "c", 0, random))
    }

    #[test]
    fn delay_and_abort_are_drawn_apart() {
        let delay = Some(Duration::from_secs(7));
        let abort = Some(AbortStatus::Http(555));
        assert_eq!(
            decide(&fault(), &Request::get(), (0, 0)),
            Injection { delay, abort }
        );
        assert_eq!(
            decide(&fault(), &Request::get(), (49, 50)),
            Injection { delay, abort: None }
        );
        assert_eq!(
            decide(&fault(), &Request::get(), (50, 99)),
            Injection::default()
        );
    }

    #[test]
    fn a_fault_is_limited_by_cluster_and_number() {
        let other = Fault {
            upstream_cluster: "other".to_owned(),
            ..fault()
        };
        assert_eq!(
            decide(&other, &Request::get(), (0, 0)),
            Injection::default()
        );
        let full = Fault {
            max_active_faults: Some(0),
            ..fault()
        };
        assert_eq!(decide(&full, &Request::get(), (0, 0)), Injection::default());
    }

    #[test]
    fn headers_control_a_fault_but_never_widen_it() {
        let by_header = Fault {
            delay: Some(Delay {
                duration: DelayDuration::Header,
                percentage: HALF,
            }),
            abort: Some(Abort {
                status: AbortStatus::Header,
                percentage: HALF,
            }),
            ..Fault::default()
        };
        assert_eq!(
            decide(&by_header, &Request::get(), (0, 0)),
            Injection::default()
        );
        let asking = || {
            Request::get()
                .header("x-envoy-fault-delay-request", "250")
                .header("x-envoy-fault-abort-grpc-request", "14")
        };
        let injection = decide(&by_header, &asking(), (0, 0));
        assert_eq!(
            injection,
            Injection {
                delay: Some(Duration::from_millis(250)),
                abort: Some(AbortStatus::Grpc(14))
            }
        );
        let wider = asking().header("x-envoy-fault-delay-request-percentage", "100");
        assert_eq!(decide(&by_header, &wider, (60, 60)), Injection::default());
        let narrower = asking().header("x-envoy-fault-delay-request-percentage", "10");
        assert_eq!(
            decide(&by_header, &narrower, (20, 60)),
            Injection::default()
        );
    }
}
