//! `lakehouse submit`: one pipeline, one interval, on a cluster, as a LakehouseRun that is made once or adopted.
//!
//! [`naming`], [`decide`], [`changes`] and [`outcome`] are pure; [`cluster`], [`objects`], [`wait`] and [`logs`] are the thin shell that talks to the API
//! server; [`tell`] is what is said on the way.

pub mod archive;
pub mod backfills;
pub mod changes;
pub mod cluster;
pub mod decide;
mod error;
pub mod logs;
pub mod naming;
pub mod objects;
pub mod outcome;
pub mod signals;
pub mod tell;
pub mod tree;
pub mod wait;

pub use error::SubmitError;
