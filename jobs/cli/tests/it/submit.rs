//! `lakehouse submit` as a process against an API server on loopback: make, adopt, wait, fail, stop, and what breaks on the way.

use std::process::{Child, Command, Output};

use serde_json::{Value, json};

use crate::{
    api_server::NAMESPACE,
    place::{Place, RUN},
};

impl Place {
    fn submission(&self, arguments: &[&str]) -> Child {
        self.start(&[&["submit", "pulse", "--interval", "2024-06-22"], arguments].concat())
    }

    fn submit(&self, arguments: &[&str]) -> Output {
        self.submission(arguments).wait_with_output().unwrap()
    }

    /// Waits until the run is there and somebody watches it.
    fn watched(&self, run: &str) {
        self.server.until("a watched run", |world| world.runs.contains_key(run) && world.count("WATCH") > 0);
    }

    fn succeed(&self, run: &str) {
        self.server.set_status(run, ("True", "Completed", "done"), json!([succeeded("ingest", 1), succeeded("silver", 1)]));
    }

    fn made(&self) -> usize {
        self.server.world().count("POST")
    }
}

fn succeeded(stage: &str, attempt: u32) -> Value {
    let tables = if stage == "silver" { json!([{"name": "silver.pulses", "snapshot": "7", "rowsWritten": 2}]) } else { json!([]) };
    json!({"name": stage, "state": "Succeeded", "attempt": attempt, "job": job(stage, attempt), "rowsRead": 3, "rowsWritten": 2, "tables": tables})
}

fn running(stage: &str, attempt: u32) -> Value {
    json!({"name": stage, "state": "Running", "attempt": attempt, "job": job(stage, attempt)})
}

fn job(stage: &str, attempt: u32) -> String {
    format!("job-{stage}-{attempt}")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Exit code and last line of standard error.
fn failure(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), text(&output.stderr).lines().last().unwrap_or_default().to_owned())
}

fn events(output: &Output, event: &str) -> Vec<Value> {
    let lines: Vec<Value> = text(&output.stderr).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    lines.into_iter().filter(|line| line["event"] == event).collect()
}

fn ok(output: Output) -> Output {
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    output
}

