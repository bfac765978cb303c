//! `resolve`: definition + Lakehouse + run → the specs of its stages. Operator and laptop share it.

mod sources;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use lakehouse_api::{
    LakehousePipelineSpec, LakehouseSpec,
    common::{HumanDuration, IntervalGrain, SecretKey, Stage},
    lakehouse::{Buckets, Catalog, Connection, ObjectStore, SqlCatalog},
    lineage::{DEFAULT_RUNNING_INTERVAL, LineageSettings},
    pipeline::{FileFormat, History, Maintenance, SilverTable, Source},
    run::Refresh,
};
use lakehouse_html::RuleError;
use url::Url;

use crate::{
    CONTRACT_VERSION, ColumnType, Interval, LineageEndpoint, LineageSpec, TableRef,
    env::LINEAGE_TOKEN,
    expectations::{self, Fault},
    interval::InvalidInterval,
    keys::RunId,
    schedule::{self, InvalidSchedule},
    spec::{Decode, ResolvedGold, ResolvedSilver, RunRef, SilverInput, StageSpec, StoreLocation, Work, default_max_record_bytes},
    template::{TemplateError, values},
    token::digest_json,
};

/// What is asked for, beside the definition.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Pipeline name.
    pub pipeline: String,
    /// Namespace of pipeline and run; `local` on a laptop.
    pub namespace: String,
    /// Name of the run.
    pub run_name: String,
    /// Its UID.
    pub run_uid: String,
    /// Its creation time.
    pub created_at: DateTime<Utc>,
    /// The interval of data.
    pub interval: Interval,
    /// Stages; empty: all that the definition has.
    pub stages: Vec<Stage>,
    /// Identity of the run whose bronze objects silver reads.
    pub inputs_from: Option<RunId>,
    /// Which intervals gold computes beside that of the run.
    pub refresh: Option<Refresh>,
    /// Parameters of the run, over those of the definition.
    pub parameters: BTreeMap<String, String>,
    /// Where data lives.
    pub store: StoreLocation,
}

