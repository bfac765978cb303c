//! The commands, one module each.

pub mod buckets;
pub mod docs;
pub mod doctor;
pub mod export;
pub mod plan;
pub mod quarantine;
pub mod report;
pub mod run;
pub mod sql;
pub mod status;
pub mod submit;
pub mod test;
pub mod upload;
pub mod validate;
