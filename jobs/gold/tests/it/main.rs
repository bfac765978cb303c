//! The gold stage and its SQL session: one binary, so that the dependency tree is linked once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod refresh;
mod rules;
mod session;
mod stage;
mod support;
