//! The commands, one module each.

pub mod buckets;
pub mod doctor;
pub mod erase;
pub mod plan;
pub mod register;
pub mod report;
pub mod run;
pub mod sql;
pub mod status;
pub mod submit;
pub mod test;
pub mod upload;
pub mod validate;
