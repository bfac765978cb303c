use arrow::{
    array::{ArrayRef, AsArray, Int64Array, StringArray},
    datatypes::Int64Type,
};
use lakehouse_api::pipeline::Keep;
use proptest::prelude::*;

use super::*;

fn batch(keys: &[Option<&str>], first: i64) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("key", Arc::new(StringArray::from_iter(keys)), true),
        ("number", Arc::new(Int64Array::from_iter_values((first..).take(keys.len()))), false),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// The numbers of the rows that come out of streams and of the table, sorted, and how many went.
fn numbers(held: Held) -> (Vec<i64>, u64) {
    let (rows, removed) = held.finish(2).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let sorted = |batches: Vec<RecordBatch>| {
        let mut numbers: Vec<i64> =
            batches.iter().flat_map(|batch| batch.column(1).as_primitive::<Int64Type>().values().to_vec()).collect();
        numbers.sort_unstable();
        numbers
    };
    let count = rows.count();
    let looked_at = runtime.block_on(async {
        let context = datafusion::prelude::SessionContext::new();
        context.read_table(rows.provider().unwrap()).unwrap().collect().await.unwrap()
    });
    let written = runtime.block_on(async {
        let streams = stream::iter(rows.into_streams(3)).flatten();
        streams.try_collect::<Vec<RecordBatch>>().await.unwrap()
    });
    let written = sorted(written);
    assert_eq!((sorted(looked_at), count), (written.clone(), written.len() as u64));
    (written, removed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Wherever rows wait, the same ones stay.
    #[test]
    fn rows_on_disk_are_those_in_memory(
        batches in prop::collection::vec(
            (prop::collection::vec(prop::option::of(prop::sample::select(vec!["", "a", "b", "c", "d", "e", "f"])), 0..30), any::<bool>()),
            0..12,
        ),
        keep in prop::option::of(any::<bool>()),
    ) {
        let hasher = Hasher::default();
        let rule = keep.map(|last| DeduplicatePlan { key: vec![0], keep: if last { Keep::Last } else { Keep::First } });
        let budget = Budget::new(1 << 20);
        let deduplicate = rule.clone().map(|rule| (rule, hasher.clone()));
        let schema = batch(&[], 0).schema();
        let (mut memory, mut disk) = (Held::new(schema.clone(), deduplicate.clone(), &budget), Held::new(schema, deduplicate, &budget));
        let mut first = 0;
        for (keys, spill) in &batches {
            let batch = batch(keys, first);
            first += keys.len() as i64;
            // Every seventh row went before.
            let gone = BooleanArray::from_iter((0..batch.num_rows()).map(|row| Some(row % 7 != 3)));
            let gone = (rule.is_some() && *spill).then_some(gone);
            let hashes = || rule.as_ref().map(|rule| hasher.hash(&batch, gone.as_ref(), &rule.key).unwrap());
            memory.push(batch.clone(), gone.clone(), hashes());
            disk.push(batch.clone(), gone.clone(), hashes());
            if *spill {
                disk.spill(2).unwrap();
                prop_assert_eq!(disk.bytes(), 0);
            }
        }
        prop_assert_eq!(numbers(disk), numbers(memory));
        prop_assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn complete_rows_make_room() {
    let budget = Budget::new(1);
    let mut held = Held::new(batch(&[], 0).schema(), None, &budget);
    held.push(batch(&[Some("a"), None], 0), None, None);
    assert!(budget.is_over() && budget.is_half_used());
    let (mut rows, _) = held.finish(1).unwrap();
    rows.spill().unwrap();
    assert!(!budget.is_over() && !budget.is_half_used());
    assert_eq!(rows.count(), 2);
}
