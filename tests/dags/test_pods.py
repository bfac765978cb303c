"""The pods that the tasks ask for: what the Pod Security standard "restricted" wants, how they end, what they may reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from conftest import CANARY
from fake_api import FakeApi
from lakehouse_airflow.pods import submit_stage

if TYPE_CHECKING:
    from airflow.sdk import DAG
    from kubernetes.client import V1Pod

PODS = [("hello_world", "hello"), ("pulse", "ingest"), ("pulse", "silver"), ("crypto_daily", "gold")]


def pod_of(task: KubernetesPodOperator) -> V1Pod:
    """The pod as it goes to the API server, sidecar and all."""
    return task.build_pod_request_obj(context=None)


@pytest.fixture(params=PODS, ids=[".".join(names) for names in PODS])
def task(request: pytest.FixtureRequest, dags: dict[str, DAG]) -> KubernetesPodOperator:
    dag, name = request.param
    found = dags[dag].get_task(name)
    assert isinstance(found, KubernetesPodOperator)
    return found


def test_every_pod_is_restricted(task: KubernetesPodOperator, api: FakeApi) -> None:
    pod = pod_of(task)
    assert pod.spec.security_context.run_as_non_root
    assert pod.spec.security_context.run_as_user == 65532
    assert pod.spec.security_context.seccomp_profile.type == "RuntimeDefault"
    assert not pod.spec.host_network
    assert len(pod.spec.containers) == (2 if task.do_xcom_push else 1)
    for container in pod.spec.containers:
        assert container.security_context.allow_privilege_escalation is False
        assert container.security_context.read_only_root_filesystem is True
        assert container.security_context.capabilities.drop == ["ALL"]
    assert pod.spec.containers[0].name == "lakehouse"
    assert pod.spec.containers[0].resources.limits == {"memory": "128Mi"}


def test_every_pod_uses_the_clients_rights_and_carries_no_secret(task: KubernetesPodOperator, api: FakeApi) -> None:
    pod = pod_of(task)
    assert pod.spec.service_account_name == "lakehouse-client"
    assert pod.metadata.labels["app.kubernetes.io/component"] == "client"
    for container in pod.spec.containers:
        assert not container.env
        assert not container.env_from
    assert CANARY not in str(pod.to_dict())


def test_every_pod_is_found_again_and_cleaned_up(task: KubernetesPodOperator) -> None:
    assert task.durable and task.deferrable
    assert task.logging_interval == 5
    assert (task.on_finish_action, task.on_kill_action) == ("delete_pod", "delete_pod")
    assert task.termination_grace_period == 30
    assert task.termination_message_policy == "FallbackToLogsOnError"


def test_every_argument_of_the_pod_operator_may_be_given(api: FakeApi) -> None:
    task = submit_stage(
        "shop",
        ["gold", "silver"],
        task_id="both",
        inputs_from="a-run",
        refresh="Stale",
        deferrable=False,
        startup_timeout_seconds=7,
    )
    assert (task.deferrable, task.startup_timeout_seconds, task.task_id) == (False, 7, "both")
    assert task.labels["lakehouse.rs/pipeline"] == "shop"
    arguments: list[Any] = task.arguments
    expected = ["--stage", "silver", "--stage", "gold", "--inputs-from", "a-run", "--refresh", "stale"]
    assert arguments[6:14] == expected


def test_all_stages_are_one_run(api: FakeApi) -> None:
    task = submit_stage("shop")
    assert task.task_id == "run"
    assert "--stage" not in task.arguments


def test_an_unknown_stage_and_a_table_without_a_layer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^stage 'bronze' is not one of ingest, silver, gold, maintenance$"):
        submit_stage("shop", "bronze")
    with pytest.raises(ValueError, match=r"^table 'events': write layer and name, such as silver\.price_snapshots$"):
        submit_stage("shop", "silver", writes=["events"])
