//! The keys of tables that rows refer to, in memory while the rows are audited.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, BooleanArray, RecordBatch},
    compute::cast,
    datatypes::DataType,
    error::ArrowError,
    row::{RowConverter, SortField},
};
use datafusion::{catalog::TableProvider, error::DataFusionError, prelude::SessionContext};
use futures::TryStreamExt;
use lakehouse_contract::TableRef;

/// What makes a row of another table the partner of one.
#[derive(Clone, Debug)]
pub(crate) struct Partner {
    /// The other table.
    pub(crate) table: TableRef,
    /// Indices of the columns in the own table.
    pub(crate) own: Vec<usize>,
    /// Names of the columns of the other one, in the same order.
    pub(crate) others: Vec<String>,
    /// Types of them.
    pub(crate) types: Vec<DataType>,
    /// `silver.customers (customer_id → id)`.
    pub(crate) shown: String,
}

/// The keys that each rule of a table is checked against, by the rule's name.
#[derive(Debug, Default)]
pub(crate) struct Partners(HashMap<String, Keys>);

/// The distinct keys of one table, in a form in which equal values have equal bytes.
#[derive(Debug)]
struct Keys {
    converter: RowConverter,
    keys: hashbrown::HashSet<Box<[u8]>, ahash::RandomState>,
}

impl Partners {
    /// Reads the keys of the other table for a rule. Memory grows with the number of distinct keys.
    ///
    /// # Errors
    /// What reading the table says.
    pub(crate) async fn load(&mut self, rule: &str, partner: &Partner, rows: Arc<dyn TableProvider>) -> Result<(), DataFusionError> {
        let converter = RowConverter::new(partner.types.iter().cloned().map(SortField::new).collect())?;
        let mut keys = hashbrown::HashSet::<Box<[u8]>, ahash::RandomState>::default();
        let names: Vec<&str> = partner.others.iter().map(String::as_str).collect();
        let mut stream = SessionContext::new().read_table(rows)?.select_columns(&names)?.execute_stream().await?;
        while let Some(batch) = stream.try_next().await? {
            let columns: Result<Vec<ArrayRef>, ArrowError> =
                batch.columns().iter().zip(&partner.types).map(|(column, kind)| cast(column, kind)).collect();
            for row in &converter.convert_columns(&columns?)? {
                if !keys.contains(row.as_ref()) {
                    keys.insert(row.as_ref().into());
                }
            }
        }
        self.0.insert(rule.to_owned(), Keys { converter, keys });
        Ok(())
    }

    /// Per row: whether its partner is there, or one of its columns is null.
    ///
    /// # Errors
    /// [`ArrowError`] also for a rule whose keys were not loaded.
    pub(crate) fn holds(&self, rule: &str, partner: &Partner, batch: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        let Some(Keys { converter, keys }) = self.0.get(rule) else {
            return Err(ArrowError::InvalidArgumentError(format!("the keys of {} were not read", partner.table)));
        };
        let columns: Vec<ArrayRef> = partner.own.iter().map(|index| batch.column(*index).clone()).collect();
        let rows = converter.convert_columns(&columns)?;
        let holds =
            (0..batch.num_rows()).map(|row| columns.iter().any(|column| column.is_null(row)) || keys.contains(rows.row(row).as_ref()));
        Ok(holds.collect::<Vec<bool>>().into())
    }
}
