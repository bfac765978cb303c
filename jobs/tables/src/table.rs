//! The trait of a table, and what goes into and comes out of a commit.

use crate::winners::Winners;
use crate::{Audit, Candidate, Result, TableFormat};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use futures::stream::{self, BoxStream, StreamExt};
use iceberg::spec::DataFile;
use lakehouse_contract::{Interval, TableRef};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Error of an input stream: whatever its producer has.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A stream of input batches. Columns are matched by name; types are cast only where nothing can be lost.
pub type BatchStream = BoxStream<'static, Result<RecordBatch, BoxError>>;

/// A stream of batches that are in memory already.
pub fn one_stream(batches: Vec<RecordBatch>) -> BatchStream {
    stream::iter(batches.into_iter().map(Ok)).boxed()
}

/// How rows enter a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Adds rows, once per interval and token; another token for the same interval replaces what the earlier one appended.
    Append,
    /// Replaces the rows whose `column` lies in the commit's interval.
    ReplaceInterval {
        /// Column of type date or timestamp. Input rows outside of the interval, or null, are an error.
        column: String,
    },
    /// Keeps one row per key: the one with the highest sequence, among table and input, in whatever order commits come.
    Merge {
        /// Columns that identify a row.
        key: Vec<String>,
        /// Columns that order versions of a row, most significant first; nulls are lowest.
        sequence_by: Vec<String>,
    },
    /// Keeps every version of each key with the time in which it is valid, in whatever order commits come: slowly changing dimensions, type 2.
    /// The table has the columns of [`crate::with_history`], the input has not.
    History {
        /// Columns that identify what has versions.
        key: Vec<String>,
        /// Columns that order the versions; a version is valid from the first of them on, a date or timestamp without nulls.
        sequence_by: Vec<String>,
    },
    /// Replaces the whole table, unless a newer interval that has begun did so: then the input is superseded, so that the table ends as that of
    /// its newest interval in whatever order commits come.
    Overwrite,
}

/// Identity and facts of one commit.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Commit token; a table takes each interval's latest token once.
    pub token: String,
    /// The interval that the rows are for.
    pub interval: Interval,
    /// How the rows enter the table.
    pub mode: WriteMode,
    /// What the rows were computed from, where that is to be known later on.
    pub origin: Option<Origin>,
    /// Further facts (row counts and the like) that come back from [`Table::find_commit`]. Kept with the snapshot until it expires.
    pub summary: BTreeMap<String, String>,
}

/// What the rows of a commit were computed from. Kept as long as the commit is the latest of its interval, also when its snapshot expired.
///
/// With it a later comparison finds out whether the inputs have changed since, see [`Table::intervals`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Digest of the definition that computed them.
    pub definition: String,
    /// First instant of what was read of the inputs.
    pub from: DateTime<Utc>,
    /// First instant after it.
    pub until: DateTime<Utc>,
    /// Of each table that was read, by `namespace.name`: digest of the commits that it had for intervals beginning between these instants.
    pub inputs: BTreeMap<String, String>,
}

/// The latest commit of one interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntervalCommit {
    /// Its token.
    pub token: String,
    /// Whether it replaced the whole table.
    pub overwrote: bool,
    /// What its rows were computed from, if it said so.
    pub origin: Option<Origin>,
}

/// A commit that is in the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Identifier of the snapshot (Iceberg) or generation (Parquet).
    pub snapshot: String,
    /// Input rows that are in the table because of it.
    pub rows_written: u64,
    /// Input rows that lost against a row with the same key, or against a newer interval's table.
    pub rows_superseded: u64,
    /// Data files that it added.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// The facts that were given with the commit; empty once the snapshot expired.
    pub summary: BTreeMap<String, String>,
    /// True when the token was in the table before this call.
    pub already: bool,
}

/// Data files that are written and not yet published, or the rows of a merge. Made by [`Table::stage`] for one [`Table::commit`].
///
/// Staged files that are not committed are garbage which maintenance removes; no reader ever sees them.
#[derive(Debug)]
pub struct Staged {
    pub(crate) content: StagedContent,
    pub(crate) rows: u64,
    /// What the files were staged on, where they can be committed on nothing else: the snapshot of the interval's latest commit (Parquet), the
    /// schema (Delta).
    pub(crate) onto: Option<String>,
}

