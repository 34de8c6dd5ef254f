//! Time formats of `%START_TIME(…)%` and its siblings: `strftime` in the C locale, with Envoy's fractions of a second.
//!
//! Source: Envoy 1.40 `START_TIME` (`%s`, `%f`, `%1f`–`%9f`) and absl's `%E3S`, `%E*S`, `%E4Y`; POSIX `strftime`.

use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: i64 = 86_400;
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The format of times without one: `2016-04-15T20:17:00.310Z`.
pub(crate) const DEFAULT: &str = "%Y-%m-%dT%H:%M:%E3SZ";
/// The format of certificate times without one: `Apr 15 20:17:00 2016 GMT`.
pub(crate) const CERTIFICATE: &str = "%b %e %H:%M:%S %Y GMT";

/// A compiled time format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimeFormat(Box<[Piece]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<str>),
    Year,
    Century,
    YearOfCentury,
    Month,
    MonthName,
    MonthShort,
    Day,
    DaySpaced,
    DayOfYear,
    WeekdayName,
    WeekdayShort,
    /// 1 is Monday, 7 is Sunday.
    WeekdayIso,
    /// 0 is Sunday.
    Weekday,
    WeekOfYearSunday,
    WeekOfYearMonday,
    WeekIso,
    YearIso,
    Hour,
    Hour12,
    HalfOfDay,
    Minute,
    Second,
    Epoch,
    /// Digits of the fraction, 1 to 9.
    Fraction(u8),
    /// The fraction without trailing zeros, with its dot, or nothing.
    FractionTrimmed,
    /// `+hhmm`, or `+hh:mm` if true.
    Offset(bool),
    ZoneName,
}

/// Why a time format is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnknownSpecifier {
    /// Offset in the time format.
    pub(crate) at: usize,
}

impl TimeFormat {
    pub(crate) fn parse(format: &str) -> Result<TimeFormat, UnknownSpecifier> {
        let mut pieces = Vec::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            push_literal(&mut pieces, &rest[..at]);
            let position = format.len() - rest.len() + at;
            rest =
                specifier(&rest[at + 1..], &mut pieces).ok_or(UnknownSpecifier { at: position })?;
        }
        push_literal(&mut pieces, rest);
        Ok(TimeFormat(pieces.into()))
    }

    /// Appends `time` as it reads `offset_seconds` east of UTC.
    pub(crate) fn write(&self, time: SystemTime, offset_seconds: i32, out: &mut Vec<u8>) {
        let moment = Moment::new(time, offset_seconds);
        for piece in &self.0 {
            moment.write(piece, out);
        }
    }
}

fn push_literal(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Literal(text.into()));
    }
}

/// Parses what follows a `%`, and returns the rest.
fn specifier<'a>(text: &'a str, pieces: &mut Vec<Piece>) -> Option<&'a str> {
    if let Some(rest) = text.strip_prefix('E') {
        return extended(rest, pieces);
    }
    let first = text.chars().next()?;
    let rest = &text[first.len_utf8()..];
    if let Some(digits @ 1..=9) = first.to_digit(10) {
        let rest = rest.strip_prefix('f')?;
        pieces.push(Piece::Fraction(digits as u8));
        return Some(rest);
    }
    let composed: &[Piece] = match first {
        'T' => &[Piece::Hour, Piece::Minute, Piece::Second],
        'R' => &[Piece::Hour, Piece::Minute],
        _ => &[],
    };
    if !composed.is_empty() {
        join(pieces, composed, ":");
        return Some(rest);
    }
    match first {
        'F' => join(pieces, &[Piece::Year, Piece::Month, Piece::Day], "-"),
        'D' | 'x' => join(
            pieces,
            &[Piece::Month, Piece::Day, Piece::YearOfCentury],
            "/",
        ),
        'X' => join(pieces, &[Piece::Hour, Piece::Minute, Piece::Second], ":"),
        'r' => {
            join(pieces, &[Piece::Hour12, Piece::Minute, Piece::Second], ":");
            pieces.extend([Piece::Literal(" ".into()), Piece::HalfOfDay]);
        }
        'c' => {
            join(
                pieces,
                &[Piece::WeekdayShort, Piece::MonthShort, Piece::DaySpaced],
                " ",
            );
            pieces.push(Piece::Literal(" ".into()));
            join(pieces, &[Piece::Hour, Piece::Minute, Piece::Second], ":");
            pieces.extend([Piece::Literal(" ".into()), Piece::Year]);
        }
        't' => pieces.push(Piece::Literal("\t".into())),
        '%' => pieces.push(Piece::Literal("%".into())),
        other => pieces.push(simple(other)?),
    }
    Some(rest)
}

