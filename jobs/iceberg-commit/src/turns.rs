//! One writer of this process at a time per table.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Turns of the writers of one process: commits to one table are serialized here, so that they do not work against each other.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    pub(crate) fn of(&self, table: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        turns.entry(table.to_owned()).or_default().clone()
    }
}
