//! Deduplication: one row per key, the first or the last in the order of objects and records.
//!
//! Keys are hashed while a unit is audited, and spread over shards by their hash. Each shard is then worked off on its
//! own, small enough for the processor's cache: the hash finds candidates, the key values decide. Nulls equal each
//! other, as do -0.0 and 0.0, and NaN and NaN. What stays is told by a mask per batch; no row is moved but by the filter.

use std::collections::BTreeSet;

use ahash::RandomState;
use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float32Array, Float64Array, PrimitiveArray, RecordBatch, StringArray,
    },
    buffer::{BooleanBuffer, MutableBuffer},
    datatypes::{DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType},
    util::bit_util::unset_bit,
};
use hashbrown::HashTable;
use lakehouse_api::pipeline::Keep;
use lakehouse_contract::{Reason, StageFailure};
use lakehouse_tables::{Block, Scratch, in_parallel};

use crate::failure::scratch_failure;

/// Number of shards; a power of two.
pub(crate) const SHARDS: usize = 64;

/// A row by its key's hash.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    row: u32,
}

/// The hashed keys of one batch, by shard, each in the order of rows.
#[derive(Debug)]
pub(crate) struct KeyHashes {
    shards: Vec<Vec<Entry>>,
}

impl KeyHashes {
    /// Bytes of memory that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.capacity() * size_of::<Entry>()).sum()
    }

    /// The rows of a shard, in order.
    pub(crate) fn rows(&self, shard: usize) -> impl Iterator<Item = u32> + '_ {
        self.shards[shard].iter().map(|entry| entry.row)
    }
}

/// Hashes keys. Its seed is random: no input can be made to collide, and no outcome depends on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hasher(RandomState);

impl Hasher {
    /// Hashes the key columns of the rows of a batch that stay so far.
    ///
    /// # Errors
    /// `Internal` for a column type that silver does not have.
    pub(crate) fn hash(&self, batch: &RecordBatch, keep: Option<&BooleanArray>, key: &[usize]) -> Result<KeyHashes, StageFailure> {
        let columns = keys(batch, key)?;
        let mut shards: Vec<Vec<Entry>> = (0..SHARDS).map(|_| Vec::with_capacity(batch.num_rows() / SHARDS * 5 / 4 + 8)).collect();
        for row in 0..batch.num_rows() {
            if keep.is_some_and(|keep| !keep.value(row)) {
                continue;
            }
            let mut hash = 0;
            for column in &columns {
                hash = column.hash(&self.0, row, hash);
            }
            // The table uses the low and the highest bits, the shard those between.
            shards[(hash >> 40) as usize % SHARDS].push(Entry { hash, row: row as u32 });
        }
        Ok(KeyHashes { shards })
    }
}

/// A key column of one batch.
#[derive(Debug)]
enum Key {
    Text(StringArray),
    Boolean(BooleanArray),
    Int32(PrimitiveArray<Int32Type>),
    Int64(PrimitiveArray<Int64Type>),
    Date(PrimitiveArray<Date32Type>),
    Time(PrimitiveArray<TimestampMicrosecondType>),
    Decimal(Decimal128Array),
    Float32(Float32Array),
    Float64(Float64Array),
}

fn keys(batch: &RecordBatch, key: &[usize]) -> Result<Vec<Key>, StageFailure> {
    key.iter().map(|index| Key::new(batch.column(*index))).collect()
}

/// Bits that are equal exactly for values that count as equal.
fn bits(value: f64) -> u64 {
    if value == 0.0 {
        0
    } else if value.is_nan() {
        f64::NAN.to_bits()
    } else {
        value.to_bits()
    }
}

impl Key {
    fn new(array: &ArrayRef) -> Result<Self, StageFailure> {
        Ok(match array.data_type() {
            DataType::Utf8 => Key::Text(array.as_string::<i32>().clone()),
            DataType::Boolean => Key::Boolean(array.as_boolean().clone()),
            DataType::Int32 => Key::Int32(array.as_primitive::<Int32Type>().clone()),
            DataType::Int64 => Key::Int64(array.as_primitive::<Int64Type>().clone()),
            DataType::Date32 => Key::Date(array.as_primitive::<Date32Type>().clone()),
            DataType::Timestamp(..) => Key::Time(array.as_primitive::<TimestampMicrosecondType>().clone()),
            DataType::Decimal128(..) => Key::Decimal(array.as_primitive::<Decimal128Type>().clone()),
            DataType::Float32 => Key::Float32(array.as_primitive::<Float32Type>().clone()),
            DataType::Float64 => Key::Float64(array.as_primitive::<Float64Type>().clone()),
            other => return Err(StageFailure::new(Reason::Internal, format!("rows cannot be deduplicated by a column of type {other}"))),
        })
    }

