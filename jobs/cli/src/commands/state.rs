//! `lakehouse suspend | resume | cancel KIND/NAME`: what is wanted of an object on a cluster.

use std::str::FromStr;

use clap::Args;
use kube::ResourceExt;
use lakehouse_api::run::RunState;

use crate::{
    CliError, print,
    submit::{
        SubmitError,
        cluster::{Cluster, ClusterArguments},
        outcome::{end, phase},
    },
};

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

/// Options of `suspend`, `resume` and `cancel`.
#[derive(Debug, Args)]
pub struct StateArguments {
    /// Kind and name, such as run/crypto-2024-01-01.
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
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once('/').filter(|(_, name)| !name.is_empty()).ok_or("expected KIND/NAME, such as run/NAME")?;
        match kind.to_ascii_lowercase().trim_end_matches(".lakehouse.rs") {
            "run" | "runs" | "lhr" | "lakehouserun" | "lakehouseruns" => Ok(Self::Run(name.to_owned())),
            _ => Err(format!("`{kind}` is no kind that has a state: expected run/NAME")),
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
    };
    print(&format!("{said}\n"))
}

async fn of_run(cluster: &Cluster, name: &str, wanted: Wanted) -> Result<String, SubmitError> {
    let run = cluster.run(name).await?;
    let (state, word) = match wanted {
        Wanted::Suspended => (RunState::Suspended, "suspended"),
        Wanted::Active => (RunState::Active, "resumed"),
        Wanted::Cancelled => (RunState::Cancelled, "cancelled"),
    };
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
        for text in ["a", "run/", "pod/a"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
