"""Running programs: bounded in time, quiet while they work, one readable line when they fail."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from os import environ
from pathlib import Path

Command = Sequence[str | Path]


class ClusterError(Exception):
    """A failure whose message alone tells the user what to do."""


def say(message: str) -> None:
    """Progress goes to standard error: standard output carries only what was asked for."""
    print(f"cluster: {message}", file=sys.stderr, flush=True)


def run(
    command: Command,
    *,
    timeout: float,
    doing: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    show_errors: bool = False,
) -> str:
    """Run `command` and return its standard output.

    With `show_errors` the program's standard error goes to the terminal as it comes.
    A failure or an overrun of `timeout` seconds is a ClusterError that starts with `doing` and
    ends with the program's last words.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**environ, **(env or {})},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=None if show_errors else subprocess.PIPE,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as missing:
        raise ClusterError(f"{doing}: program {words[0]!r} is not installed") from missing
    except subprocess.TimeoutExpired as late:
        raise ClusterError(f"{doing}: {words[0]} did not end within {timeout:.0f} s") from late
    if done.returncode != 0:
        raise ClusterError(f"{doing}: {Path(words[0]).name} failed: {_last_words(done.stderr, done.stdout)}")
    return done.stdout.decode(errors="replace")


def succeeds(command: Command, *, timeout: float = 30) -> bool:
    """Whether `command` ends with status 0 in time."""
    try:
        run(command, timeout=timeout, doing="check")
    except ClusterError:
        return False
    return True


def wait_until(check, *, timeout: float, what: str, every: float = 1.0) -> None:
    """Call `check` until it is true; after `timeout` seconds fail, saying what was awaited."""
    end = time.monotonic() + timeout
    while not check():
        if time.monotonic() > end:
            raise ClusterError(f"{what} did not happen within {timeout:.0f} s")
        time.sleep(every)


def _last_words(stderr: bytes | None, stdout: bytes) -> str:
    if stderr is None:
        return "see above"
    text = (stderr.strip() or stdout.strip()).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-4:]) or "no output"
