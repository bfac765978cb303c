//! Commits that lose their answer, and writers that work against each other.

use super::*;
use crate::{LiveFile, NewTable, ObjectStoreIo, Retention, expirable, files_of_snapshots, live_files, references};
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, NestedField, Operation, PrimitiveType, Schema, SortOrder, Struct, Type,
    UnboundPartitionSpec,
};
use object_store::memory::InMemory;
use sqlx::any::{AnyPoolOptions, install_default_drivers};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

/// What goes wrong around the swap, in order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// The statement never reaches the database.
    NotSent,
    /// The statement is executed and its answer is lost.
    AnswerLost,
}

/// Faults still to come.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<VecDeque<Fault>>);

impl Faults {
    fn take(&self, fault: Fault, catalog: &str) -> Result<()> {
        let mut faults = self.0.lock().expect("no test panics while it holds the lock");
        if faults.front() != Some(&fault) {
            return Ok(());
        }
        faults.pop_front();
        Err(CommitError::Database { catalog: catalog.to_owned(), operation: "commit", reason: format!("{fault:?}") })
    }

    pub(crate) fn before_swap(&self, catalog: &str) -> Result<()> {
        self.take(Fault::NotSent, catalog)
    }

    pub(crate) fn after_swap(&self, catalog: &str) -> Result<()> {
        self.take(Fault::AnswerLost, catalog)
    }
}

struct Fixture {
    catalog: Arc<SqlCatalog>,
    _directory: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    install_default_drivers();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let uri = format!("sqlite://{}/catalog.db?mode=rwc", directory.path().display());
    let pool = AnyPoolOptions::new().max_connections(4).connect(&uri).await.expect("SQLite opens");
    let io = ObjectStoreIo::new().with_store("s3://lake", Arc::new(InMemory::new()));
    let catalog = Arc::new(SqlCatalog::open(pool, "lakehouse", io).await.expect("the catalog opens"));
    let id = NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long));
    let new = NewTable {
        location: "s3://lake/t".to_owned(),
        schema: Schema::builder().with_fields([id.into()]).build().expect("a schema"),
        partitions: UnboundPartitionSpec::builder().build(),
        sort_order: SortOrder::unsorted_order(),
        properties: HashMap::new(),
    };
    catalog.create_table("silver", "t", new).await.expect("the table is created");
    Fixture { catalog, _directory: directory }
}

fn file(path: &str, rows: u64) -> DataFile {
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(path.to_owned())
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .record_count(rows)
        .file_size_in_bytes(10)
        .build()
        .expect("a data file")
}

/// Appends `path` once per token, as a planner must: it looks for its token in the metadata of the attempt.
async fn append(catalog: &SqlCatalog, path: &str) -> Result<Outcome> {
    catalog
        .commit("silver", "t", |attempt: Attempt| async move {
            if attempt.table.metadata().properties().contains_key(path) {
                return Ok(Decision::Nothing);
            }
            let mut plan = Plan::new(Operation::Append);
            plan.added = vec![file(path, 1)];
            plan.properties.insert(path.to_owned(), attempt.snapshot_id.to_string());
            plan.summary.insert(COMMIT_TOKEN.to_owned(), path.to_owned());
            Ok(Decision::Commit(Box::new(plan)))
        })
        .await
}

