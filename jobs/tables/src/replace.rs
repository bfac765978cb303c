//! Replacing the rows of an interval: which files go whole, which are rewritten without the interval's rows.

use crate::live::TableFiles;
use crate::writer::{Check, FileLayout, write_streams};
use crate::{BatchStream, BoxError, Commit, Result, TableError};
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Date32Type, SchemaRef, TimeUnit, TimestampMicrosecondType};
use chrono::SecondsFormat;
use futures::SinkExt;
use futures::channel::mpsc::{Receiver, Sender, channel};
use iceberg::spec::{DataFile, PrimitiveLiteral};
use lakehouse_contract::TableRef;
use std::sync::Arc;

const MICROSECONDS_PER_DAY: i64 = 86_400_000_000;
/// Rows that are handed to the writer at a time.
const PIECE: usize = 8192;

/// The rows of an interval: those whose column lies in `[start, end)`, in microseconds since 1970.
#[derive(Clone, Debug)]
pub(crate) struct IntervalRows {
    table: TableRef,
    column: String,
    index: usize,
    is_date: bool,
    start: i64,
    end: i64,
}

/// Where the rows of one file lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Inside,
    Outside,
    Mixed,
}

impl IntervalRows {
    /// # Errors
    /// [`TableError::Definition`] when the column is absent or no time, or a date column meets an interval that does not consist of days.
    pub(crate) fn new(table: &TableRef, schema: &SchemaRef, column: &str, commit: &Commit) -> Result<Self> {
        let invalid = |reason: String| TableError::Definition { table: table.clone(), reason };
        let index =
            schema.index_of(column).map_err(|_| invalid(format!("replaceInterval names column {column}, which it does not have")))?;
        let is_date = match schema.field(index).data_type() {
            DataType::Date32 => true,
            DataType::Timestamp(TimeUnit::Microsecond, _) => false,
            other => return Err(invalid(format!("replaceInterval needs a date or timestamp, column {column} is {other}"))),
        };
        let (start, end) = (commit.interval.start.timestamp_micros(), commit.interval.end.timestamp_micros());
        if is_date && (start % MICROSECONDS_PER_DAY != 0 || end % MICROSECONDS_PER_DAY != 0) {
            return Err(invalid(format!(
                "replaceInterval by the date column {column} needs intervals of whole days, not [{}, {})",
                commit.interval.start.to_rfc3339_opts(SecondsFormat::AutoSi, true),
                commit.interval.end.to_rfc3339_opts(SecondsFormat::AutoSi, true),
            )));
        }
        Ok(Self { table: table.clone(), column: column.to_owned(), index, is_date, start, end })
    }

    /// A check that every row of the input lies inside.
    pub(crate) fn check(self) -> Check {
        Arc::new(move |batch| {
            let inside = self.inside(batch)?;
            match inside.iter().position(|inside| inside != Some(true)) {
                None => Ok(()),
                Some(row) => {
                    let column = batch.column(self.index);
                    let shown = arrow::util::display::array_value_to_string(column, row).unwrap_or_default();
                    Err(TableError::OutsideInterval {
                        table: self.table.clone(),
                        column: self.column.clone(),
                        value: if column.is_null(row) { "null".to_owned() } else { shown },
                        interval: format!("[{}, {})", show_micros(self.start), show_micros(self.end)).into(),
                    })
                }
            }
        })
    }

