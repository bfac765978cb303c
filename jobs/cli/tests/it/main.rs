//! The command line tool and the manifests under deploy/: one binary, so that the dependency tree is linked once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api_server;
mod cluster;
mod command;
mod deploy;
mod place;
mod submit;
