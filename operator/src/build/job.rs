//! The Job of an attempt: one pod, one container, Pod Security "restricted", no token, secrets by reference only.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{
            Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
            PodFailurePolicyRule,
        },
        core::v1::{
            Capabilities, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, KeyToPath, LocalObjectReference,
            PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecretKeySelector, SecurityContext, Volume,
            VolumeMount,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use lakehouse_api::{
    common::FailureClass,
    pipeline::{Resources, jobs::EffectiveSettings},
};
use lakehouse_contract::{ExitCode, Stage, StageSpec, TraceContext, Work, env};

use super::{Attempt, quantity::exceeds};

/// User and group of the images.
const NONROOT: i64 = 65_532;
/// Seconds between SIGTERM and SIGKILL: time to write the termination message.
const GRACE_SECONDS: i64 = 30;
/// Name of the one container.
const CONTAINER: &str = "stage";

/// The Job of an attempt whose spec is `spec`. It is there for [`KEPT`] at least, so that its outcome is: one that shall go sooner does when its
/// outcome is recorded.
pub fn job(attempt: &Attempt<'_>, spec: &StageSpec) -> Job {
    let timeout = i64::try_from(attempt.settings.timeout.0.as_secs()).unwrap_or(i64::MAX).max(1);
    Job {
        metadata: attempt.metadata(),
        spec: Some(JobSpec {
            // Attempts are the operator's: it alone knows which failures another attempt can help.
            backoff_limit: Some(0),
            pod_failure_policy: Some(PodFailurePolicy { rules: RULES.iter().map(|class| rule(*class)).collect() }),
            completions: Some(1),
            parallelism: Some(1),
            pod_replacement_policy: Some("Failed".to_owned()),
            active_deadline_seconds: Some(timeout),
            ttl_seconds_after_finished: Some(first_time_to_live(attempt.settings)),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(attempt.labels()), ..ObjectMeta::default() }),
                spec: Some(pod(attempt, spec)),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// Seconds that an ended Job is there for the operator to read its outcome, however long that one was away. Whose outcome went with its Job is
/// executed once more, and finds what it committed.
pub const KEPT: i32 = 86_400;

/// The time to live of a Job that shall go sooner than [`KEPT`] and whose outcome was not recorded: by it such a Job is known.
pub const GOES_SOONER: i32 = KEPT + 1;

fn first_time_to_live(settings: &EffectiveSettings) -> i32 {
    let wanted = time_to_live(settings);
    if wanted < KEPT { GOES_SOONER } else { wanted }
}

/// How many seconds an ended Job stays once its outcome is recorded.
pub fn time_to_live(settings: &EffectiveSettings) -> i32 {
    i32::try_from(settings.ttl_after_finished.0.as_secs()).unwrap_or(i32::MAX)
}

/// The classes that a Job tells apart by itself, in the order of its rules.
///
/// Every failed pod ends its Job: the next attempt is another Job, with another number in what it writes, counted and delayed by the
/// operator. What the rules add is memory: the Job's condition names the rule that matched, also when the pod is gone.
const RULES: [FailureClass; 3] = [FailureClass::Terminal, FailureClass::Disruption, FailureClass::Retryable];

fn rule(class: FailureClass) -> PodFailurePolicyRule {
    let exit = |code: ExitCode| PodFailurePolicyOnExitCodesRequirement {
        container_name: Some(CONTAINER.to_owned()),
        operator: "In".to_owned(),
        values: vec![code as i32],
    };
    let (on_exit_codes, on_pod_conditions) = match class {
        FailureClass::Terminal => (Some(exit(ExitCode::Terminal)), None),
        FailureClass::Disruption => {
            let taken = PodFailurePolicyOnPodConditionsPattern { type_: "DisruptionTarget".to_owned(), status: "True".to_owned() };
            (None, Some(vec![taken]))
        }
        _ => (Some(exit(ExitCode::Retryable)), None),
    };
    PodFailurePolicyRule { action: "FailJob".to_owned(), on_exit_codes, on_pod_conditions }
}

/// The class of the rule that a pod had met, from the message of its Job's condition `Failed`: `… matching FailJob rule at index 0`.
pub fn matched_rule(message: &str) -> Option<FailureClass> {
    let (_, index) = message.rsplit_once("rule at index ")?;
    RULES.get(index.trim_end_matches('.').parse::<usize>().ok()?).copied()
}

/// Most memory that the container of `stage` may use: its limit, or, where only a request is said, the default or that.
pub fn memory_limit(stage: Stage, renders: bool, own: &Resources) -> String {
    let default = match stage {
        Stage::Ingest if renders => "1Gi",
        Stage::Ingest => "256Mi",
        Stage::Silver | Stage::Gold | Stage::Maintenance => "1Gi",
    };
    match (own.limits.get("memory"), own.requests.get("memory")) {
        (Some(limit), _) => limit.clone(),
        (None, Some(request)) if exceeds(request, default) => request.clone(),
        (None, _) => default.to_owned(),
    }
}

fn pod(attempt: &Attempt<'_>, spec: &StageSpec) -> PodSpec {
    let pull_secrets: Vec<_> = attempt.config.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect();
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        service_account_name: Some(attempt.config.service_account.clone()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(NONROOT),
            run_as_group: Some(NONROOT),
            fs_group: Some(NONROOT),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(attempt, spec)],
        volumes: Some(vec![
            Volume {
                name: "spec".to_owned(),
                config_map: Some(ConfigMapVolumeSource {
                    name: attempt.config_map(),
                    items: Some(vec![KeyToPath { key: attempt.config_key(), path: env::SPEC_FILE.to_owned(), mode: None }]),
                    ..ConfigMapVolumeSource::default()
                }),
                ..Volume::default()
            },
            Volume {
                name: "tmp".to_owned(),
                empty_dir: Some(EmptyDirVolumeSource { medium: None, size_limit: Some(scratch(attempt.stage)) }),
                ..Volume::default()
            },
        ]),
        ..PodSpec::default()
    }
}

fn container(attempt: &Attempt<'_>, spec: &StageSpec) -> Container {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(attempt.config.image(attempt.stage, attempt.renders).to_owned()),
        image_pull_policy: Some(attempt.config.image_pull_policy.clone()),
        env: Some(environment(attempt, spec)),
        resources: Some(resources(attempt)),
        termination_message_path: Some(env::DEFAULT_TERMINATION_PATH.to_owned()),
        termination_message_policy: Some("File".to_owned()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![mount("spec", env::SPEC_MOUNT, true), mount("tmp", "/tmp", false)]),
        ..Container::default()
    }
}

fn environment(attempt: &Attempt<'_>, spec: &StageSpec) -> Vec<EnvVar> {
    let plain = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let secret = |name: &str, secret: &str, key: &str| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector { name: secret.to_owned(), key: key.to_owned(), optional: None }),
            ..EnvVarSource::default()
        }),
    };
    let store = &attempt.lakehouse.object_store.credentials_secret;
    let trace = TraceContext::of_run(attempt.uid).attempt(attempt.stage, attempt.attempt.unsigned_abs());
    let mut all = vec![
        plain(env::STAGE_SPEC, format!("{}/{}", env::SPEC_MOUNT, env::SPEC_FILE)),
        plain(env::TRACEPARENT, trace.to_string()),
        secret(env::ACCESS_KEY_ID, store, "access-key-id"),
        secret(env::SECRET_ACCESS_KEY, store, "secret-access-key"),
    ];
    let endpoint = attempt.lakehouse.lineage.as_ref().and_then(|lineage| lineage.http.as_ref());
    if let Some(token) = endpoint.and_then(|endpoint| endpoint.authorization_secret.as_ref()) {
        all.push(secret(env::LINEAGE_TOKEN, &token.name, &token.key));
    }
    match &spec.work {
        // Ingest writes objects only: it gets the tokens of the connections it uses, and no catalog.
        Work::Ingest { sources } => {
            for connection in &attempt.lakehouse.connections {
                let used = sources.iter().filter_map(|source| source.source.connection()).any(|used| used.name == connection.name);
                if let (true, Some(token)) = (used, &connection.authorization_secret) {
                    all.push(secret(&env::connection_token(&connection.name), &token.name, &token.key));
                }
            }
        }
        Work::Silver { .. } | Work::Gold { .. } | Work::Maintenance { .. } => {
            let uri = &attempt.lakehouse.catalog.sql.uri_secret;
            all.push(secret(env::CATALOG_URI, &uri.name, &uri.key));
        }
    }
    all
}

