//! Tables, on disk and as other readers see them: one binary, so that the dependency tree is linked once.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and says what it skips")]

mod audit;
mod commits;
mod common;
mod definitions;
mod delta;
mod delta_maintenance;
mod delta_readers;
mod evolution;
mod history;
mod maintenance;
mod many_writers;
mod parquet;
mod readers;
mod rows;
