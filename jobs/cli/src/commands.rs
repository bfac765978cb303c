//! The commands, one module each.

pub mod backfill;
pub mod buckets;
pub mod completions;
pub mod docs;
pub mod doctor;
pub mod erase;
pub mod events;
pub mod export;
pub mod get;
pub mod logs;
pub mod output;
pub mod plan;
pub mod quarantine;
pub mod register;
pub mod report;
pub mod retry;
pub mod run;
pub mod sql;
pub mod state;
pub mod status;
pub mod submit;
pub mod suspend;
pub mod test;
pub mod upload;
pub mod validate;
