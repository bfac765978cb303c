//! `lakehouse retry`: a new run for one that failed, from the stage on that failed.

use std::{collections::BTreeMap, sync::Arc};

use clap::Args;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use lakehouse_api::{
    LakehouseRun, LakehouseRunSpec,
    common::HumanDuration,
    run::{RunState, StageState},
};
use lakehouse_contract::{
    Stage,
    names::{LONGEST, PIPELINE_LABEL, cut},
};
use tokio::time::Instant;

use crate::{
    CliError, print,
    submit::{
        SubmitError,
        cluster::{Cluster, ClusterArguments},
        logs::Logs,
        outcome::{End, Outcome, end, phase},
        tell::{Format, Teller},
        wait::{Limit, wait},
    },
};

/// Options of `retry`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 the run was made or there already (with --wait: it succeeded), 1 it failed or was cancelled, 2 refused, \
    3 the cluster does not answer, 4 not finished within --timeout."
)]
pub struct RetryArguments {
    /// The run that failed or was cancelled.
    run: String,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// All stages of the run, instead of those from the failed one on.
    #[arg(long)]
    all_stages: bool,
    /// Wait for the end of the new run, show its progress and its logs.
    #[arg(short, long)]
    wait: bool,
    /// Longest wait.
    #[arg(long, value_name = "DURATION", default_value = "2h", requires = "wait")]
    timeout: HumanDuration,
}

/// Makes the run, or finds it.
///
/// # Errors
/// [`SubmitError`], by way of [`CliError::Submit`].
pub async fn run(arguments: RetryArguments) -> Result<(), CliError> {
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let failed = cluster.run(&arguments.run).await?;
    let wanted = retry_of(&failed, arguments.all_stages).map_err(SubmitError::Refused)?;
    let name = wanted.name_any();
    let (made, how) = match cluster.create(&wanted).await? {
        Some(made) => (made, "created"),
        // Its name says what it is for: the same command finds what an earlier one made.
        None => match cluster.run(&name).await? {
            there if there.spec.retry_of == wanted.spec.retry_of && there.spec.stages == wanted.spec.stages => (there, "unchanged"),
            there if there.spec.retry_of == wanted.spec.retry_of => {
                let refused = format!("run {name}: it retries {} with other stages already: retry {name} once it has ended", arguments.run);
                return Err(SubmitError::Refused(refused).into());
            }
            _ => return Err(SubmitError::Refused(format!("run {name} exists and retries something else")).into()),
        },
    };
    print(&format!("lakehouserun.lakehouse.rs/{name} {how}\n"))?;
    if !arguments.wait {
        return Ok(());
    }
    let teller = Arc::new(Teller::new(Format::or_suitable(None), &name));
    let limit = Limit { given: arguments.timeout, deadline: Instant::now() + arguments.timeout.0 };
    let ended = match end(&made) {
        Some(_) => made,
        None => wait(&cluster, &made, &mut Logs::new(cluster.pods(), Arc::clone(&teller), true), limit, &teller).await?,
    };
    match Outcome::of(&ended).and_then(|outcome| outcome.failure()) {
        Some(line) => Err(SubmitError::Failed(line).into()),
        None => Ok(()),
    }
}

/// The run that retries `failed`; otherwise why there is none. Pure.
fn retry_of(failed: &LakehouseRun, all_stages: bool) -> Result<LakehouseRun, String> {
    let name = failed.name_any();
    let status = failed.status.clone().unwrap_or_default();
    match end(failed) {
        Some(End::Failed | End::Cancelled) => {}
        Some(End::Succeeded) => return Err(format!("run {name}: it succeeded, there is nothing to retry")),
        None => return Err(format!("run {name}: it has not ended yet ({})", phase(&status).0)),
    }
    let done = |stage: Stage| status.stages.iter().any(|known| known.name == stage && known.state == StageState::Succeeded);
    let stages: Vec<Stage> = status.stages.iter().map(|stage| stage.name).skip_while(|stage| !all_stages && done(*stage)).collect();
    // A run that was refused before it had stages has those that it was asked for.
    let stages =
        if stages.is_empty() { failed.spec.stages.clone() } else { Some(stages).filter(|stages| stages != Stage::DEFAULT.as_slice()) };
    // What the failed run read is known to the operator by `retryOf`, also when the run that fetched it is gone. One that was refused before it
    // began has only what it was asked for.
    let asked = failed.spec.inputs_from.clone().filter(|_| status.inputs_from.is_none());
    let label = (PIPELINE_LABEL.to_owned(), failed.spec.pipeline.clone());
    Ok(LakehouseRun {
        metadata: ObjectMeta { name: Some(name_of_retry(&name)), labels: Some(BTreeMap::from([label])), ..ObjectMeta::default() },
        spec: LakehouseRunSpec { stages, inputs_from: asked, retry_of: Some(name), state: RunState::Active, ..failed.spec.clone() },
        status: None,
    })
}

