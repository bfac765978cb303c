"""The same work in DuckDB, in the fastest plan found: one pass into a temporary table, quarantine from it, DISTINCT ON into Parquet."""

import json
import sys
from pathlib import Path

import duckdb

folder, threads, start, end, *parts = sys.argv[1:]
names = ["event_id", "ts", "user_id", "session_id", "event_type", "product", "price", "region"]
# A malformed line becomes a row of nulls and so goes to quarantine, without its text.
# The reader's own TIMESTAMP is faster than a later TRY_CAST and than TIMESTAMPTZ; a price may be a text, so it is cast with care.
columns = ", ".join(f"{name}: '{'TIMESTAMP' if name == 'ts' else 'VARCHAR'}'" for name in names)
files = ", ".join(f"'{part}'" for part in parts)
good = f"""event_id IS NOT NULL AND ts >= TIMESTAMP '{start}' AND ts < TIMESTAMP '{end}' AND user_id IS NOT NULL AND session_id IS NOT NULL
    AND event_type IN ('view', 'add_to_cart', 'purchase') AND product IS NOT NULL AND typed_price > 0"""
fields = ", ".join(f"{name}: {name}" for name in names)
result = ", ".join("typed_price AS price" if name == "price" else name for name in names)
options = "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"

connection = duckdb.connect()
connection.execute(f"SET threads = {threads}")
connection.execute("SET preserve_insertion_order = false")
connection.execute(f"""
    CREATE TEMP TABLE parsed AS
    SELECT *, TRY_CAST(price AS DECIMAL(10,2)) AS typed_price FROM read_ndjson([{files}], columns = {{{columns}}}, ignore_errors = true, hive_partitioning = false)""")
quarantined = connection.execute(f"""
    COPY (SELECT to_json({{{fields}}}) AS record, TIMESTAMP '{start}' AS interval_start FROM parsed WHERE NOT coalesce({good}, false))
    TO '{folder}/quarantine.parquet' {options}""").fetchone()[0]
written = connection.execute(f"""
    COPY (SELECT DISTINCT ON (event_id) {result}, TIMESTAMP '2024-01-02 00:05:00' AS processed_at FROM parsed WHERE {good})
    TO '{folder}/silver.parquet' {options}""").fetchone()[0]
Path(folder, "counts.json").write_text(json.dumps({"written": written, "quarantined": quarantined}))
