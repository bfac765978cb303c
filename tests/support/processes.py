"""Starting and stopping the processes of services."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def start(command: Sequence[str | Path], log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts `command` with its output in the file `log`."""
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env)


def stop(process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    """Asks the process to end; kills it when it has not within `seconds`."""
    process.terminate()
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=seconds)
