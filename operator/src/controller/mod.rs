//! Thin shells around [`crate::plan`] and [`crate::build`]: observe, decide, apply. One controller per kind and namespace.

mod backfill;
mod cache;
mod error;
mod events;
mod index;
mod lakehouse;
mod pipeline;
mod run;
mod watched;
mod written;

use std::{
    collections::BTreeSet,
    fmt::Debug,
    hash::Hash,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::{
    Stream, StreamExt,
    channel::mpsc::{UnboundedSender, unbounded},
    future::ready,
};
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, Client, Resource, ResourceExt};
use kube_runtime::{
    Controller, WatchStreamExt,
    controller::{Action, Config as ControllerConfig},
    reflector::{self, ObjectRef, Store},
    watcher,
};
use lakehouse_api::{Lakehouse, LakehouseBackfill, LakehousePipeline, LakehouseRun};
use lakehouse_contract::names::BACKFILL_LABEL;
use serde::{Serialize, de::DeserializeOwned};

pub use error::{Error, Result};

use crate::{
    Config, JobConfig, conditions, names,
    plan::backfill::is_finished,
    runtime::{Telling, health::Health, metrics::Caches, shutdown::Shutdown},
};
use events::Events;
use index::Index;
use run::{Claims, Looks};
use watched::watched;
use written::Written;

/// After an error: when the object is looked at again, if nothing triggers it before.
const AFTER_ERROR: Duration = Duration::from_secs(10);

/// When an object is looked at again that came before the caches were filled.
const UNTIL_FILLED: Duration = Duration::from_millis(200);

/// What the controllers of one namespace share.
pub(crate) struct Context {
    client: Client,
    namespace: String,
    jobs: JobConfig,
    events: Events,
    claims: Claims,
    looks: Looks,
    telling: Telling,
    /// All runs of the namespace.
    runs: Store<LakehouseRun>,
    /// Their names, by pipeline.
    index: Arc<Index>,
    /// All pipelines of the namespace.
    pipelines: Store<LakehousePipeline>,
    /// Statuses of pipelines that were just written.
    written: Written<LakehousePipeline>,
    /// All Lakehouses of the namespace.
    lakehouses: Store<Lakehouse>,
    /// All Jobs of the namespace that the operator made.
    own_jobs: Store<Job>,
    /// All backfills of the namespace; that of their controller.
    backfills: OnceLock<Store<LakehouseBackfill>>,
    /// Pipelines to look at because one of their backfills ended: its runs may go now.
    backfilled: UnboundedSender<ObjectRef<LakehousePipeline>>,
    /// Whether the caches hold what was there when the operator started.
    filled: AtomicBool,
}

impl Context {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Whether the caches may be asked; who may not comes back after [`UNTIL_FILLED`].
    ///
    /// Nobody waits for a cache inside a reconciliation: `Store::wait_until_ready` wakes only the last of several waiters, and the others
    /// would keep their places in the controller for ever.
    fn filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    fn backfills(&self) -> Vec<Arc<LakehouseBackfill>> {
        self.backfills.get().map(Store::state).unwrap_or_default()
    }

    /// Names of the backfills whose outcome is not known.
    fn unfinished_backfills(&self) -> BTreeSet<String> {
        let unfinished = |backfill: &&Arc<LakehouseBackfill>| !backfill.status.as_ref().is_some_and(is_finished);
        self.backfills().iter().filter(unfinished).map(|backfill| backfill.name_any()).collect()
    }

    /// Names of the ControllerRevisions that unfinished backfills of a pipeline execute.
    fn definitions_of_backfills(&self, pipeline: &str) -> Vec<String> {
        let backfills = self.backfills();
        let of = backfills.iter().filter(|backfill| backfill.spec.pipeline == pipeline).filter_map(|backfill| backfill.status.as_ref());
        of.filter(|status| !is_finished(status)).filter_map(|status| status.definition.clone()).collect()
    }

    /// The runs of a pipeline, as the cache has them.
    fn runs_of(&self, pipeline: &str) -> Vec<Arc<LakehouseRun>> {
        let names = self.index.of(pipeline).into_iter();
        let runs = names.filter_map(|name| self.runs.get(&ObjectRef::new(&name).within(&self.namespace)));
        runs.filter(|run| run.spec.pipeline == pipeline).collect()
    }

    /// A Lakehouse as the cache has it, for what is looked at again when it changes; one that is not there yet is asked for.
    async fn lakehouse(&self, name: &str) -> Result<Option<Arc<Lakehouse>>> {
        if let Some(known) = self.lakehouses.get(&ObjectRef::new(name).within(&self.namespace)) {
            return Ok(Some(known));
        }
        // A name may not be empty, and asking for it would fail for ever.
        if name.is_empty() {
            return Ok(None);
        }
        let found = self.api::<Lakehouse>().get_opt(name).await.map_err(Error::api("read Lakehouse", name))?;
        Ok(found.map(Arc::new))
    }
}

