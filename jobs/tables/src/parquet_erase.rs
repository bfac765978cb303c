//! Erasing rows of a plain Parquet table: its files are rewritten, and the manifest of the next generation names the new ones.

use crate::Result;
use crate::TableError;
use crate::erase::{Doomed, Erased, forsaken, search, without};
use crate::parquet_manifest as manifest;
use crate::parquet_table::{ATTEMPTS, ParquetTable};
use std::collections::HashMap;
use uuid::Uuid;

impl ParquetTable {
    pub(crate) async fn erase(&self, owner: &str, doomed: &Doomed, dry_run: bool) -> Result<Option<Erased>> {
        let first = self.load().await?;
        self.check_owner(&first, owner)?;
        if !doomed.concerns(crate::schema::file_schema(&self.table, &first.schema)?.as_ref()) {
            return Ok(None);
        }
        let none = HashMap::new();
        let found: HashMap<String, u64> = search(&self.table, &self.layer, &self.folder, doomed, &none).await?.into_iter().collect();
        let mut done = Erased { snapshot: Some(first.generation.to_string()), ..Erased::default() };
        for attempt in 1.. {
            let mut current = self.load().await?;
            let holding: Vec<usize> = (0..current.files.len()).filter(|index| found.contains_key(&current.files[*index].key)).collect();
            (done.rows, done.files) = (0, holding.len() as u64);
            if dry_run || holding.is_empty() {
                done.rows = holding.iter().map(|index| found[&current.files[*index].key]).sum();
                break;
            }
            let mut added = Vec::new();
            let mut replaced = Vec::new();
            for index in holding {
                let file = &mut current.files[index];
                let corrupt = |reason: String| TableError::Corrupt { table: self.table.clone(), what: self.layer.uri(&file.key), reason };
                let (kept, stay, go) = without(self.layer.get(&file.key).await?, doomed).map_err(|error| corrupt(error.to_string()))?;
                done.rows += go;
                replaced.push(file.key.clone());
                file.rows = stay;
                if let Some(kept) = kept {
                    // The beginning of the name says the interval, by which a later commit finds it.
                    let stem = file.key.strip_suffix(".parquet").unwrap_or(&file.key);
                    file.key = format!("{stem}-{}.parquet", &Uuid::new_v4().simple().to_string()[..8]);
                    file.bytes = kept.len() as u64;
                    added.push(file.key.clone());
                    self.layer.put(&file.key, kept).await?;
                }
            }
            current.files.retain(|file| file.rows > 0);
            current.generation += 1;
            current.replaced = replaced;
            if manifest::put(&self.layer, &self.folder, &current).await? {
                done.snapshot = Some(current.generation.to_string());
                self.clean(&current, Vec::new()).await;
                break;
            }
            for key in added {
                self.layer.delete(&key).await?;
            }
            if attempt >= ATTEMPTS {
                return Err(TableError::Conflict { table: self.table.clone(), attempts: ATTEMPTS });
            }
        }
        if !dry_run {
            // What the last commit replaced and did not come to delete, and what a dead attempt left.
            let current = self.load().await?;
            self.clean(&current, Vec::new()).await;
            let needed = |key: &str| current.files.iter().any(|file| file.key == key);
            done.files_deleted = forsaken(&self.layer, found.keys().filter(|key| !needed(key))).await?;
        }
        let left = search(&self.table, &self.layer, &self.folder, doomed, &none).await?;
        done.left = left.iter().map(|(key, _)| self.layer.uri(key)).collect();
        Ok(Some(done))
    }
}
