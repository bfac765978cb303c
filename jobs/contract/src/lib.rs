//! What passes between operator, CLI and jobs. Pure: no I/O, no clock, no cluster.
//!
//! [`resolve`] turns a definition, a Lakehouse and a run into one [`StageSpec`] per stage; a stage reads its spec, does
//! its work and ends with a [`StageReport`]. The operator puts the spec into a ConfigMap and reads the report's short
//! form from the termination message; the laptop runner passes both in memory. So a laptop run and a cluster run
//! cannot differ.

pub mod backfill;
pub mod columns;
pub mod env;
pub mod expectations;
pub mod failure;
pub mod history;
pub mod interval;
pub mod keys;
pub mod lineage;
pub mod manifest;
pub mod names;
pub mod progress;
pub mod report;
pub mod resolve;
pub mod schedule;
pub mod spec;
pub mod template;
pub mod token;
pub mod trace;
pub mod version;

pub use columns::ColumnType;
pub use failure::{ExitCode, Reason, StageFailure};
pub use interval::Interval;
pub use keys::{RunId, SHARED_OWNER, TableRef};
pub use lakehouse_api::common::{IntervalGrain, Stage};
pub use lakehouse_api::run::Refresh;
pub use lineage::{Lineage, LineageEndpoint, LineageSpec};
pub use manifest::{BronzeManifest, BronzeObject, Retired, SourceManifest};
pub use progress::{NoProgress, Progress};
pub use report::{
    ExpectationResult, MaintenanceReport, RuleKind, StageFuture, StageOutcome, StageReport, Staleness, TableReport, Termination, Totals,
};
pub use resolve::{ResolveError, resolve};
pub use spec::{
    Decode, HttpConnection, IngestSource, Rendering, ResolvedGold, ResolvedSilver, ResolvedSource, RunRef, SilverInput, StageSpec,
    StoreLocation, Work, default_max_record_bytes,
};
pub use token::{CommitToken, digest_json};
pub use trace::TraceContext;
pub use version::CONTRACT_VERSION;
