//! When a container's probes are asked and what follows from the answers: a state machine without clock or sockets.

use std::time::Duration;

use super::{ContainerProbes, Probe};

/// The three kinds of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// What an answer led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing changed.
    Same,
    /// The container became ready.
    Ready,
    /// It is not ready any more.
    NotReady,
    /// It has to be restarted.
    Restart,
}

/// Good and bad answers in a row of one probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    good: u32,
    bad: u32,
}

/// The probes of one run of a container.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    probes: ContainerProbes,
    started: bool,
    ready: bool,
    rows: [Row; 3],
}

impl Schedule {
    /// For a container that was just started.
    pub(crate) fn new(probes: ContainerProbes) -> Self {
        let started = probes.startup.is_none();
        let ready = started && probes.readiness.is_none();
        Self {
            probes,
            started,
            ready,
            rows: [Row::default(); 3],
        }
    }

    /// The probe of a kind.
    pub(crate) fn probe(&self, kind: Kind) -> Option<&Probe> {
        match kind {
            Kind::Startup => self.probes.startup.as_ref(),
            Kind::Readiness => self.probes.readiness.as_ref(),
            Kind::Liveness => self.probes.liveness.as_ref(),
        }
    }

    /// Whether a probe is to be asked now: startup until it passed, the others from then on.
    pub(crate) fn is_due(&self, kind: Kind) -> bool {
        self.probe(kind).is_some() && (kind == Kind::Startup) != self.started
    }

    /// How long after an answer the next question comes.
    ///
    /// Until a container is ready it is asked more often than `periodSeconds`: a mesh that starts in a second should not
    /// wait for the tenth. No bad answer counts more often than by its period (see [`Self::answer`]).
    pub(crate) fn pause(&self, kind: Kind) -> Duration {
        const EAGER: Duration = Duration::from_millis(100);
        let period = self.probe(kind).map_or(EAGER, |probe| probe.period);
        let waiting = match kind {
            Kind::Startup => true,
            Kind::Readiness => !self.ready,
            Kind::Liveness => false,
        };
        if waiting { period.min(EAGER) } else { period }
    }

    /// Takes an answer in. `counts` is whether a period has passed since the last bad answer that counted.
    pub(crate) fn answer(&mut self, kind: Kind, good: bool, counts: bool) -> Verdict {
        let Some(probe) = self.probe(kind) else {
            return Verdict::Same;
        };
        let (enough_good, enough_bad) = (probe.success_threshold, probe.failure_threshold);
        let row = &mut self.rows[kind as usize];
        if good {
            *row = Row {
                good: row.good.saturating_add(1),
                bad: 0,
            };
        } else {
            *row = Row {
                good: 0,
                bad: row.bad.saturating_add(u32::from(counts)),
            };
        }
        let (passes, fails) = (row.good >= enough_good, !good && row.bad >= enough_bad);
        match kind {
            Kind::Startup if passes => self.start(),
            Kind::Startup | Kind::Liveness if fails => {
                *row = Row::default();
                Verdict::Restart
            }
            Kind::Readiness if passes && !self.ready => {
                self.ready = true;
                Verdict::Ready
            }
            Kind::Readiness if fails && self.ready => {
                self.ready = false;
                Verdict::NotReady
            }
            _ => Verdict::Same,
        }
    }

    fn start(&mut self) -> Verdict {
        self.started = true;
        if self.probes.readiness.is_none() && !self.ready {
            self.ready = true;
            return Verdict::Ready;
        }
        Verdict::Same
    }
}

#[cfg(test)]
mod tests {
    use super::super::Check;
    use super::*;

    fn probe(success_threshold: u32, failure_threshold: u32) -> Option<Probe> {
        Some(Probe {
            check: Check::Tcp { port: 1 },
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            success_threshold,
            failure_threshold,
        })
    }

    #[test]
    fn a_container_without_probes_is_ready_at_once() {
        assert!(Schedule::new(ContainerProbes::default()).ready);
    }

    #[test]
    fn readiness_needs_its_thresholds_both_ways() {
        let probes = ContainerProbes {
            readiness: probe(2, 3),
            ..Default::default()
        };
        let mut schedule = Schedule::new(probes);
        let mut answer = |good| schedule.answer(Kind::Readiness, good, true);
        assert_eq!(
            [true, true].map(&mut answer),
            [Verdict::Same, Verdict::Ready]
        );
        let verdicts = [false, false, true, false, false, false].map(&mut answer);
        assert_eq!(verdicts[..5], [Verdict::Same; 5]);
        assert_eq!(verdicts[5], Verdict::NotReady);
    }

    #[test]
    fn liveness_waits_for_startup_and_then_asks_for_a_restart() {
        let (startup, liveness) = (probe(1, 30), probe(1, 2));
        let mut schedule = Schedule::new(ContainerProbes {
            startup,
            liveness,
            ..Default::default()
        });
        assert!(schedule.is_due(Kind::Startup) && !schedule.is_due(Kind::Liveness));
        assert_eq!(schedule.answer(Kind::Startup, true, true), Verdict::Ready);
        assert!(!schedule.is_due(Kind::Startup) && schedule.is_due(Kind::Liveness));
        assert_eq!(schedule.answer(Kind::Liveness, false, true), Verdict::Same);
        assert_eq!(
            schedule.answer(Kind::Liveness, false, true),
            Verdict::Restart
        );
    }

    #[test]
    fn eager_questions_do_not_exhaust_the_failure_threshold() {
        let probes = ContainerProbes {
            startup: probe(1, 2),
            ..Default::default()
        };
        let mut schedule = Schedule::new(probes);
        assert_eq!(schedule.pause(Kind::Startup), Duration::from_millis(100));
        for _ in 0..50 {
            assert_eq!(schedule.answer(Kind::Startup, false, false), Verdict::Same);
        }
        schedule.answer(Kind::Startup, false, true);
        assert_eq!(
            schedule.answer(Kind::Startup, false, true),
            Verdict::Restart
        );
    }
}
