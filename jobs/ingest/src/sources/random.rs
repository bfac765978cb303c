//! Chance for generators: whole numbers from one ChaCha stream, the same on every platform.

use rand_chacha::{ChaCha8Rng, rand_core::RngCore};

/// A number in `0..bound`. The small bias of the multiplication does not matter here, that it is the same everywhere does.
pub fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    let wide = u128::from(rng.next_u64()) * u128::from(bound.max(1));
    (wide >> 64) as u64
}

/// A well-mixed number that depends on `value` alone (SplitMix64).
pub fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
