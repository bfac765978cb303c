//! OpenLineage events of a stage (specification 2-0-2).
//!
//! [`started`], [`running`] and [`ended`] are pure: they make the events of an attempt from its spec, its progress, its report and what the stage
//! says of its data ([`lakehouse_contract::Lineage`]). [`Delivery`] brings an event to a file and to an endpoint, within bounds, and never fails a stage.

mod delivery;
mod events;
mod facets;
mod names;

pub use delivery::Delivery;
pub use events::{ended, running, started};
pub use names::{DatasetName, dataset_name, parent_id, run_id};