/// Why a definition cannot be resolved; the field is the manifest's.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The interval does not fit the grain.
    #[error("spec.interval: {0}")]
    Interval(#[from] InvalidInterval),
    /// A connection that the Lakehouse does not have.
    #[error("spec.ingest[{source_name}].{kind}.connection: the Lakehouse has no connection `{connection}`; it has: {known}")]
    UnknownConnection {
        /// Source name.
        source_name: String,
        /// Variant of the source.
        kind: &'static str,
        /// The name that was not found.
        connection: String,
        /// What there is.
        known: String,
    },
    /// An allowed network of a connection that is none.
    #[error("Lakehouse spec.connections[{connection}].allowedNetworks: `{text}` is not a network such as 10.20.0.0/16 or fd00:1::/64")]
    Network {
        /// Name of the connection.
        connection: String,
        /// The text.
        text: String,
    },
    /// A template that cannot be rendered.
    #[error("spec.ingest[{source_name}].{field}: {error}")]
    Template {
        /// Source name.
        source_name: String,
        /// Field within the source.
        field: String,
        /// What is wrong.
        error: TemplateError,
    },
    /// Base URL and path make no URL.
    #[error("spec.ingest[{source_name}].{kind}.path: `{text}` is not a URL: {error}")]
    Url {
        /// Source name.
        source_name: String,
        /// Variant of the source.
        kind: &'static str,
        /// The text.
        text: String,
        /// What is wrong.
        error: url::ParseError,
    },
    /// A selector or an expression that cannot be compiled.
    #[error("spec.ingest[{source_name}].scrape.{error}")]
    Rule {
        /// Source name.
        source_name: String,
        /// The field and what is wrong with it.
        error: RuleError,
    },
    /// A source without a variant; the schema refuses it before.
    #[error("spec.ingest[{0}]: a source needs exactly one of http, pulse, clickstream, sensors, files, scrape")]
    NoSource(String),
    /// A silver table from a source that does not exist.
    #[error("spec.silver[{table}].from: there is no source `{source_name}`")]
    UnknownSource {
        /// Table name.
        table: String,
        /// Source name.
        source_name: String,
    },
    /// A column type that cannot be.
    #[error("spec.silver[{table}].columns[{column}].type: {message}")]
    ColumnType {
        /// Table name.
        table: String,
        /// Column name.
        column: String,
        /// What is wrong.
        message: String,
    },
    /// A column from a field that its source does not have.
    #[error("spec.silver[{table}].columns[{column}].from: {message}")]
    ColumnFrom {
        /// Table name.
        table: String,
        /// Column name.
        column: String,
        /// What is wrong.
        message: String,
    },
    /// A first value that is none of the cursor's type.
    #[error("spec.ingest[{source_name}].http.incremental.initial: `{initial}` is {message}")]
    InitialCursor {
        /// Source name.
        source_name: String,
        /// The value.
        initial: String,
        /// What it is not.
        message: &'static str,
    },
    /// A rule about what does not exist, or cannot have it.
    #[error("spec.{layer}[{table}].expectations[{rule}].{field}: {message}")]
    Expectation {
        /// `silver` or `gold`.
        layer: String,
        /// Table name.
        table: String,
        /// Name of the rule.
        rule: String,
        /// Field within the rule.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// A parameter that the definition does not declare.
    #[error("parameters.{0}: the pipeline declares no such parameter")]
    UnknownParameter(String),
    /// Orphans would be deleted while the attempt that wrote them may still commit them.
    #[error(
        "spec.maintenance.removeOrphans.olderThan: {age} is not more than {stage}'s timeout of {timeout}: files that an attempt is about to commit could be deleted"
    )]
    OrphansTooYoung {
        /// The age.
        age: HumanDuration,
        /// A stage that writes tables.
        stage: Stage,
        /// Its timeout.
        timeout: HumanDuration,
    },
    /// Events that come more slowly than a job may take.
    #[error(
        "spec.ingest[{source_name}].clickstream: {events} events at {rate} a second take {seconds} s, and the timeout of ingest is {timeout} (jobs.timeout)"
    )]
    TooSlow {
        /// Source name.
        source_name: String,
        /// Events of an interval.
        events: i64,
        /// Events a second.
        rate: i64,
        /// The seconds that they take.
        seconds: i64,
        /// The timeout.
        timeout: HumanDuration,
    },
    /// The endpoint of lineage events is no URL.
    #[error("Lakehouse spec.lineage.http.url: `{text}` is not a URL: {error}")]
    LineageUrl {
        /// The text.
        text: String,
        /// What is wrong.
        error: url::ParseError,
    },
    /// A schedule without times.
    #[error(transparent)]
    Schedule(#[from] InvalidSchedule),
    /// A stage that the definition has nothing for.
    #[error("stages: the pipeline has no {0} stage")]
    NoSuchStage(Stage),
}

