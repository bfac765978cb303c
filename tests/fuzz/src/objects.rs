//! Bronze objects: what silver decodes.

use std::sync::LazyLock;

use lakehouse_contract::{Decode, ResolvedSilver};
use lakehouse_silver::fuzzing::{Decoded, decode_object};
use serde_json::{Value, json};

/// A table with a column of each type that the bytes of a record can decide.
fn table(decode: Decode, from: impl Fn(&str) -> String) -> ResolvedSilver {
    let column = |name: &str, kind: &str| json!({"name": name, "from": from(name), "type": kind});
    let mut columns: Vec<Value> = [
        ("s", "string"),
        ("i", "int"),
        ("l", "long"),
        ("d", "double"),
        ("n", "decimal(20,4)"),
        ("b", "boolean"),
        ("t", "timestamptz"),
        ("day", "date"),
        ("j", "json"),
    ]
    .into_iter()
    .map(|(name, kind)| column(name, kind))
    .collect();
    columns[0]["required"] = json!(true);
    let table = json!({"name": "t", "from": "s", "write": {"append": {}}, "columns": columns});
    let table = serde_json::from_value(table).expect("the table of the targets is valid");
    ResolvedSilver { table, decode, max_record_bytes: 2048, definition_digest: String::new() }
}

/// Decodes `data` whole and in small pieces (of which the first tells how it is compressed); both must end the same, and every record is accounted for.
fn decoded(table: &ResolvedSilver, data: &[u8]) -> Option<Decoded> {
    let whole = decode_object(table, data, usize::MAX);
    let pieces = decode_object(table, data, 4 + data.len() % 7);
    let (whole, pieces) = match (whole, pieces) {
        // How much of damaged data can still be unpacked depends on how it comes.
        (Ok(whole), Ok(pieces)) if damaged(&whole) && damaged(&pieces) => return None,
        (Ok(whole), Ok(pieces)) => (whole, pieces),
        (Err(whole), Err(pieces)) => {
            assert_eq!(whole, pieces, "how the bytes came decided the failure");
            return None;
        }
        (whole, pieces) => panic!("how the bytes came decided whether they can be read: {whole:?} and {pieces:?}"),
    };
    assert_eq!((whole.read, &whole.refused), (pieces.read, &pieces.refused));
    assert_eq!(rows(&whole), rows(&pieces));
    let written: usize = whole.batches.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(whole.read, (written + whole.refused.len()) as u64, "a record was lost or counted twice");
    Some(whole)
}

fn damaged(decoded: &Decoded) -> bool {
    decoded.refused.iter().any(|refused| refused.reason.contains("data is damaged or cut off"))
}

fn rows(decoded: &Decoded) -> String {
    arrow::util::pretty::pretty_format_batches(&decoded.batches).expect("rows can be shown").to_string()
}

static NDJSON: LazyLock<ResolvedSilver> = LazyLock::new(|| table(Decode::Ndjson, |name| format!("/{name}")));
static JSON: LazyLock<ResolvedSilver> = LazyLock::new(|| table(Decode::Json { records: "/data".into() }, |name| format!("/{name}")));
static CSV: LazyLock<ResolvedSilver> = LazyLock::new(|| table(Decode::Csv, |name| format!("/{name}")));
static PARQUET: LazyLock<ResolvedSilver> = LazyLock::new(|| table(Decode::Parquet, |name| format!("/{name}")));
static HTML: LazyLock<ResolvedSilver> = LazyLock::new(|| {
    let fields = ["s", "i", "l", "d", "n", "b", "t", "day", "j"].map(|name| match name {
        "j" => json!({"name": name, "select": "a", "all": true, "attribute": "href", "resolve": true}),
        _ => json!({"name": name, "select": format!(".{name}")}),
    });
    let fields = serde_json::from_value(json!(fields)).expect("the fields of the targets are valid");
    table(Decode::Html { records: "li".into(), fields }, |name| format!("/{name}"))
});

/// NDJSON: lines that are not blank are records, and one is malformed exactly when another parser says so.
pub fn ndjson(data: &[u8]) {
    let Some(decoded) = decoded(&NDJSON, data) else { return };
    if data.starts_with(&[0x1f, 0x8b]) || data.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return;
    }
    let text = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(blank)).collect();
    assert_eq!(decoded.read, lines.len() as u64);
    for (position, line) in (0..).zip(lines) {
        let rule = decoded.refused.iter().find(|refused| refused.position == position).map_or("", |refused| refused.rule.as_str());
        if rule == "too_long" {
            continue;
        }
        let valid = match serde_json::from_slice::<Value>(line) {
            Ok(_) => true,
            // It gives up on depth, on numbers beyond doubles and on half surrogate pairs, which the grammar has.
            Err(error) if ["recursion", "out of range", "surrogate", "hex escape"].iter().any(|word| error.to_string().contains(word)) => {
                continue;
            }
            Err(_) => false,
        };
        assert_eq!(rule != "malformed", valid, "{}", String::from_utf8_lossy(line));
    }
}

/// One JSON document.
pub fn json(data: &[u8]) {
    decoded(&JSON, data);
}

/// CSV with a header.
pub fn csv(data: &[u8]) {
    decoded(&CSV, data);
}

/// Parquet.
pub fn parquet(data: &[u8]) {
    decoded(&PARQUET, data);
}

/// A page; ingest and silver find the same records in it.
pub fn html(data: &[u8]) {
    decoded(&HTML, data);
}
