"""An operator with nothing to do writes nothing."""

from __future__ import annotations

import time

from idle import Idle

# Longer than everything that is looked at again: Lakehouses every minute.
LONG = 75


def test_an_idle_operator_writes_nothing(idle: Idle) -> None:
    time.sleep(max(0.0, idle.since + LONG - time.monotonic()))
    written = idle.stand.traffic.writes()[idle.writes :]
    assert not [str(call) for call in written if call.resource != "leases"]
    assert len(idle.stand.traffic.calls) > idle.calls, "it looked at its Lakehouse again"