/// The specs of the stages of one run, in the order of execution.
///
/// # Errors
/// [`ResolveError`], which names the field at fault.
pub fn resolve(definition: &LakehousePipelineSpec, lakehouse: &LakehouseSpec, request: &Request) -> Result<Vec<StageSpec>, ResolveError> {
    let grain = definition.interval;
    let interval = request.interval.aligned(grain)?;
    let stages = stages(definition, &request.stages)?;
    let maintenance = maintenance(definition)?;
    let values = values(&interval, grain, &parameters(definition, request)?);
    let run =
        RunRef { name: request.run_name.clone(), id: RunId::new(&request.run_name, &request.run_uid), created_at: request.created_at };
    let lineage = lakehouse.lineage.as_ref().map(|settings| lineage(settings, &request.namespace)).transpose()?;
    let mut specs = Vec::with_capacity(stages.len());
    for stage in &stages {
        let work = match stage {
            Stage::Ingest => Work::Ingest { sources: sources::resolved(definition, lakehouse, &values)? },
            Stage::Silver => Work::Silver {
                input: match &request.inputs_from {
                    Some(id) => SilverInput::Run(id.clone()),
                    None if stages.contains(&Stage::Ingest) => SilverInput::Run(run.id.clone()),
                    None => SilverInput::Newest,
                },
                tables: resolve_silver(definition)?,
                replay: None,
            },
            Stage::Gold => Work::Gold { models: resolve_gold(definition, grain, &interval)?, refresh: request.refresh },
            Stage::Maintenance => Work::Maintenance { tables: tables(definition), settings: maintenance.cloned().unwrap_or_default() },
        };
        specs.push(StageSpec {
            contract: CONTRACT_VERSION,
            pipeline: request.pipeline.clone(),
            owner: format!("{}/{}", request.namespace, request.pipeline),
            run: run.clone(),
            attempt: 1,
            interval,
            grain,
            store: request.store.clone(),
            lineage: lineage.clone(),
            work,
        });
    }
    Ok(specs)
}

/// Checks all of a definition that does not depend on a run: its schedule has times, and every stage resolves for the last complete interval.
///
/// # Errors
/// As [`resolve`].
pub fn check(
    pipeline: &str,
    definition: &LakehousePipelineSpec,
    lakehouse: &LakehouseSpec,
    now: DateTime<Utc>,
) -> Result<(), ResolveError> {
    schedule::check(definition)?;
    let request = Request {
        pipeline: pipeline.to_owned(),
        namespace: "check".to_owned(),
        run_name: pipeline.to_owned(),
        run_uid: String::new(),
        created_at: now,
        interval: Interval::last_complete(definition.interval, now),
        stages: Vec::new(),
        inputs_from: None,
        refresh: None,
        parameters: BTreeMap::new(),
        store: StoreLocation::Local { root: String::new(), landing: None },
    };
    resolve(definition, lakehouse, &request).map(drop)
}

/// As [`check`], of all that does not depend on a Lakehouse: connections that the definition names are taken to be there.
///
/// # Errors
/// As [`resolve`].
pub fn check_alone(pipeline: &str, definition: &LakehousePipelineSpec, now: DateTime<Utc>) -> Result<(), ResolveError> {
    let connection = |source: &Source| {
        let http = source.http.as_ref().map(|http| &http.connection);
        let name = http.or_else(|| source.scrape.as_ref().map(|scrape| &scrape.connection))?.clone();
        Some(Connection {
            name,
            base_url: "https://host.invalid".to_owned(),
            authorization_secret: None,
            archive: None,
            allowed_networks: Vec::new(),
            resource_hosts: Vec::new(),
        })
    };
    let secret = || SecretKey { name: String::new(), key: String::new() };
    let any = LakehouseSpec {
        object_store: ObjectStore { endpoint: None, region: String::new(), credentials_secret: String::new() },
        buckets: Buckets::default(),
        catalog: Catalog { sql: SqlCatalog { uri_secret: secret() } },
        connections: definition.ingest.iter().filter_map(connection).collect(),
        lineage: None,
    };
    check(pipeline, definition, &any, now)
}

/// Whether the definition has a source that cannot be asked for an interval which has been over for long: `history: none`, on a connection without
/// an archive.
pub fn knows_only_now(definition: &LakehousePipelineSpec, lakehouse: &LakehouseSpec) -> bool {
    let archived = |name: &str| lakehouse.connections.iter().any(|connection| connection.name == name && connection.archive.is_some());
    definition.ingest.iter().any(|source| {
        let http = source.http.as_ref().map(|http| (http.history, &http.connection));
        let asked = http.or_else(|| source.scrape.as_ref().map(|scrape| (scrape.history, &scrape.connection)));
        asked.is_some_and(|(history, connection)| history == History::None && !archived(connection))
    })
}

