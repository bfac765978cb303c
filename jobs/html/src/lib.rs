//! HTML pages to records, by CSS selectors. Pure: no I/O, no clock.
//!
//! Ingest counts the records of a page and finds its link to the next one; silver makes rows of what [`Page::document`] says; `contract`
//! refuses rules that cannot be compiled. All three use this code, so that what is accepted is what is executed.
//!
//! A page is parsed as browsers do (the HTML standard's algorithm, scripting off), so that there is no page that cannot be parsed: truncated,
//! misnested and plain wrong ones become the tree that a browser shows. What a page can cost has an end ([`limits`]): one that goes beyond is
//! a [`TooMuch`], not a slow or dead process.

pub mod charset;
mod cut;
pub mod limits;
mod page;
mod rules;
mod tree;

pub use limits::TooMuch;
pub use page::Page;
pub use rules::{Link, RuleError, Rules};
