//! The distinct texts of a column chunk, numbered as they come.

use super::ends::{Ends, compare};
use std::hash::BuildHasher;
use std::ops::Range;

/// Places looked at for one text. A table that is at most half full rarely needs ten.
const PROBES: usize = 128;

/// A text of the dictionary.
#[derive(Clone, Copy, Debug)]
struct Entry {
    ends: Ends,
    /// Where its bytes begin in `encoded`.
    start: u32,
    /// The last page that has it.
    page: u32,
}

impl Entry {
    fn range(&self) -> Range<usize> {
        self.start as usize..self.start as usize + self.ends.length()
    }
}

/// Distinct texts up to a number of bytes, as a dictionary page holds them.
#[derive(Debug)]
pub(super) struct Dictionary {
    seeds: [u64; 2],
    /// Upper half of the hash, and the number of the entry plus one; 0 where there is none.
    places: Vec<u64>,
    entries: Vec<Entry>,
    /// The texts in PLAIN encoding: four bytes of length, then the bytes.
    encoded: Vec<u8>,
    limit: usize,
    /// Entries that the present page has.
    used: Vec<u32>,
    page: u32,
    last: Option<(Ends, u32)>,
}

impl Dictionary {
    /// An empty one, which takes no more than `limit` bytes of encoded texts (below 4 GiB).
    pub(super) fn new(limit: usize) -> Self {
        let random = std::hash::RandomState::new();
        Self {
            seeds: [random.hash_one(1), random.hash_one(2)],
            places: vec![0; 256],
            entries: Vec::new(),
            encoded: Vec::new(),
            limit,
            used: Vec::new(),
            page: 1,
            last: None,
        }
    }

    /// The number of `text`, which is in the present page from now on. None when the text is new and the dictionary is full; it is also
    /// given up for texts that all want the same place.
    #[inline]
    pub(super) fn number_of(&mut self, text: &[u8]) -> Option<u32> {
        let ends = Ends::of(text);
        if let Some((last, number)) = self.last
            && last == ends
            && (ends.are_all() || self.text(number) == text)
        {
            return Some(number);
        }
        let number = self.find(text, ends)?;
        self.last = Some((ends, number));
        Some(number)
    }

    #[inline]
    fn find(&mut self, text: &[u8], ends: Ends) -> Option<u32> {
        let hash = ends.hash(text, self.seeds);
        let mask = self.places.len() - 1;
        let mut place = hash as usize & mask;
        for _ in 0..PROBES {
            let found = self.places[place];
            if found == 0 {
                return self.add(text, ends, hash, place);
            }
            if found >> 32 == hash >> 32 {
                let number = found as u32 - 1;
                let entry = &mut self.entries[number as usize];
                if entry.ends == ends && (ends.are_all() || self.encoded[entry.range()] == *text) {
                    if entry.page != self.page {
                        entry.page = self.page;
                        self.used.push(number);
                    }
                    return Some(number);
                }
            }
            place = (place + 1) & mask;
        }
        None
    }

    #[cold]
    fn add(&mut self, text: &[u8], ends: Ends, hash: u64, place: usize) -> Option<u32> {
        if self.encoded.len() + 4 + text.len() > self.limit {
            return None;
        }
        let number = self.entries.len() as u32;
        self.encoded.extend_from_slice(&(text.len() as u32).to_le_bytes());
        self.entries.push(Entry { ends, start: self.encoded.len() as u32, page: self.page });
        self.encoded.extend_from_slice(text);
        self.used.push(number);
        self.places[place] = stored(hash, number);
        if self.entries.len() * 2 > self.places.len() {
            self.grow();
        }
        Some(number)
    }

    fn grow(&mut self) {
        let size = self.places.len() * 4;
        let mut places = vec![0; size];
        for (number, entry) in (0..).zip(&self.entries) {
            let hash = entry.ends.hash(&self.encoded[entry.range()], self.seeds);
            let mut place = hash as usize & (size - 1);
            while places[place] != 0 {
                place = (place + 1) & (size - 1);
            }
            places[place] = stored(hash, number);
        }
        self.places = places;
    }

    /// The text with this number.
    pub(super) fn text(&self, number: u32) -> &[u8] {
        &self.encoded[self.entries[number as usize].range()]
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len() as u32).map(|number| self.text(number))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Size of the dictionary page, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.encoded.len()
    }

    /// Bits that the largest number takes.
    pub(super) fn width(&self) -> u32 {
        u32::BITS - (self.len().saturating_sub(1) as u32).leading_zeros()
    }

    /// Least and greatest text of the present page; none without texts.
    pub(super) fn range(&self) -> Option<(&[u8], &[u8])> {
        let with_ends = |number: u32| (self.text(number), self.entries[number as usize].ends);
        let first = with_ends(*self.used.first()?);
        let (mut least, mut greatest) = (first, first);
        for other in self.used[1..].iter().map(|number| with_ends(*number)) {
            if compare(other, least).is_lt() {
                least = other;
            } else if compare(other, greatest).is_gt() {
                greatest = other;
            }
        }
        Some((least.0, greatest.0))
    }

    /// Begins the next page.
    pub(super) fn next_page(&mut self) {
        self.used.clear();
        self.page += 1;
        self.last = None;
    }

    /// The dictionary page, uncompressed.
    pub(super) fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

fn stored(hash: u64, number: u32) -> u64 {
    hash >> 32 << 32 | u64::from(number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_number_and_a_full_dictionary_takes_no_new_ones() {
        let mut dictionary = Dictionary::new(1 << 20);
        let texts: Vec<String> = (0..20_000).map(|number| format!("{}{number}", "x".repeat(number % 23))).collect();
        for (number, text) in (0..).zip(&texts) {
            assert_eq!(dictionary.number_of(text.as_bytes()), Some(number));
        }
        dictionary.next_page();
        assert_eq!(dictionary.range(), None);
        for (number, text) in (0..20_000).zip(&texts).rev() {
            assert_eq!(dictionary.number_of(text.as_bytes()), Some(number));
            assert_eq!(dictionary.text(number), text.as_bytes());
        }
        assert_eq!(dictionary.range().map(|(least, greatest)| (least.to_vec(), greatest.to_vec())), {
            let (least, greatest) = (texts.iter().min(), texts.iter().max());
            least.zip(greatest).map(|(least, greatest)| (least.clone().into_bytes(), greatest.clone().into_bytes()))
        });
        let mut small = Dictionary::new(10);
        assert_eq!([b"one".as_slice(), b"two", b"one"].map(|text| small.number_of(text)), [Some(0), None, Some(0)]);
        assert_eq!(small.width(), 0);
    }
}
