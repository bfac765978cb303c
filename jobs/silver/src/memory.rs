//! What the stage does with the memory that it may use.

use lakehouse_storage::memory;

/// Smallest piece of an object that is worth a task, in bytes.
const SMALLEST: usize = 256 << 10;
/// Pieces beyond this size make nothing faster, in bytes: a handful keep all cores busy, their columns are long enough, and what is read
/// and made of it still is in a processor's own cache.
const LARGEST: usize = 2 << 20;

/// Memory to plan with for each thread that decodes, in bytes: its unit, the rows of it, and what it needs beside.
const THREAD: usize = 8 << 20;

/// Threads, and shares of the memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// How many decode.
    pub(crate) threads: usize,
    /// A range of lines that is decoded at a time; for every thread one, and a few more, are in memory, with their rows.
    pub(crate) unit: usize,
    /// Rows of all tables that wait to be written; what is beyond goes to disk.
    pub(crate) rows: usize,
}

impl Memory {
    /// The shares of `limit` bytes when `threads` threads decode.
    pub(crate) fn of(limit: usize, threads: usize) -> Self {
        Self { threads, unit: (limit / 16 / (threads + 4)).clamp(SMALLEST, LARGEST), rows: limit / 3 }
    }

    /// The shares in this process.
    pub(crate) fn here() -> Self {
        Self::of(memory::limit(), memory::threads(THREAD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_shrink_with_the_memory_and_the_number_of_threads() {
        assert_eq!(Memory::of(14 << 30, 2), Memory { threads: 2, unit: LARGEST, rows: (14 << 30) / 3 });
        assert!(Memory::of(600 << 20, 64).unit < 1 << 20);
        assert_eq!(Memory::of(1 << 20, 2).unit, SMALLEST);
    }
}
