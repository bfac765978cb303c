//! The operator's decisions against a simulated cluster: whatever happens between two writes, a run ends the same.
//!
//! The simulated API server keeps one run and its Jobs; time moves when the operator waits. Every scenario is replayed with
//! an accident after its n-th write, for every n.

#![allow(clippy::unwrap_used, reason = "a test")]

mod world;

use chrono::TimeDelta;
use lakehouse_api::{common::Stage, run::StageState};
use lakehouse_operator::plan::{
    outcome::PodView,
    run::{Definition, Obstacle, Step, decide},
    status::{finished, phase},
};

use world::{End, World, run};

fn scenarios() -> Vec<(&'static str, World)> {
    vec![
        ("all is well", World::new(3)),
        ("a retry helps", World::new(3).ending(Stage::Silver, 1, End::Retryable).ending(Stage::Silver, 2, End::OutOfMemory)),
        ("data is at fault", World::new(3).ending(Stage::Silver, 1, End::Terminal)),
        ("a report is lost", World::new(0).ending(Stage::Silver, 1, End::Unheard)),
        ("retries are used up", (1..=9).fold(World::new(1), |world, attempt| world.ending(Stage::Gold, attempt, End::Retryable))),
    ]
}

#[test]
fn every_scenario_ends_as_expected() {
    let phases: Vec<_> = scenarios()
        .into_iter()
        .map(|(name, mut world)| {
            world.settle();
            let status = world.status();
            assert!(finished(&status) && status.finished_at.is_some(), "{name}");
            assert!(world.made.values().all(|times| *times == 1), "{name}: {:?}", world.made);
            assert!(world.jobs.is_empty(), "{name}: every ended Job may expire");
            (phase(&status).to_owned(), world.made.len())
        })
        .collect();
    let expected = [("Completed", 3), ("Completed", 5), ("ExpectationFailed", 2), ("Completed", 4), ("StoreUnavailable", 4)];
    assert_eq!(phases, expected.map(|(phase, jobs)| (phase.to_owned(), jobs)));
}

#[test]
fn a_user_reads_what_happened() {
    let mut world = World::new(3).ending(Stage::Silver, 1, End::Retryable);
    world.settle();
    let texts: Vec<&str> = world.notes.iter().map(|note| note.text.as_str()).collect();
    insta::assert_snapshot!("events", texts.join("\n"));
    insta::assert_snapshot!("status", serde_yaml::to_string(&world.status()).unwrap());
}

/// A restart between any two writes changes nothing; nor does the loss of everything but the API server's state.
#[test]
fn an_operator_that_crashes_after_any_write_ends_the_same() {
    for (name, start) in scenarios() {
        let mut whole = start.clone();
        whole.settle();
        for crash in 0..=whole.writes {
            let mut world = start.after(crash);
            // While the operator is down, the cluster goes on: pods end, what may expire expires.
            world.now += TimeDelta::days(1);
            world.cluster_moves();
            world.expire_all();
            world.obstacle = None;
            world.settle();
            assert_eq!(world.summary(), whole.summary(), "{name}, crash after write {crash}");
            assert!(world.made.values().all(|times| *times == 1), "{name}, crash after write {crash}: {:?}", world.made);
        }
    }
}

/// An operator that decides on what it saw some writes ago makes nothing twice and breaks nothing.
#[test]
fn a_stale_observation_does_no_harm() {
    for (name, start) in scenarios() {
        let mut whole = start.clone();
        whole.settle();
        for stale in 0..=whole.writes {
            for delay in 1..4 {
                let mut world = start.after(stale);
                let (run, observed) = (world.run.clone(), world.observed());
                for _ in 0..delay {
                    world.step();
                }
                world.apply(&run, &observed);
                world.settle();
                assert_eq!(world.summary(), whole.summary(), "{name}, stale at write {stale}, {delay} late");
                assert!(world.made.values().all(|times| *times == 1), "{name}: {:?}", world.made);
            }
        }
    }
}

/// The pod of a Job that succeeded is gone before its report was read: the counts come from another attempt; where every report is lost, the
/// run succeeds without them.
#[test]
fn a_lost_report_is_made_again() {
    let mut whole = World::new(0);
    whole.settle();
    let mut world = World::new(0).ending(Stage::Silver, 1, End::Unheard);
    world.settle();
    assert_eq!(world.summary(), whole.summary());
    assert!(world.notes.iter().any(|note| note.reason == "ReportLost" && note.text.contains("its pod was deleted")));

    let mut world = (1..=9).fold(World::new(0), |world, attempt| world.ending(Stage::Silver, attempt, End::Unheard));
    world.settle();
    let silver = &world.status().stages[1];
    assert_eq!((phase(&world.status()), silver.attempt, silver.rows_written), ("Completed", 6, 0));
    assert_eq!(silver.message.as_deref(), Some("report not available: the pod is gone"));
}

/// Jobs deleted by somebody at any moment: another attempt is made, and a stage whose outcome is recorded is not.
#[test]
fn deleted_jobs_are_made_up_for() {
    let start = World::new(0);
    let mut whole = start.clone();
    whole.settle();
    for moment in 0..=whole.writes {
        let mut world = start.after(moment);
        let recorded: Vec<Stage> = world.status().stages.iter().filter(|s| s.state == StageState::Succeeded).map(|s| s.name).collect();
        let made = world.made.clone();
        world.jobs.clear();
        world.settle();
        assert_eq!(world.summary(), whole.summary(), "deleted after write {moment}");
        for job in world.made.keys().filter(|job| !made.contains_key(*job)) {
            assert!(recorded.iter().all(|stage| !job.contains(&format!("-{stage}-"))), "{job} was made though {recorded:?} were done");
        }
    }
}