    /// Per row whether it lies inside; a null does not.
    fn inside(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let column = batch.column(self.index);
        let place = |micros: Option<i64>| Some(micros.is_some_and(|micros| self.start <= micros && micros < self.end));
        if self.is_date {
            let days = column.as_primitive_opt::<Date32Type>().ok_or_else(|| self.not_a_time(column.data_type()))?;
            return Ok(days.iter().map(|day| place(day.map(|day| i64::from(day) * MICROSECONDS_PER_DAY))).collect());
        }
        let times = column.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| self.not_a_time(column.data_type()))?;
        Ok(times.iter().map(place).collect())
    }

    fn not_a_time(&self, found: &DataType) -> TableError {
        TableError::Input { table: self.table.clone(), column: self.column.clone(), reason: format!("is {found}, not a time") }
    }

    /// Where the rows of a file lie, as far as its statistics prove it.
    fn place(&self, file: &DataFile, field_id: i32) -> Place {
        let nulls = file.null_value_counts().get(&field_id).copied();
        if nulls == Some(file.record_count()) {
            return Place::Outside;
        }
        let bound = |datum: Option<&iceberg::spec::Datum>| match datum?.literal() {
            PrimitiveLiteral::Int(days) if self.is_date => Some(i64::from(*days) * MICROSECONDS_PER_DAY),
            PrimitiveLiteral::Long(micros) if !self.is_date => Some(*micros),
            _ => None,
        };
        let (lower, upper) = (bound(file.lower_bounds().get(&field_id)), bound(file.upper_bounds().get(&field_id)));
        match (lower, upper) {
            (Some(lower), Some(_)) if lower >= self.end => Place::Outside,
            (Some(_), Some(upper)) if upper < self.start => Place::Outside,
            (Some(lower), Some(upper)) if nulls == Some(0) && self.start <= lower && upper < self.end => Place::Inside,
            _ => Place::Mixed,
        }
    }

    /// The files to remove, and the files that hold what stays of them.
    pub(crate) async fn plan<F: TableFiles>(&self, files: &F, layout: Arc<FileLayout>) -> Result<(Vec<F::Live>, Vec<DataFile>)> {
        let field_id = files.field_id(&self.column).unwrap_or_default();
        let (mut removed, mut mixed) = (Vec::new(), Vec::new());
        for live in files.live().await? {
            match self.place(live.as_ref(), field_id) {
                Place::Inside => removed.push(live),
                Place::Outside => {}
                Place::Mixed => mixed.push(live),
            }
        }
        if mixed.is_empty() {
            return Ok((removed, Vec::new()));
        }
        let mut rewrite = Rewrite::start(layout.clone());
        for live in mixed {
            let batches = files.read(live.as_ref(), &layout.arrow).await?;
            let mut parts = Vec::with_capacity(batches.len());
            let mut gone = 0;
            for batch in batches {
                let inside = self.inside(&batch)?;
                gone += inside.true_count();
                parts.push((batch, arrow::compute::not(&inside).map_err(TableError::arrow(&self.table))?));
            }
            if gone == 0 {
                continue;
            }
            for (batch, stays) in parts {
                rewrite.keep(filter_record_batch(&batch, &stays).map_err(TableError::arrow(&self.table))?).await?;
            }
            removed.push(live);
        }
        Ok((removed, rewrite.finish().await?.0))
    }
}

fn show_micros(micros: i64) -> String {
    chrono::DateTime::from_timestamp_micros(micros)
        .map_or_else(|| micros.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// Rows that stay, on their way into new files.
pub(crate) struct Rewrite {
    table: TableRef,
    send: Sender<Result<RecordBatch, BoxError>>,
    writing: tokio::task::JoinHandle<Result<(Vec<DataFile>, u64)>>,
}

impl Rewrite {
    pub(crate) fn start(layout: Arc<FileLayout>) -> Self {
        let (send, receive): (_, Receiver<Result<RecordBatch, BoxError>>) = channel(4);
        let stream: BatchStream = Box::pin(receive);
        Self { table: layout.table.clone(), send, writing: tokio::spawn(write_streams(layout, vec![stream], None)) }
    }

    pub(crate) async fn keep(&mut self, batch: RecordBatch) -> Result<()> {
        // In pieces, so that those on their way are of one or two batches, however large these are.
        for start in (0..batch.num_rows()).step_by(PIECE) {
            let piece = batch.slice(start, PIECE.min(batch.num_rows() - start));
            // A closed channel means that the writer failed; `finish` reports why.
            if self.send.send(Ok(piece)).await.is_err() {
                tracing::debug!(table = %self.table, "the writer of kept rows has ended");
                break;
            }
        }
        Ok(())
    }

    /// The new files and the number of rows in them.
    pub(crate) async fn finish(self) -> Result<(Vec<DataFile>, u64)> {
        drop(self.send);
        self.writing.await.map_err(|error| TableError::Task { table: self.table, reason: error.to_string() })?
    }
}