/// The stages that the definition has something for, in order; `wanted` empty means those of [`Stage::DEFAULT`].
///
/// # Errors
/// [`ResolveError::NoSuchStage`].
pub fn stages(definition: &LakehousePipelineSpec, wanted: &[Stage]) -> Result<Vec<Stage>, ResolveError> {
    let has = |stage: &Stage| match stage {
        Stage::Ingest => true,
        Stage::Silver => !definition.silver.is_empty(),
        Stage::Gold => !definition.gold.is_empty(),
        Stage::Maintenance => definition.maintenance.is_some(),
    };
    if let Some(missing) = wanted.iter().find(|stage| !has(stage)) {
        return Err(ResolveError::NoSuchStage(*missing));
    }
    let wanted = if wanted.is_empty() { &Stage::DEFAULT[..] } else { wanted };
    Ok(Stage::ALL.into_iter().filter(|s| has(s) && wanted.contains(s)).collect())
}

/// Where lineage goes, for runs of a namespace.
fn lineage(settings: &LineageSettings, namespace: &str) -> Result<LineageSpec, ResolveError> {
    let endpoint = |http: &lakehouse_api::lineage::LineageEndpoint| {
        let url = Url::parse(&http.url).map_err(|error| ResolveError::LineageUrl { text: http.url.clone(), error })?;
        let token_env = http.authorization_secret.is_some().then(|| LINEAGE_TOKEN.to_owned());
        Ok::<_, ResolveError>(LineageEndpoint { url, token_env, timeout_seconds: http.timeout.0.as_secs().max(1) })
    };
    Ok(LineageSpec {
        namespace: settings.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
        http: settings.http.as_ref().map(endpoint).transpose()?,
        file: None,
        running_seconds: settings.running_interval.unwrap_or(DEFAULT_RUNNING_INTERVAL).0.as_secs().max(1),
    })
}

/// The settings of maintenance, checked against the time that a write may take.
fn maintenance(definition: &LakehousePipelineSpec) -> Result<Option<&Maintenance>, ResolveError> {
    let Some(maintenance) = &definition.maintenance else { return Ok(None) };
    let jobs = definition.jobs.clone().unwrap_or_default();
    let age = maintenance.remove_orphans.older_than;
    for stage in [Stage::Silver, Stage::Gold, Stage::Maintenance] {
        let timeout = jobs.effective(stage).timeout;
        if maintenance.remove_orphans.enabled && age <= timeout {
            return Err(ResolveError::OrphansTooYoung { age, stage, timeout });
        }
    }
    Ok(Some(maintenance))
}

/// All tables that runs of the definition write to, that of the results of rules among them, which they share with other pipelines.
fn tables(definition: &LakehousePipelineSpec) -> Vec<TableRef> {
    let silver = definition.silver.iter().flat_map(|table| ["silver", "quarantine"].map(|namespace| TableRef::new(namespace, &table.name)));
    let rules = !definition.silver.is_empty() || definition.gold.iter().any(|model| !model.expectations.is_empty());
    let results = rules.then(|| TableRef::new("quality", "results"));
    silver.chain(results).chain(definition.gold.iter().map(|model| TableRef::new("gold", &model.name))).collect()
}

fn parameters(definition: &LakehousePipelineSpec, request: &Request) -> Result<BTreeMap<String, String>, ResolveError> {
    let mut parameters = definition.parameters.clone();
    for (name, value) in &request.parameters {
        if parameters.insert(name.clone(), value.clone()).is_none() {
            return Err(ResolveError::UnknownParameter(name.clone()));
        }
    }
    Ok(parameters)
}

/// How the objects of a source become records.
pub fn decode(source: &Source) -> Decode {
    let records = |records: &Option<String>| Decode::Json { records: records.clone().unwrap_or_default() };
    match (&source.http, &source.files, &source.scrape) {
        (Some(http), ..) => records(&http.records),
        (None, Some(files), _) => match files.format {
            FileFormat::Json => records(&files.records),
            FileFormat::Ndjson => Decode::Ndjson,
            FileFormat::Csv => Decode::Csv,
            FileFormat::Parquet => Decode::Parquet,
        },
        (None, None, Some(scrape)) => Decode::Html { records: scrape.records.clone(), fields: scrape.fields.clone() },
        (None, None, None) => Decode::Ndjson,
    }
}