fn kill(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_run_is_made_followed_and_its_outcome_handed_on() {
    let place = Place::new();
    let file = place.path("outcome.json");
    let child = place.submission(&["--parameter", "limit=5", "--key", "d/r/0", "--outcome-file", file.to_str().unwrap()]);
    place.watched(RUN);
    let run = place.server.world().runs[RUN].clone();
    assert_eq!(run["spec"]["interval"], json!({"start": "2024-06-22T00:00:00Z", "end": "2024-06-23T00:00:00Z"}));
    assert_eq!((&run["spec"]["state"], &run["spec"]["parameters"]["limit"]), (&json!("Active"), &json!("5")));
    assert_eq!(run["metadata"]["annotations"]["lakehouse.rs/submission-key"], "d/r/0");
    let labels = &run["metadata"]["labels"];
    assert_eq!((&labels["lakehouse.rs/pipeline"], &labels["lakehouse.rs/ordinal"]), (&json!("pulse"), &json!("1")));

    let server = &place.server;
    let pending = json!({"name": "silver", "state": "Pending"});
    server.set_pod("job-ingest-1", "running");
    server.log("job-ingest-1", "first attempt");
    server.set_status(RUN, ("Unknown", "Running", "x"), json!([running("ingest", 1), pending]));
    server.until("a followed log", |world| world.count("job-ingest-1-pod/log") > 0);
    server.set_pod("job-ingest-1", "terminated");
    let retrying = json!({"name": "ingest", "state": "Pending", "attempt": 1, "job": "job-ingest-1", "retryAt": "2024-06-23T00:00:09Z", "reason": "Evicted", "message": "by the node"});
    server.set_status(RUN, ("Unknown", "Retrying", "x"), json!([retrying, pending]));
    server.set_pod("job-ingest-2", "running");
    server.set_status(RUN, ("Unknown", "Running", "x"), json!([running("ingest", 2), pending]));
    server.until("the next followed log", |world| world.count("job-ingest-2-pod/log") > 0);
    server.log("job-ingest-2", "second attempt");
    server.set_pod("job-ingest-2", "terminated");
    // Silver begins and ends between two observations: its log is read all the same.
    server.set_pod("job-silver-1", "terminated");
    server.log("job-silver-1", "silver too");
    server.set_status(RUN, ("True", "Completed", "done"), json!([succeeded("ingest", 2), succeeded("silver", 1)]));
    let output = ok(child.wait_with_output().unwrap());

    assert_eq!(events(&output, "submitted")[0]["how"], "created");
    let states: Vec<String> =
        events(&output, "stage").iter().map(|e| format!("{} {} {}", text_of(e, "stage"), text_of(e, "state"), e["attempt"])).collect();
    assert_eq!(states, ["ingest Running 1", "ingest Pending 1", "ingest Running 2", "ingest Succeeded 2", "silver Succeeded 1"]);
    let logs: Vec<String> =
        events(&output, "log").iter().map(|e| format!("{} {}: {}", text_of(e, "stage"), e["attempt"], text_of(e, "line"))).collect();
    assert_eq!(logs, ["ingest 1: first attempt", "ingest 2: second attempt", "silver 1: silver too"]);
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcome, serde_json::from_slice::<Value>(&std::fs::read(&file).unwrap()).unwrap());
    let keys: Vec<&String> = outcome.as_object().unwrap().keys().collect();
    let expected =
        ["run", "pipeline", "interval", "outcome", "reason", "message", "rowsRead", "rowsWritten", "rowsQuarantined", "stages", "tables"];
    assert_eq!(keys, expected);
    assert_eq!((&outcome["run"], &outcome["outcome"], &outcome["reason"]), (&json!(RUN), &json!("Succeeded"), &json!("Completed")));
    assert_eq!(outcome["tables"], json!([{"name": "silver.pulses", "snapshot": "7", "rowsWritten": 2}]));
}

fn text_of<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_default()
}

#[test]
fn a_person_reads_text() {
    let place = Place::new();
    let child = place.submission(&["-o", "text"]);
    place.watched(RUN);
    place.server.set_pod("job-ingest-1", "terminated");
    place.server.log("job-ingest-1", "a line");
    place.succeed(RUN);
    let output = ok(child.wait_with_output().unwrap());
    let said = text(&output.stderr);
    for line in [
        &format!("run {RUN}: created; interval 2024-06-22T00:00:00Z … 2024-06-23T00:00:00Z"),
        "ingest | a line",
        "silver: succeeded: 3 rows read, 2 written",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\n{said}");
    }
    let shown = text(&output.stdout);
    assert!(
        shown.starts_with(&format!("run {RUN}: done\n| stage  |")) && shown.contains("| silver.pulses |       2 |        7 |"),
        "{shown}"
    );
}

#[test]
fn a_killed_client_is_succeeded_by_one_that_adopts() {
    let place = Place::new();
    let mut first = place.submission(&["--key", "k"]);
    place.watched(RUN);
    first.kill().unwrap();
    first.wait().unwrap();
    place.server.set_pod("job-ingest-1", "terminated");
    place.server.log("job-ingest-1", "what the first has shown");
    place.server.set_status(RUN, ("Unknown", "Running", "x"), json!([succeeded("ingest", 1), running("silver", 1)]));
    let watches = place.server.world().count("WATCH");
    let second = place.submission(&["--key", "k"]);
    place.server.until("the second to watch", |world| world.count("WATCH") > watches);
    place.succeed(RUN);
    let output = ok(second.wait_with_output().unwrap());
    assert_eq!(events(&output, "submitted")[0]["how"], "adopted");
    assert!(events(&output, "log").is_empty(), "{}", text(&output.stderr));

    let done = ok(place.submit(&["--key", "k"]));
    assert_eq!((events(&done, "submitted")[0]["how"].clone(), place.made()), (json!("finished"), 1));
    assert_eq!(done.stdout, output.stdout);
    let another = ok(place.submit(&["--key", "other", "--no-wait", "-o", "text"]));
    assert_eq!(text(&another.stdout), "lakehouserun.lakehouse.rs/pulse-2024-06-22-2 created\n");
}

