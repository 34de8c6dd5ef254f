//! CronJobs: when they are due, and the Jobs they make.
//!
//! The schedule is the five fields of cron as `robfig/cron` reads them for Kubernetes: lists, ranges, steps, names of months and
//! days, `@hourly` and its like. Day of month and day of week are alternatives where both are restricted. Pure: the time is an
//! argument, in UTC, which is the only time zone there is here.

use std::sync::Arc;

use lateen_api::kube::{CronJob, Job};
use lateen_api::{Kind, Resource, Spec};
use time::{Duration, OffsetDateTime, Weekday};

/// How far ahead the next time is searched: a leap day is at most eight years away.
const HORIZON_DAYS: i64 = 366 * 8 + 1;

/// A schedule that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days of the month or of the week are `*`.
    any_day: bool,
    any_weekday: bool,
}

/// Why a schedule cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields.
    #[error("`{0}` has not five fields: minute, hour, day of the month, month, day of the week")]
    Fields(String),
    /// A field is no list of numbers, ranges and steps.
    #[error("`{field}` is no {what} from {low} to {high}")]
    Field {
        /// As written.
        field: String,
        /// Which field.
        what: &'static str,
        /// The least value.
        low: u32,
        /// The greatest.
        high: u32,
    },
    /// A time zone other than UTC.
    #[error("the time zone `{0}` is not known here, only UTC is")]
    TimeZone(String),
}

struct Field {
    what: &'static str,
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field {
        what: "minute",
        low: 0,
        high: 59,
        names: &[],
    },
    Field {
        what: "hour",
        low: 0,
        high: 23,
        names: &[],
    },
    Field {
        what: "day of the month",
        low: 1,
        high: 31,
        names: &[],
    },
    Field {
        what: "month",
        low: 1,
        high: 12,
        names: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    },
    Field {
        what: "day of the week",
        low: 0,
        high: 6,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

impl Schedule {
    /// The schedule of a CronJob.
    ///
    /// # Errors
    /// It cannot be read, or is not in UTC.
    pub fn of(job: &CronJob) -> Result<Self, ScheduleError> {
        let zone = job.spec.time_zone.as_str();
        if !matches!(zone, "" | "UTC" | "Etc/UTC" | "Etc/GMT" | "GMT") {
            return Err(ScheduleError::TimeZone(zone.to_owned()));
        }
        Self::parse(&job.spec.schedule)
    }

    /// Reads `*/5 8-18 * * mon-fri` or `@daily`.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts[..] else {
            return Err(ScheduleError::Fields(text.to_owned()));
        };
        let any = |field: &str| matches!(field, "*" | "?");
        Ok(Self {
            minutes: FIELDS[0].parse(minutes)?,
            hours: FIELDS[1].parse(hours)?,
            days: FIELDS[2].parse(days)?,
            months: FIELDS[3].parse(months)?,
            weekdays: FIELDS[4].parse(weekdays)?,
            any_day: any(days),
            any_weekday: any(weekdays),
        })
    }

    /// The first time after `after`; `None` if there is none, as for 30 February.
    pub fn next(&self, after: OffsetDateTime) -> Option<OffsetDateTime> {
        let start = truncate(after) + Duration::minutes(1);
        let mut day = start.replace_hour(0).ok()?.replace_minute(0).ok()?;
        for _ in 0..HORIZON_DAYS {
            if self.is_day(day)
                && let Some(found) = self.within(day, start)
            {
                return Some(found);
            }
            day += Duration::DAY;
        }
        None
    }

    /// The first time of a day that is not before `start`.
    fn within(&self, day: OffsetDateTime, start: OffsetDateTime) -> Option<OffsetDateTime> {
        let times = (0..24 * 60_u32)
            .filter(|at| has(self.hours, at / 60) && has(self.minutes, at % 60))
            .map(|at| day + Duration::minutes(i64::from(at)));
        times.into_iter().find(|time| *time >= start)
    }

    fn is_day(&self, day: OffsetDateTime) -> bool {
        let by_month = has(self.days, u32::from(day.day()));
        let by_week = has(self.weekdays, weekday(day.weekday()));
        let fits = match (self.any_day, self.any_weekday) {
            (false, false) => by_month || by_week,
            _ => by_month && by_week,
        };
        fits && has(self.months, u32::from(u8::from(day.month())))
    }
}

impl Field {
    fn parse(&self, text: &str) -> Result<u64, ScheduleError> {
        let wrong = || ScheduleError::Field {
            field: text.to_owned(),
            what: self.what,
            low: self.low,
            high: self.high,
        };
        let mut bits = 0;
        for part in text.split(',') {
            bits |= self.part(part).ok_or_else(wrong)?;
        }
        Ok(bits)
    }

    /// `*`, `5`, `1-5`, `*/15`, `10/20`, `mon-fri`.
    fn part(&self, part: &str) -> Option<u64> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|s| *s > 0)?)),
            None => (part, None),
        };
        let (low, high) = match range {
            "*" | "?" => (self.low, self.high),
            _ => match range.split_once('-') {
                Some((low, high)) => (self.value(low)?, self.value(high)?),
                // With a step, one number is where the range begins.
                None if step.is_some() => (self.value(range)?, self.high),
                None => (self.value(range)?, self.value(range)?),
            },
        };
        if low > high {
            return None;
        }
        let step = usize::try_from(step.unwrap_or(1)).ok()?;
        Some(
            (low..=high)
                .step_by(step)
                .fold(0, |bits, at| bits | 1 << at),
        )
    }

    fn value(&self, text: &str) -> Option<u32> {
        let lower = text.to_ascii_lowercase();
        let named = self.names.iter().position(|name| *name == lower);
        let value = match named {
            Some(at) => self.low + u32::try_from(at).ok()?,
            None => text.parse().ok()?,
        };
        (self.low..=self.high).contains(&value).then_some(value)
    }
}

