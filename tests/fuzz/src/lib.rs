//! Fuzz targets: everything that reads what others wrote takes any bytes without a panic, without memory that grows beyond them, and keeps
//! its promises about them.
//!
//! `tests/fuzz/run TARGET SECONDS` lets libFuzzer look for bytes that break one; `cargo test` tries the seeds and some neighbours of them.

mod delta;
mod objects;
mod texts;

/// Takes bytes and panics when a promise is broken.
pub type Target = fn(&[u8]);

/// The targets by name; the seeds of one are the files in `seeds/<name>`.
pub const TARGETS: [(&str, Target); 8] = [
    ("ndjson", objects::ndjson),
    ("json", objects::json),
    ("csv", objects::csv),
    ("parquet", objects::parquet),
    ("html", objects::html),
    ("delta_log", delta::log),
    ("manifest", texts::manifest),
    ("words", texts::words),
];
