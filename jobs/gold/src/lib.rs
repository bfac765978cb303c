//! Gold: models computed by SQL from silver tables and from each other.
//!
//! [`run`] is the work of the gold stage. It parses the models, orders them by the tables they read, plans all of them before any runs, pins the
//! snapshots it reads, and then computes and commits model by model. A model that reads another one of the same run sees the rows that were
//! committed just before, so there is no atomicity across models: a failure leaves those committed that the report names, and a further
//! attempt finds their commit tokens and goes on behind them.
//!
//! A run computes its interval, and with [`Refresh`](lakehouse_contract::Refresh) further ones: those whose inputs have changed since they were
//! computed, or all. Which have is found by comparing commits, see [`stale`].
//!
//! [`Engine`] is the session: registered tables only. Averages of decimals have four more digits than their input and are rounded half away from
//! zero; sums and averages that do not fit are errors, see [`exact`].

mod check;
mod columns;
mod engine;
mod error;
pub mod exact;
mod failure;
mod freshness;
mod inputs;
mod lineage;
mod models;
mod pins;
mod rules;
mod run;
mod schema;
mod statement;
mod targets;
mod testing;

pub use check::{Unchecked, check_models, tables_of};
pub use datafusion;
pub use engine::{Engine, NAMESPACES};
pub use error::SqlError;
pub use freshness::stale;
pub use run::run;
pub use statement::{PARAMETERS, Query};
pub use testing::{Fault, Tested, test_models};
