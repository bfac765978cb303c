"""Tasks that are pods of the client image: KubernetesPodOperator running `lakehouse`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import models as k8s

from lakehouse_airflow import assets
from lakehouse_airflow.defaults import CLIENT_IMAGE, NAMESPACE, SERVICE_ACCOUNT
from lakehouse_airflow.naming import DEFAULT_STAGES, PIPELINE_LABEL, Refresh, checked_refresh, in_order

OUTCOME_FILE = "/airflow/xcom/return.json"
"""Where KubernetesPodOperator's sidecar looks for the task's XCom."""
SCOPE = "{{ dag.dag_id }}/{{ run_id }}"
KEY = SCOPE + "/{{ dag_run.clear_number or 0 }}"
GRACE_SECONDS = 30
"""What a client pod has to cancel its run after SIGTERM."""


def client_pod(task_id: str, arguments: Sequence[str], **kwargs: Any) -> KubernetesPodOperator:
    """A task that runs the client with these arguments. (templated)

    The pod fits the Pod Security standard "restricted". A pod whose worker died is found again by the next try.
    Every argument of KubernetesPodOperator may be given and goes before what stands here.
    """
    hardened = k8s.V1SecurityContext(
        allow_privilege_escalation=False,
        read_only_root_filesystem=True,
        capabilities=k8s.V1Capabilities(drop=["ALL"]),
    )
    settings: dict[str, Any] = {
        "image": CLIENT_IMAGE,
        "image_pull_policy": "IfNotPresent",
        "name": task_id.replace("_", "-").replace(".", "-"),
        "base_container_name": "lakehouse",
        "service_account_name": SERVICE_ACCOUNT,
        "labels": {"app.kubernetes.io/part-of": "lakehouse", "app.kubernetes.io/component": "client"},
        "security_context": k8s.V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=65532,
            run_as_group=65532,
            fs_group=65532,
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        "container_security_context": hardened,
        "xcom_sidecar_container_security_context": hardened,
        "container_resources": k8s.V1ResourceRequirements(
            requests={"cpu": "10m", "memory": "32Mi"}, limits={"memory": "128Mi"}
        ),
        "durable": True,
        "deferrable": True,
        "poll_interval": 2,
        "logging_interval": 5,
        "startup_timeout_seconds": 300,
        "log_events_on_startup": False,
        "log_pod_spec_on_failure": False,
        # What the container said last is why it failed; it stands in the task's error then.
        "termination_message_policy": "FallbackToLogsOnError",
        "termination_grace_period": GRACE_SECONDS,
        "on_finish_action": "delete_pod",
        "on_kill_action": "delete_pod",
    }
    return KubernetesPodOperator(task_id=task_id, arguments=list(arguments), **(settings | kwargs))


def submit_stage(
    pipeline: str,
    stages: Sequence[str] | str | None = None,
    *,
    task_id: str | None = None,
    interval: str = "{{ data_interval_start | ts }}",
    parameters: Mapping[str, str] | None = None,
    inputs_from: str | None = None,
    refresh: Refresh | None = None,
    on_terminate: str = "leave",
    timeout: str = "2h",
    writes: Sequence[str] = (),
    namespace: str = NAMESPACE,
    **kwargs: Any,
) -> KubernetesPodOperator:
    """A task whose pod makes or adopts the LakehouseRun of a stage and waits for its outcome, which becomes its XCom.

    :param pipeline: name of the LakehousePipeline.
    :param stages: a stage, or several for one run; all but maintenance when absent.
    :param interval: begin of the interval. (templated)
    :param parameters: values that replace the pipeline's parameters of the same name. (templated)
    :param inputs_from: run whose bronze objects are the input of silver. (templated)
    :param refresh: `Stale` or `Full`: intervals that gold computes beside this one, those whose inputs have changed since or all.
    :param on_terminate: `cancel` or `leave`: what becomes of the run when the pod is stopped. (templated)
    :param timeout: how long the pod waits, such as 30m. (templated)
    :param writes: tables that the stage writes, such as `silver.coins`: the task's outlets.
    :param namespace: where the pipeline is.
    """
    asked = in_order([stages] if isinstance(stages, str) else stages)
    arguments = ["submit", pipeline, "--namespace", namespace, "--interval", interval]
    if asked != DEFAULT_STAGES:
        for stage in asked:
            arguments += ["--stage", stage]
    for name, value in (parameters or {}).items():
        arguments += ["--parameter", f"{name}={value}"]
    if inputs_from:
        arguments += ["--inputs-from", inputs_from]
    if refresh := checked_refresh(refresh, asked):
        arguments += ["--refresh", refresh.lower()]
    arguments += ["--scope", SCOPE, "--key", KEY, "--wait", "--timeout", timeout]
    arguments += ["--on-terminate", on_terminate, "--outcome-file", OUTCOME_FILE, "--output", "text"]
    labels = {
        "app.kubernetes.io/part-of": "lakehouse",
        "app.kubernetes.io/component": "client",
        PIPELINE_LABEL: pipeline,
    }
    settings: dict[str, Any] = {
        "labels": labels,
        "do_xcom_push": True,
        "outlets": assets.tables(writes, namespace),
        "post_execute": assets.record,
    }
    return client_pod(
        task_id or "_".join(asked if asked != DEFAULT_STAGES else ["run"]), arguments, **(settings | kwargs)
    )
