//! Which Jobs the mesh's CronJobs have made, by the rules of Kubernetes' controller: concurrency, deadlines, history.
//!
//! Nothing is kept over a restart: a mesh that was down when a Job was due has missed it.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::kube::CronJob;
use lateen_api::{Resource, Spec};
use lateen_sources::cron::{Schedule, job};
use lateen_sources::plan::{Phase, PodState};
use time::{Duration, OffsetDateTime};

/// Kubernetes' defaults of `successfulJobsHistoryLimit` and `failedJobsHistoryLimit`.
const KEEP_SUCCEEDED: usize = 3;
const KEEP_FAILED: usize = 1;

/// Namespace and name.
type Key = (String, String);

/// The Jobs there are now, and what was looked at last.
#[derive(Debug, Default)]
pub(crate) struct CronJobs {
    crons: BTreeMap<Key, Cron>,
}

#[derive(Debug)]
struct Cron {
    resource: Resource,
    schedule: Schedule,
    /// Times up to here are dealt with.
    seen: OffsetDateTime,
    /// By the time they were due.
    jobs: BTreeMap<OffsetDateTime, Resource>,
}

impl CronJobs {
    /// Takes in what the files hold now. A CronJob that is new begins now; one that has gone takes its Jobs along.
    pub(crate) fn set(&mut self, resources: &[Resource], now: OffsetDateTime) {
        let mut next = BTreeMap::new();
        for resource in resources {
            let Spec::CronJob(cron) = &*resource.spec else {
                continue;
            };
            // Planning has told the user of a schedule that cannot be read.
            let Ok(schedule) = Schedule::of(cron) else {
                continue;
            };
            let key = (resource.namespace().to_owned(), resource.name().to_owned());
            let known = self.crons.remove(&key);
            let same = known
                .as_ref()
                .is_some_and(|known| known.schedule == schedule);
            let (seen, jobs) =
                known.map_or((now, BTreeMap::new()), |known| (known.seen, known.jobs));
            let seen = if same { seen } else { now };
            let resource = resource.clone();
            next.insert(
                key,
                Cron {
                    resource,
                    schedule,
                    seen,
                    jobs,
                },
            );
        }
        self.crons = next;
    }

    /// Makes the Jobs that are due and forgets old ones; true if any came or went.
    pub(crate) fn advance(&mut self, pods: &[PodState], now: OffsetDateTime) -> bool {
        let mut changed = false;
        for cron in self.crons.values_mut() {
            changed |= cron.make_due(pods, now);
            changed |= cron.forget(pods);
        }
        changed
    }

    /// When something is due next.
    pub(crate) fn next(&self) -> Option<OffsetDateTime> {
        let next = |cron: &Cron| cron.schedule.next(cron.seen);
        self.crons.values().filter_map(next).min()
    }

    /// The Jobs there are.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &Resource> {
        self.crons.values().flat_map(|cron| cron.jobs.values())
    }
}

impl Cron {
    fn spec(&self) -> Option<&CronJob> {
        match &*self.resource.spec {
            Spec::CronJob(cron) => Some(cron),
            _ => None,
        }
    }

    /// Of several times that passed only the last is made up for, as Kubernetes does.
    fn make_due(&mut self, pods: &[PodState], now: OffsetDateTime) -> bool {
        let mut due = None;
        while let Some(next) = self.schedule.next(self.seen).filter(|next| *next <= now) {
            self.seen = next;
            due = Some(next);
        }
        let (Some(due), Some(cron)) = (due, self.spec()) else {
            return false;
        };
        let deadline = cron.spec.starting_deadline_seconds.map(Duration::seconds);
        let too_late = deadline.is_some_and(|deadline| now - due > deadline);
        if cron.spec.suspend == Some(true) || too_late {
            return false;
        }
        let running = |made: &Resource| outcome(made, pods).is_none();
        match cron.spec.concurrency_policy.as_str() {
            "Forbid" if self.jobs.values().any(running) => return false,
            "Replace" => self.jobs.retain(|_, made| !running(made)),
            _ => {}
        }
        let made = job(&self.resource, due);
        self.jobs.extend(made.map(|made| (due, made)));
        true
    }

    /// Drops Jobs that have ended, beyond those that are to be kept for looking at.
    fn forget(&mut self, pods: &[PodState]) -> bool {
        let Some(cron) = self.spec() else {
            return false;
        };
        let limit = |written: Option<i32>, default| {
            written.map_or(default, |limit| usize::try_from(limit).unwrap_or(0))
        };
        let limits = [
            (
                true,
                limit(cron.spec.successful_jobs_history_limit, KEEP_SUCCEEDED),
            ),
            (
                false,
                limit(cron.spec.failed_jobs_history_limit, KEEP_FAILED),
            ),
        ];
        let mut old = BTreeSet::new();
        for (succeeded, keep) in limits {
            let ended = self.jobs.iter().rev();
            let ended = ended.filter(|(_, made)| outcome(made, pods) == Some(succeeded));
            old.extend(ended.skip(keep).map(|(due, _)| *due));
        }
        self.jobs.retain(|due, _| !old.contains(due));
        !old.is_empty()
    }
}

