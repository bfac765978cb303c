//! `lakehouse run`: pipelines in this process, with the store and the catalog in a folder.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use chrono::{DateTime, Utc};
use clap::Args;
use lakehouse_api::{LakehousePipeline, LakehouseSpec, lineage::DEFAULT_RUNNING_INTERVAL};
use lakehouse_contract::{
    Interval, IntervalGrain, LineageEndpoint, LineageSpec, Refresh, Stage, StoreLocation, TableRef, TableReport, env, resolve::Request,
};
use lakehouse_shell::open_storage;
use lakehouse_storage::CatalogDb;
use lakehouse_tables::Tables;
use serde_json::json;

use crate::{
    CliError,
    check::{check, faults},
    execute::{Finished, NAMESPACE, Order, Workshop, intervals, request},
    manifests::Bundle,
    place::Local,
    runs::Runs,
    secrets::Secrets,
    stale::shown_stale,
    table::draw,
};

/// Longest time for one lineage event, in seconds.
const LINEAGE_SECONDS: u64 = 10;
/// Longest wait with `--wait`.
pub(super) const LONG_WAIT: Duration = Duration::from_secs(24 * 3_600);

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Manifests. Without a Lakehouse among them, a `lakehouse.yaml` beside the first is read too.
    #[arg(short, long = "file", value_name = "FILE", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    /// Folder for store and catalog; default `.lakehouse`.
    #[arg(long, value_name = "DIR", env = "LAKEHOUSE_LOCAL")]
    local: Option<PathBuf>,
    /// The interval: 2024-01-01, 2024-01-01T05 (hourly), 2024-01 (monthly). Default: the last complete one.
    #[arg(long, value_name = "START", conflicts_with_all = ["from", "to"])]
    interval: Option<String>,
    /// First interval of a range.
    #[arg(long, value_name = "START", requires = "to")]
    from: Option<String>,
    /// Last interval of a range.
    #[arg(long, value_name = "START", requires = "from")]
    to: Option<String>,
    /// Only this stage (ingest, silver, gold or maintenance); may be given several times, or as a list with commas. Default: all but
    /// maintenance.
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    stage: Vec<Stage>,
    /// Value of a parameter of the pipeline.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    param: Vec<(String, String)>,
    /// Only this pipeline of the files.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// File with tokens: lines NAME=value, or YAML with Secrets.
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,
    /// Folder that `files` sources read; default DIR/landing.
    #[arg(long, value_name = "DIR")]
    landing: Option<PathBuf>,
    /// Another base URL for a connection.
    #[arg(long, value_name = "NAME=URL", value_parser = pair)]
    set_connection: Vec<(String, String)>,
    /// Write OpenLineage events to a file, one per line, or post them to the URL of an endpoint, with the token of LAKEHOUSE_LINEAGE_TOKEN if
    /// there is one. They are also kept beside the reports.
    #[arg(long, value_name = "FILE|URL")]
    lineage: Option<String>,
    /// Make a new run even if one with the same definition, interval and parameters has succeeded.
    #[arg(long)]
    again: bool,
    /// Leave stale intervals as they are, and say which they are. Without it those that gold models computed from inputs which have changed
    /// since are computed again at the end.
    #[arg(long, conflicts_with = "full_refresh")]
    no_refresh: bool,
    /// Compute every gold model anew for all intervals that the tables have, the oldest first; nothing else is run.
    #[arg(long, conflicts_with_all = ["interval", "from", "to", "stage"])]
    full_refresh: bool,
    /// Wait for another process that is at work on the interval.
    #[arg(long)]
    wait: bool,
}

