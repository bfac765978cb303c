//! Which releases of operator and jobs work together.
//!
//! Everything of this crate that is serialized carries [`CONTRACT_VERSION`]. Within one version it only grows, by fields that are left out where they
//! say nothing new, so that neighbours of one version understand each other:
//!
//! - A job executes a spec of its version and of the one before. A field that it does not know it **refuses**: it is an instruction, and a
//!   job that passes over one writes other rows than were asked for, and nobody notices.
//! - The operator reads reports of its version and of the one before. A field that it does not know it **ignores**: it is a description of what is done
//!   already. A reason that it does not know it hands on as it is; the report says itself whether another attempt can help.
//! - A bronze manifest is read whatever its age, since bronze is kept for ever; one of a newer version is refused.
//!
//! `tests/vectors/contract-1` holds specs, reports and a manifest as the first release wrote them.

use serde_json::Value;

use crate::{Reason, StageFailure, StageSpec};

/// Version of everything in this crate that is serialized.
pub const CONTRACT_VERSION: u32 = 1;

/// The oldest version of specs that jobs execute and of reports that the operator reads.
pub const OLDEST_CONTRACT: u32 = if CONTRACT_VERSION > 1 { CONTRACT_VERSION - 1 } else { 1 };

/// How another side's version stands to this one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Too old to be understood.
    TooOld,
    /// Understood.
    Near,
    /// Newer than this side.
    Newer,
}

/// How `contract` stands to this side's version.
pub const fn neighbour(contract: u64) -> Neighbour {
    // `u64::from` is not const.
    if contract < OLDEST_CONTRACT as u64 {
        Neighbour::TooOld
    } else if contract > CONTRACT_VERSION as u64 {
        Neighbour::Newer
    } else {
        Neighbour::Near
    }
}

/// The spec of a stage in `text`, which came from `place`.
///
/// # Errors
///
/// [`Reason::InvalidDefinition`]: it is not JSON. [`Reason::IncompatibleVersion`]: the operator that wrote it is of a release that this job does not
/// work with; the message says which of the two to upgrade.
pub fn read_spec(place: &str, text: &str) -> Result<StageSpec, StageFailure> {
    let invalid = |error: serde_json::Error| StageFailure::new(Reason::InvalidDefinition, format!("stage spec {place}: {error}"));
    let document: Value = serde_json::from_str(text).map_err(invalid)?;
    let contract = document.get("contract").and_then(Value::as_u64).unwrap_or_default();
    let other = |what: String, upgrade: &str| {
        StageFailure::new(
            Reason::IncompatibleVersion,
            format!("stage spec {place} {what}: operator and image are of different releases, {upgrade}"),
        )
    };
    match neighbour(contract) {
        Neighbour::Near => {}
        Neighbour::TooOld => {
            let what = format!("has contract version {contract}, this image executes {OLDEST_CONTRACT} to {CONTRACT_VERSION}");
            return Err(other(what, UPGRADE_OPERATOR));
        }
        Neighbour::Newer => {
            let what = format!("has contract version {contract}, this image executes {OLDEST_CONTRACT} to {CONTRACT_VERSION}");
            return Err(other(what, UPGRADE_IMAGE));
        }
    }
    let mut unknown = Vec::new();
    let spec: Result<StageSpec, _> = serde_ignored::deserialize(document, |path| unknown.push(path.to_string()));
    // A variant that is not known, such as a new sort of source, or a field that is missing.
    let spec = spec.map_err(|error| other(format!("cannot be read ({error})"), UPGRADE_IMAGE))?;
    match unknown.as_slice() {
        [] => Ok(spec),
        [one] => Err(other(format!("has the field {one}, which this image does not know"), UPGRADE_IMAGE)),
        [first, ..] => Err(other(format!("has {} fields that this image does not know, such as {first}", unknown.len()), UPGRADE_IMAGE)),
    }
}

const UPGRADE_IMAGE: &str = "the operator's is newer: give this stage the image of the operator's release (`stages` of the chart)";
const UPGRADE_OPERATOR: &str = "the operator's is older: upgrade the operator to the release of this image (`image` of the chart)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BronzeManifest, StageReport, Termination};

    fn vector(name: &str) -> String {
        let path = format!("{}/../../tests/vectors/contract-1/{name}.json", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn refused(document: &Value) -> String {
        let failure = read_spec("/spec/stage.json", &document.to_string()).unwrap_err();
        assert_eq!((failure.reason, failure.reason.retryable()), (Reason::IncompatibleVersion, false), "{failure}");
        failure.message
    }

    #[test]
    fn specs_of_the_first_release_are_executed() {
        for stage in ["ingest", "silver", "gold"] {
            for pipeline in ["it", "shop", "crypto"] {
                let spec = read_spec("it", &vector(&format!("{pipeline}-{stage}"))).unwrap();
                assert_eq!((spec.stage().as_str(), spec.pipeline.as_str()), (stage, pipeline));
            }
        }
    }

    #[test]
    fn reports_of_the_first_release_are_read() {
        for (name, failed) in [("succeeded", false), ("failed", true)] {
            let report: StageReport = serde_json::from_str(&vector(&format!("report-{name}"))).unwrap();
            let short: Termination = serde_json::from_str(&vector(&format!("termination-{name}"))).unwrap();
            assert_eq!((report.failure.is_some(), short.failure.is_some()), (failed, failed));
            // What the short form says now is what it said then.
            assert_eq!(short.totals, report.totals());
            assert_eq!(short, Termination::of(&report, short.report.clone().zip(short.report_digest.clone())));
        }
        let manifest: BronzeManifest = serde_json::from_str(&vector("manifest")).unwrap();
        assert_eq!(manifest.sources[0].objects[0].records, Some(2));
    }

    #[test]
    fn another_version_is_refused_with_what_to_upgrade() {
        let mut spec: Value = serde_json::from_str(&vector("it-silver")).unwrap();
        spec["contract"] = (CONTRACT_VERSION + 1).into();
        assert_eq!(
            refused(&spec),
            "stage spec /spec/stage.json has contract version 2, this image executes 1 to 1: operator and image are of different releases, \
             the operator's is newer: give this stage the image of the operator's release (`stages` of the chart)"
        );
        spec["contract"] = (u64::from(OLDEST_CONTRACT) - 1).into();
        assert!(refused(&spec).contains("the operator's is older: upgrade the operator"));
        spec.as_object_mut().unwrap().remove("contract");
        assert!(refused(&spec).contains("has contract version 0"));
        assert_eq!(read_spec("it", "{").unwrap_err().reason, Reason::InvalidDefinition);
    }

    #[test]
    fn an_instruction_that_is_not_known_is_never_passed_over() {
        let spec: Value = serde_json::from_str(&vector("it-silver")).unwrap();
        let mut deep = spec.clone();
        deep["work"]["silver"]["tables"][0]["table"]["columns"][0]["mask"] = true.into();
        let said = refused(&deep);
        assert!(
            said.contains("has the field work.") && said.contains("tables.0.table.columns.0.mask, which this image does not know"),
            "{said}"
        );
        deep["sampling"] = 2.into();
        assert!(refused(&deep).contains("has 2 fields that this image does not know, such as "));
        let mut source: Value = serde_json::from_str(&vector("it-ingest")).unwrap();
        source["work"]["ingest"]["sources"][0]["source"] = serde_json::json!({"kafka": {}});
        assert!(refused(&source).contains("unknown variant `kafka`"));
    }
}
