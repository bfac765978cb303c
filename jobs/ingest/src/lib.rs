//! The ingest stage: sources → immutable bronze objects and one manifest. No data engine.
//!
//! Every source ([`sources`]) hands what it received, as it received it, to a [`Sink`], which puts objects under
//! [`lakehouse_contract::keys::bronze_folder`] and keeps size, digest, record count, capture time and the facts of the answer. When all
//! sources are done the manifest is put by conditional write. **Without a manifest an ingest does not exist**: a failed, killed or lost
//! attempt leaves objects that nothing refers to and nothing reads. They stay, because bronze is never rewritten; retention removes them.
//!
//! A second execution of the same run, at once or later, ends with the same manifest: whoever puts it first wins, the other adopts it.

mod error;
mod lineage;
mod options;
mod run;
mod sink;
pub mod sources;

pub use error::IngestError;
pub use options::{Clock, Environment, Options};
pub use run::{run, run_with};
pub use sink::{Chunk, MAX_OBJECT_BYTES, ObjectFacts, Sink};
