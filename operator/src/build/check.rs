//! The last look at a Job before it is made: what a pipeline's author must never get is not in it, whatever code made it.
//!
//! [`super::job`] puts only typed values into a Job. This module does not trust that: it reads the finished object as the API server will, field
//! by field, and knows every field that may be there. A field that nobody thought of, a new version of Kubernetes included, is refused by that.
//! What it demands is more than the level "restricted" of the Pod Security Standards.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::Job;
use lakehouse_contract::env;
use serde_json::{Map, Value, json};

use super::{Attempt, KEPT, owner};

/// Why a Job is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Job {job} is not made: {field} {fault}; this is a fault of the operator, please report it")]
pub struct Breach {
    /// Name of the Job.
    pub job: String,
    /// Path of the field, such as `spec.template.spec.hostNetwork`.
    pub field: String,
    /// What is wrong with it.
    pub fault: String,
}

const JOB: &[&str] = &["apiVersion", "kind", "metadata", "spec"];
const METADATA: &[&str] = &["name", "namespace", "labels", "ownerReferences"];
const SPEC: &[&str] = &[
    "backoffLimit",
    "podFailurePolicy",
    "completions",
    "parallelism",
    "podReplacementPolicy",
    "activeDeadlineSeconds",
    "ttlSecondsAfterFinished",
    "template",
];
const POD: &[&str] = &[
    "restartPolicy",
    "serviceAccountName",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "terminationGracePeriodSeconds",
    "imagePullSecrets",
    "securityContext",
    "containers",
    "volumes",
];
const POD_SECURITY: &[&str] = &["runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "seccompProfile"];
const CONTAINER: &[&str] = &[
    "name",
    "image",
    "imagePullPolicy",
    "env",
    "resources",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "securityContext",
    "volumeMounts",
];
const RESOURCES: &[&str] = &["requests", "limits"];
const QUANTITIES: &[&str] = &["cpu", "memory"];
/// Variables with a value; all others are references.
const PLAIN: &[&str] = &[env::STAGE_SPEC, env::TRACEPARENT];

/// Checks the Job of an attempt.
///
/// # Errors
/// The first field that may not be as it is.
pub fn check(job: &Job, attempt: &Attempt<'_>) -> Result<(), Breach> {
    let look = Look { job: attempt.name };
    // Our own types always serialize.
    let job = serde_json::to_value(job).unwrap_or_default();
    look.only(&job, "", JOB)?;
    look.only(&job["metadata"], "metadata", METADATA)?;
    look.equal(&job["metadata"]["name"], "metadata.name", json!(attempt.name))?;
    look.equal(&job["metadata"]["namespace"], "metadata.namespace", json!(attempt.namespace))?;
    let owners = json!([owner("LakehouseRun", attempt.run, attempt.uid)]);
    look.equal(&job["metadata"]["ownerReferences"], "metadata.ownerReferences", owners)?;
    look.only(&job["spec"], "spec", SPEC)?;
    for (field, value) in [("backoffLimit", 0), ("completions", 1), ("parallelism", 1)] {
        look.equal(&job["spec"][field], &format!("spec.{field}"), json!(value))?;
    }
    if job["spec"]["ttlSecondsAfterFinished"].as_i64().is_none_or(|seconds| seconds < KEPT.into()) {
        return Err(
            look.breach("spec.ttlSecondsAfterFinished", format!("must be at least {KEPT}: the outcome is read before the Job goes"))
        );
    }
    look.only(&job["spec"]["template"], "spec.template", &["metadata", "spec"])?;
    look.only(&job["spec"]["template"]["metadata"], "spec.template.metadata", &["labels"])?;
    look.pod(&job["spec"]["template"]["spec"], attempt)
}

/// The name of the Job, for what is found.
struct Look<'a> {
    job: &'a str,
}

