//! Pure: what to do. No client, no clock; everything that is known comes in as arguments.
//!
//! | module | decides |
//! |---|---|
//! | [`run`] | the next step of a run |
//! | [`outcome`] | how an attempt ended, from its Job and pod |
//! | [`retry`] | whether and when a failed attempt is followed by another one |
//! | [`admission`] | whether a run may start beside the others of its pipeline |
//! | [`inputs`] | whether a run may retry another one, and whose bronze it reads |
//! | [`pipeline`] | whether a definition makes a run, its status, which revisions may go |
//! | [`schedule`] | whether a time of a schedule makes a run, and when the next one does |
//! | [`backfill`] | the next step of a backfill, and how far it is |
//! | [`history`] | which finished runs may go |

pub mod admission;
pub mod backfill;
pub mod history;
pub mod inputs;
pub mod outcome;
pub mod pipeline;
mod report;
pub mod retry;
pub mod run;
pub mod schedule;
pub mod status;

/// Something a person should hear about once: an event on the object, written after the status that says the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether somebody may have to act.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// What it is about, such as `silver-2`. Notes with equal reason and subject count as repetitions of one event.
    pub subject: String,
    /// The line a person reads.
    pub text: String,
}

impl Note {
    /// Good news.
    pub fn normal(reason: impl Into<String>, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.into(), subject: subject.into(), text: text.into() }
    }

    /// Bad news.
    pub fn warning(reason: impl Into<String>, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { warning: true, reason: reason.into(), subject: subject.into(), text: text.into() }
    }
}
