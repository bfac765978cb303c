//! Flags and environment of the operator.

use std::net::SocketAddr;

use clap::Parser;
use lakehouse_api::common::HumanDuration;
use lakehouse_contract::Stage;

/// Runs lakehouse pipelines as Jobs.
#[derive(Clone, Debug, Parser)]
#[command(name = "lakehouse-operator", version, about)]
pub struct Config {
    /// Namespaces whose objects are reconciled; the operator needs its Role in each.
    #[arg(long = "namespace", env = "LAKEHOUSE_NAMESPACES", value_delimiter = ',', required_unless_present = "probe")]
    pub namespaces: Vec<String>,
    /// Ask the operator at this host and port whether it is ready, for up to a minute, and exit.
    #[arg(long, value_name = "HOST:PORT")]
    pub probe: Option<String>,
    /// Address of `/healthz`, `/readyz` and `/metrics`.
    #[arg(long, env = "LAKEHOUSE_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// How many objects of one kind are reconciled at the same time.
    #[arg(long, env = "LAKEHOUSE_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// How often everything that is watched is listed anew. What a watch told of is acted on at once; this is for what it should have told and did not.
    #[arg(long, env = "LAKEHOUSE_RESYNC", default_value = "10m")]
    pub resync: HumanDuration,
    /// How many pipelines have metrics of their own, the first ones by namespace and name; the others are counted.
    #[arg(long, env = "LAKEHOUSE_METRICS_PIPELINES", default_value_t = 1000)]
    pub metrics_pipelines: usize,
    /// Which of several operators writes.
    #[command(flatten)]
    pub leader: LeaderConfig,
    /// What Jobs are made of.
    #[command(flatten)]
    pub jobs: JobConfig,
}

/// Which of several operators writes.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct LeaderConfig {
    /// Write only while a Lease is held; several operators may then run, of which one works and the others stand by.
    #[arg(long, env = "LAKEHOUSE_LEADER_ELECT")]
    pub leader_elect: bool,
    /// Name of the Lease; operators of one release share it.
    #[arg(long, env = "LAKEHOUSE_LEASE_NAME", default_value = "lakehouse-operator")]
    pub lease_name: String,
    /// Namespace of the Lease; default that of the pod.
    #[arg(long, env = "LAKEHOUSE_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// How long others leave a Lease alone that is not renewed.
    #[arg(long, env = "LAKEHOUSE_LEASE_DURATION", default_value = "15s")]
    pub lease_duration: HumanDuration,
    /// How long the leader writes after its last renewal; less than the lease's duration.
    #[arg(long, env = "LAKEHOUSE_LEASE_RENEW_DEADLINE", default_value = "10s")]
    pub lease_renew_deadline: HumanDuration,
    /// Between two tries to take or renew the Lease; less than the renew deadline.
    #[arg(long, env = "LAKEHOUSE_LEASE_RETRY_PERIOD", default_value = "2s")]
    pub lease_retry_period: HumanDuration,
}

impl LeaderConfig {
    /// Refuses times with which two operators could write, or none.
    ///
    /// # Errors
    /// One line that names both flags.
    pub fn check(&self) -> Result<(), String> {
        let pairs = [
            ("--lease-retry-period", self.lease_retry_period, "--lease-renew-deadline", self.lease_renew_deadline),
            ("--lease-renew-deadline", self.lease_renew_deadline, "--lease-duration", self.lease_duration),
        ];
        if self.lease_retry_period.0.is_zero() {
            return Err("--lease-retry-period must be at least 1s".to_owned());
        }
        match pairs.into_iter().find(|(_, less, _, more)| less >= more) {
            Some((name, less, other, more)) => Err(format!("{name} ({less}) must be less than {other} ({more})")),
            None => Ok(()),
        }
    }
}

