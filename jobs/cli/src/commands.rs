//! The commands, one module each.

pub mod backfill;
pub mod buckets;
pub mod docs;
pub mod doctor;
pub mod erase;
pub mod export;
pub mod plan;
pub mod quarantine;
pub mod register;
pub mod report;
pub mod run;
pub mod sql;
pub mod status;
pub mod submit;
pub mod suspend;
pub mod test;
pub mod upload;
pub mod validate;
