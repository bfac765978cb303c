//! What a definition makes of a Delta table: its creation, the columns and properties that it gets, and whose it is.

use super::{DeltaTable, Logs, State, Stop};
use crate::evolution::{self, Evolution, Planned};
use crate::iceberg_table::{OWNER, SORT_BY};
use crate::{Result, TableDef, TableError, TableFormat, registry, schema};
use arrow::datatypes::SchemaRef;
use chrono::Utc;
use delta_commit::{Change, Decision, Metadata};
use lakehouse_storage::{CatalogDb, LayerStore};
use uuid::Uuid;

impl DeltaTable {
    pub(crate) async fn ensure(logs: &Logs, db: &CatalogDb, layer: &LayerStore, definition: &TableDef) -> Result<Self> {
        let this = Self::open(logs, db, layer, &definition.table)?;
        if this.log.load_opt().await.map_err(this.failed())?.is_none() {
            let metadata = this.first_metadata(definition)?;
            // Another writer may be faster; then its definition is the one to check against.
            this.log.create(delta_commit::protocol_of(&definition.schema), metadata).await.map_err(this.failed())?;
        }
        if this.change(definition, &this.load().await?)?.is_some() {
            let work = this.log.commit(|snapshot| {
                let change = this.state(snapshot).and_then(|state| this.change(definition, &state));
                let decided = change.map(|change| change.map_or(Decision::Nothing, |change| Decision::Commit(Box::new(change))));
                std::future::ready(decided.map_err(Stop::Table))
            });
            work.await.map_err(|stop| this.stopped(stop))?;
        }
        registry::register(db, TableFormat::Delta, &this.table).await?;
        Ok(this)
    }

    fn first_metadata(&self, definition: &TableDef) -> Result<Metadata> {
        let mut configuration = definition.properties.clone();
        configuration.insert(OWNER.to_owned(), definition.owner.clone());
        if !definition.sort_by.is_empty() {
            configuration.insert(SORT_BY.to_owned(), definition.sort_by.join(","));
        }
        Ok(Metadata {
            id: Uuid::new_v4().to_string(),
            name: Some(self.table.name.clone()),
            format: delta_commit::Format::default(),
            schema_string: self.schema_string(&definition.schema)?,
            partition_columns: definition.partition_by.iter().map(|field| field.column.clone()).collect(),
            configuration,
            created_time: Some(Utc::now().timestamp_millis()),
        })
    }

    fn schema_string(&self, schema: &SchemaRef) -> Result<String> {
        delta_commit::to_schema_string(schema).map_err(|reason| TableError::Definition { table: self.table.clone(), reason })
    }

    /// What the definition makes of the table; nothing is written.
    pub(crate) async fn evolution(&self, definition: &TableDef) -> Result<Evolution> {
        let state = self.load().await?;
        Ok(self.planned(definition, &state)?.shown(state.owner(), definition))
    }

    pub(crate) async fn ensure_fits(&self, definition: &TableDef) -> Result<()> {
        self.change(definition, &self.load().await?).map(drop)
    }

    fn planned(&self, definition: &TableDef, state: &State) -> Result<Planned> {
        // Types that no table can hold are a fault of the definition, whatever the table is.
        schema::to_iceberg(definition)?;
        let spec = self.spec(state)?;
        let existing = schema::existing(TableFormat::Delta, &self.table, &state.schema, spec.fields(), state.sort_by(), Vec::new())?;
        Ok(evolution::plan(definition, &existing))
    }

    /// The metadata that the definition asks for; none when nothing is to change.
    fn change(&self, definition: &TableDef, state: &State) -> Result<Option<Change>> {
        self.check_owner(state, &definition.owner)?;
        let Some(planned) = self.planned(definition, state)?.accepted(&self.table)? else { return Ok(None) };
        let mut metadata = state.snapshot.metadata().clone();
        let after = schema::evolved(definition, &state.schema, state.schema.highest_field_id(), &planned.columns)?;
        let after = self.reader_schema(&after)?;
        metadata.schema_string = self.schema_string(&after)?;
        if definition.sort_by.is_empty() {
            metadata.configuration.remove(SORT_BY);
        } else {
            metadata.configuration.insert(SORT_BY.to_owned(), definition.sort_by.join(","));
        }
        let needed = delta_commit::protocol_of(&after);
        Ok(Some(Change {
            operation: if planned.changes_columns() { "CHANGE COLUMNS" } else { "SET TBLPROPERTIES" }.to_owned(),
            protocol: (needed.min_reader_version > state.snapshot.protocol().min_reader_version).then_some(needed),
            metadata: Some(metadata),
            ..Change::default()
        }))
    }

    pub(crate) fn check_owner(&self, state: &State, asking: &str) -> Result<()> {
        if state.owner() != asking {
            return Err(TableError::OwnedByOther { table: self.table.clone(), owner: state.owner().to_owned(), asking: asking.to_owned() });
        }
        Ok(())
    }
}
