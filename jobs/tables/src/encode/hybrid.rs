//! The hybrid of run lengths and bit-packed groups that Parquet calls RLE
//! (<https://parquet.apache.org/docs/file-format/data-pages/encodings/>).

/// Bits that a run saves before it is worth a header of its own.
const WORTH: usize = 64;

/// Appends `values`, each of which has at most `width` bits (up to 32), to `out`.
pub(super) fn encode(values: &[u32], width: u32, out: &mut Vec<u8>) {
    if width == 0 {
        if !values.is_empty() {
            varint(values.len() << 1, out);
        }
        return;
    }
    let shortest = (WORTH / width as usize).max(8);
    let (mut at, mut packed) = (0, 0);
    while at < values.len() {
        let run = values[at..].iter().take_while(|value| **value == values[at]).count();
        if run < shortest {
            // On to the next group of eight, which is where another run may begin.
            at += 8;
            continue;
        }
        pack(&values[packed..at], width, out);
        varint(run << 1, out);
        out.extend_from_slice(&values[at].to_le_bytes()[..width.div_ceil(8) as usize]);
        at += run;
        packed = at;
    }
    pack(&values[packed..], width, out);
}

/// One run of `count` times `value`, of one bit.
pub(super) fn run(count: usize, value: bool, out: &mut Vec<u8>) {
    varint(count << 1, out);
    out.push(u8::from(value));
}

/// Bits that are packed already, the first in the lowest bit, as one run.
pub(super) fn bits(packed: &[u8], out: &mut Vec<u8>) {
    varint(packed.len() << 1 | 1, out);
    out.extend_from_slice(packed);
}

/// Groups of eight values, the last one filled up with zeros.
fn pack(values: &[u32], width: u32, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    varint(values.len().div_ceil(8) << 1 | 1, out);
    out.reserve(values.len().div_ceil(8) * width as usize);
    for group in values.chunks(8) {
        match width {
            ..=8 => {
                let word = group.iter().rev().fold(0_u64, |word, value| word << width | u64::from(*value));
                out.extend_from_slice(&word.to_le_bytes()[..width as usize]);
            }
            9..=16 => {
                let word = group.iter().rev().fold(0_u128, |word, value| word << width | u128::from(*value));
                out.extend_from_slice(&word.to_le_bytes()[..width as usize]);
            }
            _ => pack_wide(group, width, out),
        }
    }
}

fn pack_wide(group: &[u32], width: u32, out: &mut Vec<u8>) {
    let (mut word, mut bits) = (0_u64, 0);
    for place in 0..8 {
        word |= u64::from(group.get(place).copied().unwrap_or(0)) << bits;
        bits += width;
        while bits >= 8 {
            out.push(word as u8);
            word >>= 8;
            bits -= 8;
        }
    }
}

fn varint(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads as the specification says, and no more.
    fn decode(mut bytes: &[u8], width: u32, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while values.len() < count {
            let (mut header, mut shift) = (0_usize, 0);
            loop {
                let byte = bytes[0];
                bytes = &bytes[1..];
                header |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    break;
                }
            }
            if header & 1 == 0 {
                let (value, rest) = bytes.split_at(width.div_ceil(8) as usize);
                let value = value.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
                values.extend(std::iter::repeat_n(value, header >> 1));
                bytes = rest;
            } else {
                let (packed, rest) = bytes.split_at((header >> 1) * width as usize);
                for place in 0..(header >> 1) * 8 {
                    let bit = |bit: usize| u32::from(packed[bit / 8] >> (bit % 8) & 1);
                    values.push((0..width as usize).fold(0, |value, at| value | bit(place * width as usize + at) << at));
                }
                bytes = rest;
            }
        }
        assert!(bytes.is_empty(), "{} bytes behind the values", bytes.len());
        values.truncate(count);
        values
    }

    proptest! {
        #[test]
        fn values_come_back(width in 0_u32..=32, runs in prop::collection::vec((any::<u32>(), 1_usize..100), 0..40)) {
            let mask = u32::MAX.checked_shr(32 - width).unwrap_or(0);
            let values: Vec<u32> = runs
                .iter()
                .flat_map(|(value, count)| (0..*count).map(move |at| if count % 3 == 0 { *value } else { value.wrapping_mul(at as u32 | 1) }))
                .map(|value| value & mask)
                .collect();
            let mut bytes = Vec::new();
            encode(&values, width, &mut bytes);
            prop_assert_eq!(decode(&bytes, width, values.len()), values);
        }
    }
}
