//! Our JSON against two others: sonic-rs says what stands where, arrow-json what the columns are, serde_json what is valid.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::{DataType, Field, Schema, TimeUnit},
};
use chrono::Utc;
use lakehouse_api::pipeline::SilverTable;
use lakehouse_contract::ResolvedSilver;
use proptest::prelude::*;

use super::*;
use crate::{
    json::{
        record::{Pointers, Reader},
        scan::Scanner,
        value::Value,
    },
    pages::extracted,
    unit::lines,
};

const FACTS: RunFacts = RunFacts { interval_start: 0, interval_end: 86_400_000_000, processed_at: 7 };

pub(crate) fn plan(columns: serde_json::Value, decode: Decode) -> TablePlan {
    plan_of(serde_json::json!({"name": "t", "from": "s", "write": {"append": {}}, "columns": columns}), decode)
}

fn plan_of(table: serde_json::Value, decode: Decode) -> TablePlan {
    let table: SilverTable = serde_json::from_value(table).unwrap();
    TablePlan::new(&ResolvedSilver { table, decode, max_record_bytes: 1 << 20, definition_digest: String::new() }, "local/p").unwrap()
}

fn unit(bytes: impl Into<bytes::Bytes>) -> Unit {
    Unit {
        object: "o".into(),
        metadata: Default::default(),
        captured_at: Utc::now(),
        bytes: bytes.into(),
        first_position: 10,
        first_byte: 0,
        fault: None,
    }
}

/// Rows as text, and (position, rule, record) of what was refused.
fn decoded(plan: &TablePlan, bytes: impl Into<bytes::Bytes>) -> (Vec<String>, Vec<(u64, String, String)>) {
    let unit = unit(bytes);
    let (mut rows, _) = decode(plan, &unit, FACTS).unwrap();
    rows.settle().unwrap();
    assert_eq!(rows.read as usize, rows.ordinals.len() + rows.quarantined.len());
    let lines = (0..rows.batch.num_rows()).map(|row| {
        let cells = rows.batch.columns().iter().take(plan.columns.len());
        let cells = cells.map(|column| arrow::util::display::array_value_to_string(column, row).unwrap());
        cells.collect::<Vec<_>>().join("|")
    });
    let lines = lines.collect();
    (lines, rows.quarantined.into_iter().map(|q| (q.position, q.rule.into_owned(), q.record)).collect())
}

fn id_and_name(decode: Decode) -> TablePlan {
    plan(
        serde_json::json!([{"name": "id", "from": "/id", "type": "int", "required": true}, {"name": "name", "from": "/name", "type": "string"}]),
        decode,
    )
}

#[test]
fn a_bad_line_harms_only_itself() {
    let text = b"{\"id\":1,\"name\":\"a\"}\r\n\n{\"id\":2,\"name\":\n[3]\n{\"id\":4,\"name\":\"\xFF\"}\n5\n{\"name\":\"x\"}\n{\"id\":\"y\"}\n{\"id\":7}";
    let (rows, refused) = decoded(&id_and_name(Decode::Ndjson), &text[..]);
    assert_eq!(rows, ["1|a", "7|"]);
    let expected = [
        (11, "malformed", "{\"id\":2,\"name\":"),
        (12, "not_an_object", "[3]"),
        (13, "malformed", "{\"id\":4,\"name\":\"\u{fffd}\"}"),
        (14, "not_an_object", "5"),
        (15, "required:id", "{\"name\":\"x\"}"),
        (16, "cast:id", "{\"id\":\"y\"}"),
    ];
    assert_eq!(refused, expected.map(|(position, rule, record)| (position, rule.to_owned(), record.to_owned())));
}

#[test]
fn of_records_that_end_the_stage_the_first_one_does() {
    let columns = serde_json::json!([
        {"name": "a", "from": "/a", "type": "int", "onError": "fail"},
        {"name": "b", "from": "/b", "type": "int", "onError": "fail"},
    ]);
    let mut lines = vec!["{\"a\":1,\"b\":2}"; 200];
    (lines[130], lines[140]) = ("{\"a\":1,\"b\":\"x\"}", "{\"a\":\"y\",\"b\":2}");
    let said = decode_fails(&plan(columns, Decode::Ndjson), &lines.join("\n")).unwrap();
    assert_eq!(said, "CastFailed: silver.t: object o, record 140: column b: \"x\" is not a number; its type is int");
}

