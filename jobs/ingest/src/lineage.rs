//! Where the sources' data comes from and which folders of bronze it goes to.

use lakehouse_contract::{
    IngestSource, Lineage, ResolvedSource, StageSpec, Work, keys,
    lineage::{Dataset, Input, Output},
};
use lakehouse_storage::{Layer, Storage};

/// The lineage of an ingest stage: per source what it asks for, and the folder of bronze with its objects of all runs. Generated data comes
/// from nowhere.
pub(crate) fn of(spec: &StageSpec, storage: &Storage) -> Lineage {
    let (Work::Ingest { sources }, Ok(bronze)) = (&spec.work, storage.layer(Layer::Bronze)) else { return Lineage::default() };
    let manifest = keys::bronze_manifest(&spec.pipeline, &spec.interval, spec.grain, &spec.run.id);
    let inputs = sources.iter().filter_map(|source| Some((source, origin(source, storage)?)));
    let outputs = sources.iter().map(|source| Output {
        report: source.name.clone(),
        dataset: Dataset {
            uri: bronze.uri(&keys::bronze_source(&spec.pipeline, &source.name)),
            version: Some(manifest.clone()),
            ..Dataset::default()
        },
        ..Output::default()
    });
    Lineage {
        inputs: inputs
            .map(|(source, uri)| Input {
                dataset: Dataset { uri, ..Dataset::default() },
                judged_as: vec![source.name.clone()],
                ..Input::default()
            })
            .collect(),
        outputs: outputs.collect(),
        fault: None,
    }
}

/// Location of what a source reads, without a query: that differs from run to run, and the dataset does not.
fn origin(source: &ResolvedSource, storage: &Storage) -> Option<String> {
    match &source.source {
        IngestSource::Http { url, .. } | IngestSource::Scrape { url, .. } => {
            let mut url = url.clone();
            url.set_query(None);
            url.set_fragment(None);
            Some(url.into())
        }
        IngestSource::Files { path, .. } => storage.layer(Layer::Landing).ok().map(|landing| landing.uri(path)),
        IngestSource::Pulse(_) | IngestSource::Clickstream(_) | IngestSource::Sensors(_) => None,
    }
}
