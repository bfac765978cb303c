"""Free ports on the loopback interface."""

import os
import socket

# Of several workers of one run of tests, each takes ports of its own: one that is free for two at once would be taken by both.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def free_port() -> int:
    """A port that nothing listens on right now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        # By pairs: Linux prefers odd ports here.
        if port // 2 % WORKERS == WORKER:
            return port
