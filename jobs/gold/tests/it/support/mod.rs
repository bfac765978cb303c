//! A store in a temporary folder with one silver table, and specs of the gold stage.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Decimal128Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, TimeUnit},
};
use chrono::Utc;
use lakehouse_api::pipeline::GoldModel;
use lakehouse_contract::{
    CONTRACT_VERSION, Interval, IntervalGrain, NoProgress, Refresh, ResolvedGold, RunId, RunRef, StageOutcome, StageSpec, StoreLocation,
    TableRef, Work, digest_json,
};
use lakehouse_storage::Storage;
use lakehouse_tables::{Commit, TableDef, TableFormat, Tables, WriteMode, one_stream};

/// A lakehouse in a temporary folder.
pub struct Lake {
    folder: tempfile::TempDir,
    /// Its store.
    pub storage: Storage,
}

/// The day `2024-01-<day>`.
pub fn day(day: u32) -> Interval {
    Interval::parse(IntervalGrain::Daily, &format!("2024-01-{day:02}")).unwrap()
}

/// A model that replaces its interval by `day`.
pub fn model(name: &str, sql: &str) -> GoldModel {
    serde_json::from_value(serde_json::json!({"name": name, "write": {"replaceInterval": {"column": "day"}}, "sql": sql})).unwrap()
}

impl Lake {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::local(folder.path()).unwrap();
        Self { folder, storage }
    }

    pub fn uri(&self) -> String {
        format!("sqlite://{}/catalog.db", self.folder.path().display())
    }

    pub async fn tables(&self) -> Tables {
        Tables::connect(self.storage.clone(), &self.uri()).await.unwrap()
    }

    /// Commits prices = (coin, unscaled decimal(38,16)) of a day into `silver.prices`.
    pub async fn prices(&self, interval: Interval, prices: &[(&str, i128)]) {
        let schema = Arc::new(Schema::new(vec![
            Field::new("coin", DataType::Utf8, false),
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
            Field::new("price", DataType::Decimal128(38, 16), true),
        ]));
        let definition = TableDef {
            declared: lakehouse_tables::Declared::default(),
            table: TableRef::new("silver", "prices"),
            format: TableFormat::Iceberg,
            schema: schema.clone(),
            partition_by: Vec::new(),
            sort_by: Vec::new(),
            bloom_filters: Vec::new(),
            owner: "local/test".to_owned(),
            properties: BTreeMap::new(),
        };
        let at = vec![interval.start.timestamp_micros(); prices.len()];
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(prices.iter().map(|(coin, _)| coin))),
            Arc::new(TimestampMicrosecondArray::from(at).with_timezone("UTC")),
            Arc::new(Decimal128Array::from_iter_values(prices.iter().map(|(_, price)| *price)).with_precision_and_scale(38, 16).unwrap()),
        ];
        let batch = RecordBatch::try_new(schema, columns).unwrap();
        let table = self.tables().await.ensure(&definition).await.unwrap();
        let commit = Commit {
            token: digest_json(&(interval, prices)),
            interval,
            mode: WriteMode::ReplaceInterval { column: "at".to_owned() },
            origin: None,
            summary: BTreeMap::new(),
        };
        let staged = table.stage(vec![one_stream(vec![batch])], &commit).await.unwrap();
        table.commit(staged, &commit).await.unwrap();
    }

    /// Runs models for a day as the run `run`.
    pub async fn run(&self, run: &str, interval: Interval, models: Vec<GoldModel>) -> StageOutcome {
        self.refresh(run, interval, models, None).await
    }

    /// Runs models for a day as the run `run`, and for other days as `refresh` says.
    pub async fn refresh(&self, run: &str, interval: Interval, models: Vec<GoldModel>, refresh: Option<Refresh>) -> StageOutcome {
        let spec = self.spec(run, interval, models, refresh);
        lakehouse_gold::run(&spec, &self.storage, &self.uri(), &NoProgress).await
    }

    pub fn spec(&self, run: &str, interval: Interval, models: Vec<GoldModel>, refresh: Option<Refresh>) -> StageSpec {
        let models = models
            .into_iter()
            .map(|model| ResolvedGold {
                read_start: Interval::shifted(IntervalGrain::Daily, interval.start, -model.lookback),
                definition_digest: digest_json(&model),
                model,
            })
            .collect();
        StageSpec {
            contract: CONTRACT_VERSION,
            pipeline: "test".to_owned(),
            owner: "local/test".to_owned(),
            run: RunRef { name: run.to_owned(), id: RunId::new(run, "00000000"), created_at: Utc::now() },
            attempt: 1,
            interval,
            grain: IntervalGrain::Daily,
            store: StoreLocation::Local { root: String::new(), landing: None },
            lineage: None,
            work: Work::Gold { models, refresh },
        }
    }

    /// Rows of a query as text, `|` between columns.
    pub async fn rows(&self, sql: &str) -> Vec<String> {
        use futures::TryStreamExt;
        let engine = lakehouse_gold::Engine::new().unwrap();
        let query = engine.parse(sql).unwrap();
        let tables = self.tables().await;
        for table in query.tables() {
            let open = tables.open_table(table).await.unwrap().unwrap();
            engine.register(table, open.provider(None).await.unwrap()).unwrap();
        }
        let batches: Vec<RecordBatch> = engine.stream(&query).await.unwrap().try_collect().await.unwrap();
        let mut rows = Vec::new();
        for batch in &batches {
            for row in 0..batch.num_rows() {
                let cell = |column: &arrow::array::ArrayRef| arrow::util::display::array_value_to_string(column, row).unwrap();
                rows.push(batch.columns().iter().map(cell).collect::<Vec<_>>().join("|"));
            }
        }
        rows
    }

    /// Identifiers of the snapshots of an Iceberg table, the oldest first.
    pub async fn snapshots(&self, table: &str) -> Vec<String> {
        let (namespace, name) = table.split_once('.').unwrap();
        let io = self
            .storage
            .layers()
            .fold(iceberg_commit::ObjectStoreIo::new(), |io, (_, layer)| io.with_store(layer.root_uri(), layer.object_store()));
        let db = self.tables().await.db().clone();
        let catalog = iceberg_commit::SqlCatalog::open(db.pool().clone(), lakehouse_tables::CATALOG_NAME, io).await.unwrap();
        let loaded = catalog.load_table(namespace, name).await.unwrap();
        let mut found: Vec<_> = loaded.metadata().snapshots().map(|s| (s.sequence_number(), s.snapshot_id().to_string())).collect();
        found.sort();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// How many rows a table had at a snapshot.
    pub async fn rows_at(&self, table: &str, snapshot: &str) -> usize {
        let engine = lakehouse_gold::Engine::new().unwrap();
        let query = engine.parse(&format!("SELECT * FROM {table}")).unwrap();
        let name = query.tables().iter().next().unwrap().clone();
        let open = self.tables().await.open_table(&name).await.unwrap().unwrap();
        engine.register(&name, open.provider(Some(snapshot)).await.unwrap()).unwrap();
        use futures::TryStreamExt;
        let batches: Vec<RecordBatch> = engine.stream(&query).await.unwrap().try_collect().await.unwrap();
        batches.iter().map(RecordBatch::num_rows).sum()
    }
}