/// A table of `id`, and what becomes of all else.
fn only_id(unknown: serde_json::Value, decode: Decode) -> TablePlan {
    let columns = serde_json::json!([{"name": "id", "from": "/id", "type": "int"}]);
    let write = serde_json::json!({"append": {}});
    plan_of(serde_json::json!({"name": "t", "from": "s", "write": write, "columns": columns, "unknownFields": unknown}), decode)
}

#[test]
fn fields_that_no_column_takes_are_kept_or_the_end() {
    let capture = serde_json::json!({"capture": {"column": "more"}});
    let kept = |decode, text: &str| decoded(&only_id(capture.clone(), decode), text.to_owned()).0;
    let lines = "{\"id\":1,\"b\": 1.50 ,\"b\":[ 1 ],\"\\u00e9\\n\":\"\\t\"}\n{\"id\":2}\n{\"x\":null}";
    assert_eq!(kept(Decode::Ndjson, lines), ["1|{\"b\":[1],\"\\u00e9\\n\":\"\\t\"}", "2|", "|{\"x\":null}"]);
    assert_eq!(kept(Decode::Csv, "b,id,b,c\n0,1,\"x\"\"y\",\n,2,,\n"), ["1|{\"b\":\"x\\\"y\"}", "2|"]);
    let failing = |decode, text: &str| decode_fails(&only_id(serde_json::json!({"fail": {}}), decode), text);
    let expected = |name: &str, record| {
        format!("SchemaMismatch: silver.t: object o, record {record}: no column takes the field `{name}`, and unknownFields says fail")
    };
    assert_eq!(failing(Decode::Ndjson, lines), Some(expected("b", 10)));
    assert_eq!(failing(Decode::Ndjson, "{\"id\":1}\nbroken\n{\"id\":1,\"c\":2}"), Some(expected("c", 12)));
    assert_eq!(failing(Decode::Csv, "id,c\n"), None, "no record has it");
    assert_eq!(failing(Decode::Csv, "id,c\n1,\n"), Some(expected("c", 10)));
    assert_eq!(failing(Decode::Ndjson, "{\"id\":1}"), None);
}

fn decode_fails(plan: &TablePlan, text: &str) -> Option<String> {
    decode(plan, &unit(text.to_owned()), FACTS).err().map(|failure| failure.to_string())
}

#[test]
fn a_record_of_very_many_fields_takes_no_longer_for_it() {
    let fields: Vec<String> = (0..300_000).map(|number| format!("\"k{number}\":1")).collect();
    let record = format!("{{{}}}", fields.join(","));
    let plan = only_id(serde_json::json!({"capture": {"column": "more"}}), Decode::Json { records: String::new() });
    assert_eq!(decoded(&plan, record.clone()).0, [format!("|{record}")]);
}