/// Whether a Job has succeeded or failed; `None` while it has not ended.
fn outcome(made: &Resource, pods: &[PodState]) -> Option<bool> {
    let own: Vec<&PodState> = pods
        .iter()
        .filter(|pod| pod.namespace == made.namespace())
        .filter(|pod| pod.owner.kind == "Job" && pod.owner.name == made.name())
        .collect();
    if own.is_empty() || own.iter().any(|pod| !ended(pod)) {
        return None;
    }
    Some(own.iter().all(|pod| pod.phase == Phase::Succeeded))
}

fn ended(pod: &PodState) -> bool {
    matches!(pod.phase, Phase::Succeeded | Phase::Failed)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lateen_api::{SourceFile, parse_file};
    use lateen_sources::plan::{Owner, PodRole};
    use time::macros::datetime;

    use super::*;

    const NOON: OffsetDateTime = datetime!(2026-03-04 12:00 UTC);

    fn crons(policy: &str) -> CronJobs {
        let yaml = format!(
            "
apiVersion: batch/v1
kind: CronJob
metadata: {{name: report}}
spec:
  schedule: '*/10 * * * *'
  concurrencyPolicy: {policy}
  startingDeadlineSeconds: 300
  successfulJobsHistoryLimit: 1
  jobTemplate:
    spec:
      template: {{spec: {{restartPolicy: Never, containers: [{{name: a, image: a, command: [x]}}]}}}}
"
        );
        let parsed = parse_file(&SourceFile::new("cron.yaml", &yaml), "default");
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let mut crons = CronJobs::default();
        crons.set(&parsed.resources, NOON);
        crons
    }

    fn minutes(n: i64) -> OffsetDateTime {
        NOON + Duration::minutes(n)
    }

    fn names(crons: &CronJobs) -> Vec<String> {
        crons.jobs().map(|job| job.name().to_owned()).collect()
    }

    fn pods(crons: &CronJobs, phase: Phase) -> Vec<PodState> {
        let pod = |job: &Resource| PodState {
            namespace: "default".to_owned(),
            name: format!("{}-x", job.name()),
            owner: Owner {
                kind: "Job".to_owned(),
                name: job.name().to_owned(),
            },
            template_hash: 0,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            service_account: "default".to_owned(),
            ipv4: Ipv4Addr::LOCALHOST,
            ipv6: None,
            role: PodRole::Plain,
            ports: BTreeMap::new(),
            phase,
            ready: false,
            terminating: false,
            containers: Vec::new(),
            started_at_ms: 0,
            pid: None,
            admin_port: 15000,
        };
        crons.jobs().map(pod).collect()
    }

    #[test]
    fn a_job_is_made_when_it_is_due_and_once_for_several_times_that_passed() {
        let mut crons = crons("Allow");
        assert_eq!(crons.next(), Some(minutes(10)));
        assert!(!crons.advance(&[], minutes(9)));
        assert!(crons.advance(&[], minutes(10)));
        assert_eq!(names(&crons).len(), 1);
        assert!(crons.advance(&[], minutes(41)));
        assert_eq!(names(&crons).len(), 2);
        assert_eq!(crons.next(), Some(minutes(50)));
    }

    #[test]
    fn a_time_past_its_deadline_is_missed() {
        let mut crons = crons("Allow");
        assert!(!crons.advance(&[], minutes(16)));
        assert_eq!(crons.next(), Some(minutes(20)));
    }

    #[test]
    fn policies_decide_while_the_last_job_runs() {
        for (policy, wanted) in [("Allow", 2), ("Forbid", 1), ("Replace", 1)] {
            let mut crons = crons(policy);
            crons.advance(&[], minutes(10));
            let first = names(&crons);
            let running = pods(&crons, Phase::Running);
            crons.advance(&running, minutes(20));
            assert_eq!(names(&crons).len(), wanted, "{policy}");
            assert_eq!(
                names(&crons)[0] == first[0],
                policy != "Replace",
                "{policy}"
            );
        }
    }

    #[test]
    fn only_so_many_jobs_that_ended_are_kept() {
        let mut crons = crons("Allow");
        crons.advance(&[], minutes(10));
        let first = names(&crons);
        let done = pods(&crons, Phase::Succeeded);
        crons.advance(&done, minutes(20));
        let done = pods(&crons, Phase::Succeeded);
        assert!(crons.advance(&done, minutes(21)));
        assert_eq!(names(&crons).len(), 1);
        assert_ne!(names(&crons), first);
    }
}
