//! Schedules against a simulated cluster: whatever happens between two writes, every time has one run, for the interval that its time means.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use lakehouse_api::{LakehousePipeline, LakehousePipelineStatus, pipeline::Schedule};
use lakehouse_contract::{Interval, IntervalGrain, schedule::Timetable};
use lakehouse_operator::{
    build, names,
    plan::schedule::{Active, Clock, Due, Made, Missed, SCHEDULED, Step, forget, left_out, on_time, waits_for},
};
use serde_json::{Value, json};

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

/// What an API server would hold of one pipeline with a schedule.
#[derive(Clone)]
struct World {
    pipeline: LakehousePipeline,
    /// Runs by name: the time that made them, their interval, whether they are at work, whether they are cancelled.
    runs: BTreeMap<String, (DateTime<Utc>, Interval, bool, bool)>,
    /// How often each was made.
    made: BTreeMap<String, u32>,
    missed: Vec<Missed>,
    now: DateTime<Utc>,
    /// Writes after which the operator is killed, if it is.
    left: Option<usize>,
    writes: usize,
}

impl World {
    fn new(grain: &str, schedule: Value, now: &str) -> Self {
        let pipeline = json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehousePipeline",
            "metadata": {"name": "p", "namespace": "ns", "uid": "0f0e0d0c-0b0a-4908-8706-050403020100", "generation": 1},
            "spec": {"lakehouse": "main", "interval": grain, "trigger": {"schedule": schedule}, "ingest": [{"name": "s", "pulse": {}}]}
        });
        Self {
            pipeline: serde_json::from_value(pipeline).unwrap(),
            runs: BTreeMap::new(),
            made: BTreeMap::new(),
            missed: Vec::new(),
            now: at(now),
            left: None,
            writes: 0,
        }
    }

    fn schedule(&self) -> Schedule {
        self.pipeline.spec.trigger.clone().unwrap().schedule.unwrap()
    }

    fn edit(&mut self, change: impl FnOnce(&mut Schedule)) {
        change(self.pipeline.spec.trigger.as_mut().unwrap().schedule.as_mut().unwrap());
    }

    fn status(&self) -> LakehousePipelineStatus {
        self.pipeline.status.clone().unwrap_or_default()
    }

    fn clock(&self, status: Option<&LakehousePipelineStatus>) -> Clock {
        let table = Timetable::of(&self.schedule()).unwrap();
        Clock::new(self.schedule(), self.pipeline.spec.interval, table, status, self.now)
    }

    /// One more write; false when the operator is killed before it.
    fn may_write(&mut self) -> bool {
        if let Some(left) = &mut self.left {
            if *left == 0 {
                return false;
            }
            *left -= 1;
        }
        self.writes += 1;
        true
    }

    fn made(&self) -> Made {
        let active = self.runs.iter().filter(|(_, run)| run.2);
        Made {
            active: active.map(|(name, run)| Active { name: name.clone(), interval: run.1, cancelled: run.3 }).collect(),
            intervals: self.runs.values().map(|run| run.1).collect(),
        }
    }

    /// A reconciliation as the controller does it, decided on the status `seen`. Answers when the next one is wanted.
    fn reconcile(&mut self, seen: Option<LakehousePipelineStatus>) -> Option<std::time::Duration> {
        let mut clock = self.clock(seen.as_ref());
        let mut said = None;
        if clock.is_due(self.now) {
            for _ in 0..300 {
                match clock.step(&self.made(), self.now) {
                    Step::Make(due, missed) => {
                        if !self.may_write() {
                            return None;
                        }
                        self.make(due);
                        clock.passed(due.time);
                        if let Some(missed) = missed {
                            said = Some(left_out("p", &missed).0);
                            self.missed.push(missed);
                        } else {
                            said = said.or_else(|| Some(on_time()));
                        }
                    }
                    Step::LeaveOut(time, missed) => {
                        said = Some(left_out("p", &missed).0);
                        self.missed.push(missed);
                        clock.passed(time);
                    }
                    Step::Cancel(run) => {
                        if !self.may_write() {
                            return None;
                        }
                        self.runs.get_mut(&run).unwrap().3 = true;
                    }
                    Step::WaitFor(run) => {
                        said = Some(waits_for(&run));
                        break;
                    }
                    Step::Idle(_) => break,
                }
            }
        }
        let mut next = self.status();
        clock.enter(&mut next, said, Some(1), self.now);
        // Optimistic concurrency: a status decided on an old one is refused.
        if seen == self.pipeline.status && self.pipeline.status.as_ref() != Some(&next) {
            if !self.may_write() {
                return None;
            }
            self.pipeline.status = Some(next);
        }
        clock.wait(self.now, self.now)
    }

    fn make(&mut self, due: Due) {
        let run = build::scheduled_run(&self.pipeline, &due);
        let name = run.metadata.name.unwrap();
        if !self.runs.contains_key(&name) {
            *self.made.entry(name.clone()).or_default() += 1;
            self.runs.insert(name, (due.time, due.interval, true, false));
        }
    }

    fn finish_all(&mut self) {
        self.runs.values_mut().for_each(|run| run.2 = false);
    }

    fn look(&mut self) -> Option<std::time::Duration> {
        let seen = self.pipeline.status.clone();
        self.reconcile(seen)
    }

    /// The operator is up until then, and looks exactly when it wanted to.
    fn live_until(&mut self, end: &str) {
        let end = at(end);
        loop {
            let wait = self.look();
            let Some(wait) = wait.filter(|wait| self.now + TimeDelta::from_std(*wait).unwrap() <= end) else { break };
            assert!(!wait.is_zero(), "a hot loop at {}", self.now);
            self.now += TimeDelta::from_std(wait).unwrap();
        }
        self.now = end;
        self.look();
    }

    fn labels(&self) -> Vec<String> {
        let mut intervals: Vec<Interval> = self.runs.values().map(|run| run.1).collect();
        intervals.sort();
        intervals.iter().map(|interval| interval.label(self.pipeline.spec.interval)).collect()
    }

    fn condition(&self) -> (String, String, String) {
        let status = self.status();
        let found = status.conditions.iter().find(|c| c.type_ == SCHEDULED).cloned().unwrap();
        (found.status, found.reason, found.message)
    }
}

