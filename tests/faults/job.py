"""One job's process, behind the harness that starts it: waited for within bounds, killed without warning."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.jobs import SUCCEEDED, start_job

# Longest time a job may take here; a lease that is waited for takes 60 s of it.
JOB_SECONDS = 90.0


class Job:
    """A running or ended process of one attempt."""

    def __init__(self, spec: Mapping[str, Any], folder: Path, env: Mapping[str, str]) -> None:
        self._termination = folder / "termination.json"
        self._process = start_job(next(iter(spec["work"])), spec, folder, env)
        self._log = ""

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and nothing else may have ended it before."""
        self._process.send_signal(signal.SIGKILL)
        status = self._ended()
        assert status == -signal.SIGKILL, f"ended with {status} before it was killed\n{self.log()}"
        assert not self._termination.exists(), "a killed job says nothing"

    def end(self, expected: int = SUCCEEDED) -> dict[str, Any]:
        """Waits for its end with an exit code of the contract; its termination message."""
        try:
            status = self._ended()
        except subprocess.TimeoutExpired:
            self.stop()
            raise AssertionError(f"not done within {JOB_SECONDS:.0f} s\n{self.log()}") from None
        assert status == expected, f"exit code {status}\n{self.log()}"
        termination: dict[str, Any] = json.loads(self._termination.read_text())
        return termination

    def stop(self) -> None:
        """Ends it whatever its state."""
        self._process.kill()
        self._ended()

    def log(self) -> str:
        """The end of what it logged, once it has ended."""
        return self._log[-6000:]

    def _ended(self) -> int:
        # A second call finds the pipe closed.
        with contextlib.suppress(ValueError):
            self._log += self._process.communicate(timeout=JOB_SECONDS)[1]
        return self._process.wait(JOB_SECONDS)
