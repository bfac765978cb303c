//! Casts as a table of value, type and outcome.

use arrow::{array::Array, util::display::array_value_to_string};

use super::*;

fn cast(column: &str, unit: Option<TimeUnit>, value: Value<'_>) -> Result<Option<String>, &'static str> {
    let mut builder = ColumnBuilder::new(column.parse().unwrap(), unit, 1);
    let appended = builder.append(value);
    let array = builder.finish();
    assert_eq!(array.len(), 1, "one entry per call");
    match appended {
        Err(fault) => {
            assert!(array.is_null(0));
            Err(fault.0)
        }
        Ok(Appended::Null) => Ok(None),
        Ok(Appended::Value) => Ok(Some(array_value_to_string(&array, 0).unwrap())),
    }
}

fn fits(column: &str, value: Value<'_>, expected: &str) {
    assert_eq!(cast(column, None, value), Ok(Some(expected.to_owned())), "{value:?} as {column}");
}

fn faults(column: &str, value: Value<'_>, words: &str) {
    let fault = cast(column, None, value).unwrap_err();
    assert!(fault.contains(words), "{value:?} as {column}: {fault}");
}

#[test]
fn numbers_keep_every_digit() {
    fits("decimal(38,16)", Value::Number("67812.1234567890123456"), "67812.1234567890123456");
    fits("decimal(38,16)", Value::Text("1e-16"), "0.0000000000000001");
    fits("decimal(4,2)", Value::Number("-99.99"), "-99.99");
    faults("decimal(4,2)", Value::Number("100"), "range");
    faults("decimal(4,2)", Value::Number("1.001"), "more digits");
    faults("decimal(4,2)", Value::Text(""), "not a number");
    fits("int", Value::Text("12"), "12");
    fits("int", Value::Number("12.0"), "12");
    faults("int", Value::Number("12.5"), "more digits");
    faults("int", Value::Number("2147483648"), "range");
    fits("long", Value::Number("-9223372036854775808"), "-9223372036854775808");
    faults("long", Value::Number("9223372036854775808"), "range");
    faults("long", Value::Bool(true), "not a number");
    fits("double", Value::Text("0.5"), "0.5");
    faults("double", Value::Text("NaN"), "not a number");
    faults("float", Value::Number("1e300"), "range");
    fits("boolean", Value::Text("true"), "true");
    fits("boolean", Value::Bool(false), "false");
    faults("boolean", Value::Number("1"), "boolean");
    faults("boolean", Value::Text("yes"), "boolean");
}

#[test]
fn times_keep_their_zone() {
    fits("timestamptz", Value::Text("2024-01-01T01:00:00+01:00"), "2024-01-01T00:00:00Z");
    faults("timestamptz", Value::Text("2024-01-01T01:00:00"), "no offset");
    faults("timestamptz", Value::Text("2024-01-01T00:00:00.0000001Z"), "finer than a microsecond");
    faults("timestamptz", Value::Number("5"), "needs a unit");
    fits("timestamp", Value::Text("2024-01-01T01:00:00"), "2024-01-01T01:00:00");
    faults("timestamp", Value::Text("2024-01-01T01:00:00Z"), "has an offset");
    fits("date", Value::Text("2024-02-29"), "2024-02-29");
    faults("date", Value::Text("2024-01-01T00:00:00Z"), "not a date");
    faults("date", Value::Text("2023-02-29"), "exists");
    let midnight = Value::Number("1704067200");
    assert_eq!(cast("date", Some(TimeUnit::Seconds), midnight), Ok(Some("2024-01-01".to_owned())));
    assert_eq!(cast("timestamptz", Some(TimeUnit::Seconds), Value::Text("1704067200")), Ok(Some("2024-01-01T00:00:00Z".to_owned())));
    assert!(cast("date", Some(TimeUnit::Seconds), Value::Number("1704067201")).unwrap_err().contains("time of day"));
    let interval = Value::Time { value: 1_704_067_200, unit: TimeUnit::Seconds, zone: Zone::Either };
    fits("timestamptz", interval, "2024-01-01T00:00:00Z");
    fits("timestamp", interval, "2024-01-01T00:00:00");
    fits("date", interval, "2024-01-01");
    fits("string", interval, "2024-01-01T00:00:00Z");
}

#[test]
fn text_is_text_and_json_is_json() {
    fits("string", Value::Number("1.50"), "1.50");
    fits("string", Value::Bool(true), "true");
    fits("string", Value::Escaped(r"a\u00e9\n"), "aé\n");
    fits("string", Value::Doubled(r#"say ""hi"""#), r#"say "hi""#);
    faults("string", Value::Escaped(r"\ud800"), "surrogate");
    faults("string", Value::Container("[1]"), "declare the column as json");
    fits("json", Value::Container("{ \"a\" : [ 1.0 ] }"), r#"{"a":[1.0]}"#);
    fits("json", Value::Escaped(r"a\u00e9"), r#""a\u00e9""#);
    fits("json", Value::Text("x\"y"), r#""x\"y""#);
    fits("json", Value::Number("1e2"), "1e2");
    assert_eq!(cast("json", None, Value::Null), Ok(None));
    assert_eq!(cast("int", None, Value::Missing), Ok(None));
}
