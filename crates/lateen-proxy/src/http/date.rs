//! The `date` of answers: the second of the moment in the form of RFC 9110 section 5.6.7, formatted once a second.

use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const SECONDS_A_DAY: u64 = 24 * 60 * 60;

/// The date of the last answer.
#[derive(Debug)]
pub(crate) struct Date {
    second: Option<u64>,
    value: HeaderValue,
}

impl Default for Date {
    fn default() -> Self {
        Self {
            second: None,
            value: HeaderValue::from_static(""),
        }
    }
}

impl Date {
    /// The date of now.
    pub(crate) fn now(&mut self) -> &[u8] {
        self.value().as_bytes()
    }

    /// The same, as the value of a header.
    pub(crate) fn value(&mut self) -> &HeaderValue {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let second = now.map_or(0, |now| now.as_secs());
        if self.second != Some(second) {
            self.second = Some(second);
            // A date is text, always.
            self.value = HeaderValue::try_from(format(second)).unwrap_or(self.value.clone());
        }
        &self.value
    }
}

fn format(second: u64) -> String {
    let (days, time) = (second / SECONDS_A_DAY, second % SECONDS_A_DAY);
    let (year, month, day) = civil(days);
    let weekday = DAYS[(days % 7) as usize];
    let month = MONTHS[month];
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Year, month from 0 and day of month of a day since 1970, in the Gregorian calendar.
fn civil(mut days: u64) -> (u64, usize, u64) {
    let mut year = 1970;
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_the_standard_shows_them() {
        assert_eq!(format(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(format(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(format(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(format(1_798_761_599), "Thu, 31 Dec 2026 23:59:59 GMT");
    }
}
