//! Quality rules that are about more than one row, and what became of all rules of a run. Of gold models also those about one row, whose rows
//! are in tables already.
//!
//! [`Rules`] checks what an expectation says of the rows of a run ([`Rules::check_batch`]) and of a table as it would be with them
//! ([`Rules::check_table`]); [`condition`] is how the SQL of a rule is read, also that of rules about one row. [`Recorder`] keeps the results in
//! the Iceberg table `quality.results`, which all pipelines of a lakehouse share.

pub mod condition;
mod earlier;
pub mod great_expectations;
pub mod publish;
mod recorder;
mod rules;
mod session;
mod spool;
mod statistics;
mod verdict;

pub use recorder::{RESULTS, Recorded, Recorder, results_schema};
pub use rules::Rules;
pub use spool::Spool;
pub use verdict::{failure_of, verdict_of};
