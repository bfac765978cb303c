//! The commands that look at a cluster and steer its runs, as processes against an API server on loopback.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::{
    api_server::NAMESPACE,
    place::{Place, RUN},
};

impl Place {
    fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.start(arguments).wait_with_output().unwrap())
    }

    /// A run as the operator leaves it.
    fn run_with(&self, name: &str, condition: (&str, &str, &str), stages: Value) {
        let (status, reason, message) = condition;
        let condition = json!({"type": "Succeeded", "status": status, "reason": reason, "message": message, "lastTransitionTime": "2024-06-23T00:00:00Z"});
        let run = json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun",
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": "0f0e0d0c-0b0a-4908-8706-050403020100", "resourceVersion": "1",
                "creationTimestamp": "2024-06-23T00:00:00Z", "managedFields": [{"manager": "somebody"}]},
            "spec": {"pipeline": "pulse", "interval": {"start": "2024-06-22T00:00:00Z", "end": "2024-06-23T00:00:00Z"}, "state": "Active",
                "parameters": {"limit": "5"}},
            "status": {"conditions": [condition], "stages": stages, "startedAt": "2024-06-23T00:00:00Z", "finishedAt": "2024-06-23T00:01:12Z",
                "rowsRead": 3, "rowsWritten": 2, "rowsQuarantined": 0}
        });
        self.server.world().runs.insert(name.to_owned(), run);
    }

    fn failed(&self) {
        let stages = json!([stage("ingest", "Succeeded", 1), stage("silver", "Failed", 2), {"name": "gold", "state": "Skipped"}]);
        self.run_with(RUN, ("False", "CastFailed", "silver: row 7"), stages);
    }
}

fn stage(name: &str, state: &str, attempt: u32) -> Value {
    json!({"name": name, "state": state, "attempt": attempt, "job": format!("job-{name}-{attempt}"), "rowsRead": 3, "rowsWritten": 2,
        "reason": "CastFailed", "message": "row 7", "tables": [{"name": format!("{name}.beats"), "rowsWritten": 2}]})
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// One readable line and this exit code.
    fn refused(&self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{}", self.err);
        let lines: Vec<&str> = self.err.lines().collect();
        assert!(lines.len() == 1 && lines[0].starts_with("error: ") && lines[0].contains(words), "{}", self.err);
    }

    fn done(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self.out
    }
}

#[test]
fn what_a_cluster_has_is_shown_and_handed_on() {
    let place = Place::new();
    place.failed();
    let pipelines = place.run(&["get"]).done();
    assert!(pipelines.contains("| pulse "), "{pipelines}");
    let runs = place.run(&["get", "pulse"]).done();
    assert!(runs.contains(RUN) && runs.contains("CastFailed") && runs.contains("1m12s"), "{runs}");
    let tree = place.run(&["get", RUN]).done();
    assert!(tree.starts_with(&format!("run {RUN}  CastFailed")), "{tree}");
    assert!(tree.contains("└─ silver.beats  2 rows") || tree.contains("├─ silver.beats  2 rows"), "{tree}");
    assert!(tree.contains("CastFailed: row 7"), "{tree}");
    let json: Value = serde_json::from_str(&place.run(&["get", &format!("run/{RUN}"), "-o", "json"]).done()).unwrap();
    assert_eq!((&json["kind"], &json["metadata"]["name"]), (&json!("LakehouseRun"), &json!(RUN)));
    assert_eq!(json["metadata"].get("managedFields"), None);
    let yaml = place.run(&["get", "pipeline/pulse", "-o", "yaml"]).done();
    assert!(yaml.contains("kind: List") && yaml.contains(RUN), "{yaml}");
    place.run(&["get", "nothing"]).refused(2, "no run, no pipeline and no backfill");
    place.run(&["get", "pod/x"]).refused(2, "expected run/NAME");
    place.server.world().away = true;
    assert_eq!(place.run(&["get"]).code, 3);
}

