//! Progress of a stage, told to whoever shows it: bars on a terminal, JSON lines in a pod.

/// Receives progress. Calls may come from several threads and must be cheap.
pub trait Progress: Send + Sync {
    /// A step of the stage begins, such as `fetch assets` or `write silver.coins`; `total` in rows or records where known.
    fn step(&self, name: &str, total: Option<u64>);
    /// Rows and bytes handled within the current step.
    fn advance(&self, rows: u64, bytes: u64);
}

/// Shows nothing.
pub struct NoProgress;

impl Progress for NoProgress {
    fn step(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64, _: u64) {}
}
