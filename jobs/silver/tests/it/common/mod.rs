//! A lakehouse in a temporary directory, bronze objects put by hand, silver runs on them, and rows to compare.

use arrow::util::display::array_value_to_string;
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::prelude::SessionContext;
use lakehouse_contract::{
    BronzeManifest, BronzeObject, CONTRACT_VERSION, Decode, Interval, IntervalGrain, NoProgress, ResolvedSilver, RunId, RunRef,
    SilverInput, SourceManifest, StageOutcome, StageSpec, StoreLocation, TableRef, Work, default_max_record_bytes, digest_json, keys,
};
use lakehouse_storage::{Layer, Storage, sha256};
use lakehouse_tables::Tables;
use serde_json::Value;

pub const PIPELINE: &str = "shop";

pub struct Lake {
    pub directory: tempfile::TempDir,
    pub storage: Storage,
}

pub fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Day `day` of January 2024.
pub fn day(day: i64) -> Interval {
    let start = time("2024-01-01T00:00:00Z") + TimeDelta::days(day - 1);
    Interval { start, end: start + TimeDelta::days(1) }
}

/// A table of the source `events` from NDJSON.
pub fn table(definition: Value) -> ResolvedSilver {
    table_of(definition, Decode::Ndjson)
}

/// A table of the source `events`.
pub fn table_of(mut definition: Value, decode: Decode) -> ResolvedSilver {
    definition["from"] = "events".into();
    let table = serde_json::from_value(definition).unwrap();
    let definition_digest = digest_json(&(&table, &decode));
    ResolvedSilver { table, decode, max_record_bytes: default_max_record_bytes(), definition_digest }
}

/// Columns id int required, at timestamptz, price decimal(10,2).
pub fn columns() -> Value {
    serde_json::json!([
        {"name": "id", "from": "/id", "type": "int", "required": true},
        {"name": "at", "from": "/at", "type": "timestamptz"},
        {"name": "price", "from": "/price", "type": "decimal(10,2)"},
    ])
}

impl Lake {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::local(directory.path()).unwrap();
        Self { directory, storage }
    }

    pub fn catalog(&self) -> String {
        format!("sqlite://{}/catalog.db", self.directory.path().display())
    }

    /// Puts objects and the manifest of the run `run`.
    pub async fn ingest(&self, run: &str, interval: Interval, objects: &[&[u8]]) {
        let bronze = self.storage.layer(Layer::Bronze).unwrap();
        let id = RunId(run.to_owned());
        let folder = keys::bronze_folder(PIPELINE, "events", &interval.label(IntervalGrain::Daily), &id, 1);
        let mut entries = Vec::new();
        for (number, bytes) in objects.iter().enumerate() {
            let key = format!("{folder}/part-{number:05}.ndjson");
            bronze.put(&key, bytes.to_vec()).await.unwrap();
            entries.push(BronzeObject {
                key,
                bytes: bytes.len() as u64,
                sha256: sha256(bytes),
                blake3: None,
                records: None,
                captured_at: time("2024-02-01T00:00:00Z"),
                metadata: Default::default(),
            });
        }
        let manifest = BronzeManifest {
            contract: CONTRACT_VERSION,
            pipeline: PIPELINE.to_owned(),
            run: id.clone(),
            attempt: 1,
            interval,
            committed_at: Utc::now(),
            sources: vec![SourceManifest { name: "events".to_owned(), objects: entries, cursor: None }],
        };
        let key = keys::bronze_manifest(PIPELINE, &interval, IntervalGrain::Daily, &id);
        bronze.put(&key, serde_json::to_vec(&manifest).unwrap()).await.unwrap();
    }

    pub fn spec(&self, run: &str, interval: Interval, input: SilverInput, tables: Vec<ResolvedSilver>) -> StageSpec {
        StageSpec {
            contract: CONTRACT_VERSION,
            pipeline: PIPELINE.to_owned(),
            owner: format!("local/{PIPELINE}"),
            run: RunRef { name: run.to_owned(), id: RunId(run.to_owned()), created_at: time("2024-03-01T00:00:00.123456789Z") },
            attempt: 1,
            interval,
            grain: IntervalGrain::Daily,
            store: StoreLocation::Local { root: self.directory.path().display().to_string(), landing: None },
            lineage: None,
            work: Work::Silver { input, tables, replay: None },
        }
    }

    pub async fn run(&self, spec: &StageSpec) -> StageOutcome {
        lakehouse_silver::run(spec, &self.storage, &self.catalog(), &NoProgress).await
    }

    /// Ingests objects as `run` and makes the tables from them.
    pub async fn make(&self, run: &str, interval: Interval, objects: &[&[u8]], tables: Vec<ResolvedSilver>) -> StageOutcome {
        self.ingest(run, interval, objects).await;
        self.run(&self.spec(run, interval, SilverInput::Run(RunId(run.to_owned())), tables)).await
    }

    /// Rows of a query over the table `t`, which is `namespace.name`; cells joined by `|`.
    pub async fn query(&self, namespace: &str, name: &str, sql: &str) -> Vec<String> {
        let tables = Tables::connect(self.storage.clone(), &self.catalog()).await.unwrap();
        let table = tables.open_table(&TableRef::new(namespace, name)).await.unwrap().unwrap();
        let context = SessionContext::new();
        context.register_table("t", table.provider(None).await.unwrap()).unwrap();
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        let mut rows = Vec::new();
        for batch in &batches {
            for row in 0..batch.num_rows() {
                let cells = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
                rows.push(cells.collect::<Vec<_>>().join("|"));
            }
        }
        rows
    }

    pub async fn exists(&self, namespace: &str, name: &str) -> bool {
        let tables = Tables::connect(self.storage.clone(), &self.catalog()).await.unwrap();
        tables.open_table(&TableRef::new(namespace, name)).await.unwrap().is_some()
    }
}

/// The message of a failed outcome.
pub fn failure(outcome: &StageOutcome) -> String {
    outcome.failure.as_ref().expect("the stage should have failed").to_string()
}

/// Asserts success and the invariant of every table.
pub fn succeeded(outcome: &StageOutcome) {
    assert_eq!(outcome.failure, None);
    for table in &outcome.tables {
        let sum = table.rows_written + table.rows_quarantined + table.rows_deduplicated + table.rows_dropped;
        assert_eq!(table.rows_read, sum, "{table:?}");
    }
}
