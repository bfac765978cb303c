//! `lakehouse suspend | resume | cancel KIND/NAME`: what is wanted of an object on a cluster.

use std::str::FromStr;

use clap::Args;
use kube::ResourceExt;
use lakehouse_api::run::RunState;

use super::suspend::{of_backfill, of_pipeline, word};
use crate::{
    CliError, print,
    submit::{
        SubmitError,
        cluster::{Cluster, ClusterArguments},
        outcome::{end, phase},
    },
};

const EXPECTED: &str = "write pipeline/NAME, backfill/NAME or run/NAME";

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Begin nothing new; what is at work ends.
    Suspended,
    /// Go on.
    Active,
    /// Stop at once, for ever.
    Cancelled,
}

impl Wanted {
    const fn state(self) -> RunState {
        match self {
            Self::Suspended => RunState::Suspended,
            Self::Active => RunState::Active,
            Self::Cancelled => RunState::Cancelled,
        }
    }
}

/// Options of `suspend`, `resume` and `cancel`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 done, 2 refused, 3 the cluster does not answer.")]
pub struct StateArguments {
    /// What: pipeline/NAME (its schedule), backfill/NAME or run/NAME; or with the short names lhp, lhb, lhr.
    #[arg(value_name = "KIND/NAME")]
    target: Target,
    #[command(flatten)]
    cluster: ClusterArguments,
}

/// An object that can be suspended, resumed or cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A LakehouseRun.
    Run(String),
    /// A LakehouseBackfill.
    Backfill(String),
    /// The schedule of a LakehousePipeline.
    Pipeline(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once('/').ok_or_else(|| format!("`{text}`: {EXPECTED}"))?;
        let name = super::submit::name(name)?;
        match kind.to_ascii_lowercase().trim_end_matches(".lakehouse.rs") {
            "run" | "runs" | "lhr" | "lakehouserun" | "lakehouseruns" => Ok(Self::Run(name)),
            "backfill" | "backfills" | "lhb" | "lakehousebackfill" | "lakehousebackfills" => Ok(Self::Backfill(name)),
            "pipeline" | "pipelines" | "lhp" | "lakehousepipeline" | "lakehousepipelines" => Ok(Self::Pipeline(name)),
            _ => Err(format!("`{text}`: {EXPECTED}")),
        }
    }
}

/// Asks the cluster for `wanted`.
///
/// # Errors
/// [`SubmitError::Refused`] when there is no such object or it has ended otherwise, [`SubmitError::Unreachable`].
pub async fn run(arguments: StateArguments, wanted: Wanted) -> Result<(), CliError> {
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let said = match &arguments.target {
        Target::Run(name) => of_run(&cluster, name, wanted).await?,
        Target::Backfill(name) => of_backfill(&cluster, name, wanted.state()).await?,
        Target::Pipeline(name) if wanted == Wanted::Cancelled => {
            let refused = format!("LakehousePipeline {name}: a pipeline cannot be cancelled: suspend it, and cancel its runs");
            return Err(SubmitError::Refused(refused).into());
        }
        Target::Pipeline(name) => of_pipeline(&cluster, name, wanted == Wanted::Suspended).await?,
    };
    print(&format!("{said}\n"))
}

async fn of_run(cluster: &Cluster, name: &str, wanted: Wanted) -> Result<String, SubmitError> {
    let run = cluster.run(name).await?;
    let state = wanted.state();
    let word = word(state);
    let object = format!("lakehouserun.lakehouse.rs/{name}");
    if run.spec.state == state {
        return Ok(format!("{object} unchanged"));
    }
    if end(&run).is_some() {
        let status = run.status.clone().unwrap_or_default();
        let (reason, _) = phase(&status);
        return Err(SubmitError::Refused(format!("run {}: it has ended already ({reason}) and cannot be {word}", run.name_any())));
    }
    cluster.set_state(&run, state).await?;
    Ok(format!("{object} {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_names_that_kubectl_knows() {
        for text in ["run/a", "lhr/a", "lakehouseruns.lakehouse.rs/a", "Run/a"] {
            assert_eq!(text.parse(), Ok(Target::Run("a".to_owned())), "{text}");
        }
        for text in ["lhb/a", "backfill/a"] {
            assert_eq!(text.parse(), Ok(Target::Backfill("a".to_owned())), "{text}");
        }
        for text in ["lhp/a", "lakehousepipelines.lakehouse.rs/a"] {
            assert_eq!(text.parse(), Ok(Target::Pipeline("a".to_owned())), "{text}");
        }
        for text in ["a", "run/", "pod/a", "run/A"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
