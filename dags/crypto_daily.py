"""Prices of coins, once a day: each stage is a pod of the lakehouse client that makes or adopts one LakehouseRun and waits for it.

The DAG run's data interval is the run's interval, so catching up and `airflow backfill create` cover history day by day, as far as
the source has one. Averages over seven days read the days before: fill history in order (`--max-active-runs 1`), or clear `gold`
of the days that the pipeline's status then names as stale. Apply deploy/airflow/crypto.yaml first.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, chain
from lakehouse_airflow.defaults import DAILY, every, history, late_after, task_defaults
from lakehouse_airflow.pods import submit_stage
from lakehouse_airflow.sensors import manifest_sensor

PIPELINE = "crypto"

with DAG(
    "crypto_daily",
    description="CoinCap's prices to silver and gold tables",
    schedule=every(DAILY),
    **history("crypto_daily"),
    max_active_runs=2,
    tags=["lakehouse"],
    default_args=task_defaults(),
    deadline=late_after(timedelta(hours=3)),
    params={
        "limit": Param(
            20, type="integer", minimum=1, maximum=2000, title="Coins", description="How many coins to fetch"
        ),
        "on_kill": Param(
            "leave",
            enum=["leave", "cancel"],
            title="When a task is stopped",
            description="leave: its run goes on, and the next try adopts it; cancel: its run is cancelled",
        ),
    },
    doc_md=__doc__,
) as dag:
    # The limit is said to ingest alone: nothing after it asks the source.
    ingest = submit_stage(
        PIPELINE, "ingest", parameters={"limit": "{{ params.limit }}"}, on_terminate="{{ params.on_kill }}"
    )
    silver = submit_stage(
        PIPELINE,
        "silver",
        on_terminate="{{ params.on_kill }}",
        writes=["silver.coins", "silver.price_snapshots"],
    )
    gold = submit_stage(
        PIPELINE,
        "gold",
        on_terminate="{{ params.on_kill }}",
        writes=[
            "gold.daily_summary",
            "gold.rolling_averages",
            "gold.rankings",
            "gold.dim_coin",
            "gold.day_over_day",
        ],
    )
    chain([ingest, manifest_sensor(PIPELINE)], silver, gold)
