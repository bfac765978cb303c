"""Each sort of call meets each answer that an API server may give once: no run is lost, and nothing is asked for in a hot loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest
from lives import Case, at_once, live
from scenarios import CANCEL, SCENARIOS, Scenario
from stand import Call, Stand, succeeded_condition
from support.operator_logs import API_FAULTS
from support.proxy import Answer, Reset, Silence, Spot

# Faults are what it is about.
pytestmark = pytest.mark.operator_says(*API_FAULTS)


# Most of their time these stands wait for the next look.
AT_ONCE = 12
# How many more requests of one sort than in an undisturbed life are no hot loop.
MORE = 8


def status(code: int, reason: str, retry_after: int | None = None) -> Answer:
    """What an API server says with a status."""
    said = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "made up by the test"}
    body = json.dumps({**said, "reason": reason, "code": code}).encode()
    lines = [f"HTTP/1.1 {code} {reason}", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"retry-after: {retry_after}"] if retry_after is not None else []
    return Answer("\r\n".join([*lines, "connection: close", "", ""]).encode() + body)


ERRORS: dict[str, tuple[Spot, Answer | Reset | Silence]] = {
    "409": (Spot.REQUESTED, status(409, "Conflict")),
    "403": (Spot.REQUESTED, status(403, "Forbidden")),
    "404": (Spot.REQUESTED, status(404, "NotFound")),
    "422": (Spot.REQUESTED, status(422, "Invalid")),
    "429": (Spot.REQUESTED, status(429, "TooManyRequests", 1)),
    "500": (Spot.REQUESTED, status(500, "InternalError")),
    "503": (Spot.REQUESTED, status(503, "ServiceUnavailable")),
    "504 that was applied": (Spot.APPLIED, status(504, "Timeout")),
    "a reset": (Spot.REQUESTED, Reset()),
    "a reset after it was applied": (Spot.APPLIED, Reset()),
    "a hang": (Spot.REQUESTED, Silence()),
}
# After these answers the run fails and says why: an object that is invalid stays so, and a definition that is gone does not come back.
FINAL = {
    ("422", "POST", "jobs"): "InvalidDefinition",
    ("422", "POST", "configmaps"): "InvalidDefinition",
    ("404", "GET", "controllerrevisions"): "DefinitionNotFound",
}


@pytest.mark.parametrize("scenario", [SCENARIOS[0], CANCEL], ids=str)
def test_every_error(
    stand: Callable[[str], Stand], scenario: Scenario, soak: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with stand(f"{scenario}-unfailing") as undisturbed:
        live(undisturbed, scenario)
        expected, sorts = undisturbed.outcome(), dict(undisturbed.traffic.counts)
    wanted = [sort for sort in sorts if scenario is not CANCEL or sort[0] in ("DELETE", "PATCH")]
    cases = [(sort, error) for sort in sorted(wanted) for error in ERRORS]
    if not soak:
        # Each sort with one or two of the errors, each error with some; all with all by `make soak`.
        cases = [case for index, case in enumerate(cases) if index % 7 == 0]

    def meets(number: int, sort: tuple[str, str], error: str) -> bool:
        call, (spot, answer) = Call(*sort, 1), ERRORS[error]
        with stand(f"{scenario}-error-{number}") as disturbed:
            fault = live(disturbed, scenario, lambda it: it.expect(call, spot, answer), crash=False)
            told = f"{disturbed.name}: {call} met {error}\n{disturbed.describe()}"
            if (reason := FINAL.get((error, *sort))) and disturbed.outcome() != expected:
                condition = succeeded_condition(disturbed.runs()[0])
                assert (condition["status"], condition["reason"]) == ("False", reason), told
            else:
                # Silence may be that of a status that waits for its answer, or for a watch.
                disturbed.wait(f"the end of {call} that met {error}", lambda: disturbed.outcome() == expected)
            for asked, count in disturbed.traffic.counts.items():
                assert count <= sorts.get(asked, 0) + MORE, f"{count} times {asked}: {told}"
            return fault is not None and fault.fired.is_set()

    numbered = [
        Case(f"{' '.join(sort)} meets {error}", partial(meets, number, sort, error))
        for number, (sort, error) in enumerate(cases)
    ]
    met = list(at_once(AT_ONCE, numbered).values())
    with capsys.disabled():
        print(f"\n  {scenario}: {sum(met)} errors met, {len(wanted)} sorts of calls", end=" ", flush=True)
    # `504 that was applied` and its like need a call that succeeds.
    assert sum(met) >= 0.9 * len(met)