#[test]
fn a_race_for_the_name_ends_with_one_run() {
    let place = Place::new();
    place.server.world().rival = true;
    let reference: Value = serde_json::from_slice(&ok(place.submit(&["--no-wait"])).stdout).unwrap();
    assert_eq!((&reference["run"], &reference["how"], place.made()), (&json!(RUN), &json!("adopted"), 1));
    assert_eq!(place.server.world().runs.len(), 1);
}

#[test]
fn a_name_that_is_somebody_elses_is_an_error() {
    let place = Place::new();
    place.server.add_run(json!({"apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun", "metadata": {"name": RUN},
        "spec": {"pipeline": "pulse", "interval": {"start": "2024-06-22T00:00:00Z", "end": "2024-06-23T00:00:00Z"}}}));
    let (code, line) = failure(&place.submit(&[]));
    assert_eq!((code, place.made()), (2, 5));
    assert!(
        line.starts_with(&format!("error: LakehouseRun {RUN}: one of this name is in namespace {NAMESPACE} without the label")),
        "{line}"
    );
}

#[test]
fn a_failed_run_is_one_line_and_the_next_one_a_retry_of_it() {
    let place = Place::new();
    let file = place.path("outcome.json");
    let child = place.submission(&["--outcome-file", file.to_str().unwrap()]);
    place.watched(RUN);
    let silver = json!({"name": "silver", "state": "Failed", "attempt": 1, "reason": "CastFailed", "message": "row 7", "report": "s3://silver/r.json"});
    place.server.set_status(RUN, ("False", "CastFailed", "silver: row 7"), json!([succeeded("ingest", 1), silver]));
    let output = child.wait_with_output().unwrap();
    let expected = format!("error: run {RUN}: stage silver failed: CastFailed: row 7 (report s3://silver/r.json)");
    assert_eq!(failure(&output), (1, expected));
    let outcome: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&outcome["outcome"], &outcome["stages"][1]["state"]), (&json!("Failed"), &json!("Failed")));
    ok(place.submit(&["--no-wait"]));
    assert_eq!(place.server.world().runs["pulse-2024-06-22-2"]["spec"]["retryOf"], RUN);
}

#[test]
fn another_spec_is_not_adopted() {
    let place = Place::new();
    ok(place.submit(&["--no-wait", "--parameter", "limit=5"]));
    let (code, line) = failure(&place.submit(&["--parameter", "limit=6"]));
    assert_eq!((code, place.made()), (2, 1));
    assert!(line.starts_with(&format!("error: run {RUN}: spec.parameters.limit is \"5\", asked for is \"6\"")), "{line}");
}

