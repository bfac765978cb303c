//! The silver stage: one binary, so that the dependency tree is linked once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod publish;
mod quality;
mod rules;
mod stage;