fn join(pieces: &mut Vec<Piece>, parts: &[Piece], separator: &str) {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            pieces.push(Piece::Literal(separator.into()));
        }
        pieces.push(part.clone());
    }
}

fn simple(specifier: char) -> Option<Piece> {
    Some(match specifier {
        'Y' => Piece::Year,
        'C' => Piece::Century,
        'y' => Piece::YearOfCentury,
        'm' => Piece::Month,
        'B' => Piece::MonthName,
        'b' | 'h' => Piece::MonthShort,
        'd' => Piece::Day,
        'e' => Piece::DaySpaced,
        'j' => Piece::DayOfYear,
        'A' => Piece::WeekdayName,
        'a' => Piece::WeekdayShort,
        'u' => Piece::WeekdayIso,
        'w' => Piece::Weekday,
        'U' => Piece::WeekOfYearSunday,
        'W' => Piece::WeekOfYearMonday,
        'V' => Piece::WeekIso,
        'G' => Piece::YearIso,
        'H' => Piece::Hour,
        'I' => Piece::Hour12,
        'p' => Piece::HalfOfDay,
        'M' => Piece::Minute,
        'S' => Piece::Second,
        's' => Piece::Epoch,
        'f' => Piece::Fraction(9),
        'z' => Piece::Offset(false),
        'Z' => Piece::ZoneName,
        _ => return None,
    })
}

/// absl's `%E…` specifiers.
fn extended<'a>(text: &'a str, pieces: &mut Vec<Piece>) -> Option<&'a str> {
    if let Some(rest) = text.strip_prefix("4Y") {
        pieces.push(Piece::Year);
        return Some(rest);
    }
    if let Some(rest) = text.strip_prefix('z') {
        pieces.push(Piece::Offset(true));
        return Some(rest);
    }
    let first = text.chars().next()?;
    let rest = &text[first.len_utf8()..];
    let fraction = match first {
        '*' => Piece::FractionTrimmed,
        digit => Piece::Fraction(digit.to_digit(10).filter(|digits| *digits <= 9)? as u8),
    };
    if let Some(rest) = rest.strip_prefix('f') {
        pieces.push(fraction);
        return Some(rest);
    }
    let rest = rest.strip_prefix('S')?;
    pieces.push(Piece::Second);
    match fraction {
        Piece::Fraction(0) => {}
        Piece::Fraction(_) => pieces.extend([Piece::Literal(".".into()), fraction]),
        other => pieces.push(other),
    }
    Some(rest)
}

/// A time taken apart.
struct Moment {
    epoch: i64,
    nanoseconds: u32,
    offset_seconds: i32,
    year: i64,
    month: u32,
    day: u32,
    /// 0 is January 1.
    day_of_year: u32,
    /// 0 is Sunday.
    weekday: u32,
    second_of_day: u32,
}

impl Moment {
    fn new(time: SystemTime, offset_seconds: i32) -> Moment {
        let (epoch, nanoseconds) = since_epoch(time);
        let local = epoch.saturating_add(i64::from(offset_seconds));
        let days = local.div_euclid(SECONDS_PER_DAY);
        let (year, month, day) = civil(days);
        Moment {
            epoch,
            nanoseconds,
            offset_seconds,
            year,
            month,
            day,
            day_of_year: (days - days_from_civil(year, 1, 1)) as u32,
            // 1970-01-01 was a Thursday.
            weekday: (days + 4).rem_euclid(7) as u32,
            second_of_day: local.rem_euclid(SECONDS_PER_DAY) as u32,
        }
    }