#[test]
fn what_cannot_be_asked_for_is_refused_before_anything_is_made() {
    let place = Place::new();
    for (arguments, expected) in [
        (&["--interval", "2024-06-22T05"][..], "LakehousePipeline pulse: --interval: the interval 2024-06-22T05:00:00Z"),
        (&["--parameter", "nope=1"], "LakehousePipeline pulse: parameters.nope: the pipeline declares no such parameter"),
        (&["--stage", "gold"], "LakehousePipeline pulse: stages: the pipeline has no gold stage"),
        (&["--refresh", "stale"], "LakehousePipeline pulse: --refresh: it is the gold stage that refreshes, and the run would not have it"),
        (&["--context", "other"], "--context other: "),
        (&["--kubeconfig", "/nowhere/config"], "failed to read kubeconfig from"),
        (&["--outcome-file", "/nowhere/outcome.json"], "--outcome-file /nowhere/outcome.json: there is no folder /nowhere"),
    ] {
        // The later --interval is the one that counts: there is one in every command line.
        let arguments: Vec<&str> = arguments.to_vec();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lakehouse"));
        command.args(["submit", "pulse"]).args(&arguments).env("KUBECONFIG", place.path("kubeconfig"));
        if !arguments.contains(&"--interval") {
            command.args(["--interval", "2024-06-22"]);
        }
        let (code, line) = failure(&command.output().unwrap());
        assert_eq!(code, 2, "{line}");
        assert!(line.starts_with(&format!("error: {expected}")), "{line}");
    }
    place.server.world().pipelines.clear();
    let none = "error: LakehousePipeline pulse: there is none of this name in namespace lake".to_owned();
    assert_eq!(failure(&place.submit(&[])), (2, none));
    assert_eq!(place.made(), 0);
}

#[test]
fn what_the_api_server_refuses_is_one_line() {
    let place = Place::new();
    let message = "LakehouseRun.lakehouse.rs \"x\" is invalid: spec.parameters: Too many: 65";
    place.server.world().refused = Some(("POST", 422, "Invalid", message));
    let expected = format!("error: cannot create LakehouseRun {RUN} in namespace lake: {message}");
    assert_eq!(failure(&place.submit(&[])), (2, expected));
    place.server.world().refused = Some(("lakehousepipelines", 404, "", "404 page not found"));
    let (code, line) = failure(&place.submit(&[]));
    assert!(code == 2 && line.contains("does not serve lakehousepipelines.lakehouse.rs/v1alpha1"), "{line}");
}

#[test]
fn a_cluster_that_does_not_answer_has_an_exit_code_of_its_own() {
    let place = Place::new();
    place.server.world().away = true;
    let (code, line) = failure(&place.submit(&[]));
    assert_eq!(code, 3, "{line}");
    assert!(line.starts_with("error: cannot get LakehousePipeline pulse: API server http://127.0.0.1:"), "{line}");
    assert_eq!(place.server.world().count("lakehousepipelines"), 6);
    std::fs::remove_file(place.path("kubeconfig")).unwrap();
    let (code, line) = failure(&place.submit(&[]));
    assert!(code == 3 && line.starts_with("error: no cluster: neither a usable kubeconfig nor a pod's service account"), "{line}");
}

#[test]
fn a_run_that_takes_too_long_goes_on() {
    let place = Place::new();
    let child = place.submission(&["--timeout", "2s"]);
    place.watched(RUN);
    place.server.set_status(RUN, ("Unknown", "IntervalBusy", "waits for run a"), json!([]));
    let expected = format!("error: run {RUN}: not finished within 2s (--timeout), it goes on; last seen: IntervalBusy: waits for run a");
    assert_eq!(failure(&child.wait_with_output().unwrap()), (4, expected));
    assert_eq!(place.server.world().runs[RUN]["spec"]["state"], "Active");
}

#[test]
fn a_signal_leaves_the_run_or_cancels_it_as_told() {
    for (arguments, signal, code, state, fate) in [
        (&[][..], "-TERM", 143, "Active", "stopped by SIGTERM: run pulse-2024-06-22-1 goes on, the same command adopts it"),
        (&["--on-terminate", "cancel"], "-TERM", 143, "Cancelled", "stopped by SIGTERM: run pulse-2024-06-22-1 is cancelled"),
        (&["--on-terminate", "cancel"], "-INT", 130, "Cancelled", "stopped by SIGINT: run pulse-2024-06-22-1 is cancelled"),
    ] {
        let place = Place::new();
        let child = place.submission(arguments);
        place.watched(RUN);
        kill(&child, signal);
        assert_eq!(failure(&child.wait_with_output().unwrap()), (code, format!("error: {fate}")));
        assert_eq!(place.server.world().runs[RUN]["spec"]["state"], state);
    }
}

