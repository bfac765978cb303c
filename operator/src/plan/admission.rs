//! Whether a run may start beside the others of its pipeline: one run per interval, at most `maxConcurrentRuns` at once.
//!
//! A run that has started keeps its interval until its outcome is known. Among runs that wait, the oldest goes first
//! (then by name). A suspended run keeps its interval but no slot, since it makes no further Job; resumed, it goes on.
//!
//! Starts are seen by one operator, which leads. Should the start that another one decided on arrive late, two runs have started on one
//! interval: [`confirm`], asked before the first Job of a run, lets one of them go on.

use chrono::{DateTime, Utc};
use lakehouse_contract::Interval;

/// What counts of a run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the run.
    pub name: String,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// Its interval.
    pub interval: Interval,
    /// Its definition is fixed: it has, had or may at any moment have a Job.
    pub started: bool,
    /// An attempt of it is recorded.
    pub working: bool,
    /// Its outcome is known.
    pub finished: bool,
    /// Its wanted state is Active.
    pub active: bool,
}

/// Whether a run may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Granted,
    /// Another run works on the same interval, or waited for it longer.
    IntervalBusy {
        /// That run.
        run: String,
    },
    /// The pipeline has as many runs at work as it may.
    WaitingForSlot {
        /// `maxConcurrentRuns`.
        limit: usize,
    },
}

fn before(a: &Candidate, b: &Candidate) -> bool {
    (a.created, &a.name) < (b.created, &b.name)
}

/// The run that keeps `me` from its interval.
fn holder<'a>(me: &Candidate, others: &'a [Candidate]) -> Option<&'a Candidate> {
    let rivals = || others.iter().filter(|o| !o.finished && o.name != me.name && o.interval == me.interval);
    rivals().find(|o| o.started).or_else(|| rivals().find(|o| o.active && before(o, me)))
}

/// Decides for `me`, which has not started, among the `others` of its pipeline.
pub fn admit(me: &Candidate, others: &[Candidate], limit: usize) -> Admission {
    if let Some(holder) = holder(me, others) {
        return Admission::IntervalBusy { run: holder.name.clone() };
    }
    let unfinished = || others.iter().filter(|o| !o.finished && o.name != me.name && o.active);
    let working = unfinished().filter(|o| o.started).count();
    let ahead = unfinished().filter(|o| !o.started && before(o, me) && holder(o, others).is_none()).count();
    if working + ahead >= limit {
        return Admission::WaitingForSlot { limit };
    }
    Admission::Granted
}

/// Decides for `me`, which has started and has no attempt yet, among the `others` of its pipeline: of several that have started on the
/// interval the one with an attempt goes on, else the oldest.
pub fn confirm(me: &Candidate, others: &[Candidate]) -> Admission {
    let rivals = others.iter().filter(|o| o.started && !o.finished && o.name != me.name && o.interval == me.interval);
    match rivals.into_iter().find(|o| o.working || before(o, me)) {
        Some(rival) => Admission::IntervalBusy { run: rival.name.clone() },
        None => Admission::Granted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use lakehouse_contract::IntervalGrain;

    fn candidate(name: &str, age: i64, day: i64) -> Candidate {
        let epoch = DateTime::from_timestamp(1_704_067_200, 0).unwrap();
        Candidate {
            name: name.to_owned(),
            created: epoch - TimeDelta::seconds(age),
            interval: Interval::containing(IntervalGrain::Daily, epoch + TimeDelta::days(day)),
            started: false,
            working: false,
            finished: false,
            active: true,
        }
    }

    #[test]
    fn one_run_per_interval_the_oldest_first() {
        let (old, new) = (candidate("b", 10, 0), candidate("a", 5, 0));
        assert_eq!(admit(&old, std::slice::from_ref(&new), 4), Admission::Granted);
        assert_eq!(admit(&new, std::slice::from_ref(&old), 4), Admission::IntervalBusy { run: "b".into() });
        // Equal age: the name decides.
        let twin = candidate("c", 10, 0);
        assert_eq!(admit(&twin, std::slice::from_ref(&old), 4), Admission::IntervalBusy { run: "b".into() });
        // A run that has started keeps the interval, whatever its age.
        let started = Candidate { started: true, ..new.clone() };
        assert_eq!(admit(&old, std::slice::from_ref(&started), 4), Admission::IntervalBusy { run: "a".into() });
        let finished = Candidate { finished: true, ..started };
        assert_eq!(admit(&old, &[finished], 4), Admission::Granted);
        // One that is suspended before its start does not stand in the way.
        let suspended = Candidate { active: false, ..old };
        assert_eq!(admit(&new, &[suspended], 4), Admission::Granted);
    }

    #[test]
    fn of_two_that_have_started_on_one_interval_one_goes_on() {
        let started = |name: &str, age: i64| Candidate { started: true, ..candidate(name, age, 0) };
        let (old, new) = (started("old", 10), started("new", 5));
        let busy = |run: &str| Admission::IntervalBusy { run: run.into() };
        assert_eq!(confirm(&old, std::slice::from_ref(&new)), Admission::Granted);
        assert_eq!(confirm(&new, std::slice::from_ref(&old)), busy("old"));
        let ahead = Candidate { working: true, ..new };
        assert_eq!(confirm(&old, std::slice::from_ref(&ahead)), busy("new"));
        let over = Candidate { finished: true, ..ahead };
        assert_eq!(
            confirm(&old, &[over, started("elsewhere", 20)].map(|c| Candidate { interval: candidate("x", 0, 1).interval, ..c })),
            Admission::Granted
        );
        assert_eq!(confirm(&old, &[candidate("waits", 20, 0)]), Admission::Granted, "one that has not started is asked by `admit`");
    }

    #[test]
    fn slots_are_given_by_age() {
        let waiting: Vec<Candidate> = (0..5).map(|n| candidate(&format!("r{n}"), 100 - n, n)).collect();
        let granted = |limit| {
            waiting.iter().filter(|me| admit(me, &waiting, limit) == Admission::Granted).map(|me| me.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(granted(2), ["r0", "r1"]);
        let mut running = waiting.clone();
        running[0].started = true;
        assert_eq!(admit(&running[1], &running, 1), Admission::WaitingForSlot { limit: 1 });
        // One that cannot start because its interval is taken leaves its turn to the next.
        let mut others = running.clone();
        others[1].interval = others[0].interval;
        assert_eq!(admit(&others[2], &others, 2), Admission::Granted);
    }
}
