//! libFuzzer on one target, which the environment variable `LAKEHOUSE_FUZZ_TARGET` names. Started by `tests/fuzz/run`.

#![no_main]

use std::sync::LazyLock;

use lakehouse_fuzz::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("LAKEHOUSE_FUZZ_TARGET").unwrap_or_default();
    let known = || TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("LAKEHOUSE_FUZZ_TARGET is `{name}`; there are: {}", known())).1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| (*TARGET)(data));
