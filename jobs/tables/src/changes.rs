//! What a commit changes: which files come and which go, by the write mode, from the state that it will follow.

use crate::history::HistoryRules;
use crate::ledger::{self, Entry};
use crate::live::{Appended, TableFiles};
use crate::merge::{MergePlan, MergeRules};
use crate::replace::IntervalRows;
use crate::table::StagedContent;
use crate::winners::{Winners, share_of_memory};
use crate::writer::{Check, FileLayout, write_streams};
use crate::{BatchStream, Commit, Result, Staged, TableError, WriteMode};
use iceberg::spec::DataFile;
use lakehouse_contract::TableRef;
use std::sync::Arc;

/// The files that come and go.
pub(crate) struct Changes<L> {
    pub(crate) added: Vec<DataFile>,
    pub(crate) removed: Vec<L>,
    /// Locations of files that were written for this attempt alone.
    pub(crate) scratch: Vec<String>,
    /// Input rows that are in the table afterwards.
    pub(crate) written: u64,
    /// Input rows that lost against others.
    pub(crate) superseded: u64,
}

impl<L> Changes<L> {
    fn merge(&mut self, merged: MergePlan<L>, superseded: u64) {
        self.scratch = paths(&merged.added);
        self.removed = merged.removed;
        self.added = merged.added;
        self.written = merged.written;
        self.superseded = superseded + merged.lost;
    }

    /// What the ledger keeps of it.
    pub(crate) fn entry(&self, commit: &Commit, snapshot: String) -> Entry {
        Entry {
            token: commit.token.clone(),
            snapshot,
            mode: ledger::mode_name(&commit.mode).to_owned(),
            rows: self.written,
            superseded: self.superseded,
            files: self.added.len() as u64,
            bytes: self.added.iter().map(DataFile::file_size_in_bytes).sum(),
            origin: commit.origin.clone(),
            processed_at: None,
            erased: 0,
        }
    }
}

/// Writes input as files that no reader sees, or keeps the winning rows of a merge.
pub(crate) async fn stage(layout: Arc<FileLayout>, input: Vec<BatchStream>, commit: &Commit, check: Option<Check>) -> Result<Staged> {
    if let WriteMode::Merge { key, sequence_by } = &commit.mode {
        let rules = MergeRules::new(&layout.table, &layout.arrow, key, sequence_by)?;
        let (winners, superseded, rows) = rules.reduce(input, share_of_memory()).await?;
        if let Some(check) = check {
            for group in 0..winners.groups() {
                winners.load(&layout.table, group, &layout.arrow)?.iter().try_for_each(|batch| check(batch))?;
            }
        }
        return Ok(Staged { content: StagedContent::Merge { winners, superseded }, rows, onto: None });
    }
    if let WriteMode::History { key, sequence_by } = &commit.mode {
        let rules = HistoryRules::new(&layout.table, &layout.arrow, key, sequence_by)?;
        let (winners, superseded, rows) = rules.reduce(input).await?;
        let winners = Winners::Memory(winners);
        if let Some(check) = check {
            winners.load(&layout.table, 0, rules.plain())?.iter().try_for_each(|batch| check(batch))?;
        }
        return Ok(Staged { content: StagedContent::Merge { winners, superseded }, rows, onto: None });
    }
    let inside = match &commit.mode {
        WriteMode::ReplaceInterval { column } => Some(IntervalRows::new(&layout.table, &layout.arrow, column, commit)?.check()),
        _ => None,
    };
    let (files, rows) = write_streams(layout, input, both(inside, check)).await?;
    Ok(Staged { content: StagedContent::Files(files), rows, onto: None })
}

fn both(one: Option<Check>, other: Option<Check>) -> Option<Check> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Arc::new(move |batch| one(batch).and_then(|()| other(batch)))),
        (one, other) => one.or(other),
    }
}

/// What the staged rows change in `files`; `latest` is the commit of the interval that counts so far, and `outdated` as in [`ledger::is_outdated`].
pub(crate) async fn changes<F: TableFiles>(
    files: &F,
    layout: Arc<FileLayout>,
    staged: &Staged,
    commit: &Commit,
    latest: Option<&Entry>,
    outdated: bool,
) -> Result<Changes<F::Live>> {
    let table = layout.table.clone();
    let mut changes = Changes { added: Vec::new(), removed: Vec::new(), scratch: Vec::new(), written: staged.rows, superseded: 0 };
    match (&commit.mode, &staged.content) {
        (WriteMode::Append, StagedContent::Files(added)) => {
            changes.added.clone_from(added);
            if let Some(earlier) = latest {
                let appended = appended_by(&table, files, earlier, commit).await?;
                changes.scratch = paths(&appended.others);
                changes.removed = appended.files;
                changes.added.extend(appended.others);
            }
        }
        (WriteMode::Overwrite, StagedContent::Files(_)) if outdated => {
            (changes.written, changes.superseded) = (0, staged.rows);
        }
        (WriteMode::Overwrite, StagedContent::Files(added)) => {
            changes.added.clone_from(added);
            changes.removed = files.live().await?;
        }
        (WriteMode::ReplaceInterval { column }, StagedContent::Files(added)) => {
            let rows = IntervalRows::new(&table, &layout.arrow, column, commit)?;
            let (removed, kept) = rows.plan(files, layout).await?;
            changes.scratch = paths(&kept);
            changes.removed = removed;
            changes.added = added.iter().cloned().chain(kept).collect();
        }
        (WriteMode::Merge { key, sequence_by }, StagedContent::Merge { winners, superseded }) => {
            let rules = MergeRules::new(&table, &layout.arrow, key, sequence_by)?;
            changes.merge(rules.plan(winners, files, layout, share_of_memory()).await?, *superseded);
        }
        (WriteMode::History { key, sequence_by }, StagedContent::Merge { winners, superseded }) => {
            let rules = HistoryRules::new(&table, &layout.arrow, key, sequence_by)?;
            let input = winners.load(&table, 0, rules.plain())?;
            changes.merge(rules.plan(&input, files, layout).await?, *superseded);
        }
        _ => {
            let reason = format!("rows were staged for another write mode than {}", ledger::mode_name(&commit.mode));
            return Err(TableError::Definition { table, reason });
        }
    }
    Ok(changes)
}

/// The live files with the rows of an earlier append, which must be all there.
async fn appended_by<F: TableFiles>(table: &TableRef, files: &F, earlier: &Entry, commit: &Commit) -> Result<Appended<F::Live>> {
    let appended = files.appended(earlier).await?;
    let expected = earlier.rows.saturating_sub(earlier.erased);
    if earlier.mode != ledger::mode_name(&WriteMode::Append) || appended.rows != expected {
        return Err(TableError::AppendRewritten {
            table: table.clone(),
            interval: ledger::interval_start(commit),
            expected,
            found: appended.rows,
        });
    }
    Ok(appended)
}

fn paths(files: &[DataFile]) -> Vec<String> {
    files.iter().map(|file| file.file_path().to_owned()).collect()
}