fn has(bits: u64, at: u32) -> bool {
    bits & (1 << at) != 0
}

fn weekday(day: Weekday) -> u32 {
    u32::from(day.number_days_from_sunday())
}

fn truncate(time: OffsetDateTime) -> OffsetDateTime {
    time - Duration::seconds(i64::from(time.second()))
        - Duration::nanoseconds(i64::from(time.nanosecond()))
}

/// The Job that a CronJob makes for one of its times; `None` if the resource is no CronJob. Its name ends in the minutes since
/// the Unix epoch, as Kubernetes has it.
pub fn job(resource: &Resource, scheduled: OffsetDateTime) -> Option<Resource> {
    let Spec::CronJob(cron) = &*resource.spec else {
        return None;
    };
    let mut meta = cron.spec.job_template.metadata.clone();
    meta.namespace.clone_from(&resource.meta.namespace);
    meta.name = format!("{}-{}", resource.name(), scheduled.unix_timestamp() / 60);
    let spec = Job {
        spec: cron.spec.job_template.spec.clone(),
        ..Job::default()
    };
    Some(Resource {
        kind: Kind::Job,
        meta: Arc::new(meta),
        spec: Arc::new(Spec::Job(spec)),
        origin: resource.origin.clone(),
    })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn next(schedule: &str, after: OffsetDateTime) -> Option<OffsetDateTime> {
        Schedule::parse(schedule).unwrap().next(after)
    }

    #[test]
    fn steps_ranges_and_lists_of_minutes_and_hours() {
        let now = datetime!(2026-03-04 10:07:30 UTC);
        assert_eq!(
            next("* * * * *", now),
            Some(datetime!(2026-03-04 10:08 UTC))
        );
        assert_eq!(
            next("*/15 * * * *", now),
            Some(datetime!(2026-03-04 10:15 UTC))
        );
        assert_eq!(
            next("5,6 9-11 * * *", now),
            Some(datetime!(2026-03-04 11:05 UTC))
        );
        assert_eq!(
            next("50/5 * * * *", now),
            Some(datetime!(2026-03-04 10:50 UTC))
        );
        assert_eq!(next("@daily", now), Some(datetime!(2026-03-05 0:00 UTC)));
    }

    #[test]
    fn a_time_is_never_its_own_next_one() {
        let at = datetime!(2026-03-04 10:15 UTC);
        assert_eq!(
            next("*/15 * * * *", at),
            Some(datetime!(2026-03-04 10:30 UTC))
        );
    }

    #[test]
    fn restricted_days_of_month_and_week_are_alternatives() {
        // 2026-03-04 is a Wednesday.
        let now = datetime!(2026-03-04 12:00 UTC);
        assert_eq!(
            next("0 0 13 * fri", now),
            Some(datetime!(2026-03-06 0:00 UTC))
        );
        assert_eq!(
            next("0 0 13 * *", now),
            Some(datetime!(2026-03-13 0:00 UTC))
        );
        assert_eq!(
            next("0 0 * jun mon-tue", now),
            Some(datetime!(2026-06-01 0:00 UTC))
        );
    }

    #[test]
    fn a_leap_day_is_found_and_a_day_that_never_comes_is_not() {
        let now = datetime!(2026-03-04 12:00 UTC);
        assert_eq!(
            next("0 0 29 2 *", now),
            Some(datetime!(2028-02-29 0:00 UTC))
        );
        assert_eq!(next("0 0 30 2 *", now), None);
    }

    #[test]
    fn what_is_no_schedule_says_which_field() {
        let error = Schedule::parse("61 * * * *").unwrap_err();
        assert_eq!(error.to_string(), "`61` is no minute from 0 to 59");
        assert!(matches!(
            Schedule::parse("* * *"),
            Err(ScheduleError::Fields(_))
        ));
        assert!(Schedule::parse("*/0 * * * *").is_err());
        assert!(Schedule::parse("5-1 * * * *").is_err());
        assert!(Schedule::parse("* * * * funday").is_err());
    }

    #[test]
    fn a_time_makes_a_job_of_its_template() {
        let yaml = "
apiVersion: batch/v1
kind: CronJob
metadata: {name: report, namespace: shop}
spec:
  schedule: '0 * * * *'
  jobTemplate:
    metadata: {labels: {app: report}}
    spec:
      template:
        spec: {restartPolicy: Never, containers: [{name: a, image: a, command: [x]}]}
";
        let file = lateen_api::SourceFile::new("cron.yaml", yaml);
        let parsed = lateen_api::parse_file(&file, "default");
        let made = job(&parsed.resources[0], datetime!(1970-01-01 2:00 UTC)).unwrap();
        assert_eq!((made.namespace(), made.name()), ("shop", "report-120"));
        assert_eq!(made.meta.labels["app"], "report");
        let (plan, _) = crate::plan::plan(&[made], false);
        assert_eq!(plan.pods.len(), 1);
        assert_eq!(plan.pods[0].owner.kind, "Job");
    }
}