#[test]
fn another_run_of_the_same_name_is_not_cancelled() {
    let place = Place::new();
    let child = place.submission(&["--on-terminate", "cancel"]);
    place.watched(RUN);
    place.server.world().runs.get_mut(RUN).unwrap()["metadata"]["uid"] = json!("another");
    kill(&child, "-TERM");
    let (code, line) = failure(&child.wait_with_output().unwrap());
    assert!(code == 143 && line.contains("goes on: cannot cancel LakehouseRun"), "{line}");
    assert_eq!(place.server.world().runs[RUN]["spec"]["state"], "Active");
}

#[test]
fn a_deleted_run_ends_the_wait() {
    let place = Place::new();
    let child = place.submission(&[]);
    place.watched(RUN);
    place.server.delete(RUN);
    let expected = format!("error: run {RUN}: it was deleted before it had ended");
    assert_eq!(failure(&child.wait_with_output().unwrap()), (1, expected));
}

#[test]
fn broken_streams_are_taken_up_again_without_a_line_lost_or_doubled() {
    let place = Place::new();
    let child = place.submission(&[]);
    place.watched(RUN);
    place.server.set_pod("job-ingest-1", "running");
    place.server.log("job-ingest-1", "one");
    place.server.set_status(RUN, ("Unknown", "Running", "x"), json!([running("ingest", 1)]));
    place.server.until("a followed log", |world| world.count("job-ingest-1-pod/log") == 1);
    let watches = place.server.world().count("WATCH");
    place.server.drop_streams();
    place.server.log("job-ingest-1", "two");
    place.server.until("both again", |world| world.count("job-ingest-1-pod/log") == 2 && world.count("WATCH") > watches);
    place.server.log("job-ingest-1", "three");
    for stage in ["ingest", "silver"] {
        place.server.set_pod(&job(stage, 1), "terminated");
    }
    place.succeed(RUN);
    let output = ok(child.wait_with_output().unwrap());
    let lines: Vec<Value> = events(&output, "log").iter().map(|event| event["line"].clone()).collect();
    assert_eq!(lines, ["one", "two", "three"]);
    assert!(events(&output, "note").is_empty(), "{}", text(&output.stderr));
}

#[test]
fn an_api_server_that_is_away_is_said_once_and_waited_for() {
    let place = Place::new();
    let child = place.submission(&[]);
    place.watched(RUN);
    let asked = place.server.world().requests.len();
    place.server.world().away = true;
    place.server.drop_streams();
    place.server.until("some tries", |world| world.requests.len() >= asked + 3);
    for stage in ["ingest", "silver"] {
        place.server.set_pod(&job(stage, 1), "terminated");
    }
    place.succeed(RUN);
    place.server.world().away = false;
    let output = ok(child.wait_with_output().unwrap());
    let notes = events(&output, "note");
    assert_eq!(notes.len(), 1, "{}", text(&output.stderr));
    assert!(text_of(&notes[0], "message").contains("it is asked again until --timeout"), "{}", notes[0]);
}

#[test]
fn logs_that_may_not_be_read_are_said_once_and_the_wait_goes_on() {
    let place = Place::new();
    let child = place.submission(&[]);
    place.watched(RUN);
    place.server.world().refused = Some(("/log", 403, "Forbidden", "pods/log is forbidden"));
    for stage in ["ingest", "silver"] {
        place.server.set_pod(&job(stage, 1), "terminated");
    }
    place.succeed(RUN);
    let output = ok(child.wait_with_output().unwrap());
    let notes = events(&output, "note");
    assert_eq!(notes.len(), 1, "{}", text(&output.stderr));
    assert_eq!(notes[0]["message"], "the log of ingest, attempt 1, cannot be read (pods/log is forbidden); the run goes on");
}
