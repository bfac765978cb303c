//! The ingest stage and its sources: one binary, so that the dependency tree is linked once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod http;
mod scrape;
mod stage;
