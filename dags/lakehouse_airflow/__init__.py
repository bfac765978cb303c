"""Airflow tasks that have the lakehouse operator do the work: one LakehouseRun per stage and interval. README.md tells how to use it."""