fn resolve_silver(definition: &LakehousePipelineSpec) -> Result<Vec<ResolvedSilver>, ResolveError> {
    let mut tables = Vec::with_capacity(definition.silver.len());
    for table in &definition.silver {
        let source = definition
            .ingest
            .iter()
            .find(|s| s.name == table.from)
            .ok_or_else(|| ResolveError::UnknownSource { table: table.name.clone(), source_name: table.from.clone() })?;
        for column in &table.columns {
            column.type_.parse::<ColumnType>().map_err(|message| ResolveError::ColumnType {
                table: table.name.clone(),
                column: column.name.clone(),
                message,
            })?;
        }
        let decode = decode(source);
        check_origins(table, &decode)?;
        let max_record_bytes = source.files.as_ref().map_or(default_max_record_bytes(), |files| files.max_record_bytes.unsigned_abs());
        let definition_digest = digest_json(&(rows_of(table), &decode, max_record_bytes));
        tables.push(ResolvedSilver { table: table.clone(), decode, max_record_bytes, definition_digest });
    }
    expectations::check(&definition.silver)?;
    Ok(tables)
}

impl From<Fault> for ResolveError {
    fn from(Fault { table, rule, field, message }: Fault) -> Self {
        let (layer, table) = table.split_once('.').unwrap_or(("silver", &table));
        Self::Expectation { layer: layer.to_owned(), table: table.to_owned(), rule, field, message }
    }
}

/// The columns of a table from pages name fields that its source has, and of the page what is known.
fn check_origins(table: &SilverTable, decode: &Decode) -> Result<(), ResolveError> {
    let Decode::Html { fields, .. } = decode else { return Ok(()) };
    for column in &table.columns {
        let from = column.from.as_str();
        let message = if let Some(pointer) = from.strip_prefix('/') {
            // An element of a list is `/NAME/0`.
            let name = pointer.split('/').next().unwrap_or_default();
            let known = || fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", ");
            (!fields.iter().any(|field| field.name == name))
                .then(|| format!("source `{}` has no field `{name}`; it has: {}", table.from, known()))
        } else if from.starts_with("$document") && !matches!(from, "$document/url" | "$document/charset") {
            Some(format!("`{from}`: of a page there is $document/url and $document/charset"))
        } else {
            None
        };
        if let Some(message) = message {
            return Err(ResolveError::ColumnFrom { table: table.name.clone(), column: column.name.clone(), message });
        }
    }
    Ok(())
}

/// The part of a definition that decides the rows: how an existing table becomes the defined one is not.
fn rows_of(table: &SilverTable) -> SilverTable {
    let mut table = table.clone();
    table.table.dropped_columns.clear();
    for column in &mut table.columns {
        column.renamed_from = None;
    }
    table
}

fn resolve_gold(definition: &LakehousePipelineSpec, grain: IntervalGrain, interval: &Interval) -> Result<Vec<ResolvedGold>, ResolveError> {
    expectations::check_models(&definition.gold)?;
    let resolved = |model: &lakehouse_api::pipeline::GoldModel| {
        // Tests say what the query should do and change nothing of what it does.
        let model = lakehouse_api::pipeline::GoldModel { tests: Vec::new(), ..model.clone() };
        let mut rows = lakehouse_api::pipeline::GoldModel { renamed_columns: BTreeMap::new(), ..model.clone() };
        rows.table.dropped_columns.clear();
        ResolvedGold { read_start: Interval::shifted(grain, interval.start, -model.lookback), definition_digest: digest_json(&rows), model }
    };
    Ok(definition.gold.iter().map(resolved).collect())
}
