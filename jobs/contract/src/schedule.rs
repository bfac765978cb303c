//! The times of a pipeline's schedule: a cron expression in a time zone.
//!
//! The expression is `croner`'s, on the calendar of wall clocks; where the clock is changed the rule is that of cron on most systems (Vixie, ISC):
//!
//! | minute and hour of the expression | a time that the clock leaves out | a time that the clock shows twice |
//! |---|---|---|
//! | without `*` (`30 2 * * *`, `0 2,14 * * *`) | runs when the clock goes on, at the first instant after | runs once, the first time |
//! | one of them with `*` (`30 * * * *`, `*/15 2 * * *`) | does not run | runs both times |
//!
//! So a daily schedule has one time a day, and an hourly one a time in every hour that passes.

use chrono::{DateTime, Duration, LocalResult, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use lakehouse_api::{LakehousePipelineSpec, common::HumanDuration, pipeline::Schedule};

/// The shortest `startingDeadline`: an operator that is busy, or starts again, needs a moment.
const SHORTEST_DEADLINE: HumanDuration = HumanDuration::seconds(10);
/// Expressions with a name.
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
const FIELDS: [&str; 5] = ["minute", "hour", "day of month", "month", "day of week"];
const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// Days of the months, February with its leap day.
const LENGTHS: [u16; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Why a schedule has no times.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidSchedule {
    /// The expression is none.
    #[error("spec.trigger.schedule.cron: `{cron}`: {message}")]
    Cron {
        /// The expression.
        cron: String,
        /// What is wrong with it.
        message: String,
    },
    /// There is no such date.
    #[error("spec.trigger.schedule.cron: `{0}` never comes: no month that it names has a day that it names")]
    Never(String),
    /// The time zone is none.
    #[error("spec.trigger.schedule.timeZone: `{0}` is no time zone: write an IANA name such as Europe/Berlin, or UTC")]
    TimeZone(String),
    /// Runs would be left out by chance.
    #[error(
        "spec.trigger.schedule.startingDeadline: {0} is less than {SHORTEST_DEADLINE}: runs would be left out while the operator is only busy"
    )]
    Deadline(HumanDuration),
}

/// The times of a schedule.
#[derive(Clone, Debug)]
pub struct Timetable {
    cron: Cron,
    zone: Tz,
    /// Neither minute nor hour has a `*`.
    fixed: bool,
}

/// Whether the schedule of a definition, if it has one, has times.
///
/// # Errors
/// [`InvalidSchedule`], which names the field.
pub fn check(definition: &LakehousePipelineSpec) -> Result<(), InvalidSchedule> {
    let schedule = definition.trigger.as_ref().and_then(|trigger| trigger.schedule.as_ref());
    schedule.map_or(Ok(()), |schedule| Timetable::of(schedule).map(drop))
}

impl Timetable {
    /// The times of `schedule`.
    ///
    /// # Errors
    /// [`InvalidSchedule`], which names the field.
    pub fn of(schedule: &Schedule) -> Result<Self, InvalidSchedule> {
        if let Some(deadline) = schedule.starting_deadline.filter(|deadline| *deadline < SHORTEST_DEADLINE) {
            return Err(InvalidSchedule::Deadline(deadline));
        }
        Self::parse(&schedule.cron, &schedule.time_zone)
    }

    /// The times of the expression `cron` in `time_zone`.
    ///
    /// # Errors
    /// [`InvalidSchedule`], which names the field.
    pub fn parse(cron: &str, time_zone: &str) -> Result<Self, InvalidSchedule> {
        let zone = time_zone.parse::<Tz>().map_err(|_| InvalidSchedule::TimeZone(time_zone.to_owned()))?;
        let invalid = |message: String| InvalidSchedule::Cron { cron: cron.to_owned(), message };
        let fields = fields(cron).map_err(invalid)?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let parsed = parser.parse(&fields.join(" ")).map_err(|error| invalid(error.to_string()))?;
        let days = parsed.pattern.days.values();
        let month_has = |month: u16| days.iter().any(|day| *day <= LENGTHS[usize::from(month) - 1]);
        let may_come = fields[4] != "*" || parsed.pattern.months.values().into_iter().any(month_has);
        if !may_come {
            return Err(InvalidSchedule::Never(cron.to_owned()));
        }
        Ok(Self { cron: parsed, zone, fixed: !fields[..2].iter().any(|field| field.contains('*')) })
    }