/// `NAME=VALUE` as an option takes it.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Validates the files and runs their pipelines, interval by interval; stops at the first failure.
///
/// # Errors
/// [`CliError::Faults`] before anything is written, [`CliError::Stage`], [`CliError::Busy`], [`CliError::Interrupted`].
pub async fn run(arguments: RunArguments) -> Result<(), CliError> {
    let mut bundle = Bundle::read(&arguments.file)?;
    for (name, url) in &arguments.set_connection {
        bundle.set_connection(name, url);
    }
    let found = faults(&bundle, &check(&bundle).await.verdicts);
    if !found.is_empty() {
        return Err(CliError::Faults(found));
    }
    let mut secrets = Secrets::read(arguments.secrets.as_deref(), &mut bundle)?;
    let pipelines = chosen(&bundle, &arguments)?;
    let mut orders = Vec::new();
    for pipeline in &pipelines {
        let lakehouse = bundle.lakehouse_of(pipeline).map_err(CliError::Invalid)?;
        secrets.add_connections(&lakehouse, &bundle);
        lakehouse_shell::conceal(secrets.values());
        if arguments.full_refresh {
            continue;
        }
        let span = arguments.from.as_deref().zip(arguments.to.as_deref());
        for interval in intervals(pipeline.spec.interval, arguments.interval.as_deref(), span)? {
            orders.push((*pipeline, lakehouse.clone(), interval));
        }
    }
    let lineage = arguments.lineage.as_deref().map(lineage).transpose()?;
    let local = Local::create(arguments.local.as_deref())?;
    let landing =
        arguments.landing.as_deref().map(|path| path.canonicalize().map_err(|source| CliError::File { path: path.to_owned(), source }));
    let location = local.location(landing.transpose()?.as_deref());
    let db = CatalogDb::connect(&local.catalog_uri()).await?;
    let workshop =
        Workshop { storage: open_storage(&location)?, catalog_uri: local.catalog_uri(), runs: Runs::open(db.clone()).await?, db, secrets };
    let place = Place { workshop, location, lineage, arguments: &arguments };
    for (pipeline, lakehouse, interval) in &orders {
        let asked = Asked { stages: arguments.stage.clone(), refresh: None, again: arguments.again };
        place.execute(pipeline, lakehouse, *interval, asked).await?;
    }
    for pipeline in pipelines {
        let lakehouse = bundle.lakehouse_of(pipeline).map_err(CliError::Invalid)?;
        if arguments.full_refresh {
            place.refresh_all(pipeline, &lakehouse).await?;
        } else if !pipeline.spec.gold.is_empty() && (arguments.stage.is_empty() || arguments.stage.contains(&Stage::Gold)) {
            place.refresh_stale(pipeline, &lakehouse).await?;
        }
    }
    Ok(())
}

/// Where the command's runs are executed, and how.
struct Place<'a> {
    workshop: Workshop,
    location: StoreLocation,
    lineage: Option<LineageSpec>,
    arguments: &'a RunArguments,
}

/// What is asked of one run beside its interval.
struct Asked {
    stages: Vec<Stage>,
    refresh: Option<Refresh>,
    again: bool,
}