/// What Jobs are made of, where a pipeline has no say.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct JobConfig {
    /// Image of the ingest stage.
    #[arg(long, env = "LAKEHOUSE_INGEST_IMAGE", default_value = concat!("lakehouse/ingest:", env!("CARGO_PKG_VERSION")))]
    pub ingest_image: String,
    /// Image of an ingest stage with pages that are rendered: ingest with a Chromium.
    #[arg(long, env = "LAKEHOUSE_INGEST_CHROMIUM_IMAGE", default_value = concat!("lakehouse/ingest-chromium:", env!("CARGO_PKG_VERSION")))]
    pub ingest_chromium_image: String,
    /// Image of the silver stage.
    #[arg(long, env = "LAKEHOUSE_SILVER_IMAGE", default_value = concat!("lakehouse/silver:", env!("CARGO_PKG_VERSION")))]
    pub silver_image: String,
    /// Image of the gold stage.
    #[arg(long, env = "LAKEHOUSE_GOLD_IMAGE", default_value = concat!("lakehouse/gold:", env!("CARGO_PKG_VERSION")))]
    pub gold_image: String,
    /// Image of the maintenance stage.
    #[arg(long, env = "LAKEHOUSE_MAINTENANCE_IMAGE", default_value = concat!("lakehouse/maintenance:", env!("CARGO_PKG_VERSION")))]
    pub maintenance_image: String,
    /// Pull policy of these images: Always, IfNotPresent or Never.
    #[arg(long, env = "LAKEHOUSE_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub image_pull_policy: String,
    /// Secrets with registry credentials, in each namespace.
    #[arg(long = "image-pull-secret", env = "LAKEHOUSE_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    pub image_pull_secrets: Vec<String>,
    /// ServiceAccount of all Jobs, in each namespace. It needs no rights.
    #[arg(long = "job-service-account", env = "LAKEHOUSE_JOB_SERVICE_ACCOUNT", default_value = "lakehouse-jobs")]
    pub service_account: String,
}

impl JobConfig {
    /// The image that runs `stage`; `renders`: with pages that a browser makes.
    pub fn image(&self, stage: Stage, renders: bool) -> &str {
        match stage {
            Stage::Ingest if renders => &self.ingest_chromium_image,
            Stage::Ingest => &self.ingest_image,
            Stage::Silver => &self.silver_image,
            Stage::Gold => &self.gold_image,
            Stage::Maintenance => &self.maintenance_image,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent_and_a_namespace_is_needed() {
        Config::command().debug_assert();
        assert!(Config::try_parse_from(["lakehouse-operator"]).is_err());
        let config = Config::try_parse_from(["lakehouse-operator", "--namespace=a,b"]).expect("valid flags");
        assert_eq!(config.namespaces, ["a", "b"]);
        // Images of the operator's own release.
        assert_eq!(config.jobs.image(Stage::Gold, false), concat!("lakehouse/gold:", env!("CARGO_PKG_VERSION")));
        assert_eq!(config.jobs.image(Stage::Ingest, false), concat!("lakehouse/ingest:", env!("CARGO_PKG_VERSION")));
        assert_eq!(config.jobs.image(Stage::Ingest, true), concat!("lakehouse/ingest-chromium:", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn the_times_of_a_lease_are_ordered() {
        let check = |more: &[&str]| {
            let flags = ["lakehouse-operator", "--namespace=a"].iter().chain(more);
            Config::try_parse_from(flags).expect("valid flags").leader.check()
        };
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(
            check(&["--lease-duration=10s"]),
            Err("--lease-renew-deadline (10s) must be less than --lease-duration (10s)".to_owned())
        );
        assert_eq!(
            check(&["--lease-retry-period=1m"]),
            Err("--lease-retry-period (1m) must be less than --lease-renew-deadline (10s)".to_owned())
        );
        assert!(check(&["--lease-retry-period=0s"]).is_err());
    }

    #[test]
    fn the_chart_gives_flags_that_exist() {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/lakehouse-operator/templates/");
        let mut given = 0;
        for file in ["operator.yaml", "tests/ready.yaml"] {
            let text = std::fs::read_to_string(format!("{chart}{file}")).expect("a template of the chart");
            for rest in text.split("--").skip(1).filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase())) {
                let flag = rest.split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default();
                assert!(Config::command().get_arguments().any(|a| a.get_long() == Some(flag)), "{file}: --{flag}");
                given += 1;
            }
        }
        assert!(given >= 8, "only {given} flags were found in the chart");
    }
}