    fn array(&self) -> &dyn Array {
        match self {
            Key::Text(a) => a,
            Key::Boolean(a) => a,
            Key::Int32(a) => a,
            Key::Int64(a) => a,
            Key::Date(a) => a,
            Key::Time(a) => a,
            Key::Decimal(a) => a,
            Key::Float32(a) => a,
            Key::Float64(a) => a,
        }
    }

    #[inline]
    fn hash(&self, state: &RandomState, row: usize, so_far: u64) -> u64 {
        if self.array().is_null(row) {
            return state.hash_one((so_far, u8::MAX));
        }
        match self {
            Key::Text(a) => state.hash_one((so_far, a.value(row))),
            Key::Boolean(a) => state.hash_one((so_far, a.value(row))),
            Key::Int32(a) => state.hash_one((so_far, a.value(row))),
            Key::Int64(a) => state.hash_one((so_far, a.value(row))),
            Key::Date(a) => state.hash_one((so_far, a.value(row))),
            Key::Time(a) => state.hash_one((so_far, a.value(row))),
            Key::Decimal(a) => state.hash_one((so_far, a.value(row))),
            Key::Float32(a) => state.hash_one((so_far, bits(f64::from(a.value(row))))),
            Key::Float64(a) => state.hash_one((so_far, bits(a.value(row)))),
        }
    }

    /// Whether `row` here equals `other_row` there. Both are key columns of the same position.
    fn equal(&self, row: usize, other: &Key, other_row: usize) -> bool {
        match (self.array().is_null(row), other.array().is_null(other_row)) {
            (true, true) => return true,
            (false, false) => {}
            _ => return false,
        }
        match (self, other) {
            (Key::Text(a), Key::Text(b)) => a.value(row) == b.value(other_row),
            (Key::Boolean(a), Key::Boolean(b)) => a.value(row) == b.value(other_row),
            (Key::Int32(a), Key::Int32(b)) => a.value(row) == b.value(other_row),
            (Key::Int64(a), Key::Int64(b)) => a.value(row) == b.value(other_row),
            (Key::Date(a), Key::Date(b)) => a.value(row) == b.value(other_row),
            (Key::Time(a), Key::Time(b)) => a.value(row) == b.value(other_row),
            (Key::Decimal(a), Key::Decimal(b)) => a.value(row) == b.value(other_row),
            (Key::Float32(a), Key::Float32(b)) => bits(f64::from(a.value(row))) == bits(f64::from(b.value(other_row))),
            (Key::Float64(a), Key::Float64(b)) => bits(a.value(row)) == bits(b.value(other_row)),
            _ => false,
        }
    }
}

/// Marks the rows of batches that lose against another one with their key in `masks`, where none means that all stay so far, and says how
/// many they are. `hashes` are those of `batches`, in the same order; work is spread over `threads` threads.
///
/// # Errors
/// `Internal` for a column type that silver does not have.
pub(crate) fn mask_batches(
    batches: &[RecordBatch],
    hashes: &[KeyHashes],
    masks: &mut [Option<BooleanArray>],
    key: &[usize],
    keep: Keep,
    threads: usize,
) -> Result<u64, StageFailure> {
    let columns: Vec<Vec<Key>> = batches.iter().map(|batch| keys(batch, key)).collect::<Result<_, _>>()?;
    let shards: Vec<usize> = (0..SHARDS).collect();
    let losers = in_parallel(&shards, threads, |shard| losers(*shard, hashes, &columns, keep));
    let mut removed = 0;
    let mut open: Vec<Mask> = batches.iter().zip(masks.iter()).map(|(batch, known)| Mask::new(batch.num_rows(), known.as_ref())).collect();
    for (batch, row) in losers.into_iter().flatten() {
        open[batch as usize].remove(row as usize);
        removed += 1;
    }
    for (mask, open) in masks.iter_mut().zip(open) {
        *mask = open.finish();
    }
    Ok(removed)
}

