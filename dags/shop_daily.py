"""An online shop, once a day, without a pod of Airflow's own: LakehouseRunOperator waits in the triggerer for each stage's run.

Apply deploy/airflow/shop.yaml first.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, chain
from lakehouse_airflow.assets import tables
from lakehouse_airflow.defaults import DAILY, every, history, late_after, task_defaults
from lakehouse_airflow.operators import LakehouseRunOperator

WRITES = {
    "ingest": [],
    "silver": ["silver.events", "silver.users", "silver.products"],
    "gold": [
        "gold.dim_product",
        "gold.dim_user",
        "gold.dim_date",
        "gold.fct_purchases",
        "gold.fct_sessions",
        "gold.daily_sales",
        "gold.product_ranking",
        "gold.sales_over_time",
        "gold.funnel",
    ],
}

with DAG(
    "shop_daily",
    description="Clicks and purchases to a star schema",
    schedule=every(DAILY),
    **history("shop_daily"),
    max_active_runs=2,
    tags=["lakehouse"],
    default_args=task_defaults(),
    deadline=late_after(timedelta(hours=3)),
    params={"on_kill": Param("leave", enum=["leave", "cancel"], title="When a task is stopped")},
    doc_md=__doc__,
):
    chain(
        *(
            LakehouseRunOperator(
                task_id=stage,
                pipeline="shop",
                stages=[stage],
                on_kill_action="{{ params.on_kill }}",
                outlets=tables(written),
            )
            for stage, written in WRITES.items()
        )
    )
