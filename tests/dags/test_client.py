"""Make or adopt against an API server: the real client, over HTTP."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fake_api import FakeApi, stage, status_of
from kubernetes.client import ApiClient, ApiException, Configuration, CustomObjectsApi
from lakehouse_airflow.client import ROUNDS, Lakehouse, Refused
from requests_for_tests import request

NAME = "crypto-2024-06-22-silver-d1c0a31e-1"


@pytest.fixture
def lakehouse(api: FakeApi) -> Lakehouse:
    configuration = Configuration()
    configuration.host = api.address
    return Lakehouse(CustomObjectsApi(ApiClient(configuration)), "lakehouse")


def test_a_run_is_made_once(api: FakeApi, lakehouse: Lakehouse) -> None:
    made = lakehouse.make_or_adopt(request())
    again = lakehouse.make_or_adopt(request())
    assert made["metadata"]["name"] == again["metadata"]["name"] == NAME
    assert api.calls["create"] == 1


def test_a_failed_run_is_followed_by_the_next(api: FakeApi, lakehouse: Lakehouse) -> None:
    lakehouse.make_or_adopt(request())
    api.set_status(NAME, status_of("False", stage("silver", "Failed"), reason="StageFailed"))
    second = lakehouse.make_or_adopt(request())
    assert second["metadata"]["name"].endswith("-2")
    assert second["spec"]["retryOf"] == NAME


def test_another_scope_is_another_run(lakehouse: Lakehouse) -> None:
    first = lakehouse.make_or_adopt(request())
    second = lakehouse.make_or_adopt(request(scope="d/another"))
    assert first["metadata"]["name"] != second["metadata"]["name"]


def test_a_run_that_somebody_makes_meanwhile_is_adopted(api: FakeApi, lakehouse: Lakehouse) -> None:
    api.before_create = lambda run: void(api.add_run(run))
    made = lakehouse.make_or_adopt(request())
    assert made["metadata"]["name"] == NAME
    assert (api.calls["create"], api.calls["list"]) == (1, 2)


def test_a_run_without_the_label_in_the_way_ends_the_trying(api: FakeApi, lakehouse: Lakehouse) -> None:
    api.add_run({"metadata": {"name": NAME}, "spec": {}})
    with pytest.raises(Refused, match=rf"^LakehouseRun {NAME} exists without the label lakehouse\.rs/submission="):
        lakehouse.make_or_adopt(request())
    assert api.calls["create"] == ROUNDS


def test_a_missing_pipeline_is_named(lakehouse: Lakehouse) -> None:
    assert lakehouse.grain("crypto") == "daily"
    with pytest.raises(Refused, match=r"^no LakehousePipeline nope in namespace lakehouse$"):
        lakehouse.grain("nope")


@pytest.mark.parametrize("code", [400, 403, 422])
def test_what_the_api_server_refuses_is_said_in_its_words(code: int, api: FakeApi, lakehouse: Lakehouse) -> None:
    api.refuse = (code, "Invalid", "spec.parameters: Too many")
    with pytest.raises(Refused, match=rf"^LakehouseRun {NAME}: {re.escape('spec.parameters: Too many')}$"):
        lakehouse.make_or_adopt(request())


def test_a_fault_of_the_api_server_is_left_to_the_retries_of_the_task(api: FakeApi, lakehouse: Lakehouse) -> None:
    api.refuse = (500, "InternalError", "no")
    with pytest.raises(ApiException):
        lakehouse.make_or_adopt(request())


def test_cancel_is_a_merge_patch_and_a_run_that_is_gone_is_fine(api: FakeApi, lakehouse: Lakehouse) -> None:
    lakehouse.make_or_adopt(request())
    lakehouse.cancel(NAME)
    assert api.patches == [(NAME, "application/merge-patch+json", {"spec": {"state": "Cancelled"}})]
    lakehouse.cancel("gone")


def void(_: Any) -> None:
    """Forgets a value."""
