//! Names and labels of everything the operator makes. All names are derived, so that making a thing twice finds the first.

use lakehouse_contract::{
    Interval, IntervalGrain, Stage, digest_json,
    names::{LONGEST, cut},
};

pub use lakehouse_contract::names::PIPELINE_LABEL as PIPELINE;

/// Value of [`MANAGED_BY`] and field manager of every write.
pub const MANAGER: &str = "lakehouse-operator";
/// Standard label; watches of Jobs select on it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Standard label; `lakehouse` everywhere.
pub const PART_OF: &str = "app.kubernetes.io/part-of";
/// Standard label: the stage of a Job.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Label: name of the run.
pub const RUN: &str = "lakehouse.rs/run";
/// Label: UID of the run.
pub const RUN_UID: &str = "lakehouse.rs/run-uid";
/// Label: stage of a Job.
pub const STAGE: &str = "lakehouse.rs/stage";
/// Label: attempt of a Job.
pub const ATTEMPT: &str = "lakehouse.rs/attempt";
/// Label of a run made by the operator: the ControllerRevision that it executes.
pub const DEFINITION: &str = "lakehouse.rs/definition";
/// Label of a run made by the operator: the pipeline's generation that it was made for.
pub const GENERATION: &str = "lakehouse.rs/generation";

/// Label of a run made by the operator: what made it, such as [`SCHEDULE`].
pub const TRIGGER: &str = "lakehouse.rs/trigger";
/// Value of [`TRIGGER`]: a time of the pipeline's schedule.
pub const SCHEDULE: &str = "schedule";
/// Annotation of a run that a schedule made: the time of the schedule, RFC 3339. Not the time at which the run was made, which may be later.
pub const SCHEDULED_TIME: &str = "lakehouse.rs/scheduled-time";

/// First eight hexadecimal digits of a UID, as in the run's identity in the object store.
fn short_uid(uid: &str) -> String {
    uid.chars().filter(|c| *c != '-').take(8).collect()
}

/// Name of the Job of one attempt, and of its ConfigMap where it has one of its own: `<run>-<uid8>-<stage>-<attempt>`, at most 63 characters.
pub fn job(run: &str, uid: &str, stage: Stage, attempt: i32) -> String {
    let suffix = format!("-{}-{stage}-{attempt}", short_uid(uid));
    let run = run.replace('.', "-");
    format!("{}{suffix}", cut(&run, LONGEST - suffix.len()))
}

/// Name of the ConfigMap that the first attempts of a run's stages share: `<run>-<uid8>-stages`, at most 63 characters.
pub fn specs(run: &str, uid: &str) -> String {
    let suffix = format!("-{}-stages", short_uid(uid));
    let run = run.replace('.', "-");
    format!("{}{suffix}", cut(&run, LONGEST - suffix.len()))
}

/// Name of the ControllerRevision of a definition with this digest: `<pipeline>-<digest10>`.
pub fn revision(pipeline: &str, digest: &str) -> String {
    let suffix = format!("-{}", digest.get(..10).unwrap_or(digest));
    format!("{}{suffix}", cut(pipeline, LONGEST - suffix.len()))
}

/// Name of the run that a changed definition makes: `<pipeline>-<interval>-<hash6>`, at most 63 characters.
///
/// The hash covers the pipeline's whole name and generation: a definition that returns after another one is a change too.
pub fn triggered_run(pipeline: &str, interval: &Interval, grain: IntervalGrain, digest: &str, generation: i64) -> String {
    let hash = digest_json(&(pipeline, digest, generation));
    let suffix = format!("-{}-{}", interval.label(grain).to_lowercase(), &hash[..6]);
    format!("{}{suffix}", cut(pipeline, LONGEST - suffix.len()))
}

/// Name of the run that a schedule makes for an interval: `<pipeline>-<interval>-<hash6>`, at most 63 characters. Whoever makes it, and how often, makes
/// the same one; a pipeline that was deleted and made again has others.
pub fn scheduled_run(pipeline: &str, uid: &str, interval: &Interval, grain: IntervalGrain) -> String {
    hashed(pipeline, &interval.label(grain).to_lowercase(), &digest_json(&(pipeline, uid, SCHEDULE)))
}

/// What makes the names of the runs of a backfill others than those of another backfill: of the same name, or of one that begins alike.
pub fn backfill_digest(backfill: &str, uid: &str) -> String {
    digest_json(&(backfill, uid))
}

/// Name of a run of a backfill: `<backfill>-<what>-<hash6>`, at most 63 characters. `what` is an interval, with the part of it that is run, if any.
pub fn backfill_run(backfill: &str, digest: &str, what: &str) -> String {
    hashed(backfill, what, digest)
}

fn hashed(name: &str, what: &str, digest: &str) -> String {
    let suffix = format!("-{what}-{}", digest.get(..6).unwrap_or(digest));
    format!("{}{suffix}", cut(name, LONGEST - suffix.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{TimeZone, Utc};

    const UID: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";

    fn is_dns_label(name: &str) -> bool {
        name.len() <= LONGEST
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.ends_with(|c: char| c.is_ascii_alphanumeric())
    }

    #[test]
    fn names_of_jobs_fit_and_differ() {
        let long = "a".repeat(63);
        let dotted = format!("{}.{}", "x".repeat(43), "y".repeat(19));
        for run in ["r", &long, &dotted] {
            let mut seen = std::collections::BTreeSet::new();
            for stage in Stage::ALL {
                for attempt in [1, 2, 26, 999] {
                    let name = job(run, UID, stage, attempt);
                    assert!(is_dns_label(&name), "{name}");
                    assert!(seen.insert(name));
                }
            }
            assert!(is_dns_label(&specs(run, UID)) && seen.insert(specs(run, UID)), "{}", specs(run, UID));
        }
        assert_eq!(job("crypto-2024-01-01", UID, Stage::Silver, 2), "crypto-2024-01-01-0f0e0d0c-silver-2");
        assert_ne!(job("r", UID, Stage::Gold, 1), job("r", "11111111-0b0a", Stage::Gold, 1));
    }

    #[test]
    fn names_of_runs_and_revisions_fit() {
        let hour = Interval::containing(IntervalGrain::Hourly, Utc.timestamp_opt(1_700_000_000, 0).unwrap());
        for pipeline in ["p", &"p".repeat(52)] {
            let run = triggered_run(pipeline, &hour, IntervalGrain::Hourly, &"ab".repeat(32), 1);
            assert!(is_dns_label(&run), "{run}");
            assert_ne!(run, triggered_run(pipeline, &hour, IntervalGrain::Hourly, &"ab".repeat(32), 2));
            assert!(is_dns_label(&revision(pipeline, &"ab".repeat(32))));
            let scheduled = scheduled_run(pipeline, UID, &hour, IntervalGrain::Hourly);
            assert!(is_dns_label(&scheduled) && scheduled.contains("-2023-11-14t22-"), "{scheduled}");
            assert_eq!(scheduled, scheduled_run(pipeline, UID, &hour, IntervalGrain::Hourly));
            assert_ne!(scheduled, scheduled_run(pipeline, "another", &hour, IntervalGrain::Hourly));
            let parts = ["2023-11-14t22-data", "2023-11-14t22-gold", "2023-11-14t22", "refresh"]
                .map(|what| backfill_run(&"b".repeat(63), &backfill_digest("b", UID), what));
            assert!(parts.iter().all(|name| is_dns_label(name)), "{parts:?}");
        }
    }
}