/// What follows when the API server says that an object is not there which a watch has told of. If it was deleted, nothing comes of the second
/// look: it is no longer known. But a server that just started says the same of every kind that it does not serve yet.
fn not_there() -> Action {
    Action::requeue(AFTER_ERROR)
}

/// The present, in the whole seconds that the API keeps.
fn now() -> DateTime<Utc> {
    conditions::whole_seconds(Utc::now())
}

/// Writes the status of `object`, which must be as new as it was observed: a conflict is an error of its own.
async fn replace_status<K>(api: &Api<K>, object: &K) -> Result<K>
where
    K: Clone + Debug + DeserializeOwned + Serialize + Resource,
{
    let parameters = kube::api::PostParams { field_manager: Some(names::MANAGER.to_owned()), ..Default::default() };
    let name = object.name_any();
    api.replace_status(&name, &parameters, object).await.map_err(Error::api("write the status of", &name))
}

/// Runs the controllers of one namespace until `shutdown`.
pub async fn run(client: Client, namespace: String, config: &Config, shutdown: Shutdown, health: Arc<Health>, telling: Telling) {
    let (runs, runs_writer) = reflector::store();
    let (own_jobs, jobs_writer) = reflector::store();
    let (known, pipelines_writer) = reflector::store();
    let (known_lakehouses, lakehouses_writer) = reflector::store();
    let (claims, freed) = Claims::new();
    let (backfilled, of_backfill) = unbounded();
    let (events, publisher) = Events::new(client.clone());
    let context = Arc::new(Context {
        events,
        jobs: config.jobs.clone(),
        claims,
        looks: Looks::default(),
        telling,
        runs,
        index: Arc::default(),
        pipelines: known.clone(),
        written: Written::default(),
        lakehouses: known_lakehouses.clone(),
        own_jobs,
        backfills: OnceLock::new(),
        backfilled,
        filled: AtomicBool::new(false),
        client,
        namespace,
    });
    let every = watcher::Config::default();
    let made_here = every.clone().labels(&format!("{}={}", names::MANAGED_BY, names::MANAGER));
    let settings = ControllerConfig::default().concurrency(config.concurrency);

    // The caches are written before the triggers come out, so that what triggers is what is then seen.
    // One watch and one cache of runs serve them all: with their own they would double what is the largest part of the operator's memory.
    let resync = config.resync.0;
    let runs = watched(context.api::<LakehouseRun>(), every.clone(), resync).modify(cache::of_run);
    let (run_changes, changed_runs) = unbounded();
    let index = Arc::clone(&context.index);
    let runs = reflector::reflector(runs_writer, runs).inspect(move |event| {
        if let Ok(event) = event {
            index.follow(event);
        }
    });
    let own_runs = touched(runs).inspect(move |run| {
        let _ = run_changes.unbounded_send(Changed::of(run));
    });
    let jobs = watched(context.api::<Job>(), made_here, resync).modify(cache::of_job);
    let changed_jobs = touched(reflector::reflector(jobs_writer, jobs));

    let own_lakehouses = reflector::reflector(lakehouses_writer, watched(context.api::<Lakehouse>(), every.clone(), resync));
    let (to_users, of_lakehouse) = unbounded();
    let users = known.clone();
    let own_lakehouses = touched(own_lakehouses.inspect(move |event| {
        let changed = match event {
            Ok(watcher::Event::Apply(lakehouse) | watcher::Event::Delete(lakehouse)) => Some(lakehouse.name_any()),
            // The cache has what was listed from now on, and not before: whatever it is, it may be new.
            Ok(watcher::Event::InitDone) => None,
            _ => return,
        };
        let is_user = |pipeline: &LakehousePipeline| changed.as_ref().is_none_or(|name| pipeline.spec.lakehouse == *name);
        for user in users.state_filter(is_user) {
            // The receiver is gone only when the process ends.
            let _ = to_users.unbounded_send(ObjectRef::from_obj(user.as_ref()));
        }
    }));
    let lakehouses = Controller::for_stream(own_lakehouses.map(Ok), known_lakehouses.clone());
    let lakehouses = lakehouses.with_config(settings.clone()).graceful_shutdown_on(shutdown.clone().wanted()).run(
        |it, context: Arc<Context>| context.telling.metrics.clone().reconciliation("Lakehouse", lakehouse::reconcile(it, context)),
        error::policy,
        Arc::clone(&context),
    );

    let own_pipelines = watched(context.api::<LakehousePipeline>(), every.clone(), resync).modify(cache::of_pipeline);
    let own_pipelines = touched(reflector::reflector(pipelines_writer, own_pipelines));
    let pipelines = Controller::for_stream(own_pipelines.map(Ok), known.clone());
    context.telling.metrics.watch(Caches {
        namespace: context.namespace.clone(),
        runs: context.runs.clone(),
        pipelines: known.clone(),
        lakehouses: known_lakehouses,
    });
    let (to_backfills, of_backfills) = unbounded();
    let of_run = changed_runs.map(move |changed: Changed| {
        if let Some(backfill) = changed.backfill {
            // The receiver is gone only when the process ends.
            let _ = to_backfills.unbounded_send(backfill);
        }
        changed.pipeline
    });
    let pipelines = pipelines
        .reconcile_on(of_lakehouse)
        .reconcile_on(of_run)
        .reconcile_on(of_backfill)
        .with_config(settings.clone())
        .graceful_shutdown_on(shutdown.clone().wanted())
        .run(
            |it, context: Arc<Context>| {
                context.telling.metrics.clone().reconciliation("LakehousePipeline", pipeline::reconcile(it, context))
            },
            error::policy,
            Arc::clone(&context),
        );

    let (all_backfills, backfills_writer) = reflector::store();
    let own_backfills = touched(reflector::reflector(backfills_writer, watched(context.api::<LakehouseBackfill>(), every.clone(), resync)));
    let backfills = Controller::for_stream(own_backfills.map(Ok), all_backfills.clone());
    // Nobody else sets it.
    let _ = context.backfills.set(all_backfills.clone());
    let backfills = backfills.reconcile_on(of_backfills).with_config(settings.clone()).graceful_shutdown_on(shutdown.clone().wanted()).run(
        |it, context: Arc<Context>| context.telling.metrics.clone().reconciliation("LakehouseBackfill", backfill::reconcile(it, context)),
        error::policy,
        Arc::clone(&context),
    );

    let of_job = changed_jobs.filter_map(|job| {
        let name = job.metadata.labels.as_ref().and_then(|labels| labels.get(names::RUN));
        ready(name.map(|name| ObjectRef::new(name).within(job.metadata.namespace.as_deref().unwrap_or_default())))
    });
    let runs = Controller::for_stream(own_runs.map(Ok), context.runs.clone())
        .reconcile_on(of_job)
        .reconcile_on(freed)
        .with_config(settings)
        .graceful_shutdown_on(shutdown.clone().wanted())
        .run(
            |it, context: Arc<Context>| context.telling.metrics.clone().reconciliation("LakehouseRun", run::reconcile(it, context)),
            error::policy,
            Arc::clone(&context),
        );

    let filled = async {
        // A writer that is gone means that the controllers ended.
        if context.runs.wait_until_ready().await.is_ok()
            && context.own_jobs.wait_until_ready().await.is_ok()
            && all_backfills.wait_until_ready().await.is_ok()
        {
            context.filled.store(true, Ordering::Release);
            health.namespace_ready();
            tracing::info!(namespace = context.namespace, "caches are filled");
        }
    };
    let work = async {
        tokio::join!(
            drain("Lakehouse", lakehouses),
            drain("LakehousePipeline", pipelines),
            drain("LakehouseRun", runs),
            drain("LakehouseBackfill", backfills),
            filled
        );
        context.events.close();
    };
    tokio::join!(work, publisher.run());
}

