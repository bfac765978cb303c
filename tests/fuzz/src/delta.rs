//! A Delta log that somebody else wrote.

use std::sync::{Arc, LazyLock};

use delta_commit::DeltaLog;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers can be made"));

/// Commits, divided by a zero byte; the last part is the `_last_checkpoint`, where there is more than one.
pub fn log(data: &[u8]) {
    let mut parts: Vec<&[u8]> = data.split(|byte| *byte == 0).collect();
    let checkpoint = if parts.len() > 1 { parts.pop() } else { None };
    RUNTIME.block_on(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let put = |name: String, bytes: &[u8]| {
            let (store, bytes) = (store.clone(), bytes.to_vec());
            async move { store.put(&Path::from(format!("t/_delta_log/{name}")), bytes.into()).await.expect("memory takes all") }
        };
        for (version, part) in parts.iter().enumerate() {
            put(format!("{version:020}.json"), part).await;
        }
        if let Some(bytes) = checkpoint {
            put("_last_checkpoint".into(), bytes).await;
        }
        let log = DeltaLog::new(store.clone(), Path::from("t"), "fuzz");
        let Ok(snapshot) = log.load().await else { return };
        assert!(snapshot.version() < parts.len() as u64);
        let again = DeltaLog::new(store.clone(), Path::from("t"), "fuzz").load_at(snapshot.version()).await.expect("it was there before");
        let paths = |snapshot: &delta_commit::Snapshot| snapshot.files().map(|add| add.path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(&again), paths(&snapshot));
        let _ = delta_commit::from_schema_string(&snapshot.metadata().schema_string);
    });
}