/// Room for what the engine spills and for uploads in parts.
fn scratch(stage: Stage) -> Quantity {
    Quantity(match stage {
        Stage::Ingest => "1Gi".to_owned(),
        Stage::Silver | Stage::Gold | Stage::Maintenance => "8Gi".to_owned(),
    })
}

/// The pipeline's resources over the defaults, key by key. A default gives way to what the pipeline says of the same key: Kubernetes refuses a
/// request above its limit.
fn resources(attempt: &Attempt<'_>) -> ResourceRequirements {
    let own = &attempt.settings.resources;
    let memory = memory_limit(attempt.stage, attempt.renders, own);
    let limits = merged([("memory", memory.as_str())], &own.limits);
    let requests = [("cpu", "100m"), ("memory", "128Mi")].map(|(key, default)| match limits.get(key) {
        Some(Quantity(limit)) if exceeds(default, limit) => (key, limit.as_str()),
        _ => (key, default),
    });
    ResourceRequirements { requests: Some(merged(requests, &own.requests)), limits: Some(limits), claims: None }
}

fn merged<const N: usize>(defaults: [(&str, &str); N], own: &BTreeMap<String, String>) -> BTreeMap<String, Quantity> {
    let own = own.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    defaults.into_iter().chain(own).map(|(key, value)| (key.to_owned(), Quantity(value.to_owned()))).collect()
}