#[test]
fn a_run_is_for_the_interval_that_its_time_means_however_late_it_is() {
    let mut world =
        World::new("daily", json!({"cron": "0 6 * * *", "timeZone": "Europe/Berlin", "catchUp": {"max": 10}}), "2024-03-29T12:00:00Z");
    world.look();
    let status = world.status();
    assert_eq!((status.last_scheduled_time, status.next_scheduled_time), (None, Some(at("2024-03-30T05:00:00Z"))));
    assert!(world.runs.is_empty(), "what was before the schedule is none of its business");
    world.live_until("2024-03-30T12:00:00Z");
    assert_eq!(world.labels(), ["2024-03-29"]);
    // Down for three days, one of which has 23 hours.
    world.now = at("2024-04-02T11:00:00Z");
    world.look();
    assert_eq!(world.labels(), ["2024-03-29", "2024-03-30", "2024-03-31", "2024-04-01"]);
    assert_eq!(world.condition().1, "OnTime");
    let times: Vec<_> = world.runs.values().map(|run| run.0).collect();
    assert_eq!(times[2], at("2024-04-01T04:00:00Z"), "{times:?}");
    let run = build::scheduled_run(&world.pipeline, &Due { time: times[2], interval: world.runs.values().nth(2).unwrap().1 });
    assert_eq!(run.metadata.annotations.unwrap()[names::SCHEDULED_TIME], "2024-04-01T04:00:00Z");
    assert_eq!(run.metadata.labels.unwrap()[names::TRIGGER], "schedule");
}

#[test]
fn a_time_that_comes_while_the_clock_is_read_is_not_slept_through() {
    let mut world = World::new("daily", json!({"cron": "0 6 * * *"}), "2024-03-29T12:00:00Z");
    world.look();
    world.now = at("2024-03-30T05:59:59Z");
    let clock = world.clock(world.pipeline.status.as_ref());
    assert!(!clock.is_due(world.now));
    assert_eq!(clock.wait(world.now, at("2024-03-30T05:59:59.400Z")), Some(std::time::Duration::from_millis(600)));
    assert_eq!(clock.wait(world.now, at("2024-03-30T06:00:00.010Z")), Some(std::time::Duration::ZERO));
}