    /// The first time after `after`. Nothing when the calendar ends before (year 5000).
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if self.fixed { self.next_fixed(after) } else { self.next_wild(after) }
    }

    /// The next time of the wall clock, on a clock that nobody changes.
    fn next_local(&self, local: NaiveDateTime, inclusive: bool) -> Option<NaiveDateTime> {
        self.cron.find_next_occurrence(&local.and_utc(), inclusive).ok().map(|found| found.naive_utc())
    }

    /// Every wall clock time of the expression, at the first instant that shows it or, where none does, at the first one after.
    fn next_fixed(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // Whatever is first shown after an instant is later than what the clock shows at that instant.
        let mut local = self.local(after);
        loop {
            local = self.next_local(local, false)?;
            let instant = self.instant(local)?;
            if instant > after {
                return Some(instant);
            }
        }
    }

    /// Every instant whose wall clock time is one of the expression.
    fn next_wild(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (mut from, mut inclusive) = (after, false);
        loop {
            let offset = self.offset(from);
            let found = (self.next_local(self.local(from), inclusive)? - offset).and_utc();
            match self.change(from, found) {
                None => return Some(found),
                Some(change) => (from, inclusive) = (change, true),
            }
        }
    }

    fn offset(&self, instant: DateTime<Utc>) -> TimeDelta {
        TimeDelta::seconds(i64::from(self.zone.offset_from_utc_datetime(&instant.naive_utc()).fix().local_minus_utc()))
    }

    fn local(&self, instant: DateTime<Utc>) -> NaiveDateTime {
        instant.naive_utc() + self.offset(instant)
    }

    fn instant(&self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        match self.zone.from_local_datetime(&local) {
            LocalResult::Single(instant) | LocalResult::Ambiguous(instant, _) => Some(instant.to_utc()),
            // Two days before and after in UTC are before and after the change, whatever the zone.
            LocalResult::None => self.change(local.and_utc() - Duration::days(2), local.and_utc() + Duration::days(2)),
        }
    }

    /// The first instant after `from` and not after `to` whose offset from UTC is not that of `from`.
    fn change(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let offset = self.offset(from);
        let mut same = from;
        let mut other = loop {
            let next = (same + Duration::days(1)).min(to);
            if self.offset(next) != offset {
                break next;
            }
            if next >= to {
                return None;
            }
            same = next;
        };
        while other - same > TimeDelta::seconds(1) {
            let middle = same + (other - same) / 2;
            if self.offset(middle) == offset { same = middle } else { other = middle }
        }
        // Clocks are changed at full seconds; `same` may carry a fraction.
        DateTime::from_timestamp(other.timestamp(), 0)
    }
}