#[test]
fn a_stage_whose_jobs_always_vanish_fails_at_last() {
    let mut world = World::new(0);
    for _ in 0..200 {
        world.step();
        if world.status().stages.iter().any(|stage| stage.state == StageState::Running) {
            world.jobs.clear();
        }
    }
    let status = world.status();
    assert_eq!(phase(&status), "JobLost");
    assert_eq!(world.made.len(), 6);
}

#[test]
fn a_cancelled_run_stops_its_job_and_skips_the_rest() {
    let start = World::new(3);
    let mut whole = start.clone();
    whole.settle();
    for moment in 0..whole.writes {
        let mut world = start.after(moment);
        if finished(&world.status()) {
            continue;
        }
        world.run.spec = run("Cancelled").spec;
        let before = world.made.len();
        world.settle();
        let status = world.status();
        assert!(matches!(phase(&status), "Cancelled" | "Completed"), "{}", phase(&status));
        assert_eq!(world.made.len(), before, "no Job is made for a cancelled run");
        assert!(status.stages.iter().all(|s| !matches!(s.state, StageState::Pending | StageState::Running)));
    }
}

#[test]
fn a_suspended_run_goes_on_when_resumed() {
    let start = World::new(3);
    let mut whole = start.clone();
    whole.settle();
    for moment in 0..whole.writes {
        let mut world = start.after(moment);
        world.run.spec = run("Suspended").spec;
        let before = world.made.len();
        for _ in 0..60 {
            world.step();
        }
        assert_eq!(world.made.len(), before, "no Job is made for a suspended run");
        if !finished(&world.status()) {
            assert_eq!(phase(&world.status()), "Suspended");
        }
        let writes = world.writes;
        world.step();
        assert_eq!(world.writes, writes, "it says so once");
        world.run.spec = run("Active").spec;
        world.settle();
        assert_eq!(world.summary(), whole.summary());
    }
}

#[test]
fn what_is_missing_is_waited_for_and_what_is_wrong_is_said() {
    let mut world = World::new(3);
    let known = world.definition.clone();
    world.definition = Definition::Missing { reason: "PipelineNotFound", message: "there is no LakehousePipeline `crypto`".into() };
    for _ in 0..20 {
        world.step();
    }
    assert_eq!((phase(&world.status()), world.writes), ("PipelineNotFound", 1));
    world.definition = known;
    world.settle();
    assert_eq!(phase(&world.status()), "Completed");

    let mut world = World::new(3);
    world.definition =
        Definition::Refused { reason: "InvalidRun", message: "parameters.limit: the pipeline declares no such parameter".into() };
    world.settle();
    let status = world.status();
    assert_eq!((phase(&status), world.made.len()), ("InvalidRun", 0));
    assert!(status.conditions[0].message.contains("parameters.limit"));
}

#[test]
fn a_job_that_cannot_be_made_is_said() {
    for (obstacle, expected) in [
        (Obstacle::NameTaken("Job x exists and belongs to something else".into()), "JobNameTaken"),
        (Obstacle::Invalid("spec: Invalid value".into()), "InvalidDefinition"),
        (Obstacle::Refused("exceeded quota".into()), "JobRefused"),
    ] {
        let mut world = World::new(3);
        world.obstacle = Some(obstacle);
        for _ in 0..30 {
            world.step();
        }
        assert_eq!(phase(&world.status()), expected);
        assert!(world.made.is_empty());
        if expected == "JobRefused" {
            world.obstacle = None;
            world.settle();
            assert_eq!(phase(&world.status()), "Completed");
        }
    }
}

#[test]
fn maintenance_says_what_it_did() {
    let mut world = World::new(3);
    if let Definition::Known { stages, .. } = &mut world.definition {
        *stages = vec![Stage::Maintenance];
    }
    world.settle();
    let status = world.status();
    assert_eq!(phase(&status), "Completed");
    let did = "12 files became 3, 4 snapshots expired, 20 objects deleted, 1 objects not deleted";
    assert_eq!(status.conditions[0].message, format!("maintenance done: {did}"));
    assert_eq!(status.stages[0].message.as_deref(), Some(did));
    assert!(world.made.keys().all(|name| name.contains("maintenance")));
}

#[test]
fn a_pod_that_does_not_start_is_said_once() {
    let mut world = World::new(3);
    while world.made.is_empty() {
        world.step();
    }
    world.step();
    let mut written = 0;
    for reason in ["ErrImagePull", "ImagePullBackOff", "ErrImagePull", "ImagePullBackOff"] {
        for job in world.jobs.values_mut() {
            let why = (reason.to_owned(), format!("said at {written}"));
            job.pod = Some(PodView { waiting: Some(why), ..PodView::default() });
        }
        if let Step::Record { status, .. } = decide(&world.run, &world.observed(), world.now) {
            world.run.status = Some(*status);
            written += 1;
        }
    }
    assert_eq!(written, 1);
    assert!(world.status().conditions[0].message.contains("does not start: ErrImagePull: said at 0"));
    // It starts after all.
    for job in world.jobs.values_mut() {
        job.pod = Some(PodView::default());
    }
    world.step();
    assert!(world.status().conditions[0].message.contains("runs as Job"));
    world.settle();
    assert_eq!(phase(&world.status()), "Completed");
}