#[derive(Debug)]
pub(crate) enum StagedContent {
    /// Files with their statistics.
    Files(Vec<DataFile>),
    /// The winning row of each key, in the schema of the table, with the number of rows that lost.
    Merge { winners: Winners, superseded: u64 },
}

impl Staged {
    /// Input rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The winning row of each key of a merge; nothing of another mode, whose rows are in files.
    pub fn into_winners(self) -> BatchStream {
        match self.content {
            StagedContent::Files(_) => one_stream(Vec::new()),
            StagedContent::Merge { winners, .. } => winners.into_stream(),
        }
    }

    /// Size of the staged files in bytes; 0 for a merge, whose files are written when it commits.
    pub fn bytes(&self) -> u64 {
        match &self.content {
            StagedContent::Files(files) => files.iter().map(DataFile::file_size_in_bytes).sum(),
            StagedContent::Merge { .. } => 0,
        }
    }
}

/// One table.
#[async_trait]
pub trait Table: Send + Sync + std::fmt::Debug {
    /// Its name.
    fn table(&self) -> &TableRef;

    /// How it is stored.
    fn format(&self) -> TableFormat;

    /// Its columns, in the order and with the types that a reader sees.
    async fn schema(&self) -> Result<SchemaRef>;

    /// The latest commit of every interval, by the interval's start. What the snapshots of a table may have forgotten is still here.
    async fn intervals(&self) -> Result<BTreeMap<DateTime<Utc>, IntervalCommit>>;

    /// The commit with this token, when it is the latest commit of its interval.
    async fn find_commit(&self, token: &str) -> Result<Option<Committed>>;

    /// Writes the rows of `input` as data files (zstd Parquet, partitioned, sorted, with statistics) on all cores, and publishes nothing.
    ///
    /// Every stream is one source of batches; rows of different streams and batches have no order among them. For [`WriteMode::Merge`] and
    /// [`WriteMode::History`] the winning row per key (and version) is kept instead: of a merge on disk where it is more than a share of the
    /// memory, of a history always in memory. After an error no file is left.
    ///
    /// # Errors
    /// [`crate::TableError::Input`] for a missing column, a lossy cast or a null in a required column,
    /// [`crate::TableError::OutsideInterval`], [`crate::TableError::MergeTie`], or an error of the store.
    async fn stage(&self, input: Vec<BatchStream>, commit: &Commit) -> Result<Staged>;

    /// Publishes staged rows atomically, unless the token is in the table already. Safe to repeat after a crash at any point.
    ///
    /// A commit without rows is recorded too, so that a repetition finds it.
    async fn commit(&self, staged: Staged, commit: &Commit) -> Result<Committed>;

    /// Prepares the commit of staged rows in full, so that [`Candidate::provider`] shows the table as it will be, and publishes nothing.
    ///
    /// Waits for the table's lease, which the candidate then holds.
    async fn audit(&self, staged: &Staged, commit: &Commit) -> Result<Audit>;

    /// Publishes a candidate atomically, with the facts that `commit` has by now. None: the table is not any more what the candidate was made
    /// from; nothing was published, and the staged rows are to be audited again.
    async fn publish(&self, candidate: Candidate, commit: &Commit) -> Result<Option<Committed>>;

    /// Gives up a candidate and the rows that were staged for it. An Iceberg candidate stays on its branch, to be looked at, until another
    /// one of its interval takes its place or maintenance ends the branch.
    async fn reject(&self, candidate: Candidate, staged: Staged);

    /// A DataFusion table of the given snapshot or branch, or of the current one, with the current schema, projection and filter pushdown.
    ///
    /// # Errors
    /// [`crate::TableError::Definition`] when there is no such snapshot.
    async fn provider(&self, at: Option<&str>) -> Result<Arc<dyn TableProvider>>;

    /// Identifier of the current snapshot; none before the first commit.
    async fn snapshot(&self) -> Result<Option<String>>;
}