impl Place<'_> {
    async fn execute(
        &self,
        pipeline: &LakehousePipeline,
        lakehouse: &LakehouseSpec,
        interval: Interval,
        asked: Asked,
    ) -> Result<(), CliError> {
        let name = pipeline.metadata.name.clone().unwrap_or_default();
        let order = Order {
            pipeline: &name,
            definition: &pipeline.spec,
            lakehouse,
            request: Request {
                stages: asked.stages,
                refresh: asked.refresh,
                parameters: self.arguments.param.iter().cloned().collect::<BTreeMap<_, _>>(),
                ..request(&name, interval, self.location.clone())
            },
            replay: None,
            again: asked.again,
            lineage: self.lineage.as_ref(),
            wait: if self.arguments.wait { LONG_WAIT } else { Duration::ZERO },
        };
        let mut executing = std::pin::pin!(self.workshop.execute(&order));
        let finished = tokio::select! {
            finished = &mut executing => finished?,
            () = stopped() => {
                // What it did until then is kept; how it ended is said by the next command.
                if let Some(Err(error)) = lakehouse_shell::stop::ended_early(executing).await {
                    return Err(error);
                }
                return Err(CliError::Interrupted);
            }
        };
        tell(&finished);
        Ok(())
    }

    /// Computes the stale intervals of the pipeline's models again, or says which they are.
    async fn refresh_stale(&self, pipeline: &LakehousePipeline, lakehouse: &LakehouseSpec) -> Result<(), CliError> {
        let name = pipeline.metadata.name.as_deref().unwrap_or_default();
        let models: Vec<TableRef> = pipeline.spec.gold.iter().map(|model| TableRef::new("gold", &model.name)).collect();
        let tables = Tables::open(self.workshop.storage.clone(), self.workshop.db.clone()).await?;
        let stale = lakehouse_gold::stale(&tables, &models).await.map_err(|failure| CliError::Invalid(failure.to_string()))?;
        let Some(newest) = stale.values().flatten().max() else { return Ok(()) };
        tell_stale(name, &stale, pipeline.spec.interval, self.arguments.no_refresh);
        if self.arguments.no_refresh {
            return Ok(());
        }
        let newest = Interval::containing(pipeline.spec.interval, *newest);
        self.execute(pipeline, lakehouse, newest, Asked { stages: vec![Stage::Gold], refresh: Some(Refresh::Stale), again: true }).await
    }

    /// Computes the pipeline's models anew for all intervals that its tables have.
    async fn refresh_all(&self, pipeline: &LakehousePipeline, lakehouse: &LakehouseSpec) -> Result<(), CliError> {
        let name = pipeline.metadata.name.as_deref().unwrap_or_default();
        let silver = pipeline.spec.silver.iter().map(|table| TableRef::new("silver", &table.name));
        let gold = pipeline.spec.gold.iter().map(|model| TableRef::new("gold", &model.name));
        let tables = Tables::open(self.workshop.storage.clone(), self.workshop.db.clone()).await?;
        let mut newest = None;
        for table in silver.chain(gold) {
            if let Some(table) = tables.open_table(&table).await? {
                newest = newest.max(table.intervals().await?.into_keys().next_back());
            }
        }
        // The interval says only which run it is.
        let newest =
            newest.ok_or_else(|| CliError::Invalid(format!("pipeline {name}: no interval was run yet, so there is nothing to refresh")))?;
        let newest = Interval::containing(pipeline.spec.interval, newest);
        self.execute(pipeline, lakehouse, newest, Asked { stages: vec![Stage::Gold], refresh: Some(Refresh::Full), again: true }).await
    }
}

/// Says on standard error which intervals are stale: a line per table on a terminal, a JSON line otherwise.
fn tell_stale(pipeline: &str, stale: &BTreeMap<TableRef, Vec<DateTime<Utc>>>, grain: IntervalGrain, left: bool) {
    let labels =
        |starts: &[DateTime<Utc>]| -> Vec<String> { starts.iter().map(|start| Interval::containing(grain, *start).label(grain)).collect() };
    let text = if std::io::stderr().is_terminal() {
        let then = if left { "left as they are (--no-refresh)" } else { "they are computed again" };
        let lines = stale.iter().map(|(table, starts)| format!("{table}: {}: {then}\n", shown_stale(&labels(starts))));
        lines.collect::<String>()
    } else {
        let tables: BTreeMap<String, Vec<String>> = stale.iter().map(|(table, starts)| (table.to_string(), labels(starts))).collect();
        format!("{}\n", json!({"event": "stale", "pipeline": pipeline, "tables": tables, "refresh": !left}))
    };
    // Nobody is left to read what cannot be written.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Where `--lineage` sends events.
fn lineage(text: &str) -> Result<LineageSpec, CliError> {
    let (namespace, running_seconds) = (NAMESPACE.to_owned(), DEFAULT_RUNNING_INTERVAL.0.as_secs());
    if !text.starts_with("http://") && !text.starts_with("https://") {
        let path = std::path::absolute(text).map_err(|source| CliError::File { path: text.into(), source })?;
        return Ok(LineageSpec { namespace, http: None, file: Some(path.display().to_string()), running_seconds });
    }
    let url = text.parse().map_err(|error| CliError::Invalid(format!("--lineage {text}: {error}")))?;
    let http = LineageEndpoint { url, token_env: Some(env::LINEAGE_TOKEN.to_owned()), timeout_seconds: LINEAGE_SECONDS };
    Ok(LineageSpec { namespace, http: Some(http), file: None, running_seconds })
}

/// The pipelines of the files, or the one that was asked for.
fn chosen<'a>(bundle: &'a Bundle, arguments: &RunArguments) -> Result<Vec<&'a LakehousePipeline>, CliError> {
    let all: Vec<&LakehousePipeline> = bundle.pipelines.iter().map(|(_, pipeline)| pipeline).collect();
    let files = || arguments.file.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    if all.is_empty() {
        return Err(CliError::Invalid(format!("{}: there is no LakehousePipeline in it", files())));
    }
    let Some(name) = &arguments.pipeline else { return Ok(all) };
    let names: Vec<&str> = all.iter().filter_map(|pipeline| pipeline.metadata.name.as_deref()).collect();
    let known = names.join(", ");
    match all.iter().find(|pipeline| pipeline.metadata.name.as_ref() == Some(name)) {
        Some(pipeline) => Ok(vec![pipeline]),
        None => Err(CliError::Invalid(format!("{}: there is no LakehousePipeline `{name}` in it, there are: {known}", files()))),
    }
}

