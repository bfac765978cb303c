//! The session: what it refuses, and that its sums and averages are exact.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Schema},
};
use futures::TryStreamExt;
use lakehouse_api::pipeline::GoldModel;
use lakehouse_contract::{Interval, IntervalGrain, ResolvedGold, TableRef};
use lakehouse_gold::{Engine, SqlError, check_models, datafusion::datasource::MemTable};

fn engine(columns: Vec<(&str, ArrayRef)>) -> Engine {
    let engine = Engine::new().unwrap();
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap();
    let half = batch.num_rows() / 2;
    let parts = vec![vec![batch.slice(0, half)], vec![batch.slice(half, batch.num_rows() - half)]];
    engine.register(&TableRef::new("silver", "t"), Arc::new(MemTable::try_new(batch.schema(), parts).unwrap())).unwrap();
    engine
}

fn decimals(values: &[i128], precision: u8, scale: i8) -> ArrayRef {
    Arc::new(Decimal128Array::from(values.to_vec()).with_precision_and_scale(precision, scale).unwrap())
}

async fn answer(engine: &Engine, sql: &str) -> Result<Vec<String>, SqlError> {
    let query = engine.parse(sql)?;
    let batches: Vec<RecordBatch> = engine.stream(&query).await?.map_err(SqlError::from).try_collect().await?;
    let mut cells = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let shown = batch.columns().iter().map(|column| arrow::util::display::array_value_to_string(column, row).unwrap());
            cells.push(shown.collect::<Vec<_>>().join("|"));
        }
    }
    Ok(cells)
}

#[tokio::test]
async fn only_one_query_over_registered_tables_is_allowed() {
    let engine = engine(vec![("a", Arc::new(Int64Array::from(vec![1])))]);
    for (sql, message) in [
        ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", "CREATE is not allowed"),
        ("CREATE TABLE silver.x AS SELECT 1", "CREATE is not allowed"),
        ("CREATE VIEW silver.x AS SELECT 1", "CREATE is not allowed"),
        ("COPY silver.t TO '/tmp/x.csv'", "COPY is not allowed"),
        ("INSERT INTO silver.t VALUES (1)", "INSERT is not allowed"),
        ("DELETE FROM silver.t", "DELETE is not allowed"),
        ("UPDATE silver.t SET a = 2", "UPDATE is not allowed"),
        ("DROP TABLE silver.t", "DROP is not allowed"),
        ("SET datafusion.execution.batch_size = 1", "SET is not allowed"),
        ("RESET datafusion.execution.batch_size", "RESET is not allowed"),
        ("PREPARE p AS SELECT 1", "PREPARE is not allowed"),
        ("EXPLAIN DROP TABLE silver.t", "DROP is not allowed"),
        ("SELECT 1; SELECT 2", "single SQL statement"),
        ("SELECT * FROM '/etc/passwd'", "table /etc/passwd does not exist"),
        ("SELECT * FROM 'https://example.com/x.parquet'", "does not exist"),
        ("SELECT * FROM t", "table t does not exist: write silver.NAME"),
        ("SELECT * FROM read_csv('/etc/passwd')", "read_csv"),
        ("SELECT * FROM silver.missing", "table silver.missing does not exist; there are: silver.t"),
        ("SELECT b FROM silver.t", "column `b` does not exist; did you mean `a`?; columns: a"),
        ("SELECT $today", "`$today` is not a parameter: there are $start, $end, $readStart"),
        ("SELECT $1", "`$1` is not a parameter"),
        ("SELECT $start", "`$start` has a value in models only"),
        ("SELECT * INTO silver.x FROM silver.t", ""),
        ("SELEC 1", "is not allowed"),
    ] {
        match answer(&engine, sql).await {
            Ok(rows) => panic!("{sql}: {rows:?}"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(message) || (message == "is not allowed" && text.contains("syntax")), "{sql}: {text}");
                assert!(!text.contains('\n'), "{sql}: {text}");
            }
        }
    }
    assert_eq!(answer(&engine, "SELECT a FROM silver.t").await.unwrap(), ["1"]);
    assert_eq!(answer(&engine, "WITH x AS (SELECT a FROM silver.t) SELECT max(a) FROM x").await.unwrap(), ["1"]);
    assert_eq!(answer(&engine, "SELECT value FROM generate_series(1, 2)").await.unwrap(), ["1", "2"]);
    assert!(!answer(&engine, "EXPLAIN SELECT a FROM silver.t").await.unwrap().is_empty());
}

#[tokio::test]
async fn averages_are_rounded_half_away_from_zero_with_four_more_digits() {
    let values = [1, 1, 2, -1, -1, -2, 5];
    let groups: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 1, 2, 2, 2, 3]));
    let engine = engine(vec![("g", groups), ("d", decimals(&values, 38, 16))]);
    // 4/3 and -4/3 of 10^-16: 1.3333 and -1.3333 at scale 20.
    assert_eq!(
        answer(&engine, "SELECT g, avg(d) FROM silver.t GROUP BY g ORDER BY g").await.unwrap(),
        ["1|0.00000000000000013333", "2|-0.00000000000000013333", "3|0.00000000000000050000"]
    );
    // 8 ones and a zero: 8/9 = 0.88888…, up to 0.8889.
    let sixth = engine_of(&[1, 1, 1, 1, 1, 1, 1, 1, 0], 10, 0);
    assert_eq!(answer(&sixth, "SELECT avg(d) FROM silver.t").await.unwrap(), ["0.8889"]);
    // 1/32 = 0.03125: the half goes away from zero.
    let mut half = vec![0; 31];
    half.push(1);
    assert_eq!(answer(&engine_of(&half, 10, 0), "SELECT avg(d) FROM silver.t").await.unwrap(), ["0.0313"]);
    half[31] = -1;
    assert_eq!(answer(&engine_of(&half, 10, 0), "SELECT avg(d) FROM silver.t").await.unwrap(), ["-0.0313"]);
}

