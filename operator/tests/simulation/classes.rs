//! What becomes of each class of failure, as a user reads it.

use lakehouse_api::{
    common::{
        FailureClass::{self, Disruption, NotStarted, OutOfMemory, Retryable, Terminal, Timeout, Unexpected},
        Stage,
    },
    run::{StageState, StageStatus},
};
use lakehouse_operator::plan::status::phase;

use super::Simulation;

/// One run whose silver stage fails as `fates` say, one after the other.
fn run(fates: &[FailureClass]) -> Simulation {
    let mut simulation = Simulation::new(0, 1);
    simulation.world.only("a", Stage::Silver, fates);
    simulation
}

fn silver(simulation: &Simulation) -> StageStatus {
    let status = simulation.world.runs["a"].status.clone().unwrap_or_default();
    status.stages.into_iter().find(|stage| stage.name == Stage::Silver).unwrap()
}

/// Phase, number of the last attempt, message of the stage.
fn ended(fates: &[FailureClass]) -> (String, i32, String) {
    let mut simulation = run(fates);
    simulation.settle();
    simulation.is_silent();
    let (stage, status) = (silver(&simulation), simulation.world.runs["a"].status.clone().unwrap());
    (phase(&status).to_owned(), stage.attempt, stage.message.unwrap_or_default())
}

#[test]
fn memory_that_runs_out_twice_is_enough() {
    let (phase, attempts, message) = ended(&[OutOfMemory, OutOfMemory]);
    assert_eq!((phase.as_str(), attempts), ("OOMKilled", 2));
    let expected = "killed for want of memory at its limit of 1Gi: raise jobs.silver.resources.limits.memory (after 2 attempts)";
    assert_eq!(message, expected);
    assert_eq!(ended(&[OutOfMemory]).0, "Completed");
}

#[test]
fn every_class_has_its_own_count() {
    // With one retry of each and two of disruptions.
    let (phase, attempts, _) = ended(&[Disruption, Retryable, Disruption, Timeout, Unexpected]);
    assert_eq!((phase.as_str(), attempts), ("Completed", 6));
    let (phase, attempts, message) = ended(&[Disruption, Disruption, Disruption]);
    assert_eq!((phase.as_str(), attempts), ("EvictionByEvictionAPI", 3));
    assert!(message.ends_with("Eviction API: evicting (after 3 attempts)"), "{message}");
    assert_eq!(ended(&[Disruption, Retryable, Retryable]).0, "StoreUnavailable");
    assert_eq!((ended(&[Terminal]).0.as_str(), ended(&[Terminal]).1), ("ExpectationFailed", 1));

    let mut simulation = run(&[Disruption, Retryable]);
    simulation.settle();
    let counts: Vec<_> = silver(&simulation).retries.iter().map(|retries| (retries.class, retries.count, retries.limit)).collect();
    assert_eq!(counts, [(Disruption, 1, 2), (Retryable, 1, 1)]);
}

#[test]
fn a_pod_that_never_starts_is_waited_for_and_then_named() {
    let mut simulation = run(&[NotStarted]);
    let begun = simulation.world.now;
    simulation.settle();
    simulation.is_silent();
    let (stage, status) = (silver(&simulation), simulation.world.runs["a"].status.clone().unwrap());
    assert_eq!((phase(&status), stage.attempt), ("ImageUnavailable", 1));
    let message = stage.message.unwrap();
    assert!(
        message.contains("did not start within 2m (jobs.silver.startDeadline): image lakehouse/silver:9: ImagePullBackOff"),
        "{message}"
    );
    assert!(status.finished_at.unwrap() - begun >= chrono::TimeDelta::minutes(2));
    assert_eq!(status.stages[2].state, StageState::Skipped);
}

/// Between the decision to give up and the deletion of the Job its image arrives.
#[test]
fn a_pod_that_starts_at_the_last_moment_goes_on() {
    let mut simulation = run(&[NotStarted]);
    for _ in 0..10_000 {
        simulation.turn(false);
        let status = simulation.world.runs["a"].status.clone().unwrap_or_default();
        let gave_up = |s: &StageStatus| s.state == StageState::Running && s.reason.as_deref() == Some("ImageUnavailable");
        if status.stages.iter().any(gave_up) {
            break;
        }
    }
    simulation.world.start_pods();
    simulation.settle();
    simulation.is_silent();
    let status = simulation.world.runs["a"].status.clone().unwrap();
    let stage = silver(&simulation);
    assert_eq!((phase(&status), stage.attempt, stage.reason.as_deref(), stage.message), ("Completed", 1, Some("Completed"), None));
}