#[test]
fn of_several_times_for_one_interval_the_first_counts() {
    let mut world = World::new("daily", json!({"cron": "*/10 * * * *"}), "2024-03-29T23:55:00Z");
    world.live_until("2024-04-01T00:05:00Z");
    assert_eq!(world.labels(), ["2024-03-29", "2024-03-30", "2024-03-31"]);
    let writes = world.writes;
    for minute in 6..60 {
        world.now = at(&format!("2024-04-01T00:{minute:02}:00Z"));
        world.look();
    }
    assert_eq!(world.writes, writes, "nothing is written while nothing is due");
    assert_eq!(world.status().next_scheduled_time, Some(at("2024-04-02T00:00:00Z")));
}

#[test]
fn hours_are_run_once_each_on_days_of_23_and_25_hours() {
    for (zone, from, to) in [
        ("Europe/Berlin", "2024-03-30T12:30:00Z", "2024-04-01T12:30:00Z"),
        ("Europe/Berlin", "2024-10-26T12:30:00Z", "2024-10-28T12:30:00Z"),
        ("America/New_York", "2024-03-09T12:30:00Z", "2024-03-11T12:30:00Z"),
        ("America/New_York", "2024-11-02T12:30:00Z", "2024-11-04T12:30:00Z"),
    ] {
        let mut world = World::new("hourly", json!({"cron": "5 * * * *", "timeZone": zone}), from);
        world.live_until(to);
        assert_eq!(world.runs.len(), 48, "{zone}");
        let mut daily = World::new("daily", json!({"cron": "30 2 * * *", "timeZone": zone}), from);
        daily.live_until(to);
        assert_eq!(daily.runs.len(), 2, "{zone}");
    }
}

#[test]
fn missed_times_are_made_up_for_up_to_a_limit_and_the_others_are_told() {
    let missed_for = |schedule: Value| {
        let mut world = World::new("daily", schedule, "2024-01-01T12:00:00Z");
        world.live_until("2024-01-02T12:00:00Z");
        world.now = at("2024-01-12T12:00:00Z");
        world.look();
        world
    };
    let world = missed_for(json!({"cron": "0 6 * * *"}));
    assert_eq!(world.labels(), ["2024-01-01", "2024-01-11"]);
    let (status, reason, message) = world.condition();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "TimesMissed"));
    assert!(message.starts_with("9 times from 2024-01-03T06:00:00Z to 2024-01-11T06:00:00Z were missed"), "{message}");
    let mut world = missed_for(json!({"cron": "0 6 * * *", "catchUp": {"max": 2}}));
    assert_eq!(world.labels(), ["2024-01-01", "2024-01-09", "2024-01-10", "2024-01-11"]);
    assert_eq!(world.condition().1, "TimesMissed");
    world.live_until("2024-01-13T12:00:00Z");
    assert_eq!(world.condition().1, "OnTime");
    // A deadline of a day leaves the newest one only; one of an hour leaves none.
    let day = missed_for(json!({"cron": "0 6 * * *", "catchUp": {"max": 100}, "startingDeadline": "1d"}));
    assert_eq!((day.labels().len(), day.missed[0].count), (2, 9));
    let hour = missed_for(json!({"cron": "0 6 * * *", "catchUp": {"max": 100}, "startingDeadline": "1h"}));
    assert_eq!((hour.labels().len(), hour.missed[0].count), (1, 10));
    assert_eq!(hour.status().last_scheduled_time, Some(at("2024-01-12T06:00:00Z")));
    // A schedule that stood still for years is no work, and no flood.
    let mut world = World::new("hourly", json!({"cron": "* * * * *", "catchUp": {"max": 100}}), "2014-01-01T12:00:30Z");
    world.look();
    world.now = at("2024-01-01T12:00:00Z");
    world.look();
    assert_eq!(world.runs.len(), 101);
    assert!(world.missed[0].more && world.condition().2.starts_with("more than 1000 times"), "{:?}", world.condition());
}