fn engine_of(values: &[i128], precision: u8, scale: i8) -> Engine {
    engine(vec![("d", decimals(values, precision, scale))])
}

#[tokio::test]
async fn sums_are_exact_or_an_error() {
    let most = 10_i128.pow(38) - 1;
    let fits = engine_of(&[most, -most, most, 0], 38, 16);
    assert_eq!(answer(&fits, "SELECT sum(d) FROM silver.t").await.unwrap(), ["9999999999999999999999.9999999999999999"]);
    let error = answer(&engine_of(&[most, most, most, most], 38, 16), "SELECT sum(d) FROM silver.t").await.unwrap_err();
    assert!(error.to_string().contains("does not fit decimal(38,16): overflow"), "{error}");
    let whole = engine(vec![("n", Arc::new(Int64Array::from(vec![i64::MAX, i64::MAX, -i64::MAX])))]);
    assert_eq!(answer(&whole, "SELECT sum(n) FROM silver.t").await.unwrap(), [i64::MAX.to_string()]);
    let error = answer(&whole, "SELECT sum(n) FROM silver.t WHERE n > 0").await.unwrap_err();
    assert!(error.to_string().contains("does not fit Int64"), "{error}");
    assert_eq!(answer(&whole, "SELECT sum(n), avg(CAST(n AS decimal(38,0))) FROM silver.t WHERE n = 7").await.unwrap(), ["|"]);
}

#[tokio::test]
async fn window_frames_are_exact_too() {
    let engine = engine(vec![("n", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))), ("d", decimals(&[1, 2, 4, 8], 38, 16))]);
    let sql = "SELECT n, sum(d) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS s,
        avg(d) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS a FROM silver.t ORDER BY n";
    assert_eq!(
        answer(&engine, sql).await.unwrap(),
        [
            "1|0.0000000000000001|0.00000000000000010000",
            "2|0.0000000000000003|0.00000000000000015000",
            "3|0.0000000000000006|0.00000000000000030000",
            "4|0.0000000000000012|0.00000000000000060000",
        ]
    );
}

#[tokio::test]
async fn literals_with_a_point_are_exact() {
    let engine = engine_of(&[3], 38, 1);
    assert_eq!(answer(&engine, "SELECT 0.1 + 0.2 = 0.3").await.unwrap(), ["true"]);
}

fn resolved(name: &str, sql: &str) -> ResolvedGold {
    let model: GoldModel = serde_json::from_value(serde_json::json!({"name": name, "write": {"overwrite": {}}, "sql": sql})).unwrap();
    ResolvedGold { model, read_start: chrono::DateTime::default(), definition_digest: String::new() }
}

async fn checked(models: &[ResolvedGold]) -> Result<usize, String> {
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    let tables = BTreeMap::from([(TableRef::new("silver", "t"), schema)]);
    let interval = Interval::parse(IntervalGrain::Daily, "2024-01-01").unwrap();
    check_models(models, &tables, &interval).await.map(|unchecked| unchecked.len()).map_err(|failure| failure.to_string())
}

#[tokio::test]
async fn models_are_checked_without_data() {
    let good = [resolved("b", "SELECT x FROM gold.a"), resolved("a", "SELECT a AS x FROM silver.t")];
    assert_eq!(checked(&good).await, Ok(0));
    let wrong = [resolved("b", "SELECT y FROM gold.a"), resolved("a", "SELECT a AS x FROM silver.t")];
    assert_eq!(checked(&wrong).await.unwrap_err(), "InvalidSql: gold.b: column `y` does not exist; did you mean `x`?; columns: x");
    let foreign = [resolved("b", "SELECT y FROM gold.a"), resolved("a", "SELECT x FROM silver.other")];
    assert_eq!(checked(&foreign).await, Ok(2));
}

#[tokio::test]
async fn a_circle_is_named() {
    let circle = [
        resolved("free", "SELECT a FROM silver.t"),
        resolved("a", "SELECT x FROM gold.b"),
        resolved("b", "SELECT x FROM gold.c JOIN gold.free ON true"),
        resolved("c", "SELECT x FROM gold.a"),
    ];
    assert_eq!(
        checked(&circle).await.unwrap_err(),
        "InvalidSql: gold models read each other in a circle: gold.a → gold.b → gold.c → gold.a"
    );
    let own = [resolved("a", "SELECT x FROM gold.a")];
    assert!(checked(&own).await.unwrap_err().contains("gold.a → gold.a"));
}

#[tokio::test]
async fn a_model_must_be_repeatable_and_its_columns_storable() {
    for (sql, message) in [
        ("SELECT now() AS at", "now() gives another answer on each run"),
        ("SELECT random() AS r", "random() gives another answer on each run"),
        ("SELECT a, NULL AS n FROM silver.t", "column `n` has type Null: it is always null"),
        ("SELECT a + 1 FROM silver.t", "needs a name of lower case letters"),
        ("EXPLAIN SELECT a FROM silver.t", "a model is a SELECT"),
        ("SELECT table_name FROM information_schema.tables", "a model is a SELECT"),
        ("SELECT [a] AS list FROM silver.t", "tables cannot hold it"),
    ] {
        let error = checked(&[resolved("m", sql)]).await.unwrap_err();
        assert!(error.contains("gold.m: ") && error.contains(message), "{sql}: {error}");
    }
}
