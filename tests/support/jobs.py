"""The job images' binaries, run as a pod would run them: a spec in a file, secrets in the environment."""

import json
import os
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


def start_job(stage: str, spec: Mapping[str, Any], folder: Path, env: Mapping[str, str]) -> subprocess.Popen[str]:
    """Starts the binary `stage` on `spec`; its files go to `folder`, its log is the process's standard error."""
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
    )


def run_job(
    stage: str, spec: Mapping[str, Any], folder: Path, env: Mapping[str, str], timeout: float = 120
) -> JobOutcome:
    """Runs the binary `stage` on `spec` to its end."""
    with start_job(stage, spec, folder, env) as process:
        try:
            _, log = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    termination = folder / "termination.json"
    return JobOutcome(process.returncode, log, json.loads(termination.read_text()) if termination.exists() else {})
