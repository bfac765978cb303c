use std::io::Write;

use bytes::Bytes;
use chrono::Utc;
use flate2::{Compression, write::GzEncoder};
use lakehouse_contract::{BronzeObject, Decode, Reason, StageFailure};
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;

const RANGE: usize = 4 << 20;

fn object(stored: &[u8]) -> BronzeObject {
    BronzeObject {
        key: "p/s/part-00000".into(),
        bytes: stored.len() as u64,
        sha256: lakehouse_storage::sha256(stored),
        blake3: Some(lakehouse_storage::blake3(stored)),
        records: None,
        captured_at: Utc::now(),
        metadata: Default::default(),
    }
}

/// The units of objects that come in pieces of `piece` bytes, and how cutting ended.
fn cut_all(objects: &[&[u8]], piece: usize, decode: &Decode, max_record_bytes: u64) -> (Vec<Unit>, Result<(), StageFailure>) {
    let (pieces_in, pieces) = mpsc::channel(1 << 16);
    for stored in objects {
        for bytes in stored.chunks(piece) {
            pieces_in.try_send(Ok(Bytes::copy_from_slice(bytes))).unwrap();
        }
        pieces_in.try_send(Ok(Bytes::new())).unwrap();
    }
    let (units_in, mut units) = mpsc::channel(1 << 16);
    let objects: Vec<BronzeObject> = objects.iter().map(|stored| object(stored)).collect();
    let ended = cut(&objects, decode, max_record_bytes, RANGE, pieces, &units_in);
    drop(units_in);
    (std::iter::from_fn(|| units.blocking_recv()).collect(), ended)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(content: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(content, 1).unwrap()
}

fn stored_as(compression: usize, content: &[u8]) -> Vec<u8> {
    match compression {
        0 => content.to_vec(),
        1 => gzip(content),
        // Two members, as concatenated files have.
        2 => [gzip(&content[..content.len() / 2]), gzip(&content[content.len() / 2..])].concat(),
        3 => [zstandard(&content[..content.len() / 3]), zstandard(&content[content.len() / 3..])].concat(),
        _ => zstandard(content),
    }
}

proptest! {
    /// However the bytes come, the units hold all lines that are not blank, whole, in order, with their numbers.
    #[test]
    fn units_are_the_lines(
        text in prop::collection::vec(prop::sample::select(vec![b'\n', b'\r', b' ', b'a', b'b', 0xC3, 0xBC]), 0..400),
        piece in 4_usize..50,
        compression in 0_usize..5,
        marked in any::<bool>(),
    ) {
        let content = if marked { [BYTE_ORDER_MARK, &text].concat() } else { text.clone() };
        let (units, ended) = cut_all(&[&stored_as(compression, &content)], piece, &Decode::Ndjson, 1000);
        prop_assert_eq!(ended, Ok(()));
        let expected: Vec<&[u8]> = lines(&text).map(|(start, end)| &text[start..end]).collect();
        let mut found: Vec<Vec<u8>> = Vec::new();
        let shift = if marked { BYTE_ORDER_MARK.len() } else { 0 };
        for unit in &units {
            prop_assert_eq!(unit.first_position as usize, found.len());
            prop_assert!(unit.fault.is_none());
            let begin = unit.first_byte as usize - shift;
            prop_assert_eq!(&text[begin..begin + unit.bytes.len()], &unit.bytes[..]);
            found.extend(lines(&unit.bytes).map(|(start, end)| unit.bytes[start..end].to_vec()));
        }
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn large_objects_are_many_units() {
    let line = format!("{{\"pad\":\"{}\"}}\n", "x".repeat(1000));
    let text = line.repeat(3 * RANGE / line.len());
    for stored in [text.clone().into_bytes(), gzip(text.as_bytes())] {
        let (units, ended) = cut_all(&[&stored], 8 << 20, &Decode::Ndjson, 1 << 20);
        assert_eq!(ended, Ok(()));
        assert!(units.len() >= 3, "{}", units.len());
        assert!(units.iter().all(|unit| unit.bytes.len() < 2 * RANGE && unit.bytes.ends_with(b"\n")));
        assert_eq!(units.iter().map(|unit| unit.bytes.len()).sum::<usize>(), text.len());
    }
}

#[test]
fn a_record_that_is_too_long_is_described_and_its_neighbours_are_kept() {
    let long = "y".repeat(100_000);
    let text = format!("1\n{long}\n\n3\n{long}");
    for piece in [7, 1000, 1 << 20] {
        let (units, ended) = cut_all(&[text.as_bytes()], piece, &Decode::Ndjson, 2000);
        assert_eq!(ended, Ok(()));
        let kept: Vec<_> =
            units.iter().filter(|unit| unit.fault.is_none() && unit.bytes.len() < 100).map(|unit| unit.first_position).collect();
        let faults: Vec<_> = units.iter().filter_map(|unit| unit.fault.clone().map(|fault| (unit, fault))).collect();
        if piece == 1 << 20 {
            // The first came whole within a unit: the decoder refuses it there.
            assert_eq!((kept.len(), faults.len()), (0, 1));
        } else {
            assert_eq!(kept, [0, 2]);
            assert_eq!(faults.len(), 2);
        }
        let (unit, fault) = faults.last().unwrap();
        assert_eq!((unit.first_position, unit.bytes.len(), fault.rule.as_str()), (3, EXCERPT, "too_long"));
        let digest = lakehouse_storage::sha256(long.as_bytes());
        let expected =
            format!("100000 bytes are more than maxRecordBytes 2000; bytes 100006 to 200006 of the object's content, SHA-256 {digest}");
        assert_eq!(fault.reason, expected);
    }
}

#[test]
fn what_came_before_the_damage_is_kept() {
    let text = "{\"id\":1}\n".repeat(20_000);
    for stored in [gzip(text.as_bytes()), zstandard(text.as_bytes())] {
        let cut_off = &stored[..stored.len() - 9];
        let (units, ended) = cut_all(&[cut_off, b"{\"id\":2}\n"], 1000, &Decode::Ndjson, 1000);
        // The object is what its manifest says: the damage was there when it was uploaded.
        assert_eq!(ended, Ok(()));
        let faults: Vec<_> = units.iter().filter_map(|unit| unit.fault.clone()).collect();
        assert_eq!(faults.len(), 1, "{units:?}");
        assert!(faults[0].reason.contains("data is damaged or cut off: "), "{}", faults[0].reason);
        assert_eq!(units.last().unwrap().bytes, "{\"id\":2}\n");
        assert_eq!(units.last().unwrap().first_position, 0);
    }
}

#[test]
fn a_whole_format_has_a_largest_size() {
    let content = vec![b'x'; 5000];
    for (compression, largest) in [(0, 4999), (0, 5000), (1, 4999), (1, 5000), (4, 4999)] {
        let stored = stored_as(compression, &content);
        let object = object(&stored);
        let (pieces_in, mut pieces) = mpsc::channel(100);
        for bytes in stored.chunks(1000) {
            pieces_in.try_send(Ok(Bytes::copy_from_slice(bytes))).unwrap();
        }
        pieces_in.try_send(Ok(Bytes::new())).unwrap();
        let mut read = Content::new(&object, &Decode::Csv, RANGE, &mut pieces).unwrap();
        let mut units = Vec::new();
        let mut emit = |unit| {
            units.push(unit);
            true
        };
        assert!(whole(&object, &Decode::Csv, &mut read, largest, &mut emit));
        read.finish().unwrap();
        assert_eq!(units.len(), 1);
        match &units[0].fault {
            None => assert_eq!((largest, &units[0].bytes[..]), (5000, &content[..])),
            Some(fault) => {
                assert_eq!((largest, units[0].bytes.len()), (4999, EXCERPT));
                let expected = "5000 bytes are more than the 4999 that one object may have; bytes 0 to 5000";
                assert!(fault.reason.starts_with(expected), "{}", fault.reason);
            }
        }
    }
}

#[test]
fn a_wrong_digest_and_a_failed_transfer_end_it() {
    let mut wrong = object(b"1\n2\n");
    wrong.blake3 = Some(lakehouse_storage::blake3(b"something else"));
    let (pieces_in, pieces) = mpsc::channel(10);
    pieces_in.try_send(Ok(Bytes::from_static(b"1\n2\n"))).unwrap();
    pieces_in.try_send(Ok(Bytes::new())).unwrap();
    let (units_in, _units) = mpsc::channel(10);
    let failure = cut(&[wrong], &Decode::Ndjson, 10, RANGE, pieces, &units_in).unwrap_err();
    assert_eq!(failure.reason, Reason::InputCorrupt);
    assert!(failure.message.contains("its manifest says"), "{}", failure.message);

    let stored = gzip(b"1\n2\n");
    let (pieces_in, pieces) = mpsc::channel(10);
    pieces_in.try_send(Ok(Bytes::copy_from_slice(&stored[..12]))).unwrap();
    pieces_in.try_send(Err(StageFailure::new(Reason::StoreUnavailable, "gone"))).unwrap();
    let (units_in, _units) = mpsc::channel(10);
    let failure = cut(&[object(&stored)], &Decode::Ndjson, 10, RANGE, pieces, &units_in).unwrap_err();
    assert_eq!((failure.reason, failure.message.as_str()), (Reason::StoreUnavailable, "gone"));
}
