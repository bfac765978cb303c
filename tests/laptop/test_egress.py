"""A host of the outer world whose name is answered with an address of the inner one leads nowhere."""

import subprocess
from pathlib import Path

import pytest
from support import manifests
from support.jobs import TERMINAL
from support.lakehouse import Lakehouse
from support.manifests import column, fetched
from support.replay import Answer, ReplayServer

DATE = "2024-06-22"
HOST = "api.example.com"
TOKEN = "canary-of-the-connection"
TABLE = {
    "name": "coins",
    "from": "assets",
    "write": {"replaceInterval": {"column": "at"}},
    "columns": [column("coin_id", "/id", "string"), column("at", "$intervalStart", "timestamptz", required=True)],
}


class Elsewhere:
    """The command on a machine whose names are answered by a file of ours, in a mount namespace."""

    def __init__(self, lake: Lakehouse, folder: Path) -> None:
        self._lake, self._hosts = lake, folder / "hosts"

    def run(self, manifest: Path, addresses: str) -> tuple[int, str]:
        """Exit code and all that a person reads, with HOST at these addresses."""
        self._hosts.write_text("".join(f"{address} {HOST}\n" for address in addresses.split()))
        line = self._lake.command_line(*self._lake.run_arguments(manifest, interval=DATE))
        inside = f'mount --bind "{self._hosts}" /etc/hosts && exec "$@"'
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", inside, "sh", *map(str, line)]
        environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LAKEHOUSE_CONNECTION_API_TOKEN": TOKEN}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def elsewhere(lake: Lakehouse, tmp_path: Path) -> Elsewhere:
    return Elsewhere(lake, tmp_path)


def write(folder: Path, base: str, **connection: object) -> Path:
    """A pipeline that asks `base`, with a token; a failed stage is not tried again."""
    there = {**manifests.archive("api", base), "authorizationSecret": {"name": "api", "key": "token"}, **connection}
    pipeline = manifests.pipeline("coins", [fetched("assets", "/v3/assets")], [TABLE], jobs={"retries": 0})
    return manifests.write(folder / "coins.yaml", manifests.lakehouse([there]), pipeline)


def test_a_name_that_leads_inside_is_not_followed(elsewhere: Elsewhere, replay: ReplayServer, tmp_path: Path) -> None:
    base = f"http://{HOST}:{replay.port}"
    manifest = write(tmp_path, base)
    for address in ("127.0.0.1", "169.254.169.254", "10.96.0.1", "::1", "::ffff:127.0.0.1"):
        status, text = elsewhere.run(manifest, address)
        assert status == TERMINAL, text
        assert "SourceRefused" in text
        assert f"GET {base}/v3/assets?at=" in text
        assert f"not sent, {HOST} has the " in text
        assert f"address {address.removeprefix('::ffff:')}" in text or f"address {address}" in text
        assert TOKEN not in text
    assert replay.requests == []
    # What the test does to names is what leads there: allowed by the Lakehouse, it is reached.
    status, text = elsewhere.run(write(tmp_path, base, allowedNetworks=["127.0.0.0/8"]), "127.0.0.1")
    assert status == 0, text
    assert replay.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_no_answer_leads_to_another_place(lake: Lakehouse, replay: ReplayServer, tmp_path: Path) -> None:
    manifest = write(tmp_path, replay.url)
    with ReplayServer() as other:
        places = ("http://169.254.169.254/latest/meta-data/", other.url, "http://[::ffff:169.254.169.254]/", "//0/x")
        for place in places:
            replay.answer(Answer(302, b"", {"Location": place}))
            outcome = lake.fail(manifest, interval=DATE, env={"LAKEHOUSE_CONNECTION_API_TOKEN": TOKEN})
            assert outcome.status == TERMINAL
            assert "redirects to another host are not followed" in outcome.text
            assert TOKEN not in outcome.text
        assert other.requests == []


@pytest.mark.parametrize("base", ["http://169.254.169.254", "http://2852039166", "http://[::ffff:a9fe:a9fe]"])
def test_a_metadata_service_has_to_be_allowed_by_its_network(base: str, lake: Lakehouse, tmp_path: Path) -> None:
    env = {"LAKEHOUSE_CONNECTION_API_TOKEN": TOKEN}
    outcome = lake.fail(write(tmp_path, base), interval=DATE, env=env)
    assert outcome.status == TERMINAL
    assert "which only the Lakehouse can allow, by allowedNetworks of the connection" in outcome.text


def test_a_network_that_is_none_is_named(lake: Lakehouse, tmp_path: Path) -> None:
    outcome = lake.validate(write(tmp_path, f"https://{HOST}", allowedNetworks=["10.0.0.0/33"]))
    assert outcome.status != 0
    assert "spec.connections[api].allowedNetworks: `10.0.0.0/33` is not a network" in outcome.text
