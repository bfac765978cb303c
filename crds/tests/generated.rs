//! The YAML that is checked in is the YAML of the types, and says what users rely on.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

use lakehouse_api::{all_crds, crd_yaml};
use serde_json::Value;

#[test]
fn generated_yaml_and_chart_are_up_to_date() {
    for directory in ["generated", "../charts/lakehouse-operator/files/crds"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let there: BTreeSet<String> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let expected: BTreeSet<String> = all_crds().iter().map(|(file, _)| (*file).to_owned()).collect();
        assert_eq!(there, expected, "files in {directory}: run `make crds`");
        for (file, crd) in all_crds() {
            let text = fs::read_to_string(path.join(file)).unwrap();
            assert!(text == crd_yaml(&crd).unwrap(), "{directory}/{file} is stale: run `make crds`");
        }
    }
}

/// What `lakehouse-api` says in an empty folder, and the names that are there afterwards.
fn program(arguments: &[&str]) -> (Output, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_lakehouse-api")).args(arguments).current_dir(folder.path()).output().unwrap();
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    (done, names)
}

#[test]
fn the_program_writes_where_it_is_told_and_nowhere_else() {
    for arguments in [&["--help"][..], &["--version"], &["--unknown"], &["one", "two"]] {
        let (done, names) = program(arguments);
        let wanted = if matches!(arguments, ["--help" | "--version"]) { 0 } else { 2 };
        assert_eq!((done.status.code(), names), (Some(wanted), Vec::new()), "{arguments:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("new").join("crds");
    let (done, names) = program(&[there.to_str().unwrap()]);
    assert_eq!((done.status.code(), names), (Some(0), Vec::new()));
    assert_eq!(fs::read_dir(&there).unwrap().count(), all_crds().len());
    for (file, crd) in all_crds() {
        assert!(fs::read_to_string(there.join(file)).unwrap() == crd_yaml(&crd).unwrap(), "{file}");
    }
    // A file in its place is named.
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let (done, _) = program(&[file.to_str().unwrap()]);
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).starts_with(&format!("error: {}: ", file.display())));
}

/// Fields without a description, and objects that would swallow unknown fields.
fn gaps(path: &str, schema: &Value, found: &mut Vec<String>) {
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        found.push(format!("{path} takes unknown fields"));
    }
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.{name}");
        if property.get("description").and_then(Value::as_str).is_none_or(str::is_empty) {
            found.push(format!("{path} has no description"));
        }
        gaps(&path, property, found);
    }
    if let Some(items) = schema.get("items") {
        gaps(&format!("{path}[]"), items, found);
    }
}

#[test]
fn every_field_is_explained_and_no_field_is_swallowed() {
    for (file, crd) in all_crds() {
        let version = &crd.spec.versions[0];
        assert!(version.subresources.as_ref().is_some_and(|s| s.status.is_some()), "{file}: status subresource");
        let schema = serde_json::to_value(version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap()).unwrap();
        let mut found = Vec::new();
        gaps("spec", &schema["properties"]["spec"], &mut found);
        gaps("status", &schema["properties"]["status"], &mut found);
        assert!(found.is_empty(), "{file}: {found:#?}");
        assert!(schema["properties"]["status"]["properties"]["conditions"].is_object());
        assert!(schema["properties"]["status"]["properties"]["observedGeneration"].is_object());
    }
}

#[test]
fn kubectl_get_tells_phase_interval_rows_and_age() {
    let columns = |kind: &str| -> Vec<String> {
        let (_, crd) = all_crds().into_iter().find(|(_, crd)| crd.spec.names.kind == kind).unwrap();
        crd.spec.versions[0].additional_printer_columns.iter().flatten().map(|column| column.name.clone()).collect()
    };
    for kind in ["LakehousePipeline", "LakehouseRun"] {
        let columns = columns(kind);
        for wanted in ["Phase", "Interval", "Age"] {
            assert!(columns.iter().any(|c| c == wanted), "{kind} has no column {wanted}: {columns:?}");
        }
        assert!(columns.iter().any(|c| c == "Rows" || c == "Written"), "{kind}: {columns:?}");
    }
    let backfill = columns("LakehouseBackfill");
    for wanted in ["Phase", "Planned", "Succeeded", "Failed", "Remaining", "Estimated End", "Age"] {
        assert!(backfill.iter().any(|c| c == wanted), "{backfill:?}");
    }
}