/// Per block, which rows stay; none where all do. As [`mask_batches`] for the blocks of one shard, which are in the order of records. In memory are the keys of the shard.
///
/// # Errors
/// `ResourcesExhausted` when the disk fails.
pub(crate) fn mask_blocks(
    scratch: &Scratch,
    blocks: &[Block],
    hasher: &Hasher,
    key: &[usize],
    keep: Keep,
) -> Result<Vec<Option<BooleanArray>>, StageFailure> {
    let mut table: HashTable<(u64, u32, u32)> = HashTable::with_capacity(blocks.iter().map(Block::rows).sum());
    let mut columns: Vec<Vec<Key>> = Vec::with_capacity(blocks.len());
    let mut masks: Vec<Option<BooleanArray>> = vec![None; blocks.len()];
    let needed: Vec<usize> = key.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let key: Vec<usize> = key.iter().filter_map(|column| needed.binary_search(column).ok()).collect();
    // Whoever comes first wins, so the last is kept by going backwards.
    let last = keep == Keep::Last;
    for visit in 0..blocks.len() {
        let number = if last { blocks.len() - 1 - visit } else { visit };
        let rows = blocks[number].rows();
        columns.push(keys(&scratch.read_columns(&blocks[number], &needed).map_err(scratch_failure)?, &key)?);
        let mut mask = Mask::new(rows, None);
        for step in 0..rows {
            let row = if last { rows - 1 - step } else { step };
            let own = &columns[visit];
            let hash = own.iter().fold(0, |hash, column| column.hash(&hasher.0, row, hash));
            let same = |(known, other, other_row): &(u64, u32, u32)| {
                let others = &columns[*other as usize];
                *known == hash && own.iter().zip(others).all(|(a, b)| a.equal(row, b, *other_row as usize))
            };
            if table.find(hash, same).is_some() {
                mask.remove(row);
            } else {
                table.insert_unique(hash, (hash, visit as u32, row as u32), |(hash, ..)| *hash);
            }
        }
        masks[number] = mask.finish();
    }
    Ok(masks)
}

/// Which rows of a batch stay, as long as it is not known that all do.
struct Mask {
    rows: usize,
    bits: Option<MutableBuffer>,
}

impl Mask {
    fn new(rows: usize, known: Option<&BooleanArray>) -> Self {
        let bits = known.map(|known| {
            let mut bits = MutableBuffer::new(rows.div_ceil(8)).with_bitset(rows.div_ceil(8), true);
            for row in known.values().iter().enumerate().filter_map(|(row, stays)| (!stays).then_some(row)) {
                unset_bit(bits.as_slice_mut(), row);
            }
            bits
        });
        Self { rows, bits }
    }

    fn remove(&mut self, row: usize) {
        let bytes = self.rows.div_ceil(8);
        let bits = self.bits.get_or_insert_with(|| MutableBuffer::new(bytes).with_bitset(bytes, true));
        unset_bit(bits.as_slice_mut(), row);
    }

    fn finish(self) -> Option<BooleanArray> {
        self.bits.map(|bits| BooleanArray::new(BooleanBuffer::new(bits.into(), 0, self.rows), None))
    }
}

