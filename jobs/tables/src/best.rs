//! The best row of every key: of those with the highest sequence, the first.

use crate::Result;
use crate::parallel::in_parallel;
use crate::rows::Comparer;
use ahash::RandomState;
use arrow::array::{BooleanArray, BooleanBufferBuilder, RecordBatch};
use arrow::row::Rows;
use hashbrown::HashTable;
use std::cmp::Ordering;

/// Rows from which on it pays to start threads.
const MANY: usize = 1 << 16;

/// A row: number of its batch, and of it in there.
pub(crate) type Place = (usize, usize);

/// A best row, and another one with its key and its sequence.
pub(crate) type Tie = (Place, Place);

/// What was found in some batches.
#[derive(Debug)]
pub(crate) struct Best {
    /// Per batch, which rows are the best of their key.
    pub(crate) masks: Vec<BooleanArray>,
    /// Rows that are no better than the best.
    pub(crate) ties: Vec<Tie>,
}

/// The rows of a batch, comparable.
struct Known {
    keys: Rows,
    sequences: Rows,
    hashes: Vec<u64>,
}

/// How many threads work on so many rows.
pub(crate) fn threads_for(rows: usize) -> usize {
    if rows < MANY { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) }
}

/// The best rows of `batches` by `key` and `sequence`, which are of their schema.
pub(crate) fn best(key: &Comparer, sequence: &Comparer, batches: &[RecordBatch]) -> Result<Best> {
    let threads = threads_for(batches.iter().map(RecordBatch::num_rows).sum());
    // Random: no input can be made to collide, and no outcome depends on it.
    let state = RandomState::new();
    let known = in_parallel(batches, threads, |batch| {
        let (keys, sequences) = (key.rows(batch)?, sequence.rows(batch)?);
        let hashes = keys.iter().map(|row| state.hash_one(row.data())).collect();
        Ok(Known { keys, sequences, hashes })
    });
    let known: Vec<Known> = known.into_iter().collect::<Result<_>>()?;
    let shares: Vec<usize> = (0..threads).collect();
    // The table uses the low and the highest bits.
    let found = in_parallel(&shares, threads, |share| best_of(&known, |hash| (hash >> 32) as u16 as usize % threads == *share));
    drop(known);
    let mut masks: Vec<BooleanBufferBuilder> = batches.iter().map(|batch| none_of(batch.num_rows())).collect();
    let mut ties = Vec::new();
    for (best, tied) in found {
        best.iter().for_each(|(batch, row)| masks[*batch as usize].set_bit(*row as usize, true));
        ties.extend(tied);
    }
    Ok(Best { masks: masks.into_iter().map(|mut mask| BooleanArray::new(mask.finish(), None)).collect(), ties })
}

fn none_of(rows: usize) -> BooleanBufferBuilder {
    let mut mask = BooleanBufferBuilder::new(rows);
    mask.append_n(rows, false);
    mask
}

/// The best rows of the keys whose hash `is_mine`, and the ties among them.
fn best_of(known: &[Known], is_mine: impl Fn(u64) -> bool) -> (Vec<(u32, u32)>, Vec<Tie>) {
    let mut best: Vec<(u32, u32)> = Vec::new();
    // By the key: the number in `best`.
    let mut table: HashTable<u32> = HashTable::new();
    // Of ties at the time only those with what is the highest sequence in the end count.
    let mut tied: Vec<(u32, Place)> = Vec::new();
    for (number, batch) in known.iter().enumerate() {
        for (row, hash) in batch.hashes.iter().copied().enumerate().filter(|(_, hash)| is_mine(*hash)) {
            let key = batch.keys.row(row);
            let is_same = |entry: &u32| {
                let (batch, row) = best[*entry as usize];
                let of = &known[batch as usize];
                of.hashes[row as usize] == hash && of.keys.row(row as usize) == key
            };
            match table.find(hash, is_same).copied() {
                None => {
                    let hash_of = |entry: &u32| {
                        let (batch, row) = best[*entry as usize];
                        known[batch as usize].hashes[row as usize]
                    };
                    table.insert_unique(hash, best.len() as u32, hash_of);
                    best.push((number as u32, row as u32));
                }
                Some(entry) => {
                    let (other, other_row) = best[entry as usize];
                    match batch.sequences.row(row).cmp(&known[other as usize].sequences.row(other_row as usize)) {
                        Ordering::Greater => best[entry as usize] = (number as u32, row as u32),
                        Ordering::Equal => tied.push((entry, (number, row))),
                        Ordering::Less => {}
                    }
                }
            }
        }
    }
    let sequence = |(batch, row): Place| known[batch].sequences.row(row);
    let place = |entry: u32| (best[entry as usize].0 as usize, best[entry as usize].1 as usize);
    let ties = tied.into_iter().map(|(entry, tie)| (place(entry), tie)).filter(|(best, tie)| sequence(*best) == sequence(*tie)).collect();
    (best, ties)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use lakehouse_contract::TableRef;
    use std::collections::HashMap;
    use std::sync::Arc;

    /// Batches of (key, sequence), one or many of some thousands of rows.
    fn batches(rows: &[(Option<String>, i64)], size: usize) -> Vec<RecordBatch> {
        let batch = |rows: &[(Option<String>, i64)]| {
            let columns: Vec<(&str, ArrayRef)> = vec![
                ("key", Arc::new(StringArray::from_iter(rows.iter().map(|row| row.0.clone())))),
                ("at", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)))),
            ];
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
        };
        rows.chunks(size).map(batch).collect()
    }

    #[test]
    fn one_row_a_key_stays_and_ties_at_the_top_are_told() {
        // As many as threads share, with nulls as a key of its own; by a generator of the test's own, which is the same every time.
        let mut state = 7_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for (count, size) in [(300, 7), (MANY + 5_000, 5_003)] {
            let rows: Vec<(Option<String>, i64)> =
                (0..count).map(|_| ((next(40) > 0).then(|| format!("k{}", next(count as u64 / 2))), next(50) as i64)).collect();
            let batches = batches(&rows, size);
            let table = TableRef { namespace: "silver".to_owned(), name: "t".to_owned() };
            let by = |name: &str| Comparer::new(&table, &batches[0].schema(), &[name.to_owned()]).unwrap();
            let found = best(&by("key"), &by("at"), &batches).unwrap();
            let mut expected: HashMap<&Option<String>, usize> = HashMap::new();
            for (number, (key, at)) in rows.iter().enumerate() {
                let best = expected.entry(key).or_insert(number);
                if *at > rows[*best].1 {
                    *best = number;
                }
            }
            let stays: Vec<usize> =
                found.masks.iter().flatten().enumerate().filter_map(|(number, stays)| stays.unwrap().then_some(number)).collect();
            let mut wanted: Vec<usize> = expected.values().copied().collect();
            wanted.sort_unstable();
            assert_eq!(stays, wanted);
            let number = |(batch, row): Place| batch * size + row;
            let mut ties: Vec<(usize, usize)> = found.ties.iter().map(|(best, tie)| (number(*best), number(*tie))).collect();
            ties.sort_unstable();
            let mut equal: Vec<(usize, usize)> = (0..rows.len())
                .map(|row| (expected[&rows[row].0], row))
                .filter(|(best, row)| best != row && rows[*best].1 == rows[*row].1)
                .collect();
            equal.sort_unstable();
            assert_eq!(ties, equal);
            assert!(!ties.is_empty());
        }
    }
}
