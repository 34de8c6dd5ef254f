//! What expires when, as one list to show and to alert on.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::x509::CertificateFacts;

/// One thing that expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// What it is: `root`, `signing certificate`, `workload certificate`, …
    pub what: String,
    /// Its subject, or the identity it is for.
    pub name: String,
    /// Its serial number, lower-case hexadecimal; empty for what has none.
    pub serial: String,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid to.
    pub not_after: SystemTime,
}

/// How soon an expiry concerns somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// More than a third of the lifetime is left (what renews itself has done so by then).
    Fine,
    /// Less than a third is left.
    Soon,
    /// Less than a tenth is left.
    Critical,
    /// It is over.
    Expired,
}

impl Expiry {
    /// The expiry of a certificate.
    pub fn new(what: impl Into<String>, facts: &CertificateFacts) -> Self {
        Self {
            what: what.into(),
            name: facts.subject.clone(),
            serial: facts.serial.clone(),
            not_before: facts.not_before,
            not_after: facts.not_after,
        }
    }

    /// The same for somebody whose certificate has no subject.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..self
        }
    }

    /// What is left of it at `now`; zero if it is over.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }

    /// How soon it concerns somebody.
    pub fn urgency(&self, now: SystemTime) -> Urgency {
        let lifetime = self
            .not_after
            .duration_since(self.not_before)
            .unwrap_or_default();
        let left = self.remaining(now);
        if left.is_zero() {
            Urgency::Expired
        } else if left < lifetime / 10 {
            Urgency::Critical
        } else if left < lifetime / 3 {
            Urgency::Soon
        } else {
            Urgency::Fine
        }
    }

    /// When it ends, as RFC 3339 text in UTC.
    pub fn until(&self) -> String {
        rfc3339(self.not_after)
    }
}

/// Sorts by what ends first; ties by name, so that the report is the same each time.
pub fn sort(report: &mut [Expiry]) {
    report.sort_by(|a, b| {
        (a.not_after, &a.what, &a.name, &a.serial).cmp(&(b.not_after, &b.what, &b.name, &b.serial))
    });
}

/// A time as RFC 3339 text in UTC, to the second.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at)
        .replace_nanosecond(0)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    at.format(&Rfc3339)
        .unwrap_or_else(|_| "an unknown time".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expiry(from: u64, to: u64) -> Expiry {
        Expiry {
            what: "root".to_owned(),
            name: "O=cluster.local".to_owned(),
            serial: String::new(),
            not_before: SystemTime::UNIX_EPOCH + Duration::from_secs(from),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(to),
        }
    }

    #[test]
    fn urgency_grows_as_the_end_comes_near() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let subject = expiry(0, 1000);
        let found = [100, 700, 950, 1000].map(|now| subject.urgency(at(now)));
        assert_eq!(
            found,
            [
                Urgency::Fine,
                Urgency::Soon,
                Urgency::Critical,
                Urgency::Expired
            ]
        );
        assert_eq!(subject.until(), "1970-01-01T00:16:40Z");
    }

    #[test]
    fn the_report_begins_with_what_ends_first() {
        let mut report = [expiry(0, 30), expiry(0, 10), expiry(0, 20)];
        sort(&mut report);
        assert_eq!(report, [expiry(0, 10), expiry(0, 20), expiry(0, 30)]);
    }
}