/// The (batch, row) of one shard that lose against another row with their key.
fn losers(shard: usize, hashes: &[KeyHashes], columns: &[Vec<Key>], keep: Keep) -> Vec<(u32, u32)> {
    let total = hashes.iter().map(|batch| batch.shards[shard].len()).sum();
    let mut table: HashTable<(u64, u32, u32)> = HashTable::with_capacity(total);
    let mut losers = Vec::new();
    let mut visit = |batch: usize, entry: &Entry| {
        let here = &columns[batch];
        let same = |(hash, other, row): &(u64, u32, u32)| {
            *hash == entry.hash && here.iter().zip(&columns[*other as usize]).all(|(a, b)| a.equal(entry.row as usize, b, *row as usize))
        };
        match table.find(entry.hash, same) {
            Some(_) => losers.push((batch as u32, entry.row)),
            None => {
                table.insert_unique(entry.hash, (entry.hash, batch as u32, entry.row), |(hash, ..)| *hash);
            }
        }
    };
    // Whoever comes first wins, so the last is kept by going backwards.
    match keep {
        Keep::First => hashes.iter().enumerate().for_each(|(batch, hashes)| hashes.shards[shard].iter().for_each(|e| visit(batch, e))),
        Keep::Last => {
            hashes.iter().enumerate().rev().for_each(|(batch, hashes)| hashes.shards[shard].iter().rev().for_each(|e| visit(batch, e)));
        }
    }
    losers
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use arrow::{array::Int64Array, compute::filter_record_batch};
    use proptest::prelude::*;

    use super::*;

    fn batches(rows: &[Vec<(Option<&'static str>, f64)>]) -> Vec<RecordBatch> {
        let mut number = 0;
        let batch = |rows: &Vec<(Option<&'static str>, f64)>| {
            let numbers: Vec<i64> = rows
                .iter()
                .map(|_| {
                    number += 1;
                    number
                })
                .collect();
            let columns: Vec<(&str, ArrayRef)> = vec![
                ("a", Arc::new(StringArray::from_iter(rows.iter().map(|row| row.0)))),
                ("b", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.1)))),
                ("n", Arc::new(Int64Array::from(numbers))),
            ];
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
        };
        rows.iter().map(batch).collect()
    }

    fn kept(batches: &[RecordBatch], keep: Keep, hash: impl Fn(&RecordBatch) -> KeyHashes, threads: usize) -> (Vec<i64>, u64) {
        let hashes: Vec<KeyHashes> = batches.iter().map(hash).collect();
        let mut masks = vec![None; batches.len()];
        let removed = mask_batches(batches, &hashes, &mut masks, &[0, 1], keep, threads).unwrap();
        let left = left(batches, &masks);
        assert_eq!(left.1, removed);
        left
    }

    /// The numbers of the rows that stay, and how many do not.
    fn left(batches: &[RecordBatch], masks: &[Option<BooleanArray>]) -> (Vec<i64>, u64) {
        let kept = batches.iter().zip(masks).map(|(batch, mask)| match mask {
            None => batch.clone(),
            Some(mask) => filter_record_batch(batch, mask).unwrap(),
        });
        let numbers: Vec<i64> = kept.flat_map(|batch| batch.column(2).as_primitive::<Int64Type>().values().to_vec()).collect();
        let removed = batches.iter().map(RecordBatch::num_rows).sum::<usize>() - numbers.len();
        (numbers, removed as u64)
    }

    /// As if all rows were in one shard on disk.
    fn kept_on_disk(batches: &[RecordBatch], keep: Keep, hasher: &Hasher) -> (Vec<i64>, u64) {
        let Some(first) = batches.first() else { return (Vec::new(), 0) };
        let scratch = Scratch::new(first.schema()).unwrap();
        let blocks: Vec<Block> = batches.iter().map(|batch| scratch.write(batch).unwrap()).collect();
        left(batches, &mask_blocks(&scratch, &blocks, hasher, &[0, 1], keep).unwrap())
    }

    fn hashed(batch: &RecordBatch) -> KeyHashes {
        Hasher::default().hash(batch, None, &[0, 1]).unwrap()
    }

    #[test]
    fn nulls_zeros_and_nans_equal_their_like() {
        let rows = [vec![(None, 0.0), (Some("a"), f64::NAN)], vec![(None, -0.0), (Some("a"), -f64::NAN), (Some(""), 0.0)]];
        let hasher = Hasher::default();
        let hash = |batch: &RecordBatch| hasher.hash(batch, None, &[0, 1]).unwrap();
        assert_eq!(kept(&batches(&rows), Keep::First, hash, 2), (vec![1, 2, 5], 2));
        assert_eq!(kept(&batches(&rows), Keep::Last, hash, 2), (vec![3, 4, 5], 2));
    }

    #[test]
    fn equal_hashes_are_not_equal_keys() {
        let rows = [vec![(Some("a"), 1.0), (Some("b"), 1.0)], vec![(Some("a"), 1.0)]];
        let collide = |batch: &RecordBatch| {
            let mut hashes = hashed(batch);
            let all: Vec<Entry> = (0..batch.num_rows() as u32).map(|row| Entry { hash: 7, row }).collect();
            hashes.shards.iter_mut().for_each(Vec::clear);
            hashes.shards[0] = all;
            hashes
        };
        assert_eq!(kept(&batches(&rows), Keep::Last, collide, 1), (vec![2, 3], 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn as_a_map_would(
            rows in prop::collection::vec(prop::collection::vec((prop::option::of(prop::sample::select(vec!["a", "b", "c"])), prop::sample::select(vec![0.0_f64, 1.0])), 0..40), 0..6),
            last in any::<bool>(),
            threads in 1_usize..5,
        ) {
            let mut winner = HashMap::new();
            let all = rows.iter().flatten().map(|(a, b)| (*a, f64::to_bits(*b)));
            for (number, key) in all.enumerate() {
                let number = number as i64 + 1;
                if last { winner.insert(key, number); } else { winner.entry(key).or_insert(number); }
            }
            let mut expected: Vec<i64> = winner.into_values().collect();
            expected.sort_unstable();
            let hasher = Hasher::default();
            let (rows, keep) = (batches(&rows), if last { Keep::Last } else { Keep::First });
            let removed = rows.iter().map(RecordBatch::num_rows).sum::<usize>() - expected.len();
            prop_assert_eq!(kept_on_disk(&rows, keep, &hasher), (expected.clone(), removed as u64));
            prop_assert_eq!(kept(&rows, keep, |b| hasher.hash(b, None, &[0, 1]).unwrap(), threads), (expected, removed as u64));
        }
    }
}
