//! Which runs are those of a pipeline, without a look at all of them.
//!
//! A pipeline sums up its runs each time that one changes, and a run looks at its siblings before it starts: with thousands of runs in a namespace, to
//! go through all of them for each would take longer than everything else that is done.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kube::ResourceExt;
use kube_runtime::watcher::Event;
use lakehouse_api::LakehouseRun;

/// Names of runs by pipeline; it follows the events of a watch after the cache that it belongs to has taken them.
#[derive(Default)]
pub(super) struct Index(Mutex<Names>);

#[derive(Default)]
struct Names {
    known: HashMap<String, BTreeSet<String>>,
    /// Those of a list that is not whole yet: until then the cache keeps what it had.
    listed: HashMap<String, BTreeSet<String>>,
}

impl Index {
    /// Follows what the cache has just taken.
    pub(super) fn follow(&self, event: &Event<LakehouseRun>) {
        let mut names = self.lock();
        match event {
            Event::Init => names.listed.clear(),
            Event::InitApply(run) => enter(&mut names.listed, run),
            Event::InitDone => names.known = mem::take(&mut names.listed),
            Event::Apply(run) => enter(&mut names.known, run),
            Event::Delete(run) => {
                let name = run.name_any();
                if let Some(of) = names.known.get_mut(&run.spec.pipeline)
                    && of.remove(&name)
                    && of.is_empty()
                {
                    names.known.remove(&run.spec.pipeline);
                }
            }
        }
    }

    /// Names of the runs of a pipeline. One that went and came back as that of another pipeline may be among them.
    pub(super) fn of(&self, pipeline: &str) -> Vec<String> {
        self.lock().known.get(pipeline).into_iter().flatten().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        // A panic elsewhere leaves the maps whole: each change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn enter(names: &mut HashMap<String, BTreeSet<String>>, run: &LakehouseRun) {
    // Most runs are of a pipeline that is known.
    match names.get_mut(&run.spec.pipeline) {
        Some(of) => {
            of.insert(run.name_any());
        }
        None => {
            names.insert(run.spec.pipeline.clone(), BTreeSet::from([run.name_any()]));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(name: &str, pipeline: &str) -> LakehouseRun {
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1",
            "kind": "LakehouseRun",
            "metadata": {"name": name, "namespace": "ns"},
            "spec": {"pipeline": pipeline, "interval": {"start": "2024-01-01T00:00:00Z", "end": "2024-01-02T00:00:00Z"}}
        }))
        .unwrap()
    }

    #[test]
    fn it_has_what_the_cache_has() {
        let index = Index::default();
        for event in [Event::Init, Event::InitApply(run("a", "p")), Event::InitApply(run("b", "q"))] {
            index.follow(&event);
        }
        assert!(index.of("p").is_empty(), "the list is not whole yet, and the cache is empty");
        index.follow(&Event::InitDone);
        index.follow(&Event::Apply(run("c", "p")));
        index.follow(&Event::Apply(run("c", "p")));
        assert_eq!((index.of("p"), index.of("q")), (vec!["a".to_owned(), "c".to_owned()], vec!["b".to_owned()]));
        // Listed anew: what went unseen is forgotten, and not before the end of the list.
        index.follow(&Event::Init);
        index.follow(&Event::InitApply(run("c", "p")));
        assert_eq!(index.of("q"), ["b"]);
        index.follow(&Event::InitDone);
        assert_eq!((index.of("p"), index.of("q")), (vec!["c".to_owned()], vec![]));
        index.follow(&Event::Delete(run("c", "p")));
        assert!(index.lock().known.is_empty(), "a pipeline without runs takes no room");
    }
}
