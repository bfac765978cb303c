//! Records that become rows together.

use crate::{cast::Fault, json::value::Value};

/// Records of one unit, one after the other: the values of the pointers' slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values<'r, 'v> {
    cells: &'r [Value<'v>],
    slots: usize,
    count: usize,
}

impl<'r, 'v> Values<'r, 'v> {
    /// One record.
    pub(crate) fn one(cells: &'r [Value<'v>]) -> Self {
        Self { cells, slots: cells.len(), count: 1 }
    }

    /// How many they are.
    pub(super) fn count(self) -> usize {
        self.count
    }

    /// What all records have in a slot.
    pub(super) fn column(self, slot: usize) -> impl Iterator<Item = Value<'v>> + use<'r, 'v> {
        self.cells.chunks_exact(self.slots).map(move |record| record[slot])
    }
}

/// Room for records that become rows together: while a column is filled, what it needs stays at hand.
#[derive(Debug)]
pub(crate) struct Block<'v> {
    cells: Vec<Value<'v>>,
    slots: usize,
    count: usize,
}

impl<'v> Block<'v> {
    /// Records of a block. With the values of twenty columns they fit into the nearest cache.
    const RECORDS: usize = 64;

    /// A block for records of `slots` values.
    pub(crate) fn new(slots: usize) -> Self {
        Self { cells: vec![Value::Missing; slots * Self::RECORDS], slots, count: 0 }
    }

    /// Where the values of the next record belong. It is part of the block once [`Self::keep`] is called.
    #[inline]
    pub(crate) fn next(&mut self) -> &mut [Value<'v>] {
        let start = self.count * self.slots;
        &mut self.cells[start..start + self.slots]
    }

    /// Keeps the next record; whether the block is full now.
    #[inline]
    pub(crate) fn keep(&mut self) -> bool {
        self.count += 1;
        self.count == Self::RECORDS
    }

    /// The records so far, which leave the block.
    pub(crate) fn take(&mut self) -> Values<'_, 'v> {
        let count = std::mem::take(&mut self.count);
        Values { cells: &self.cells[..count * self.slots], slots: self.slots, count }
    }
}

/// A record that is refused: its number among those that are added, and of the first column with a fault index, value and fault, if it is not
/// the lack of a value.
pub(super) type Fall<'v> = (usize, usize, Value<'v>, Option<Fault>);

/// The records that are refused of those that are added together. Filled column by column.
#[derive(Default)]
pub(super) struct Faulty<'v>(Vec<Fall<'v>>);

impl<'v> Faulty<'v> {
    #[cold]
    pub(super) fn add(&mut self, row: usize, column: usize, value: Value<'v>, fault: Option<Fault>) {
        if !self.0.iter().any(|(known, ..)| *known == row) {
            self.0.push((row, column, value, fault));
        }
    }

    pub(super) fn in_order(mut self) -> Vec<Fall<'v>> {
        self.0.sort_unstable_by_key(|(row, ..)| *row);
        self.0
    }
}