    fn write(&self, piece: &Piece, out: &mut Vec<u8>) {
        match piece {
            Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Year => write_signed(self.year, out),
            Piece::Century => padded(self.year.div_euclid(100) as u32, 2, b'0', out),
            Piece::YearOfCentury => padded(self.year.rem_euclid(100) as u32, 2, b'0', out),
            Piece::Month => padded(self.month, 2, b'0', out),
            Piece::MonthName => out.extend_from_slice(self.month_name().as_bytes()),
            Piece::MonthShort => out.extend_from_slice(&self.month_name().as_bytes()[..3]),
            Piece::Day => padded(self.day, 2, b'0', out),
            Piece::DaySpaced => padded(self.day, 2, b' ', out),
            Piece::DayOfYear => padded(self.day_of_year + 1, 3, b'0', out),
            Piece::WeekdayName => out.extend_from_slice(self.weekday_name().as_bytes()),
            Piece::WeekdayShort => out.extend_from_slice(&self.weekday_name().as_bytes()[..3]),
            Piece::WeekdayIso => padded((self.weekday + 6) % 7 + 1, 1, b'0', out),
            Piece::Weekday => padded(self.weekday, 1, b'0', out),
            Piece::WeekOfYearSunday => {
                padded((self.day_of_year + 7 - self.weekday) / 7, 2, b'0', out);
            }
            Piece::WeekOfYearMonday => {
                padded(
                    (self.day_of_year + 7 - (self.weekday + 6) % 7) / 7,
                    2,
                    b'0',
                    out,
                );
            }
            Piece::WeekIso => padded(self.iso_week().1, 2, b'0', out),
            Piece::YearIso => write_signed(self.iso_week().0, out),
            _ => self.write_time(piece, out),
        }
    }

    fn write_time(&self, piece: &Piece, out: &mut Vec<u8>) {
        let hour = self.second_of_day / 3600;
        match piece {
            Piece::Hour => padded(hour, 2, b'0', out),
            Piece::Hour12 => padded((hour + 11) % 12 + 1, 2, b'0', out),
            Piece::HalfOfDay => out.extend_from_slice(if hour < 12 { b"AM" } else { b"PM" }),
            Piece::Minute => padded(self.second_of_day / 60 % 60, 2, b'0', out),
            Piece::Second => padded(self.second_of_day % 60, 2, b'0', out),
            Piece::Epoch => write_signed(self.epoch, out),
            Piece::Fraction(digits) => {
                let digits = u32::from(*digits).min(9);
                padded(
                    self.nanoseconds / 10u32.pow(9 - digits),
                    digits as usize,
                    b'0',
                    out,
                );
            }
            Piece::FractionTrimmed if self.nanoseconds > 0 => {
                out.push(b'.');
                padded(self.nanoseconds, 9, b'0', out);
                while out.last() == Some(&b'0') {
                    out.pop();
                }
            }
            Piece::Offset(colon) => self.write_offset(*colon, out),
            Piece::ZoneName if self.offset_seconds == 0 => out.extend_from_slice(b"UTC"),
            Piece::ZoneName => self.write_offset(false, out),
            _ => {}
        }
    }

    fn write_offset(&self, colon: bool, out: &mut Vec<u8>) {
        out.push(if self.offset_seconds < 0 { b'-' } else { b'+' });
        let minutes = self.offset_seconds.unsigned_abs() / 60;
        padded(minutes / 60, 2, b'0', out);
        if colon {
            out.push(b':');
        }
        padded(minutes % 60, 2, b'0', out);
    }

    fn month_name(&self) -> &'static str {
        MONTHS[(self.month as usize + 11) % 12]
    }

    fn weekday_name(&self) -> &'static str {
        DAYS[self.weekday as usize % 7]
    }

    /// Year and week of ISO 8601: the week belongs to the year that its Thursday is in.
    fn iso_week(&self) -> (i64, u32) {
        let from_monday = i64::from((self.weekday + 6) % 7);
        let thursday = days_from_civil(self.year, self.month, self.day) - from_monday + 3;
        let (year, ..) = civil(thursday);
        let week = (thursday - days_from_civil(year, 1, 1)) / 7 + 1;
        (year, week as u32)
    }
}