impl Look<'_> {
    fn breach(&self, field: &str, fault: impl Into<String>) -> Breach {
        Breach { job: self.job.to_owned(), field: field.to_owned(), fault: fault.into() }
    }

    /// `value` is an object that has no fields but `known`.
    fn only<'v>(&self, value: &'v Value, field: &str, known: &[&str]) -> Result<&'v Map<String, Value>, Breach> {
        let fields = value.as_object().ok_or_else(|| self.breach(field, "is not an object"))?;
        match fields.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(fields),
            Some(name) => {
                let path = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
                Err(self.breach(&path, "may not be set"))
            }
        }
    }

    fn equal(&self, value: &Value, field: &str, expected: Value) -> Result<(), Breach> {
        if *value == expected { Ok(()) } else { Err(self.breach(field, format!("must be {expected}, not {value}"))) }
    }

    fn pod(&self, pod: &Value, attempt: &Attempt<'_>) -> Result<(), Breach> {
        const FIELD: &str = "spec.template.spec";
        self.only(pod, FIELD, POD)?;
        let at = |name: &str| format!("{FIELD}.{name}");
        self.equal(&pod["restartPolicy"], &at("restartPolicy"), json!("Never"))?;
        self.equal(&pod["serviceAccountName"], &at("serviceAccountName"), json!(attempt.config.service_account))?;
        self.equal(&pod["automountServiceAccountToken"], &at("automountServiceAccountToken"), json!(false))?;
        self.equal(&pod["enableServiceLinks"], &at("enableServiceLinks"), json!(false))?;
        let pull: Vec<Value> = attempt.config.image_pull_secrets.iter().map(|name| json!({"name": name})).collect();
        self.equal(pod.get("imagePullSecrets").unwrap_or(&json!([])), &at("imagePullSecrets"), pull.into())?;
        let security = &pod["securityContext"];
        self.only(security, &at("securityContext"), POD_SECURITY)?;
        self.equal(&security["runAsNonRoot"], &at("securityContext.runAsNonRoot"), json!(true))?;
        for id in ["runAsUser", "runAsGroup", "fsGroup"] {
            if security[id].as_i64().is_none_or(|id| id <= 0) {
                return Err(self.breach(&at(&format!("securityContext.{id}")), "must be a number above 0"));
            }
        }
        self.equal(&security["seccompProfile"], &at("securityContext.seccompProfile"), json!({"type": "RuntimeDefault"}))?;
        self.volumes(&pod["volumes"], &at("volumes"), attempt)?;
        match pod["containers"].as_array().map(Vec::as_slice) {
            Some([one]) => self.container(one, &at("containers[0]"), attempt),
            _ => Err(self.breach(&at("containers"), "must be one")),
        }
    }

    /// The ConfigMap of the attempt or of its run, and a folder that goes with the pod.
    fn volumes(&self, volumes: &Value, field: &str, attempt: &Attempt<'_>) -> Result<(), Breach> {
        let items = json!([{"key": attempt.config_key(), "path": env::SPEC_FILE}]);
        let spec = json!({"name": "spec", "configMap": {"name": attempt.config_map(), "items": items}});
        match volumes.as_array().map(Vec::as_slice) {
            Some([first, second]) => {
                self.equal(first, &format!("{field}[0]"), spec)?;
                self.only(second, &format!("{field}[1]"), &["name", "emptyDir"])?;
                self.only(&second["emptyDir"], &format!("{field}[1].emptyDir"), &["sizeLimit"])?;
                Ok(())
            }
            _ => Err(self.breach(field, "must be two")),
        }
    }

    fn container(&self, container: &Value, field: &str, attempt: &Attempt<'_>) -> Result<(), Breach> {
        let at = |name: &str| format!("{field}.{name}");
        self.only(container, field, CONTAINER)?;
        self.equal(&container["image"], &at("image"), json!(attempt.config.image(attempt.stage, attempt.renders)))?;
        self.equal(&container["imagePullPolicy"], &at("imagePullPolicy"), json!(attempt.config.image_pull_policy))?;
        let security = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
        self.equal(&container["securityContext"], &at("securityContext"), security)?;
        let mounts = json!([
            {"name": "spec", "mountPath": env::SPEC_MOUNT, "readOnly": true},
            {"name": "tmp", "mountPath": "/tmp"}
        ]);
        self.equal(&container["volumeMounts"], &at("volumeMounts"), mounts)?;
        self.equal(&container["terminationMessagePath"], &at("terminationMessagePath"), json!(env::DEFAULT_TERMINATION_PATH))?;
        for (name, quantities) in self.only(&container["resources"], &at("resources"), RESOURCES)? {
            self.only(quantities, &at(&format!("resources.{name}")), QUANTITIES)?;
        }
        self.environment(&container["env"], &at("env"), attempt)
    }

    /// Values that the operator makes itself, and references to keys of Secrets that the Lakehouse names; each variable once.
    fn environment(&self, variables: &Value, field: &str, attempt: &Attempt<'_>) -> Result<(), Breach> {
        let named = named_secrets(attempt);
        let mut seen = BTreeSet::new();
        for (index, variable) in variables.as_array().into_iter().flatten().enumerate() {
            let field = format!("{field}[{index}]");
            self.only(variable, &field, &["name", "value", "valueFrom"])?;
            let name = variable["name"].as_str().unwrap_or_default();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_') || !seen.insert(name) {
                return Err(self.breach(&field, format!("{name:?} is no name of a variable, or one that was there before")));
            }
            match (variable.get("value").and_then(Value::as_str), variable.get("valueFrom")) {
                // Kubernetes puts other variables, secret ones too, in for $(NAME).
                (Some(value), None) if PLAIN.contains(&name) && !value.contains('$') => {}
                (None, Some(from)) => {
                    self.only(from, &format!("{field}.valueFrom"), &["secretKeyRef"])?;
                    let key = &from["secretKeyRef"];
                    self.only(key, &format!("{field}.valueFrom.secretKeyRef"), &["name", "key"])?;
                    let reference = (key["name"].as_str().unwrap_or_default(), key["key"].as_str().unwrap_or_default());
                    if !named.contains(&reference) {
                        let fault =
                            format!("refers to the key {} of Secret {}, which the Lakehouse does not name", reference.1, reference.0);
                        return Err(self.breach(&field, fault));
                    }
                }
                _ => return Err(self.breach(&field, format!("{name} must be a reference to a Secret"))),
            }
        }
        Ok(())
    }
}

/// Name and key of every Secret that the Lakehouse names.
fn named_secrets<'a>(attempt: &Attempt<'a>) -> BTreeSet<(&'a str, &'a str)> {
    let lakehouse = attempt.lakehouse;
    let store = lakehouse.object_store.credentials_secret.as_str();
    let lineage = lakehouse.lineage.as_ref().and_then(|lineage| lineage.http.as_ref()).and_then(|http| http.authorization_secret.as_ref());
    let connections = lakehouse.connections.iter().filter_map(|connection| connection.authorization_secret.as_ref());
    let keys = connections.chain(lineage).chain([&lakehouse.catalog.sql.uri_secret]);
    keys.map(|key| (key.name.as_str(), key.key.as_str())).chain([(store, "access-key-id"), (store, "secret-access-key")]).collect()
}
