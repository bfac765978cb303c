//! `trigger.schedule`: makes the runs whose time has come.

use std::time::Duration;

use kube::{ResourceExt, api::ListParams};
use lakehouse_api::{LakehousePipeline, LakehouseRun, pipeline::LakehousePipelineStatus, run::RunState};
use lakehouse_contract::schedule::Timetable;

use super::{cancel, create_once};
use crate::{
    build,
    conditions::Verdict,
    controller::{Context, Error, Result, now},
    names,
    plan::{
        Note,
        schedule::{Active, Clock, Made, Step, forget, left_out, on_time, waits_for},
        status::finished,
    },
};

/// What the status says of the schedule, and when it is looked at next.
pub(super) struct Scheduled {
    enter: Box<dyn Fn(&mut LakehousePipelineStatus) + Send + Sync>,
    pub(super) wait: Option<Duration>,
}

impl Scheduled {
    pub(super) fn enter(&self, status: &mut LakehousePipelineStatus) {
        (self.enter)(status);
    }
}

/// Makes the runs that are due. The inner error is for the pipeline's author.
pub(super) async fn follow(pipeline: &LakehousePipeline, context: &Context, notes: &mut Vec<Note>) -> Result<Result<Scheduled, String>> {
    let Some(schedule) = pipeline.spec.trigger.as_ref().and_then(|trigger| trigger.schedule.clone()) else {
        return Ok(Ok(Scheduled { enter: Box::new(forget), wait: None }));
    };
    let table = match Timetable::of(&schedule) {
        Ok(table) => table,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let now = now();
    let (name, uid) = (pipeline.name_any(), pipeline.uid().unwrap_or_default());
    let mut said: Option<Verdict> = None;
    let mut clock = Clock::new(schedule.clone(), pipeline.spec.interval, table, pipeline.status.as_ref(), now);
    if clock.is_due(now) {
        // Asked of the API server: the cache may not have what this or another operator made a moment ago.
        let runs = scheduled_runs(pipeline, context).await?;
        let mut made = made(&runs);
        loop {
            match clock.step(&made, now) {
                Step::Make(due, missed) => {
                    let run = build::scheduled_run(pipeline, &due);
                    match create_once(context, &run, &uid).await? {
                        Ok(true) => {
                            let text = format!("Pipeline {name}: made run {} for its time {}", run.name_any(), due.shown());
                            notes.push(Note::normal("RunCreated", run.name_any(), text));
                            made.active.push(Active { name: run.name_any(), interval: due.interval, cancelled: false });
                        }
                        Ok(false) => {}
                        Err(taken) => return Ok(Err(taken)),
                    }
                    made.intervals.insert(due.interval);
                    clock.passed(due.time);
                    match missed {
                        Some(missed) => {
                            let (verdict, note) = left_out(&name, &missed);
                            notes.push(note);
                            said = Some(verdict);
                        }
                        // Told together with the times that were missed before it.
                        None => said = said.or_else(|| Some(on_time())),
                    }
                }
                Step::LeaveOut(time, missed) => {
                    let (verdict, note) = left_out(&name, &missed);
                    notes.push(note);
                    said = Some(verdict);
                    clock.passed(time);
                }
                Step::Cancel(run) => {
                    let uid = runs.iter().find(|known| known.name_any() == run).and_then(|known| known.uid()).unwrap_or_default();
                    cancel(context, &run, &uid).await?;
                    notes.push(Note::normal(
                        "RunReplaced",
                        run.clone(),
                        format!("Pipeline {name}: cancelled run {run} (concurrencyPolicy Replace)"),
                    ));
                    made.active.iter_mut().filter(|active| active.name == run).for_each(|active| active.cancelled = true);
                }
                Step::WaitFor(run) => {
                    said = Some(waits_for(&run));
                    break;
                }
                Step::Idle(_) => break,
            }
        }
    }
    let generation = pipeline.metadata.generation;
    let wait = clock.wait(now, chrono::Utc::now());
    Ok(Ok(Scheduled { enter: Box::new(move |status| clock.enter(status, said.clone(), generation, now)), wait }))
}

async fn scheduled_runs(pipeline: &LakehousePipeline, context: &Context) -> Result<Vec<LakehouseRun>> {
    let (name, uid) = (pipeline.name_any(), pipeline.uid().unwrap_or_default());
    let selector = format!("{}={name},{}={}", names::PIPELINE, names::TRIGGER, names::SCHEDULE);
    let found = context.api::<LakehouseRun>().list(&ListParams::default().labels(&selector)).await;
    let found = found.map_err(Error::api("list runs of", &name))?;
    Ok(found.items.into_iter().filter(|run| build::is_owned_by(&run.metadata, &uid)).collect())
}

fn made(runs: &[LakehouseRun]) -> Made {
    let unfinished = runs.iter().filter(|run| !run.status.as_ref().is_some_and(finished) && run.metadata.deletion_timestamp.is_none());
    let active = unfinished.map(|run| Active {
        name: run.name_any(),
        interval: (&run.spec.interval).into(),
        cancelled: run.spec.state == RunState::Cancelled,
    });
    Made { active: active.collect(), intervals: runs.iter().map(|run| (&run.spec.interval).into()).collect() }
}