/// Whom a change of a run concerns.
struct Changed {
    pipeline: ObjectRef<LakehousePipeline>,
    backfill: Option<ObjectRef<LakehouseBackfill>>,
}

impl Changed {
    fn of(run: &LakehouseRun) -> Self {
        let namespace = run.metadata.namespace.as_deref().unwrap_or_default();
        Self {
            pipeline: ObjectRef::new(&run.spec.pipeline).within(namespace),
            backfill: run.labels().get(BACKFILL_LABEL).map(|backfill| ObjectRef::new(backfill).within(namespace)),
        }
    }
}

/// Objects that appeared, changed or went, with backoff where the watch fails.
fn touched<K, S>(stream: S) -> impl Stream<Item = K> + Send + 'static
where
    K: Clone + Send + 'static,
    S: Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
{
    stream.default_backoff().touched_objects().filter_map(|item| {
        ready(match item {
            Ok(object) => Some(object),
            Err(error) => {
                tracing::warn!(%error, "watch");
                None
            }
        })
    })
}

/// Runs a controller to its end, logging what fails.
async fn drain<K>(
    kind: &'static str,
    results: impl Stream<Item = std::result::Result<(ObjectRef<K>, Action), kube_runtime::controller::Error<Error, watcher::Error>>>,
) where
    K: Resource,
    K::DynamicType: Debug + Eq + Hash,
{
    results
        .for_each(|result| {
            if let Err(error) = result {
                error::log(kind, &error);
            }
            ready(())
        })
        .await;
}