#[test]
fn a_backfill_is_shown_with_its_runs() {
    let place = Place::new();
    place.failed();
    let backfill = json!({
        "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseBackfill", "metadata": {"name": "june", "namespace": NAMESPACE},
        "spec": {"pipeline": "pulse", "range": {"start": "2024-06-22T00:00:00Z", "end": "2024-06-24T00:00:00Z"}},
        "status": {"planned": 2, "failed": 1, "remaining": 1, "conditions": [{"type": "Succeeded", "status": "Unknown", "reason": "Running",
            "message": "at work", "lastTransitionTime": "2024-06-25T00:00:00Z"}]}
    });
    {
        let mut world = place.server.world();
        world.backfills.insert("june".to_owned(), backfill);
        world.runs.get_mut(RUN).unwrap()["metadata"]["labels"] = json!({"lakehouse.rs/backfill": "june"});
    }
    place.run_with("other", ("True", "Completed", ""), json!([stage("ingest", "Succeeded", 1)]));
    let tree = place.run(&["get", "june"]).done();
    assert!(tree.starts_with("backfill june  Running  2024-06-22T00:00:00Z to 2024-06-24T00:00:00Z"), "{tree}");
    assert!(tree.contains(&format!("└─ {RUN}  2024-06-22T00:00:00Z  CastFailed")) && !tree.contains("other"), "{tree}");
    let objects: Value = serde_json::from_str(&place.run(&["get", "backfill/june", "-o", "json"]).done()).unwrap();
    let kinds: Vec<_> = objects["items"].as_array().unwrap().iter().map(|item| item["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["LakehouseBackfill", "LakehouseRun"]);
    assert!(place.run(&["get", "backfills"]).done().contains("| june "));
    assert!(place.run(&["get"]).done().contains("| june "));
    // Who may not see backfills sees the rest, and is told when it was backfills that were asked for.
    place.server.world().refused = Some(("lakehousebackfills", 403, "Forbidden", "you may not"));
    let pipelines = place.run(&["get"]).done();
    assert!(pipelines.contains("| pulse ") && !pipelines.contains("june"), "{pipelines}");
    place.run(&["get", "backfills"]).refused(2, "you may not");
}

#[test]
fn a_watched_run_gives_its_exit_code() {
    let place = Place::new();
    place.run_with(RUN, ("Unknown", "Running", "x"), json!([stage("ingest", "Running", 1)]));
    let watching = place.start(&["get", RUN, "--watch"]);
    place.server.until("a watch", |world| world.count("WATCH") > 0);
    place.server.set_status(RUN, ("False", "CastFailed", "silver: row 7"), json!([stage("silver", "Failed", 1)]));
    let said = Said::of(watching.wait_with_output().unwrap());
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.out.contains("Running") && said.out.contains("Failed"), "{}", said.out);
    assert!(said.err.contains("stage silver failed: CastFailed: row 7"), "{}", said.err);
}

#[test]
fn a_failed_run_is_retried_once_from_its_failed_stage() {
    let place = Place::new();
    place.failed();
    let name = format!("{RUN}-retry-1");
    assert_eq!(place.run(&["retry", RUN]).done(), format!("lakehouserun.lakehouse.rs/{name} created\n"));
    let made = place.server.world().runs[&name].clone();
    let spec = &made["spec"];
    assert_eq!((&spec["stages"], &spec["retryOf"], &spec["inputsFrom"]), (&json!(["silver", "gold"]), &json!(RUN), &Value::Null));
    assert_eq!((&spec["parameters"], &spec["state"]), (&json!({"limit": "5"}), &json!("Active")));
    assert_eq!(place.run(&["retry", RUN]).done(), format!("lakehouserun.lakehouse.rs/{name} unchanged\n"));
    place.run(&["retry", RUN, "--all-stages"]).refused(2, "with other stages already");
    place.run(&["retry", &name]).refused(2, "has not ended yet");
    place.run_with("pulse-2", ("True", "Completed", ""), json!([stage("ingest", "Succeeded", 1)]));
    place.run(&["retry", "pulse-2"]).refused(2, "nothing to retry");
    place.run(&["retry", "nothing"]).refused(2, "there is none of this name");
}

#[test]
fn runs_are_suspended_resumed_and_cancelled() {
    let place = Place::new();
    place.run_with(RUN, ("Unknown", "Running", "x"), json!([stage("ingest", "Running", 1)]));
    let target = format!("run/{RUN}");
    let state = || place.server.world().runs[RUN]["spec"]["state"].clone();
    for (command, word, wanted) in
        [("suspend", "suspended", "Suspended"), ("resume", "resumed", "Active"), ("cancel", "cancelled", "Cancelled")]
    {
        assert_eq!(place.run(&[command, &target]).done(), format!("lakehouserun.lakehouse.rs/{RUN} {word}\n"));
        assert_eq!(state(), json!(wanted));
        assert_eq!(place.run(&[command, &target]).done(), format!("lakehouserun.lakehouse.rs/{RUN} unchanged\n"));
    }
    place.failed();
    place.run(&["cancel", &target]).refused(2, "has ended already (CastFailed)");
    assert_eq!(place.run(&["suspend", "crypto"]).code, 2, "KIND/NAME is asked for");
}

#[test]
fn logs_come_from_all_attempts_and_say_where_they_are_when_pods_are_gone() {
    let place = Place::new();
    place.failed();
    for (job, line) in [("job-ingest-1", "fetched"), ("job-silver-1", "first try"), ("job-silver-2", "second try")] {
        place.server.set_pod(job, "terminated");
        place.server.log(job, line);
    }
    assert_eq!(place.run(&["logs", RUN]).done(), "ingest | fetched\nsilver | first try\nsilver | second try\n");
    assert_eq!(place.run(&["logs", RUN, "--stage", "ingest"]).done(), "ingest | fetched\n");
    let json = place.run(&["logs", RUN, "--stage", "silver", "-o", "json"]).done();
    let last: Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!((&last["attempt"], &last["line"]), (&json!(2), &json!("second try")));
    let followed = place.run(&["logs", RUN, "-f"]);
    assert_eq!(followed.code, 1, "the run failed");
    assert!(followed.out.ends_with("second try\n"), "{}", followed.out);

    place.server.world().pods.clear();
    let gone = place.run(&["logs", RUN, "--stage", "ingest"]);
    assert_eq!((gone.code, gone.out.as_str()), (1, ""));
    assert!(gone.err.contains("the pipeline or its Lakehouse is gone"), "{}", gone.err);
    let lakehouse = json!({"apiVersion": "lakehouse.rs/v1alpha1", "kind": "Lakehouse", "metadata": {"name": "main", "namespace": NAMESPACE},
        "spec": {"objectStore": {"endpoint": "http://127.0.0.1:9", "credentialsSecret": "x"}, "catalog": {"sql": {"uriSecret": {"name": "c", "key": "uri"}}}}});
    place.server.world().lakehouses.insert("main".to_owned(), lakehouse);
    let gone = place.run(&["logs", RUN, "--stage", "ingest"]);
    assert!(gone.code == 1 && gone.err.contains("AWS_ACCESS_KEY_ID"), "{}", gone.err);
}

#[test]
fn a_run_is_followed_over_its_stages() {
    let place = Place::new();
    place.run_with(RUN, ("Unknown", "Running", "x"), json!([stage("ingest", "Running", 1), {"name": "silver", "state": "Pending"}]));
    place.server.set_pod("job-ingest-1", "running");
    let following = place.start(&["logs", RUN, "--follow"]);
    place.server.until("a followed log", |world| world.count("job-ingest-1-pod/log") > 0);
    place.server.log("job-ingest-1", "fetched");
    place.server.set_pod("job-ingest-1", "terminated");
    place.server.set_pod("job-silver-1", "terminated");
    place.server.log("job-silver-1", "written");
    place.server.set_status(RUN, ("True", "Completed", "done"), json!([stage("ingest", "Succeeded", 1), stage("silver", "Succeeded", 1)]));
    let said = Said::of(following.wait_with_output().unwrap());
    assert_eq!(said.done(), "ingest | fetched\nsilver | written\n");
}

#[test]
fn events_are_those_of_our_objects_in_order() {
    let place = Place::new();
    let event = |name: &str, kind: &str, version: &str, about: &str, time: &str, sort: &str| {
        json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name}, "eventTime": time, "type": sort, "reason": "Because",
            "note": format!("note of {name}"), "regarding": {"kind": kind, "apiVersion": version, "name": about}})
    };
    let ours = "lakehouse.rs/v1alpha1";
    place.server.world().happened = vec![
        event("late", "LakehouseRun", ours, RUN, "2024-06-23T00:02:00.000000Z", "Warning"),
        event("early", "LakehousePipeline", ours, "pulse", "2024-06-23T00:01:00.000000Z", "Normal"),
        event("other", "Pod", "v1", RUN, "2024-06-23T00:03:00.000000Z", "Normal"),
    ];
    let all = place.run(&["events"]).done();
    let lines: Vec<&str> = all.lines().skip(2).collect();
    assert!(lines.len() == 2 && lines[0].contains("note of early") && lines[1].contains(&format!("lakehouserun/{RUN}")), "{all}");
    let one: Value = serde_json::from_str(&place.run(&["events", RUN, "-o", "json"]).done()).unwrap();
    assert_eq!(one["items"].as_array().map(Vec::len), Some(1));
    let warnings = place.run(&["events", "--warnings"]).done();
    assert!(warnings.contains("note of late") && !warnings.contains("note of early"), "{warnings}");
}

#[test]
fn shells_complete_the_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.run(&["completions", shell]).done();
        assert!(script.contains("lakehouse") && script.contains("retry"), "{shell}");
    }
    let script = place.path("lakehouse.bash");
    std::fs::write(&script, place.run(&["completions", "bash"]).done()).unwrap();
    let words = "source \"$1\" && COMP_WORDS=(lakehouse re) COMP_CWORD=1 && _lakehouse lakehouse re lakehouse && echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", words, "-"]).arg(&script).output().unwrap();
    let said = Said::of(output);
    assert!(said.out.contains("retry") && said.out.contains("resume"), "{}\n{}", said.out, said.err);
}