#[test]
fn a_suspended_schedule_makes_nothing_and_goes_on_with_the_newest_time() {
    let mut world = World::new("daily", json!({"cron": "0 6 * * *", "suspend": true}), "2024-01-01T12:00:00Z");
    world.live_until("2024-01-04T12:00:00Z");
    assert!(world.runs.is_empty());
    assert_eq!((world.condition().1.as_str(), world.status().next_scheduled_time, world.writes), ("Suspended", None, 1));
    world.edit(|schedule| schedule.suspend = false);
    world.look();
    assert_eq!(world.labels(), ["2024-01-03"]);
    assert_eq!(world.condition().1, "TimesMissed");
}

#[test]
fn an_edited_schedule_changes_nothing_that_is_past() {
    let mut world = World::new("hourly", json!({"cron": "0 6 * * *", "catchUp": {"max": 100}}), "2024-01-01T12:00:00Z");
    world.live_until("2024-01-03T11:30:00Z");
    assert_eq!(world.runs.len(), 2);
    world.edit(|schedule| schedule.cron = "0 * * * *".into());
    world.look();
    assert_eq!(world.runs.len(), 2, "hours before the edit are not made up for");
    world.live_until("2024-01-03T13:30:00Z");
    assert_eq!(world.labels()[2..], ["2024-01-03T11", "2024-01-03T12"]);
    let mut status = world.status();
    forget(&mut status);
    assert_eq!((status.schedule, status.last_scheduled_time, status.next_scheduled_time, status.conditions.len()), (None, None, None, 0));
}

#[test]
fn a_clock_that_goes_back_makes_nothing_twice() {
    let mut world = World::new("daily", json!({"cron": "0 6 * * *"}), "2024-01-01T12:00:00Z");
    world.live_until("2024-01-03T12:00:00Z");
    let (runs, writes) = (world.runs.len(), world.writes);
    world.now = at("2023-12-20T00:00:00Z");
    let wait = world.look().unwrap();
    assert!(!wait.is_zero());
    assert_eq!((world.runs.len(), world.writes), (runs, writes));
    world.live_until("2024-01-04T12:00:00Z");
    assert_eq!(world.labels(), ["2024-01-01", "2024-01-02", "2024-01-03"]);
}

#[test]
fn forbid_waits_and_then_takes_the_newest() {
    let mut world = World::new("hourly", json!({"cron": "0 * * * *", "concurrencyPolicy": "Forbid"}), "2024-01-01T00:30:00Z");
    world.live_until("2024-01-01T04:30:00Z");
    assert_eq!(world.labels(), ["2024-01-01T00"]);
    let (status, reason, _) = world.condition();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "WaitingForRun"));
    world.finish_all();
    world.look();
    assert_eq!(world.labels(), ["2024-01-01T00", "2024-01-01T03"]);
    assert_eq!((world.missed.len(), world.missed[0].count), (1, 2));
    world.finish_all();
    world.live_until("2024-01-01T05:30:00Z");
    assert_eq!((world.runs.len(), world.condition().1.as_str()), (3, "OnTime"));
    // With catch-up they go one after the other, each once the one before is finished.
    let mut world =
        World::new("hourly", json!({"cron": "0 * * * *", "concurrencyPolicy": "Forbid", "catchUp": {"max": 5}}), "2024-01-01T00:30:00Z");
    world.live_until("2024-01-01T04:30:00Z");
    for runs in 2..=4 {
        world.finish_all();
        world.look();
        assert_eq!((world.runs.len(), world.runs.values().filter(|run| run.2).count()), (runs, 1));
    }
    assert_eq!((world.labels().len(), world.missed.len()), (4, 0));
}

#[test]
fn replace_cancels_what_is_at_work() {
    let mut world =
        World::new("hourly", json!({"cron": "0 * * * *", "concurrencyPolicy": "Replace", "catchUp": {"max": 5}}), "2024-01-01T00:30:00Z");
    world.live_until("2024-01-01T03:30:00Z");
    let cancelled: Vec<bool> = world.runs.values().map(|run| run.3).collect();
    assert_eq!(cancelled, [true, true, false]);
    world.now = at("2024-01-01T09:30:00Z");
    world.look();
    assert_eq!(world.runs.len(), 4, "only the newest of the missed ones would survive");
}

