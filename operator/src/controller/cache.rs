//! What caches leave out of the objects that they keep: what nobody here reads, and what is large.

use k8s_openapi::{api::batch::v1::Job, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use lakehouse_api::{LakehousePipeline, LakehouseRun};

/// Where `kubectl apply` keeps the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A run as it is kept.
pub(super) fn of_run(run: &mut LakehouseRun) {
    strip(&mut run.metadata);
}

/// A pipeline as it is kept. Its status is written from there: an update without `managedFields` leaves them as they are.
pub(super) fn of_pipeline(pipeline: &mut LakehousePipeline) {
    strip(&mut pipeline.metadata);
}

/// A Job as it is kept: whose it is, whether it ended, and when it goes.
pub(super) fn of_job(job: &mut Job) {
    strip(&mut job.metadata);
    if let Some(spec) = &mut job.spec {
        spec.template = Default::default();
        spec.selector = None;
        spec.pod_failure_policy = None;
    }
}

fn strip(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_read_stays() {
        let mut job: Job = serde_json::from_value(json!({
            "metadata": {
                "name": "j", "labels": {"lakehouse.rs/run": "r"}, "ownerReferences": [{"apiVersion": "v", "kind": "k", "name": "r", "uid": "u", "controller": true}],
                "managedFields": [{"manager": "m"}], "annotations": {LAST_APPLIED: "{}", "mine": "stays"}
            },
            "spec": {"ttlSecondsAfterFinished": 5, "template": {"spec": {"containers": [{"name": "stage", "image": "i"}]}}},
            "status": {"conditions": [{"type": "Complete", "status": "True"}]}
        }))
        .unwrap();
        of_job(&mut job);
        let kept = serde_json::to_value(&job).unwrap();
        assert_eq!(kept["metadata"]["annotations"], json!({"mine": "stays"}));
        assert_eq!((&kept["metadata"]["managedFields"], &kept["spec"]["template"]), (&json!(null), &json!({})));
        assert_eq!(kept["spec"]["ttlSecondsAfterFinished"], 5);
        assert_eq!(kept["status"]["conditions"][0]["type"], "Complete");
        assert_eq!(kept["metadata"]["ownerReferences"][0]["uid"], "u");
    }
}
