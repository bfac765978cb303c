//! Trying again what is in quarantine.
//!
//! A replay makes the rows of an interval anew from the bronze objects that its quarantined records came from, with the definition of now; for the
//! other tables of the pipeline nothing happens. The whole interval is made, so that the write mode of the table, its deduplication and its
//! rules mean what they mean in any run; and once a replay is committed, the same run under the same definition makes the same rows.

use std::collections::BTreeSet;

use arrow::{
    array::AsArray,
    datatypes::{DataType, Int64Type},
};
use datafusion::{
    error::DataFusionError,
    prelude::{SessionContext, col, lit},
    scalar::ScalarValue,
};
use lakehouse_contract::{Reason, StageFailure, StageSpec, TableRef, digest_json};
use lakehouse_tables::{Table, Tables};

use crate::{
    failure::table_failure,
    quarantine::{INTERVAL_START, QUARANTINE, Quarantined},
};

/// A record in quarantine: its object, its number in it, and the rule that it broke.
pub(crate) type Aside = (String, u64, String);

/// The records of the run's interval in the quarantine of a table.
///
/// # Errors
/// What the catalog or the store say.
pub(crate) async fn quarantined(spec: &StageSpec, catalog: &Tables, name: &str) -> Result<BTreeSet<Aside>, StageFailure> {
    let table = TableRef::new(QUARANTINE, name);
    let Some(open) = catalog.open_table(&table).await.map_err(|error| table_failure(&error))? else { return Ok(BTreeSet::new()) };
    read(spec, open.as_ref()).await
}

async fn read(spec: &StageSpec, table: &dyn Table) -> Result<BTreeSet<Aside>, StageFailure> {
    let provider = table.provider(None).await.map_err(|error| table_failure(&error))?;
    let start = ScalarValue::TimestampMicrosecond(Some(spec.interval.start.timestamp_micros()), Some("UTC".into()));
    let rows = async {
        let frame = SessionContext::new().read_table(provider)?.filter(col(INTERVAL_START).eq(lit(start)))?;
        let batches = frame.select_columns(&["object", "position", "rule"])?.collect().await?;
        let mut asides = BTreeSet::new();
        for batch in &batches {
            let text = |column: usize| arrow::compute::cast(batch.column(column), &DataType::Utf8);
            let (objects, rules) = (text(0)?, text(2)?);
            let positions = batch.column(1).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let (object, rule) = (objects.as_string::<i32>().value(row), rules.as_string::<i32>().value(row));
                asides.insert((object.to_owned(), positions.value(row).unsigned_abs(), rule.to_owned()));
            }
        }
        Ok::<_, DataFusionError>(asides)
    };
    rows.await.map_err(|error| {
        let text = format!("table {} cannot be read: {}", table.table(), error.strip_backtrace());
        StageFailure::new(Reason::StoreUnavailable, text)
    })
}

/// The records that an audit would put into quarantine.
pub(crate) fn asides(rows: &[Quarantined]) -> BTreeSet<Aside> {
    rows.iter().map(|row| (row.object.to_string(), row.position, row.rule.to_string())).collect()
}

/// Digest of what a replay begins with: the same one again is the same commit, and a run without replay another.
pub(crate) fn digest(input: &str, asides: &BTreeSet<Aside>) -> String {
    digest_json(&("replay", input, asides))
}