/// Resolves at the first SIGINT or SIGTERM.
pub(super) async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let term = async {
        match signal(SignalKind::terminate()) {
            Ok(mut term) => {
                term.recv().await;
            }
            // Without a handler the signal ends the process, as it would anyway.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        result = tokio::signal::ctrl_c() => {
            if result.is_err() {
                std::future::pending::<()>().await;
            }
        }
        () = term => {}
    }
}

/// Says on standard error what became of a run: a table on a terminal, a JSON line otherwise.
fn tell(finished: &Finished) {
    let run = &finished.run;
    let reports = run.stages.iter().filter_map(|record| record.report.as_ref());
    let tables = reports.flat_map(|report| report.tables.iter().map(move |table| (report.stage, table)));
    let text = if std::io::stderr().is_terminal() {
        let note = if finished.already { ": it was complete already, --again makes a new run" } else { "" };
        let (maintained, written): (Vec<_>, Vec<_>) = tables.partition(|(stage, _)| *stage == Stage::Maintenance);
        let mut text = format!("run {}{note}\n", run.id());
        if !written.is_empty() {
            let rows: Vec<Vec<String>> = written.into_iter().map(|(stage, table)| row(stage, table)).collect();
            text.push_str(&draw(&HEADER, &rows));
        }
        if !maintained.is_empty() {
            let rows: Vec<Vec<String>> = maintained.into_iter().map(|(_, table)| maintained_row(table)).collect();
            text.push_str(&draw(&MAINTAINED, &rows));
        }
        text
    } else {
        let tables: Vec<_> = tables.map(|(stage, table)| json!({"stage": stage, "table": table})).collect();
        let line = json!({"event": "run", "run": run.id(), "interval": run.interval, "state": run.state.as_str(),
            "already": finished.already, "tables": tables});
        format!("{line}\n")
    };
    // Nobody is left to read what cannot be written.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

const HEADER: [&str; 8] = ["stage", "table", "read", "written", "quarantined", "deduplicated", "dropped", "snapshot"];

fn row(stage: Stage, table: &TableReport) -> Vec<String> {
    let counts = [table.rows_read, table.rows_written, table.rows_quarantined, table.rows_deduplicated, table.rows_dropped];
    let mut row = vec![stage.to_string(), table.name.clone()];
    row.extend(counts.map(|count| count.to_string()));
    row.push(table.snapshot.clone().unwrap_or_default());
    row
}

const MAINTAINED: [&str; 9] =
    ["table", "files", "became", "bytes", "became", "manifests became", "snapshots expired", "files deleted", "orphans deleted"];

fn maintained_row(table: &TableReport) -> Vec<String> {
    let did = table.maintenance.unwrap_or_default();
    let counts = [
        did.files_before,
        did.files_after,
        did.bytes_before,
        did.bytes_after,
        did.manifests_after,
        did.snapshots_expired,
        did.expired_files_deleted + did.bronze_objects_deleted,
        did.orphans_deleted,
    ];
    std::iter::once(table.name.clone()).chain(counts.map(|count| count.to_string())).collect()
}
