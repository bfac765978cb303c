//! Every target takes its seeds, and some thousand neighbours of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use lakehouse_fuzz::TARGETS;
use proptest::{prelude::*, test_runner::TestRunner};

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&folder).unwrap_or_else(|_| panic!("{target} has no seeds")).map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// A change of some bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), prop::collection::vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), prop::sample::select(vec!["\"", "\\", "{", "]", ",", "\n", "\0", "e9", "-", "<", ">", "\u{feff}"]))
            .prop_map(|(at, text)| Change::Insert(at, text.into())),
        (at(), 1..20_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (at(), 1..30_usize, 1..8_usize).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let place = |index: &prop::sample::Index| index.index(bytes.len() + 1);
        match change {
            Change::Set(at, byte) => {
                let at = place(at);
                if let Some(old) = bytes.get_mut(at) {
                    *old = *byte;
                }
            }
            Change::Insert(at, new) => {
                let at = place(at);
                bytes.splice(at..at, new.iter().copied());
            }
            Change::Remove(at, length) => {
                let at = place(at);
                bytes.drain(at..bytes.len().min(at + length));
            }
            Change::Repeat(at, length, times) => {
                let at = place(at);
                let part = bytes[at..bytes.len().min(at + length)].repeat(*times);
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

fn try_target(name: &str, cases: u32) {
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).unwrap();
    let seeds = seeds(name);
    assert!(!seeds.is_empty());
    for seed in &seeds {
        target(seed);
    }
    target(b"");
    // The same cases every time: what they find is found by everybody.
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner =
        TestRunner::new_with_rng(config, prop::test_runner::TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha));
    let cases = (prop::sample::select(seeds), prop::collection::vec(change(), 1..6)).prop_map(|(seed, changes)| changed(seed, &changes));
    runner
        .run(&cases, |bytes| {
            target(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_target_has_its_test() {
    assert_eq!(TARGETS.map(|(name, _)| name), ["ndjson", "json", "csv", "parquet", "html", "delta_log", "manifest", "words"]);
}

#[test]
fn ndjson() {
    try_target("ndjson", 1500);
}

#[test]
fn json() {
    try_target("json", 1500);
}

#[test]
fn csv() {
    try_target("csv", 1500);
}

#[test]
fn parquet() {
    try_target("parquet", 500);
}

#[test]
fn html() {
    try_target("html", 500);
}

#[test]
fn delta_log() {
    try_target("delta_log", 500);
}

#[test]
fn manifest() {
    try_target("manifest", 30);
}

#[test]
fn words() {
    try_target("words", 1500);
}