async fn live(catalog: &SqlCatalog) -> Vec<String> {
    let table = catalog.load_table("silver", "t").await.expect("the table loads");
    let files = live_files(&table).await.expect("its files are listed");
    let mut paths: Vec<String> = files.iter().map(|file| file.file.file_path().to_owned()).collect();
    paths.sort();
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_does_not_commit_twice() {
    let fixture = fixture().await;
    fixture.catalog.faults.0.lock().expect("unlocked").extend([Fault::AnswerLost]);
    let outcome = append(&fixture.catalog, "s3://lake/t/data/a").await.expect("found in the table");
    assert!(matches!(outcome, Outcome::Committed { .. }));
    assert_eq!(live(&fixture.catalog).await, ["s3://lake/t/data/a"]);
    let table = fixture.catalog.load_table("silver", "t").await.expect("loads");
    assert_eq!(table.metadata().snapshots().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_never_sent_is_sent_again() {
    let fixture = fixture().await;
    fixture.catalog.faults.0.lock().expect("unlocked").extend([Fault::NotSent, Fault::AnswerLost]);
    append(&fixture.catalog, "s3://lake/t/data/a").await.expect("the second attempt lands");
    assert_eq!(live(&fixture.catalog).await, ["s3://lake/t/data/a"]);
    assert!(matches!(append(&fixture.catalog, "s3://lake/t/data/a").await, Ok(Outcome::Nothing(_))));
    assert_eq!(live(&fixture.catalog).await, ["s3://lake/t/data/a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_from_old_metadata_changes_nothing() {
    let fixture = fixture().await;
    let old = fixture.catalog.load_table("silver", "t").await.expect("loads");
    append(&fixture.catalog, "s3://lake/t/data/a").await.expect("commits");
    let from = old.metadata_location().expect("has one");
    let swapped = fixture.catalog.swap(&ident("silver", "t"), from, "s3://lake/t/metadata/x").await;
    assert!(matches!(swapped, Ok(false)), "{swapped:?}");
    assert_eq!(live(&fixture.catalog).await, ["s3://lake/t/data/a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commits_keep_every_file_once_while_manifests_are_merged() {
    let fixture = fixture().await;
    let mut expected = Vec::new();
    for number in 0..60 {
        let path = format!("s3://lake/t/data/{number:03}");
        append(&fixture.catalog, &path).await.expect("commits");
        expected.push(path);
    }
    assert_eq!(live(&fixture.catalog).await, expected);
    let table = fixture.catalog.load_table("silver", "t").await.expect("loads");
    let snapshot = table.metadata().current_snapshot().expect("has one");
    assert_eq!(snapshot.summary().additional_properties.get("total-records").map(String::as_str), Some("60"));
    let manifests = table.manifest_list_reader(snapshot).load().await.expect("reads").entries().len();
    assert!(manifests < 30, "{manifests} manifests");
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_takes_exactly_the_named_files_and_keeps_their_history() {
    let fixture = fixture().await;
    for name in ["a", "b", "c"] {
        append(&fixture.catalog, &format!("s3://lake/t/data/{name}")).await.expect("commits");
    }
    let remove = |attempt: Attempt| async move {
        let mut plan = Plan::new(Operation::Overwrite);
        plan.removed = live_files(&attempt.table).await?.into_iter().filter(|live| live.file.file_path().ends_with("/b")).collect();
        plan.added = vec![file("s3://lake/t/data/d", 5)];
        Ok::<_, CommitError>(Decision::Commit(Box::new(plan)))
    };
    let before = fixture.catalog.load_table("silver", "t").await.expect("loads");
    let stale = live_files(&before).await.expect("lists");
    fixture.catalog.commit("silver", "t", remove).await.expect("commits");
    assert_eq!(live(&fixture.catalog).await, ["s3://lake/t/data/a", "s3://lake/t/data/c", "s3://lake/t/data/d"]);
    let table = fixture.catalog.load_table("silver", "t").await.expect("loads");
    let after = live_files(&table).await.expect("lists");
    let added_by = |files: &[LiveFile], name: &str| files.iter().find(|f| f.file.file_path().ends_with(name)).map(|f| f.snapshot_id);
    assert_eq!(added_by(&stale, "/a"), added_by(&after, "/a"));
    let again = |_: Attempt| {
        let removed = stale.iter().filter(|live| live.file.file_path().ends_with("/b")).cloned().collect();
        async move {
            let mut plan = Plan::new(Operation::Overwrite);
            plan.removed = removed;
            Ok::<_, CommitError>(Decision::Commit(Box::new(plan)))
        }
    };
    let refused = fixture.catalog.commit("silver", "t", again).await;
    assert!(matches!(refused, Err(CommitError::NotLive { .. })), "{refused:?}");
}

/// The table with another head of a branch and a tag, as another client may have set them.
fn with_references(catalog: &SqlCatalog, table: &Table, branch: i64, tag: i64) -> Table {
    let mut json = serde_json::to_value(table.metadata()).expect("metadata is JSON");
    json["refs"]["audit"] = serde_json::json!({"snapshot-id": branch, "type": "branch"});
    json["refs"]["v1"] = serde_json::json!({"snapshot-id": tag, "type": "tag"});
    let metadata = serde_json::from_value(json).expect("metadata again");
    catalog.table(table.identifier(), metadata, table.metadata_location().unwrap_or_default().to_owned()).expect("a table")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_branch_or_a_tag_refers_to_never_expires() {
    let fixture = fixture().await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        match append(&fixture.catalog, &format!("s3://lake/t/data/{name}")).await.expect("commits") {
            Outcome::Committed { snapshot_id: Some(id), .. } => ids.push(id),
            other => panic!("{other:?}"),
        }
    }
    let table = fixture.catalog.load_table("silver", "t").await.expect("loads");
    let all = |keep_last| Retention { superseded_before_ms: i64::MAX, keep_last };
    assert_eq!(expirable(&table, all(1), &[]).expect("reads"), ids[..5]);
    assert_eq!(expirable(&table, all(0), &[]).expect("reads"), ids[..5], "the current snapshot never goes");
    assert_eq!(expirable(&table, all(4), &[]).expect("reads"), ids[..2]);
    assert_eq!(expirable(&table, Retention { superseded_before_ms: 0, keep_last: 1 }, &[]).expect("reads"), Vec::<i64>::new());
    let referred = with_references(&fixture.catalog, &table, ids[2], ids[0]);
    assert_eq!(expirable(&referred, all(1), &[]).expect("reads"), [ids[1], ids[3], ids[4]]);
    assert_eq!(expirable(&referred, all(2), &[]).expect("reads"), [ids[3]], "two of each branch");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_whose_answer_is_lost_happens_once_and_leaves_what_is_needed() {
    let fixture = fixture().await;
    for name in ["a", "b", "c"] {
        append(&fixture.catalog, &format!("s3://lake/t/data/{name}")).await.expect("commits");
    }
    let before = fixture.catalog.load_table("silver", "t").await.expect("loads");
    let expire = |attempt: Attempt| async move {
        let expired = expirable(&attempt.table, Retention { superseded_before_ms: i64::MAX, keep_last: 1 }, &[])?;
        if expired.is_empty() {
            return Ok::<_, CommitError>(Decision::Nothing);
        }
        let mut plan = Plan::metadata_only();
        plan.expired = expired;
        Ok(Decision::Commit(Box::new(plan)))
    };
    fixture.catalog.faults.0.lock().expect("unlocked").extend([Fault::AnswerLost]);
    let Outcome::Committed { table: after, .. } = fixture.catalog.commit("silver", "t", expire).await.expect("found in the table") else {
        panic!("nothing was committed");
    };
    assert_eq!(after.metadata().snapshots().len(), 1);
    assert!(matches!(fixture.catalog.commit("silver", "t", expire).await, Ok(Outcome::Nothing(_))));
    let needed = references(&after).await.expect("reads");
    let gone: Vec<i64> =
        before.metadata().snapshots().map(|s| s.snapshot_id()).filter(|id| after.metadata().snapshot_by_id(*id).is_none()).collect();
    let garbage = files_of_snapshots(&before, &gone, &needed).await.expect("reads");
    // Two manifest lists; the data files and their manifests are still those of the current snapshot.
    assert_eq!(garbage.len(), 2, "{garbage:?}");
    assert!(garbage.iter().all(|location| location.contains("/metadata/snap-")), "{garbage:?}");
    assert!(["a", "b", "c"].iter().all(|name| needed.contains(&format!("s3://lake/t/data/{name}"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_two_catalogs_on_one_database_lose_nothing() {
    let fixture = fixture().await;
    let pools: Vec<_> = (0..4).map(|_| fixture.catalog.clone()).collect();
    // Separate turns make them race on the database, as separate processes do.
    let mut tasks = Vec::new();
    for (writer, catalog) in pools.into_iter().enumerate() {
        let own = Arc::new(catalog.fork());
        tasks.push(tokio::spawn(async move {
            for number in 0..8 {
                append(&own, &format!("s3://lake/t/data/{writer}-{number}")).await.expect("commits");
            }
        }));
    }
    for task in tasks {
        task.await.expect("no writer panics");
    }
    let mut expected: Vec<String> = (0..4).flat_map(|w| (0..8).map(move |n| format!("s3://lake/t/data/{w}-{n}"))).collect();
    expected.sort();
    assert_eq!(live(&fixture.catalog).await, expected);
}
