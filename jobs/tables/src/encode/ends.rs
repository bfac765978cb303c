//! A text as two machine words, so that most comparisons need no call.

use std::cmp::Ordering;

/// The first and the last eight bytes of a text and its length: all of a text of up to 16 bytes, and its order but for ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    first: u64,
    /// 0 for a text of less than eight bytes, which `first` holds whole.
    last: u64,
    length: u32,
}

impl Ends {
    /// Of a text of less than 4 GiB, as Arrow's are.
    #[inline]
    pub(super) fn of(text: &[u8]) -> Self {
        let length = text.len() as u32;
        if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
            return Self { first: u64::from_le_bytes(*first), last: u64::from_le_bytes(*last), length };
        }
        Self { first: short(text), last: 0, length }
    }

    /// Whether the text is whole in here, so that equal ends are equal texts.
    #[inline]
    pub(super) fn are_all(self) -> bool {
        self.length <= 16
    }

    #[inline]
    pub(super) fn length(self) -> usize {
        self.length as usize
    }

    /// A hash of `text`, whose ends these are; with seeds that nobody outside knows, texts cannot be chosen to meet in one place.
    #[inline]
    pub(super) fn hash(self, text: &[u8], seeds: [u64; 2]) -> u64 {
        let hash = folded(self.first ^ seeds[0], self.last ^ seeds[1] ^ u64::from(self.length));
        if self.are_all() { hash } else { middle(text, hash, seeds) }
    }

    /// How the beginnings compare, as the bytes of the texts do: equal for texts with the same eight bytes (or fewer, followed by zeros).
    #[inline]
    pub(super) fn beginnings(self, other: Self) -> Ordering {
        self.first.swap_bytes().cmp(&other.first.swap_bytes())
    }
}

/// Up to seven bytes in the order of memory, with zeros behind them.
#[inline]
fn short(text: &[u8]) -> u64 {
    let length = text.len();
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        let behind = u64::from(u32::from_le_bytes(*last)) >> (8 * (8 - length));
        return u64::from(u32::from_le_bytes(*first)) | behind << 32;
    }
    text.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn middle(text: &[u8], mut hash: u64, seeds: [u64; 2]) -> u64 {
    // The last word overlaps with the end that is in the hash already, or is cut off before it.
    for word in text[8..].chunks_exact(8) {
        let word = word.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        hash = folded(hash ^ word, seeds[1] | 1);
    }
    hash
}

/// Both halves of the product, so that every bit of either operand reaches every bit of the result.
#[inline]
fn folded(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

/// The bytes of `left` and `right` compared, which have these ends.
#[inline]
pub(super) fn compare((left, own): (&[u8], Ends), (right, its): (&[u8], Ends)) -> Ordering {
    own.beginnings(its).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of every length around the borders of words, that differ in one place.
    fn texts() -> Vec<Vec<u8>> {
        let mut texts = Vec::new();
        for length in 0..40_usize {
            let text: Vec<u8> = (0..length).map(|place| b'a' + (place % 7) as u8).collect();
            for place in 0..length {
                for byte in [0, b'a', 0xc3, 0xff] {
                    let mut other = text.clone();
                    other[place] = byte;
                    texts.push(other);
                }
            }
            texts.push(text);
        }
        texts
    }

    #[test]
    fn ends_and_hashes_tell_texts_apart_and_put_them_in_order() {
        let texts = texts();
        let mut hashes = std::collections::HashMap::new();
        for left in &texts {
            let own = Ends::of(left);
            assert_eq!(own.length(), left.len());
            for right in &texts {
                let its = Ends::of(right);
                assert_eq!(compare((left, own), (right, its)), left.cmp(right), "{left:?} {right:?}");
                if own.are_all() {
                    assert_eq!(own == its, left == right, "{left:?} {right:?}");
                }
            }
            let earlier = hashes.insert(own.hash(left, [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]), left.clone());
            assert!(earlier.is_none_or(|earlier| earlier == *left), "one hash for two texts, of which one is {left:?}");
        }
    }
}
