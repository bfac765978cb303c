//! The operator: turns `Lakehouse`, `LakehousePipeline` and `LakehouseRun` objects into Jobs and status.
//!
//! What to do is computed by pure functions in [`plan`], what to create by pure functions in [`build`]; [`controller`]
//! observes, asks them, and applies one step at a time. Nothing but the API server holds state: after any crash the
//! next observation leads to the same steps.

pub mod build;
pub mod conditions;
pub mod config;
pub mod controller;
pub mod names;
pub mod plan;
pub mod runtime;
mod serve;

pub use config::{Config, JobConfig};
pub use serve::run;