/// `<run>-retry-1`, and of a retry the next number.
fn name_of_retry(failed: &str) -> String {
    let (base, number) = match failed.rsplit_once("-retry-") {
        Some((base, number)) if !base.is_empty() => number.parse::<u32>().map_or((failed, 0), |number| (base, number)),
        _ => (failed, 0),
    };
    let suffix = format!("-retry-{}", number.saturating_add(1));
    format!("{}{suffix}", cut(base, LONGEST - suffix.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn run(name: &str, spec: Value, condition: &str, stages: Value) -> LakehouseRun {
        let mut full = json!({"pipeline": "p", "interval": {"start": "2024-01-01T00:00:00Z", "end": "2024-01-02T00:00:00Z"}, "parameters": {"a": "1"}});
        for (key, value) in spec.as_object().unwrap() {
            full[key] = value.clone();
        }
        let condition = json!({"type": "Succeeded", "status": condition, "reason": "Word", "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z"});
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun", "metadata": {"name": name},
            "spec": full, "status": {"conditions": [condition], "stages": stages}
        }))
        .unwrap()
    }

    #[test]
    fn a_retry_begins_at_the_stage_that_failed() {
        let stages =
            json!([{"name": "ingest", "state": "Succeeded"}, {"name": "silver", "state": "Failed"}, {"name": "gold", "state": "Skipped"}]);
        let failed = run("p-1", json!({"state": "Active"}), "False", stages);
        let retry = retry_of(&failed, false).unwrap();
        assert_eq!(retry.name_any(), "p-1-retry-1");
        assert_eq!(retry.spec.stages, Some(vec![Stage::Silver, Stage::Gold]));
        assert_eq!((retry.spec.retry_of.as_deref(), retry.spec.inputs_from.as_deref()), (Some("p-1"), None));
        assert_eq!(retry.spec.parameters, failed.spec.parameters);
        assert_eq!(retry.labels()[PIPELINE_LABEL], "p");
        assert_eq!(retry_of(&failed, false).unwrap(), retry, "the same name again");
        let all = retry_of(&failed, true).unwrap();
        assert_eq!((all.spec.stages, all.spec.inputs_from), (None, None));
    }

    #[test]
    fn a_retry_of_a_retry_reads_what_it_read() {
        let stages = json!([{"name": "silver", "state": "Failed"}]);
        let spec = json!({"inputsFrom": "p-0", "retryOf": "p-1", "stages": ["silver"]});
        let mut failed = run("p-1-retry-1", spec, "False", stages);
        let refused = retry_of(&failed, false).unwrap();
        assert_eq!((refused.name_any().as_str(), refused.spec.inputs_from.as_deref()), ("p-1-retry-2", Some("p-0")));
        assert_eq!(refused.spec.retry_of.as_deref(), Some("p-1-retry-1"));
        failed.status.as_mut().unwrap().inputs_from = Some("p-0-0a0b0c0d".to_owned());
        assert_eq!(retry_of(&failed, false).unwrap().spec.inputs_from, None, "the operator knows it by retryOf");
    }

    #[test]
    fn only_what_failed_is_retried() {
        for condition in ["True", "Unknown"] {
            assert!(retry_of(&run("p-1", json!({}), condition, json!([])), false).is_err());
        }
        let refused = run("p-1", json!({"stages": ["gold"]}), "False", json!([]));
        assert_eq!(retry_of(&refused, false).unwrap().spec.stages, Some(vec![Stage::Gold]));
    }

    #[test]
    fn names_fit() {
        assert_eq!(name_of_retry("a"), "a-retry-1");
        assert_eq!(name_of_retry("a-retry-9"), "a-retry-10");
        assert_eq!(name_of_retry("a-retry-b"), "a-retry-b-retry-1");
        let long = name_of_retry(&"a".repeat(63));
        assert!(long.len() == 63 && long.ends_with("-retry-1"), "{long}");
    }
}