fn since_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (
            i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            after.subsec_nanos(),
        ),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => (-seconds, 0),
                nanoseconds => ((-seconds).saturating_sub(1), 1_000_000_000 - nanoseconds),
            }
        }
    }
}

/// Days since 1970-01-01 as year, month and day of the Gregorian calendar.
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(days: i64) -> (i64, u32, u32) {
    // Years count from March here, so that the leap day is the last of its year.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u32, day as u32)
}

/// The inverse of [`civil`]. Source: the same, `days_from_civil`.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = i64::from((month + 9) % 12);
    let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn padded(value: u32, width: usize, pad: u8, out: &mut Vec<u8>) {
    let digits = value.checked_ilog10().unwrap_or(0) as usize + 1;
    for _ in digits..width {
        out.push(pad);
    }
    write_unsigned(u64::from(value), out);
}

fn write_signed(value: i64, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    write_unsigned(value.unsigned_abs(), out);
}

/// Appends `value` in decimal.
pub(crate) fn write_unsigned(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn formatted(format: &str, seconds: u64, nanoseconds: u32, offset: i32) -> String {
        let time = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        let mut out = Vec::new();
        TimeFormat::parse(format)
            .unwrap()
            .write(time, offset, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// 2018-05-29T11:23:10.528Z, the moment in Envoy's documentation of `%3f`.
    const AT: u64 = 1_527_593_000;

    #[test]
    fn the_default_format_has_milliseconds() {
        assert_eq!(
            formatted(DEFAULT, AT, 528_999_999, 0),
            "2018-05-29T11:23:20.528Z"
        );
    }

    #[test]
    fn fractions_have_the_digits_asked_for() {
        assert_eq!(formatted("%s.%3f", AT, 528_120_003, 0), "1527593000.528");
        assert_eq!(formatted("%s.%6f", AT, 528_120_003, 0), "1527593000.528120");
        assert_eq!(formatted("%f", AT, 1, 0), "000000001");
        assert_eq!(formatted("%E*S %E0S", AT, 120_000_000, 0), "20.12 20");
    }

    #[test]
    fn dates_agree_with_strftime_in_the_c_locale() {
        assert_eq!(
            formatted(
                "%Y/%m/%dT%H:%M:%S%z %a %A %b %B %e %j %y %C %I %p %u %w",
                AT,
                0,
                0
            ),
            "2018/05/29T11:23:20+0000 Tue Tuesday May May 29 149 18 20 11 AM 2 2"
        );
        assert_eq!(
            formatted("%c|%D|%F|%T|%R|%r|%%|%Z", AT, 0, 0),
            "Tue May 29 11:23:20 2018|05/29/18|2018-05-29|11:23:20|11:23|11:23:20 AM|%|UTC"
        );
    }

    #[test]
    fn weeks_follow_their_three_calendars() {
        // 2021-01-03, a Sunday in the last ISO week of 2020.
        assert_eq!(
            formatted("%U %W %V %G", 1_609_632_000, 0, 0),
            "01 00 53 2020"
        );
    }

    #[test]
    fn leap_days_are_found() {
        assert_eq!(formatted("%F", 951_782_400, 0, 0), "2000-02-29");
        assert_eq!(formatted("%F %j", 1_709_164_800, 0, 0), "2024-02-29 060");
    }

    #[test]
    fn an_offset_moves_the_date() {
        assert_eq!(
            formatted("%F %T %z", 1_609_455_600, 0, 7200),
            "2021-01-01 01:00:00 +0200"
        );
    }

    #[test]
    fn an_unknown_specifier_is_named_by_its_position() {
        assert_eq!(TimeFormat::parse("%Y %Q").unwrap_err().at, 3);
        assert_eq!(
            TimeFormat::parse("%Y%n").unwrap_err().at,
            2,
            "a newline would forge a line"
        );
        assert_eq!(TimeFormat::parse("%").unwrap_err().at, 0);
    }

    #[test]
    fn every_day_of_eight_centuries_survives_the_round_trip() {
        for days in -146_097..146_097 {
            let (year, month, day) = civil(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
