"""A source that refuses, breaks off, answers nonsense or nothing: the message says so, and what was there before stays."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import manifests
from support.jobs import RETRYABLE, TERMINAL
from support.lakehouse import Lakehouse
from support.manifests import column, fetched
from support.replay import Answer, ReplayServer

DATE = "2024-06-22"
TABLE = {
    "name": "coins",
    "from": "assets",
    "write": {"replaceInterval": {"column": "at"}},
    "columns": [column("coin_id", "/id", "string"), column("at", "$intervalStart", "timestamptz", required=True)],
}


def write(manifest: Path, replay: ReplayServer, url: str = "/v3/assets", **source: Any) -> Path:
    """A pipeline on the replay server; a failed stage is not tried again."""
    pipeline = manifests.pipeline("coins", [fetched("assets", url, **source)], [TABLE], jobs={"retries": 0})
    return manifests.write(manifest, manifests.lakehouse([manifests.archive("api", replay.url)]), pipeline)


@dataclass(frozen=True)
class Case:
    """An answer, and what a person reads."""

    answer: Answer
    status: int
    reason: str
    message: str
    kept: bytes | None = None
    """The body, where it is kept beside the objects."""


HTML = b"<html><h1>Down for maintenance</h1></html>"
CASES = {
    "404": Case(
        Answer(404, b'{"error":"no such thing"}'),
        TERMINAL,
        "SourceRefused",
        'source assets: GET {url} answered 404 Not Found: {"error":"no such thing"}',
    ),
    "401": Case(
        Answer(401, b"who are you?"),
        TERMINAL,
        "SourceRefused",
        "source assets: GET {url} answered 401 Unauthorized: who are you?",
    ),
    "429": Case(
        Answer(429, b"slow down", {"Retry-After": "0"}),
        RETRYABLE,
        "SourceUnavailable",
        "source assets: GET {url} answered 429 Too Many Requests: slow down (1 tries)",
    ),
    "500": Case(
        Answer(500, b"oops"),
        RETRYABLE,
        "SourceUnavailable",
        "source assets: GET {url} answered 500 Internal Server Error: oops (1 tries)",
    ),
    "timeout": Case(
        Answer(delay=5),
        RETRYABLE,
        "SourceUnavailable",
        "source assets: GET {url} was not answered within 1 s (1 tries)",
    ),
    "broken off": Case(
        Answer(cut_after=100),
        RETRYABLE,
        "SourceUnavailable",
        "source assets: GET {url} answered 200 OK, but the body broke off after 100 bytes",
    ),
    "not JSON": Case(
        Answer(200, HTML),
        TERMINAL,
        "InvalidResponse",
        "source assets: GET {url} answered 200 OK with something that is not JSON: expected value at line 1 column 1",
        kept=HTML,
    ),
    "cut JSON": Case(
        Answer(200, b'{"data":[{"id":"bitcoin"}'),
        TERMINAL,
        "InvalidResponse",
        "with something that is not JSON: EOF while parsing",
        kept=b'{"data":[{"id":"bitcoin"}',
    ),
    "no records": Case(
        Answer(200, b'{"error":"quota"}'),
        TERMINAL,
        "InvalidResponse",
        "source assets: GET {url} answered 200 OK, but there is nothing at records pointer /data",
        kept=b'{"error":"quota"}',
    ),
    "no array": Case(
        Answer(200, b'{"data":{"id":"bitcoin"}}'),
        TERMINAL,
        "InvalidResponse",
        "source assets: GET {url} answered 200 OK, but at records pointer /data is an object, not an array",
        kept=b'{"data":{"id":"bitcoin"}}',
    ),
    "empty array": Case(
        Answer(200, b'{"data":[]}'),
        TERMINAL,
        "EmptyResponse",
        "source assets: GET {url} answered 200 OK with no record at /data; allowEmpty accepts that",
    ),
    "empty body": Case(
        Answer(200, b""),
        TERMINAL,
        "EmptyResponse",
        "source assets: GET {url} answered 200 OK with an empty body",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_answer_is_named_and_good_rows_stay(
    lake: Lakehouse, replay: ReplayServer, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    # A good run first; then the path changes, so the source is asked again.
    lake.run(write(tmp_path / "good.yaml", replay), interval=DATE)
    before = lake.rows("silver.coins")
    asked = len(replay.requests)
    replay.answer(case.answer)
    manifest = write(tmp_path / "bad.yaml", replay, url="/v3/assets?again=1", timeout="1s")
    outcome = lake.fail(manifest, interval=DATE)
    assert outcome.status == case.status
    assert case.reason in outcome.text
    url = f"{replay.url}/v3/assets?again=1&at=2024-06-22T00%3A00%3A00Z"
    assert case.message.replace("{url}", url) in outcome.text
    assert len(replay.requests) == asked + 1
    assert len(before) == 20
    assert lake.rows("silver.coins") == before
    assert len(lake.manifests()) == 1
    rejected = [path.read_bytes() for path in (lake.folder / "bronze").rglob("rejected-*")]
    assert rejected == ([] if case.kept is None else [case.kept])


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500),
        Answer(429, b"", {"Retry-After": "1"}),
        Answer(503, b""),
        Answer(cut_after=50),
        Answer(200, b"nonsense"),
    ],
    ids=["500", "429", "503", "broken off", "not JSON"],
)
def test_a_passing_trouble_is_tried_again(
    lake: Lakehouse, replay: ReplayServer, tmp_path: Path, answer: Answer
) -> None:
    replay.answer(answer)
    lake.run(write(tmp_path / "coins.yaml", replay, retries=1), interval=DATE)
    assert len(lake.rows("silver.coins")) == 20
    first, second = replay.requests
    asked_to_wait = float(answer.headers.get("Retry-After", 0))
    assert second.at - first.at >= asked_to_wait


def test_an_unreachable_source_is_named(lake: Lakehouse, tmp_path: Path) -> None:
    with ReplayServer(answers={}) as gone:
        manifest = write(tmp_path / "coins.yaml", gone)
    outcome = lake.fail(manifest, interval=DATE)
    assert outcome.status == RETRYABLE
    assert "SourceUnavailable" in outcome.text
    assert "Connection refused" in outcome.text
    assert gone.url in outcome.text


def test_the_token_is_sent_and_never_shown(lake: Lakehouse, replay: ReplayServer, tmp_path: Path) -> None:
    token = "s3cr3t-t0ken"
    connection = {**manifests.archive("api", replay.url), "authorizationSecret": {"name": "api", "key": "token"}}
    pipeline = manifests.pipeline("coins", [fetched("assets", "/v3/assets")], [TABLE], jobs={"retries": 0})
    manifest = manifests.write(tmp_path / "coins.yaml", manifests.lakehouse([connection]), pipeline)
    replay.answer(Answer(403, f"{token} may not".encode()))
    outcome = lake.fail(manifest, interval=DATE, env={"LAKEHOUSE_CONNECTION_API_TOKEN": token})
    assert replay.requests[0].headers["authorization"] == f"Bearer {token}"
    assert "answered 403 Forbidden: *** may not" in outcome.text
    assert token not in outcome.text
    for path in lake.folder.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path


def test_a_source_that_knows_only_now_is_not_asked_for_the_past(
    lake: Lakehouse, replay: ReplayServer, tmp_path: Path
) -> None:
    pipeline = manifests.pipeline("coins", [fetched("assets", "/v3/assets")], [TABLE])
    lakehouse = manifests.lakehouse([{"name": "api", "baseUrl": replay.url}])
    outcome = lake.fail(manifests.write(tmp_path / "coins.yaml", lakehouse, pipeline), interval=DATE)
    assert outcome.status == TERMINAL
    assert "NoHistory" in outcome.text
    assert "it knows only the present: interval 2024-06-22 ended 2024-06-23T00:00:00Z" in outcome.text
    assert replay.requests == []
