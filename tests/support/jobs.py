"""The job images' binaries, run as a pod would run them: a spec in a file, secrets in the environment."""

import json
import os
import resource
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.binaries import binary

SUCCEEDED, UNEXPECTED, RETRYABLE, TERMINAL = 0, 1, 10, 20
"""Exit codes of the contract."""


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended."""

    status: int
    log: str
    termination: dict[str, Any]


def limit_memory(size: int) -> None:
    """Gives this process, and what it starts, a hard limit of private memory in bytes, which the kernel holds it to.

    It is stricter than that of a container, which counts what is used of a mapping, such as a stack, and not all of it.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def start_job(
    stage: str, spec: Mapping[str, Any], folder: Path, env: Mapping[str, str], memory: int | None = None
) -> subprocess.Popen[str]:
    """Starts the binary `stage` on `spec`, with a limit of private memory in bytes if `memory` says one; its files go to `folder`, its log is the process's standard error."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.json").write_text(json.dumps(spec))
    environment = {
        **os.environ,
        **env,
        "LAKEHOUSE_STAGE_SPEC": str(folder / "stage.json"),
        "LAKEHOUSE_TERMINATION_PATH": str(folder / "termination.json"),
    }
    return subprocess.Popen(
        [binary(stage)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=None if memory is None else lambda: limit_memory(memory),
    )


def run_job(
    stage: str,
    spec: Mapping[str, Any],
    folder: Path,
    env: Mapping[str, str],
    timeout: float = 120,
    memory: int | None = None,
) -> JobOutcome:
    """Runs the binary `stage` on `spec` to its end; `memory` as `start_job` has it."""
    with start_job(stage, spec, folder, env, memory) as process:
        try:
            _, log = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    termination = folder / "termination.json"
    return JobOutcome(process.returncode, log, json.loads(termination.read_text()) if termination.exists() else {})