/// Killed before any write of any reconciliation, and started again a while later.
#[test]
fn an_operator_that_is_killed_before_any_write_makes_each_run_once() {
    for policy in ["Allow", "Forbid", "Replace"] {
        let start =
            World::new("daily", json!({"cron": "0 6 * * *", "concurrencyPolicy": policy, "catchUp": {"max": 3}}), "2024-01-01T12:00:00Z");
        let live = |world: &mut World| {
            world.look();
            world.now = at("2024-01-05T12:00:00Z");
            world.look();
            world.finish_all();
            world.live_until("2024-01-06T12:00:00Z");
        };
        let mut whole = start.clone();
        live(&mut whole);
        for kill in 0..=whole.writes {
            let mut world = start.clone();
            world.look();
            world.now = at("2024-01-05T12:00:00Z");
            world.left = Some(kill);
            world.look();
            world.left = None;
            live(&mut world);
            for _ in 0..4 {
                world.finish_all();
                world.look();
            }
            let expected = if policy == "Replace" { 2 } else { 5 };
            assert_eq!(world.runs.len(), expected, "{policy}, killed before write {kill}: {:?}", world.labels());
            assert!(world.made.values().all(|times| *times == 1), "{policy}: {:?}", world.made);
        }
    }
}

/// A second operator that decides on what it saw a while ago.
#[test]
fn two_operators_make_each_run_once() {
    let mut world = World::new("hourly", json!({"cron": "*/15 * * * *", "catchUp": {"max": 5}}), "2024-01-01T00:00:00Z");
    let mut old = None;
    for quarter in 1..200 {
        world.now = at("2024-01-01T00:00:00Z") + TimeDelta::minutes(quarter * 13);
        let seen = world.pipeline.status.clone();
        world.reconcile(old.clone());
        world.reconcile(seen.clone());
        if quarter % 7 == 0 {
            old = seen;
        }
    }
    assert!(world.made.values().all(|times| *times == 1) && world.runs.len() > 40, "{:?}", world.made);
    let mut intervals: Vec<Interval> = world.runs.values().map(|run| run.1).collect();
    intervals.dedup();
    assert_eq!(intervals.len(), world.runs.len());
}

/// Seeded outages of random length under random schedules: what is made or told as missed is every time, once.
#[test]
fn every_time_has_a_run_or_is_told() {
    let crons = ["0 6 * * *", "*/20 * * * *", "30 2 * * 1-5", "15 */5 * * *", "0 0 1 * *", "@hourly"];
    let grains = [("hourly", IntervalGrain::Hourly), ("daily", IntervalGrain::Daily), ("monthly", IntervalGrain::Monthly)];
    let mut dice = 7_u64;
    let mut roll = |limit: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % limit
    };
    for case in 0..60 {
        let cron = crons[roll(6) as usize];
        let (word, grain) = grains[roll(3) as usize];
        let zone = ["UTC", "Europe/Berlin", "America/New_York"][roll(3) as usize];
        let most = roll(4);
        let start = at("2024-03-01T00:00:00Z") + TimeDelta::minutes(roll(100_000) as i64);
        let mut world = World::new(word, json!({"cron": cron, "timeZone": zone, "catchUp": {"max": most}}), "2024-03-01T00:00:00Z");
        world.now = start;
        world.look();
        for _ in 0..20 {
            world.now += TimeDelta::minutes(roll(3_000) as i64 + 1);
            world.look();
        }
        let table = Timetable::parse(cron, zone).unwrap();
        let (mut times, mut last, mut known) = (0, start, None);
        while let Some(next) = table.next_after(last).filter(|next| *next <= world.now) {
            let interval = Interval::last_complete(grain, next);
            times += usize::from(known != Some(interval));
            (last, known) = (next, Some(interval));
        }
        let told: usize = world.missed.iter().map(|missed| missed.count).sum();
        assert_eq!(world.runs.len() + told, times, "case {case}: {cron} in {zone}, {word}");
        for (time, interval, ..) in world.runs.values() {
            assert_eq!(*interval, Interval::last_complete(grain, *time), "case {case}");
            assert!(interval.end <= *time && *time <= world.now);
        }
    }
}