#[test]
fn documents_give_their_records_and_what_stands_beside_them() {
    let columns = serde_json::json!([
        {"name": "id", "from": "/id", "type": "int"},
        {"name": "at", "from": "$document/meta/at", "type": "string"},
        {"name": "n", "from": "$position", "type": "long"},
    ]);
    let plan = plan(columns, Decode::Json { records: "/data".into() });
    let (rows, refused) = decoded(&plan, r#" {"data":[{"id":1}, 2 ,{"id":3}],"meta":{"at":"t"}} "#);
    assert_eq!(rows, ["1|t|10", "3|t|12"]);
    assert_eq!(refused, [(11, "not_an_object".to_owned(), "2".to_owned())]);
    for (text, words) in [("{\"data\":", "expected"), ("{}", "it is nothing"), ("{\"data\":{}}", "it is {}"), ("<html>", "not valid JSON")]
    {
        let unit = unit(text);
        let (mut rows, _) = decode(&plan, &unit, FACTS).unwrap();
        rows.settle().unwrap();
        assert_eq!((rows.read, rows.batch.num_rows()), (1, 0));
        assert_eq!(rows.quarantined[0].record, text);
        assert!(rows.quarantined[0].reason.contains(words), "{}", rows.quarantined[0].reason);
    }
    assert_eq!(decoded(&plan, r#"{"data":[]}"#), (vec![], vec![]));
}

#[test]
fn the_document_itself_may_be_one_record_or_an_array() {
    let plan = id_and_name(Decode::Json { records: String::new() });
    assert_eq!(decoded(&plan, r#"{"id":1}"#).0, ["1|"]);
    assert_eq!(decoded(&plan, r#"[{"id":1},{"id":2}]"#).0, ["1|", "2|"]);
    assert_eq!(decoded(&plan, "7").1[0].1, "malformed");
}

#[test]
fn csv_is_rfc_4180_and_a_bad_record_harms_only_itself() {
    let plan = id_and_name(Decode::Csv);
    let text = "name,id\r\n\"a, \"\"b\"\"\nc\",1\r\n,2\r\n\"\",3\r\nx\r\n\"q\"z,4\r\ny,5,6\r\n\r\nw,7";
    let (rows, refused) = decoded(&plan, text);
    assert_eq!(rows, ["1|a, \"b\"\nc", "2|", "3|", "7|w"]);
    let refused: Vec<_> = refused.iter().map(|(position, _, record)| (*position, record.trim_end())).collect();
    assert_eq!(refused[0], (13, "x"));
    assert_eq!(refused[2], (15, "y,5,6"));
    assert_eq!(refused[1].0, 14);
    assert!(refused[1].1.starts_with("\"q\"z,4"));
    assert_eq!(decoded(&plan, "").0.len(), 0);
    assert_eq!(decoded(&plan, "id,name\n9,\"open").1[0].2, "9,\"open");
    assert_eq!(decoded(&plan, &b"id,name\n9,\xFF\n8,b"[..]).0, ["8|b"]);
}

#[test]
fn parquet_goes_through_the_same_casts() {
    use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, StringArray, TimestampNanosecondArray};
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![Some(1), None, Some(1 << 40)]))),
        ("name", Arc::new(StringArray::from(vec![Some("a"), Some("b"), Some("c")]))),
        ("x", Arc::new(Float64Array::from(vec![0.5, 1.0, f64::NAN]))),
        ("t", Arc::new(TimestampNanosecondArray::from(vec![1_000, 2_000, 3_000]).with_timezone("UTC"))),
        (
            "l",
            Arc::new(ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>(vec![Some(vec![Some(1), Some(2)]), None, None])),
        ),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let plan = plan(
        serde_json::json!([
            {"name": "id", "from": "/id", "type": "int", "required": true},
            {"name": "name", "from": "/name", "type": "string"},
            {"name": "x", "from": "/x", "type": "decimal(4,2)"},
            {"name": "t", "from": "/t", "type": "timestamptz"},
            {"name": "l", "from": "/l", "type": "json"},
            {"name": "none", "from": "/none", "type": "int"},
        ]),
        Decode::Parquet,
    );
    let (rows, refused) = decoded(&plan, bytes);
    assert_eq!(rows, ["1|a|0.50|1970-01-01T00:00:00.000001Z|[1,2]|"]);
    assert_eq!((refused[0].1.as_str(), refused[1].1.as_str()), ("required:id", "cast:id"));
    assert!(refused[1].2.contains("\"name\":\"c\""), "{}", refused[1].2);
    assert_eq!(decoded(&plan, "no parquet").1, [(10, "malformed".to_owned(), "10 bytes".to_owned())]);
}

fn pages() -> TablePlan {
    let fields = serde_json::json!([
        {"name": "title", "select": "h3"},
        {"name": "price", "select": ".price", "match": "[0-9.]+"},
        {"name": "tags", "select": "i", "all": true},
    ]);
    let columns = serde_json::json!([
        {"name": "title", "from": "/title", "type": "string", "required": true},
        {"name": "price", "from": "/price", "type": "decimal(6,2)"},
        {"name": "tags", "from": "/tags", "type": "json"},
        {"name": "first", "from": "/tags/0", "type": "string"},
        {"name": "url", "from": "$document/url", "type": "string"},
        {"name": "charset", "from": "$document/charset", "type": "string"},
        {"name": "n", "from": "$position", "type": "long"},
    ]);
    plan(columns, Decode::Html { records: "li".into(), fields: serde_json::from_value(fields).unwrap() })
}

/// The page as a unit, extracted, with what the manifest says of it.
fn page(plan: &TablePlan, bytes: &[u8], metadata: &[(&str, &str)]) -> Unit {
    let metadata: std::collections::BTreeMap<_, _> = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    extracted(plan.rules.as_ref().unwrap(), Unit { metadata: metadata.into(), ..unit(bytes.to_vec()) })
}

#[test]
fn pages_give_their_records_in_the_encoding_that_the_server_said() {
    let plan = pages();
    let html = b"<ul><li><h3>caf\xE9</h3><p class=price>\xA351.77<i>a</i><i>b</i><li><p class=price>1<li><h3>x</h3><p class=price>1.234";
    let metadata = [("url", "http://h/a?b=1"), ("content-type", "text/html; charset=ISO-8859-1")];
    let unit = page(&plan, html, &metadata);
    let (rows, refused) = decoded(&plan, unit.bytes);
    assert_eq!(rows, ["café|51.77|[\"a\",\"b\"]|a|http://h/a?b=1|windows-1252|10"]);
    let expected = [
        (11, "required:title", r#"{"title":null,"price":"1","tags":[]}"#),
        (12, "cast:price", r#"{"title":"x","price":"1.234","tags":[]}"#),
    ];
    assert_eq!(refused, expected.map(|(position, rule, record)| (position, rule.to_owned(), record.to_owned())));
    let unit = page(&plan, b"<p>none", &[]);
    assert_eq!(decoded(&plan, unit.bytes), (vec![], vec![]));
}

#[test]
fn a_page_beyond_the_limits_is_one_quarantined_record() {
    let plan = pages();
    let unit = page(&plan, "<div>".repeat(100_000).as_bytes(), &[]);
    let (mut rows, _) = decode(&plan, &unit, FACTS).unwrap();
    rows.settle().unwrap();
    assert_eq!((rows.read, rows.batch.num_rows()), (1, 0));
    let quarantined = &rows.quarantined[0];
    assert_eq!((&*quarantined.rule, quarantined.record.len()), ("malformed", crate::unit::EXCERPT));
    assert!(quarantined.reason.contains("nested more than 1000 levels"), "{}", quarantined.reason);
}

/// JSON text of any shape, with white space in any place.
fn json() -> impl Strategy<Value = String> {
    let space = prop::sample::select(vec!["", "", " ", "\n", "\t \r"]);
    let text = prop::sample::select(vec![
        "a",
        "b",
        "é€😀",
        "x\\ny",
        "\\u00e9",
        "a b",
        "\\\\",
        "",
        "quite a long text that spans words \\\" and more",
    ]);
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?",
        text.prop_map(|text| format!("\"{text}\"")),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        let member = (prop::sample::select(vec!["a", "b", "c", "d/e", "é"]), inner.clone(), space.clone());
        let object = prop::collection::vec(member, 0..5).prop_map(|mut members| {
            let mut seen = std::collections::HashSet::new();
            members.retain(|(key, ..)| seen.insert(*key));
            let members: Vec<String> = members.iter().map(|(k, v, s)| format!("{s}\"{k}\"{s}:{s}{v}{s}")).collect();
            format!("{{{}}}", members.join(","))
        });
        let array = (prop::collection::vec(inner, 0..4), space.clone())
            .prop_map(|(items, s)| format!("[{s}{}{s}]", items.join(&format!("{s},{s}"))));
        prop_oneof![object, array]
    })
}

fn raw(value: Value<'_>) -> Option<String> {
    Some(match value {
        Value::Missing => return None,
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(text) | Value::Container(text) => text.to_owned(),
        Value::Text(text) | Value::Escaped(text) => format!("\"{text}\""),
        other => panic!("{other:?} is not from JSON"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_pointer_leads_where_sonic_says(documents in prop::collection::vec(json(), 1..4)) {
        let paths: &[&[&str]] = &[&["a"], &["b"], &["a", "b"], &["a", "a"], &["d/e"], &["é", "c"], &["b", "0"], &["b", "1", "a"], &["zz"]];
        let mut pointers = Pointers::default();
        for path in paths {
            let text: String = path.iter().map(|token| format!("/{}", token.replace('/', "~1"))).collect();
            pointers.add(&text).unwrap();
        }
        // One reader for all documents: what it remembers of one must not show in the next.
        let mut reader = Reader::new(&pointers);
        for document in &documents {
            let mut slots = vec![Value::Missing; pointers.len()];
            prop_assert!(reader.read(document, &mut slots).is_ok(), "{}", document);
            for (slot, path) in paths.iter().enumerate() {
                let found = raw(slots[slot]);
                let expected = reference(document, path);
                prop_assert_eq!(&found, &expected, "{:?} of {}", path, document);
            }
        }
    }

    #[test]
    fn what_serde_json_refuses_is_refused(document in json(), cut in 0_usize..200, put in "[\\x00-\\x7f]{0,2}") {
        let at = (0..=cut.min(document.len())).rev().find(|at| document.is_char_boundary(*at)).unwrap_or(0);
        let broken = format!("{}{put}{}", &document[..at], document[at..].chars().skip(1).collect::<String>());
        let mut scanner = Scanner::new(&broken);
        let ours = scanner.skip(&mut Vec::new()).and_then(|()| scanner.end()).is_ok();
        // serde_json looks into skipped strings for half surrogate pairs; the grammar does not.
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&broken).is_ok();
        prop_assert_eq!(ours, theirs, "{}", broken);
        let mut pointers = Pointers::default();
        pointers.add("/a/b").unwrap();
        let read = Reader::new(&pointers).read(&broken, &mut [Value::Missing]).is_ok();
        prop_assert_eq!(read, theirs, "{}", broken);
    }

    #[test]
    fn a_record_is_read_as_if_it_stood_alone(
        // More than are worked off together, at times.
        records in prop_oneof![9 => prop::collection::vec(record(), 1..8), 1 => prop::collection::vec(record(), 60..150)],
        edits in prop::collection::vec((any::<prop::sample::Index>(), "[ \t\r\n,{}\":x0]{0,2}"), 0..4),
        end in "\r?\n?",
    ) {
        let mut text = records.join("\n") + &end;
        for (place, put) in edits {
            let start = place.index(text.len() + 1);
            let start = (0..=start).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            let after = text[start..].chars().next().map_or(start, |gone| start + gone.len_utf8());
            text.replace_range(start..after, &put);
        }
        for plan in PLANS.iter() {
            let whole = decoded(plan, text.clone());
            let (mut rows, mut refused) = (Vec::new(), Vec::new());
            for (number, (start, end)) in lines(text.as_bytes()).enumerate() {
                let (own, aside) = decoded(plan, text[start..end].to_owned());
                rows.extend(own);
                refused.extend(aside.into_iter().map(|(_, rule, record)| (10 + number as u64, rule, record)));
            }
            prop_assert_eq!(&whole, &(rows, refused), "{}", text);
        }
    }

    #[test]
    fn columns_are_those_of_arrow_json(rows in prop::collection::vec((any::<i64>(), "[a-zé\"\\\\\n]{0,20}", -1.0e9..1.0e9_f64, any::<Option<bool>>(), 0_i64..4_000_000_000_000_000), 1..50)) {
        let mut text = String::new();
        for (id, name, x, flag, micros) in &rows {
            let at = chrono::DateTime::from_timestamp_micros(*micros).unwrap().to_rfc3339();
            text += &format!("{}\n", serde_json::json!({"skip": {"id": 0, "x": [id]}, "id": id, "name": name, "x": x, "flag": flag, "at": at}));
        }
        let columns = serde_json::json!([
            {"name": "id", "from": "/id", "type": "long"},
            {"name": "name", "from": "/name", "type": "string"},
            {"name": "x", "from": "/x", "type": "double"},
            {"name": "flag", "from": "/flag", "type": "boolean"},
            {"name": "at", "from": "/at", "type": "timestamptz"},
        ]);
        let plan = plan(columns, Decode::Ndjson);
        let unit = unit(text.clone());
        let (mut ours, _) = decode(&plan, &unit, FACTS).unwrap();
        ours.settle().unwrap();
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
            Field::new("x", DataType::Float64, true),
            Field::new("flag", DataType::Boolean, true),
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        ]));
        let mut reader = arrow::json::ReaderBuilder::new(schema.clone()).with_batch_size(64).build(text.as_bytes()).unwrap();
        let theirs = reader.next().unwrap().unwrap();
        let options = RecordBatchOptions::new().with_row_count(Some(ours.batch.num_rows()));
        let ours = RecordBatch::try_new_with_options(schema, ours.batch.columns()[..5].to_vec(), &options).unwrap();
        prop_assert_eq!(ours, theirs);
    }
}

/// Mostly a whole number.
fn id() -> impl Strategy<Value = String> {
    prop_oneof![
        16 => any::<i16>().prop_map(|id| id.to_string()),
        1 => Just("null".to_owned()),
        1 => Just("1.5".to_owned()),
        1 => any::<i64>().prop_map(|id| format!("\"{id}\"")),
    ]
}

/// A line as one program writes them: the same keys in the same order, of which the last ones may be missing.
fn record() -> impl Strategy<Value = String> {
    let values = (id(), "[a-zé\"\\\\\n]{0,20}", any::<Option<bool>>(), 0_usize..5, prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    values.prop_map(|(id, name, flag, fields, spaced, nested)| {
        let name = serde_json::Value::from(name);
        let flag = flag.map_or_else(|| "null".to_owned(), |flag| flag.to_string());
        let nested = if nested { "{\"b\": [1]}" } else { "2" };
        let all = [format!("\"id\":{id}"), format!("\"name\":{name}"), format!("\"flag\":{flag}"), format!("\"a\":{nested}")];
        let (space, comma) = if spaced { (" ", " , ") } else { ("", ",") };
        format!("{{{space}{}{space}}}", all[..fields.min(all.len())].join(comma))
    })
}

/// Tables of such records: one leaves out what it does not know, one keeps it, one wants a field of a field.
static PLANS: LazyLock<[TablePlan; 3]> = LazyLock::new(|| {
    let columns = serde_json::json!([
        {"name": "id", "from": "/id", "type": "int", "required": true},
        {"name": "name", "from": "/name", "type": "string"},
        {"name": "flag", "from": "/flag", "type": "boolean"},
    ]);
    let write = serde_json::json!({"append": {}});
    let capture = serde_json::json!({"capture": {"column": "more"}});
    let capturing = serde_json::json!({"name": "t", "from": "s", "write": write, "columns": columns, "unknownFields": capture});
    let mut deep = columns.clone();
    deep.as_array_mut().unwrap().push(serde_json::json!({"name": "b", "from": "/a/b", "type": "json"}));
    [plan(columns, Decode::Ndjson), plan_of(capturing, Decode::Ndjson), plan(deep, Decode::Ndjson)]
});

/// The raw text at a path, as sonic-rs finds it.
fn reference(document: &str, path: &[&str]) -> Option<String> {
    use sonic_rs::JsonValueTrait;
    let mut here = document.trim().to_owned();
    for token in path {
        let value: sonic_rs::LazyValue<'_> = sonic_rs::from_str(&here).ok()?;
        let next = if value.is_object() {
            value.get(token).map(|value| value.as_raw_str().to_owned())
        } else if value.is_array() {
            token.parse::<usize>().ok().and_then(|index| value.get(index).map(|value| value.as_raw_str().to_owned()))
        } else {
            None
        };
        here = next?;
    }
    Some(here)
}