/// The five fields, in capitals, `*` for `?`, each made of what cron(5) knows. `croner` takes more (`L`, `W`, `#`), which other schedulers do not.
fn fields(cron: &str) -> Result<Vec<String>, String> {
    let text = cron.trim();
    let text = match NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
        Some((_, meaning)) => meaning,
        None if text.starts_with('@') => {
            let known = NICKNAMES.map(|(name, _)| name).join(", ");
            return Err(format!("there is no such name; there are {known}"));
        }
        None => text,
    };
    let fields: Vec<String> =
        text.split_whitespace().map(|field| if field == "?" { "*".to_owned() } else { field.to_ascii_uppercase() }).collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("it has {} fields, and cron has five: {}", fields.len(), FIELDS.join(", ")));
    }
    for (index, (field, name)) in fields.iter().zip(FIELDS).enumerate() {
        let names: &[&str] = match index {
            3 => &MONTHS,
            4 => &DAYS,
            _ => &[],
        };
        let known = |token: &str| {
            token == "*" || names.contains(&token) || (!token.is_empty() && token.len() <= 2 && token.bytes().all(|b| b.is_ascii_digit()))
        };
        if let Some(token) = field.split([',', '-', '/']).find(|token| !known(token)) {
            let example = if names.is_empty() { String::new() } else { format!(", a name such as {}", names[1]) };
            return Err(format!("{name}: `{token}` in `{field}` is neither a number{example} nor `*`"));
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{Datelike, Timelike};
    use lakehouse_api::pipeline::{CatchUp, ConcurrencyPolicy};

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    /// The next `count` times in wall clock time with offset.
    fn times(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let table = Timetable::parse(cron, zone).unwrap();
        let tz: Tz = zone.parse().unwrap();
        let mut last = at(after);
        (0..count)
            .map(|_| {
                last = table.next_after(last).unwrap();
                last.with_timezone(&tz).format("%d %H:%M%z").to_string()
            })
            .collect()
    }

    #[test]
    fn five_fields_names_and_nicknames() {
        assert_eq!(times("@daily", "UTC", "2024-02-28T00:00:00Z", 2), ["29 00:00+0000", "01 00:00+0000"]);
        assert_eq!(times("@weekly", "UTC", "2024-02-28T00:00:00Z", 1), ["03 00:00+0000"]);
        assert_eq!(times("30 6 * JAN,mar Mon-Fri", "UTC", "2024-02-28T00:00:00Z", 2), ["01 06:30+0000", "04 06:30+0000"]);
        assert_eq!(times("0 0 ? * 7", "UTC", "2024-02-28T00:00:00Z", 1), ["03 00:00+0000"]);
        assert_eq!(times("0 0 13 * FRI", "UTC", "2024-02-28T00:00:00Z", 3), ["01 00:00+0000", "08 00:00+0000", "13 00:00+0000"]);
        assert_eq!(times("0 0 29 2 *", "UTC", "2024-03-01T00:00:00Z", 1), ["29 00:00+0000"]);
        assert_eq!(Timetable::parse("0 0 29 2 *", "UTC").unwrap().next_after(at("2096-03-01T00:00:00Z")), Some(at("2104-02-29T00:00:00Z")));
    }

    #[test]
    fn what_is_no_schedule_is_refused_by_field() {
        let refused = |cron: &str, zone: &str, words: &str| {
            let error = Timetable::parse(cron, zone).unwrap_err().to_string();
            assert!(error.contains(words), "{cron}: {error}");
        };
        for cron in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 30,31 FEB ?"] {
            refused(cron, "UTC", "spec.trigger.schedule.cron");
            refused(cron, "UTC", "never comes");
        }
        assert!(Timetable::parse("0 0 30 2 MON", "UTC").is_ok(), "day of week may match alone");
        refused("0 0 * *", "UTC", "it has 4 fields");
        refused("0 0 0 * * *", "UTC", "it has 6 fields");
        refused("0 24 * * *", "UTC", "spec.trigger.schedule.cron");
        refused("61 * * * *", "UTC", "spec.trigger.schedule.cron");
        refused("0 0 L * *", "UTC", "day of month: `L`");
        refused("0 0 * * MON#1", "UTC", "day of week: `MON#1`");
        refused("0 MON * * *", "UTC", "hour: `MON`");
        refused("@reboot", "UTC", "there is no such name");
        refused("", "UTC", "it has 0 fields");
        refused("*/0 * * * *", "UTC", "spec.trigger.schedule.cron");
        refused("@daily", "Europe/Bern", "spec.trigger.schedule.timeZone: `Europe/Bern` is no time zone");
        let schedule = |seconds| Schedule {
            cron: "@daily".into(),
            time_zone: "UTC".into(),
            concurrency_policy: ConcurrencyPolicy::Allow,
            starting_deadline: Some(HumanDuration::seconds(seconds)),
            catch_up: CatchUp::default(),
            suspend: false,
        };
        assert!(Timetable::of(&schedule(9)).unwrap_err().to_string().contains("startingDeadline: 9s is less than 10s"));
        assert!(Timetable::of(&schedule(10)).is_ok());
    }

    #[test]
    fn a_daily_time_comes_once_a_day_where_the_clock_is_changed() {
        // Berlin: 2024-03-31 02:00 → 03:00, 2024-10-27 03:00 → 02:00. New York: 2024-03-10 02:00 → 03:00, 2024-11-03 02:00 → 01:00.
        let spring = ["30 02:30+0100", "31 03:00+0200", "01 02:30+0200"];
        assert_eq!(times("30 2 * * *", "Europe/Berlin", "2024-03-29T12:00:00Z", 3), spring);
        let autumn = ["26 02:30+0200", "27 02:30+0200", "28 02:30+0100"];
        assert_eq!(times("30 2 * * *", "Europe/Berlin", "2024-10-25T12:00:00Z", 3), autumn);
        let spring = ["09 02:30-0500", "10 03:00-0400", "11 02:30-0400"];
        assert_eq!(times("30 2 * * *", "America/New_York", "2024-03-08T12:00:00Z", 3), spring);
        let autumn = ["02 01:30-0400", "03 01:30-0400", "04 01:30-0500"];
        assert_eq!(times("30 1 * * *", "America/New_York", "2024-11-01T12:00:00Z", 3), autumn);
        // A list is as fixed as one time; what falls together is one.
        let list = ["31 03:00+0200", "31 14:00+0200", "01 02:00+0200"];
        assert_eq!(times("0 2,14 * * *", "Europe/Berlin", "2024-03-30T14:00:00Z", 3), list);
        assert_eq!(times("0,30 2 * * *", "Europe/Berlin", "2024-03-31T00:00:00Z", 2), ["31 03:00+0200", "01 02:00+0200"]);
        // The same from any moment within the change.
        assert_eq!(times("30 2 * * *", "Europe/Berlin", "2024-10-27T00:30:00Z", 1), ["28 02:30+0100"]);
        assert_eq!(times("30 2 * * *", "Europe/Berlin", "2024-10-27T01:10:00Z", 1), ["28 02:30+0100"]);
    }

    #[test]
    fn an_hourly_time_comes_in_every_hour_that_passes() {
        let spring = ["31 01:15+0100", "31 03:15+0200", "31 04:15+0200"];
        assert_eq!(times("15 * * * *", "Europe/Berlin", "2024-03-31T00:00:00Z", 3), spring);
        let autumn = ["27 02:15+0200", "27 02:15+0100", "27 03:15+0100"];
        assert_eq!(times("15 * * * *", "Europe/Berlin", "2024-10-27T00:00:00Z", 3), autumn);
        let spring = ["10 01:15-0500", "10 03:15-0400"];
        assert_eq!(times("15 * * * *", "America/New_York", "2024-03-10T06:00:00Z", 2), spring);
        let autumn = ["03 01:15-0400", "03 01:15-0500", "03 02:15-0500"];
        assert_eq!(times("15 * * * *", "America/New_York", "2024-11-03T05:00:00Z", 3), autumn);
        // A clock that is changed by half an hour.
        let half = ["07 01:45+1100", "07 01:45+1030", "07 02:45+1030"];
        assert_eq!(times("45 * * * *", "Australia/Lord_Howe", "2024-04-06T14:00:00Z", 3), half);
    }

    /// Numbers that are the same in every run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }

        /// A field with the numbers that it stands for.
        fn field(&mut self, least: u32, most: u32) -> (String, Vec<u32>) {
            let span = u64::from(most - least + 1);
            match self.below(4) {
                0 => ("*".into(), (least..=most).collect()),
                1 => {
                    let step = self.below(span.min(12) - 1) as u32 + 2;
                    (format!("*/{step}"), (least..=most).step_by(step as usize).collect())
                }
                2 => {
                    let (a, b) = (least + self.below(span) as u32, least + self.below(span) as u32);
                    let (a, b) = (a.min(b), a.max(b));
                    (format!("{a}-{b}"), (a..=b).collect())
                }
                _ => {
                    let (a, b) = (least + self.below(span) as u32, least + self.below(span) as u32);
                    (format!("{a},{b}"), vec![a, b])
                }
            }
        }
    }

    /// The rule of this module, minute by minute: slow, and without a calendar of its own.
    fn oracle(fields: &[(String, Vec<u32>)], zone: Tz, from: DateTime<Utc>, minutes: i64) -> Vec<DateTime<Utc>> {
        let matches = |local: NaiveDateTime| {
            let day = fields[2].1.contains(&local.day());
            let week = fields[4].1.contains(&local.weekday().num_days_from_sunday());
            let days = if fields[2].0 == "*" || fields[4].0 == "*" { day && week } else { day || week };
            fields[0].1.contains(&local.minute()) && fields[1].1.contains(&local.hour()) && fields[3].1.contains(&local.month()) && days
        };
        let fixed = !fields[0].0.contains('*') && !fields[1].0.contains('*');
        let mut found = Vec::new();
        let mut shown = from.with_timezone(&zone).naive_local() - TimeDelta::minutes(1);
        for minute in 0..minutes {
            let now = from + TimeDelta::minutes(minute);
            let local = now.with_timezone(&zone).naive_local();
            if !fixed {
                if matches(local) {
                    found.push(now);
                }
                continue;
            }
            // Every minute of the wall clock that was not shown before counts now: none while it repeats, many when it jumps.
            let mut due = false;
            while shown < local {
                shown += TimeDelta::minutes(1);
                due |= matches(shown);
            }
            if due {
                found.push(now);
            }
        }
        found
    }

    #[test]
    fn times_are_those_of_an_oracle_around_changes_of_the_clock() {
        let mut dice = Dice(20_241_027);
        let changes =
            ["2024-03-09T18:00:00Z", "2024-03-30T12:00:00Z", "2024-10-26T12:00:00Z", "2024-11-02T18:00:00Z", "2024-04-06T00:00:00Z"];
        let mut compared = 0;
        for case in 0..240 {
            let fields = [dice.field(0, 59), dice.field(0, 23), dice.field(1, 31), dice.field(1, 12), dice.field(0, 6)];
            let fields = if case % 2 == 0 {
                let [m, h, ..] = fields;
                [m, h, all(1, 31), all(1, 12), all(0, 6)]
            } else {
                fields
            };
            let cron = fields.iter().map(|field| field.0.as_str()).collect::<Vec<_>>().join(" ");
            let zones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"];
            let name = zones[dice.below(4) as usize];
            let from = at(changes[dice.below(5) as usize]);
            let Ok(table) = Timetable::parse(&cron, name) else { continue };
            let expected = oracle(&fields, name.parse().unwrap(), from, 36 * 60);
            let (mut last, until) = (from - TimeDelta::seconds(1), from + TimeDelta::hours(36));
            let mut found = Vec::new();
            while let Some(next) = table.next_after(last).filter(|next| *next < until) {
                found.push(next);
                last = next;
            }
            assert_eq!(found, expected, "`{cron}` in {name} from {from}");
            compared += found.len();
        }
        assert!(compared > 3_000, "{compared}");
    }

    fn all(least: u32, most: u32) -> (String, Vec<u32>) {
        ("*".into(), (least..=most).collect())
    }
}
