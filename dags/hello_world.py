"""One pod that says which client it is: shows that Airflow may start pods here and reads their logs."""

from __future__ import annotations

from airflow.sdk import DAG
from lakehouse_airflow.defaults import task_defaults
from lakehouse_airflow.pods import client_pod

with DAG(
    "hello_world",
    description="One pod of the lakehouse client prints its version",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["lakehouse"],
    default_args=task_defaults(),
    doc_md=__doc__,
):
    client_pod("hello", ["--version"])
