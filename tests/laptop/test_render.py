"""Pages that their scripts make, through a real Chromium; and pages that try to use it for what they may not."""

import copy
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import manifests, pages
from support.chromium import chromium_environment, chromium_folders, chromium_processes
from support.jobs import RETRYABLE, TERMINAL
from support.lakehouse import Json, Lakehouse
from support.manifests import Document, column
from support.pages import PageServer
from support.site import Page, Site
from support.waiting import wait_until

DAY = "2024-05-01"
TOKEN = "canary-of-the-connection"
SCRIPT = "text/javascript"


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """Where Chromium has its files."""
    return tmp_path / "room"


@pytest.fixture
def env(room: Path) -> Iterator[dict[str, str]]:
    """The environment of a run. Whatever became of it, no process and no folder is left."""
    yield {**chromium_environment(room), "LAKEHOUSE_CONNECTION_SITE_TOKEN": TOKEN}
    wait_until("the end of Chromium", lambda: not chromium_processes(room), seconds=5)
    assert chromium_folders(room) == []


def definition(render: Document | None = None, **scrape: Any) -> Document:
    """A pipeline of list items, whose pages are rendered."""
    options = {
        "connection": "site",
        "path": "/",
        "records": "li",
        "fields": [{"name": "id", "attribute": "id"}, {"name": "text"}],
        "history": "byInterval",
        "requestInterval": "0s",
        "retries": 0,
        "render": {"chromium": {"timeout": "20s", **(render or {})}},
    }
    columns = [column("id", "/id", "long"), column("text", "/text", "string"), column("url", "$document/url", "string")]
    table = {"name": "items", "from": "items", "write": {"append": {}}, "columns": columns}
    source = {"name": "items", "scrape": {**options, **scrape}}
    return manifests.pipeline("items", [source], [table], jobs={"retries": 0})


def written(lake: Lakehouse, base: str, pipeline: Document, **connection: Any) -> Path:
    """The manifest of `pipeline` with the connection `site`."""
    lake.folder.mkdir(parents=True, exist_ok=True)
    lakehouse = manifests.lakehouse([{"name": "site", "baseUrl": base, **connection}])
    return manifests.write(lake.folder / "items.yaml", lakehouse, pipeline)


def refused(
    lake: Lakehouse, env: dict[str, str], site: Site, pipeline: Document | None = None, status: int = TERMINAL
) -> str:
    """What a run says that must fail."""
    manifest = written(lake, site.url, pipeline or definition())
    outcome = lake.fail(manifest, interval=DAY, stages=("ingest",), env=env)
    assert outcome.status == status, outcome.text
    return outcome.text


def log(lake: Lakehouse) -> str:
    """What the ingest wrote into its log."""
    return "".join(path.read_text() for path in (lake.folder / "bronze").rglob("ingest-*.log.ndjson"))


def objects(lake: Lakehouse) -> list[Json]:
    """The bronze objects of the one run."""
    [manifest] = lake.manifests("items")
    found: list[Json] = manifest["sources"][0]["objects"]
    return found


def test_a_recorded_page_has_the_same_records_with_and_without(tmp_path: Path, env: dict[str, str]) -> None:
    first, second = pages.recorded("books_listing_scrapy.html"), pages.recorded("books_listing_webpoet.html")
    last = second.replace(b'<li class="next"><a href="catalogue/page-2.html">next</a></li>', b"")
    assert last != second
    [sample] = [one for one in manifests.sample("scrape.yaml") if one["kind"] == "LakehousePipeline"]
    sample["spec"]["ingest"] = [one for one in sample["spec"]["ingest"] if one["name"] == "books"]
    sample["spec"]["silver"] = [one for one in sample["spec"]["silver"] if one["from"] == "books"]
    sample["spec"].pop("gold", None)
    rows = {}
    with PageServer({"/index.html": first, "/catalogue/page-2.html": last}) as server:
        for render in ({}, {"render": {"chromium": {}}}):
            pipeline = copy.deepcopy(sample)
            pipeline["spec"]["ingest"][0]["scrape"] |= {"history": "byInterval", "requestInterval": "0s", **render}
            lake = Lakehouse(tmp_path / f"lake-{len(render)}")
            lake.folder.mkdir()
            documents = (manifests.lakehouse([{"name": "books", "baseUrl": server.url}]), pipeline)
            lake.run(manifests.write(lake.folder / "books.yaml", *documents), interval=DAY, env=env)
            found = [
                {name: value for name, value in row.items() if name not in ("processed_at", "captured_at", "seen_on")}
                for row in lake.rows("silver.books")
            ]
            rows[len(render)] = sorted(found, key=lambda row: json.dumps(row, default=str))
    assert len(rows[0]) == 40
    assert rows[1] == rows[0]


LIST = """<!doctype html><meta charset=iso-8859-1><title>\u00e4</title>
<noscript><ul><li id=9>no script</ul></noscript>
<ul id=list></ul><img src=/picture.png><link rel=stylesheet href=/style.css><iframe src=/frame></iframe>
<script src=/made.js></script>"""
MADE = """
alert("nobody is here");
const list = document.getElementById("list");
fetch("/items?page=" + (location.pathname === "/" ? 1 : 2)).then(answer => answer.json()).then(items => {
  for (const item of items) list.insertAdjacentHTML("beforeend", `<li id=${item.id}>${item.text}</li>`);
  if (location.pathname === "/") document.body.insertAdjacentHTML("beforeend", "<a class=next href=second>next</a>");
  return fetch("/more", {method: "POST", body: document.cookie, headers: {"x-of-page": "1"}});
}).then(answer => answer.json()).then(items => {
  for (const item of items) list.insertAdjacentHTML("beforeend", `<li id=${item.id}>${item.text}</li>`);
  return fetch("/private");
}).catch(error => list.insertAdjacentHTML("beforeend", `<li id=7>${error.name}</li>`));
"""


def site_of_lists() -> dict[str, Page | list[Page]]:
    """Two pages whose records come by script, and robots.txt."""
    listed = Page(LIST.encode("latin-1"), "text/html", headers={"Set-Cookie": "seen=1"})
    items = "application/json"
    return {
        "/robots.txt": Page("User-agent: *\nDisallow: /private", "text/plain"),
        "/": Page(status=302, headers={"Location": "/start"}),
        "/start": Page("<script>location.replace('/')</script>"),
        "/second": listed,
        "/made.js": Page(MADE, SCRIPT),
        "/style.css": Page("li {color: red}", "text/css"),
        "/items?page=1": Page('[{"id": 1, "text": "caf\u00e9 \\ud83d\\ude00"}, {"id": 2, "text": "b"}]', items),
        "/items?page=2": Page('[{"id": 3, "text": "c"}]', items),
        "/more": [Page('[{"id": 4, "text": "d"}]', items), Page('[{"id": 5, "text": "e"}]', items)],
    } | {"/": [Page(status=302, headers={"Location": "/start"}), listed]}


def test_records_that_scripts_make_are_taken_page_by_page(lake: Lakehouse, env: dict[str, str]) -> None:
    secret = {"authorizationSecret": {"name": "site", "key": "token"}}
    with Site(site_of_lists()) as site:
        pipeline = definition({"waitFor": "[id='7']"}, paging={"next": {"select": "a.next"}})
        outcome = lake.run(written(lake, site.url, pipeline, **secret), interval=DAY, env=env)
        rows = sorted((row["id"], row["text"], row["url"].removeprefix(site.url)) for row in lake.rows("silver.items"))
        assert rows == [
            (1, "caf\u00e9 \U0001f600", "/"),
            (2, "b", "/"),
            (3, "c", "/second"),
            (4, "d", "/"),
            (5, "e", "/second"),
            # What robots.txt disallows has no answer; the page goes on.
            (7, "TypeError", "/"),
            (7, "TypeError", "/second"),
        ]
        # Pictures and frames make no records; robots.txt is read once.
        assert set(site.paths()) == set(site.pages) - {"/more"}
        assert site.paths().count("/robots.txt") == 1
        assert site.paths("POST") == ["/more", "/more"]
        for visit in site.visits:
            assert visit.headers["user-agent"].startswith("lakehouse-ingest/")
            # The token goes with what is read, and with nothing that a script wants to change.
            assert visit.headers.get("authorization") == (f"Bearer {TOKEN}" if visit.method == "GET" else None)
        posts = [(visit.body, visit.headers["x-of-page"]) for visit in site.visits if visit.method == "POST"]
        assert posts == [(b"seen=1", "1")] * 2
        # Each page begins with nothing: no cookie of the page before.
        assert "cookie" not in site.visit("/second").headers
        assert TOKEN not in outcome.text
        served = LIST.encode("latin-1")
        for entry, path in zip(objects(lake), ("/", "/second"), strict=True):
            metadata, body = entry["metadata"], (lake.folder / "bronze" / entry["key"]).read_bytes()
            assert (metadata["url"], metadata["status"]) == (site.url + path, "200")
            assert metadata["content-type"] == "text/html; charset=utf-8"
            assert metadata["answered-content-type"] == "text/html"
            assert metadata["answered-sha256"] == hashlib.sha256(served).hexdigest()
            assert "Chrome/" in metadata["rendered-by"]
            # The document, in the encoding that it says beside it: without what is for those who execute no scripts.
            assert body.decode().startswith("<!DOCTYPE html>\n<html>")
            assert b"no script" not in body
            assert hashlib.sha256(body).hexdigest() == entry["sha256"]


def test_it_is_waited_for_what_the_definition_says(lake: Lakehouse, env: dict[str, str]) -> None:
    page = """<ul></ul><script>fetch("/endless"); setTimeout(() => {
        document.querySelector("ul").innerHTML = "<li id=1>late</li><li id=2>too</li>";
    }, 700)</script>"""
    with Site({"/": Page(page), "/endless": Page(endless=True)}) as site:
        # Nothing comes to rest here.
        text = refused(lake, env, site, definition({"timeout": "3s"}), RETRYABLE)
        assert f"GET {site.url}/ was not made within 3 s: 1 requests are under way, such as {site.url}/endless" in text
        assert "waitFor can say what to wait for" in text
        lake.run(written(lake, site.url, definition({"waitFor": "li + li"})), interval=DAY, env=env)
        assert sorted(row["text"] for row in lake.rows("silver.items")) == ["late", "too"]


def test_an_answer_that_passes_is_asked_for_again(lake: Lakehouse, env: dict[str, str]) -> None:
    late = Page("busy", status=503, headers={"Retry-After": "0"})
    page = """<ul></ul><script>
        fetch("/item").then(answer => answer.text()).then(text => document.querySelector("ul").innerHTML = text)
        </script>"""
    with Site({"/": [late, Page(page)], "/item": Page("<li id=1>here")}) as site:
        lake.run(written(lake, site.url, definition(retries=1)), interval=DAY, env=env)
        assert site.paths() == ["/robots.txt", "/", "/", "/item"]
        assert [row["text"] for row in lake.rows("silver.items")] == ["here"]


REFUSED: dict[str, tuple[Page, int, str]] = {
    "not-found": (Page("<li id=1>gone", status=404), TERMINAL, "/ answered 404 Not Found: <li id=1>gone"),
    "empty": (Page(""), TERMINAL, "with an empty body"),
    "no-records": (Page("<p>Are you human?"), TERMINAL, "records selector `li` matches nothing"),
    "metadata": (
        Page(status=302, headers={"Location": "http://169.254.169.254/latest"}),
        TERMINAL,
        "redirects to another host are not followed",
    ),
    "metadata-by-script": (
        Page("<li id=1><script>location = 'http://169.254.169.254/latest'</script>"),
        TERMINAL,
        "the page goes on to http://169.254.169.254/latest, which is not on",
    ),
    "form": (
        Page("<li id=1><form method=post></form><script>document.forms[0].submit()</script>"),
        TERMINAL,
        "which is not sent: pages are asked for by GET",
    ),
    "disallowed": (Page("<li id=1><script>location = '/private'</script>"), TERMINAL, "robots.txt says"),
    "around": (Page("<script>location = '/' + Math.random()</script>"), TERMINAL, "answered 404"),
    "huge": (
        Page("<ul hidden></ul><script>document.querySelector('ul').innerHTML = '<li>' + 'x'.repeat(20 << 20)</script>"),
        TERMINAL,
        f"the page that its scripts made has more than {16 << 20} bytes",
    ),
    "deep": (
        Page(
            "<li id=1><script>let e = document.body; "
            "for (let n = 0; n < 2000; n++) e = e.appendChild(document.createElement('div'))</script>"
        ),
        TERMINAL,
        "nested more than 1000 levels deep",
    ),
    "picture": (Page(b"\x89PNG", "application/octet-stream"), TERMINAL, "Chromium does not show what was answered"),
    "loop": (
        Page("<li id=1><script>for (;;);</script>"),
        RETRYABLE,
        "was not made within 3 s: its scripts, or its size, leave no time",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_page_is_refused(lake: Lakehouse, env: dict[str, str], name: str) -> None:
    page, status, message = REFUSED[name]
    robots = Page("User-agent: *\nDisallow: /private", "text/plain")
    with Site({"/": page, "/robots.txt": robots}) as site:
        render = {"timeout": "3s", "waitFor": "li"} if name == "loop" else None
        assert message in refused(lake, env, site, definition(render), status)
        assert "/private" not in site.paths()
    assert lake.manifests("items") == []


def test_a_page_reaches_no_other_place(lake: Lakehouse, env: dict[str, str]) -> None:
    """Whatever a script tries: nothing of it arrives anywhere."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stun, Site({}) as other:
        stun.bind(("127.0.0.1", 0))
        place, udp = f"127.0.0.1:{other.port}", stun.getsockname()[1]
        page = f"""<li id=1>x</li><link rel=preconnect href=http://{place}><link rel=dns-prefetch href=//{place}>
        <link rel=prefetch href=http://{place}/prefetch><script src=http://{place}/script.js></script>
        <script>
        const tried = [];
        const say = (what) => document.body.insertAdjacentHTML("beforeend", `<li id=2>${{what}}</li>`);
        fetch("http://{place}/fetch").catch(error => say("fetch"));
        fetch("http://{place}/put", {{method: "POST", headers: {{"x-a": "1"}}, body: "x"}}).catch(error => say("post"));
        fetch("/delete", {{method: "DELETE"}}).catch(error => say("delete"));
        navigator.sendBeacon("http://{place}/beacon", "x");
        window.open("http://{place}/window");
        const socket = new WebSocket("ws://{place}/socket"); socket.onerror = () => say("socket");
        const events = new EventSource("http://{place}/events"); events.onerror = () => {{ events.close(); say("events"); }};
        new Worker(URL.createObjectURL(new Blob(["fetch('http://{place}/worker').catch(() => postMessage(1))"])))
          .onmessage = () => say("worker");
        const peer = new RTCPeerConnection({{iceServers: [{{urls: "stun:127.0.0.1:{udp}"}}]}});
        peer.createDataChannel("x"); peer.createOffer().then(offer => peer.setLocalDescription(offer));
        for (const frame of ["http://{place}/frame", "file:///etc/passwd"])
          document.body.appendChild(document.createElement("iframe")).src = frame;
        fetch("file:///etc/passwd").catch(() => say("file"));
        </script>"""
        with Site({"/": Page(page)}) as site:
            pipeline = definition({"waitFor": "li:nth-of-type(8)"})
            lake.run(written(lake, site.url, pipeline), interval=DAY, env=env)
            said = {row["text"] for row in lake.rows("silver.items")}
            assert said == {"x", "fetch", "post", "delete", "socket", "events", "worker", "file"}
            assert site.paths("DELETE") == []
            assert set(site.paths()) == {"/robots.txt", "/"}
        stun.settimeout(0.2)
        with pytest.raises(TimeoutError):
            stun.recv(1)
        assert (other.visits, other.connections) == ([], 0)
    assert "its host is not among resourceHosts of the connection" in log(lake)


def elsewhere(
    lake: Lakehouse, manifest: Path, hosts: Path, address: str, name: str, env: dict[str, str]
) -> tuple[int, str]:
    """A run on a machine where `name` has `address`: exit code and all that a person reads."""
    hosts.write_text(f"{address} {name}\n")
    line = lake.command_line(*lake.run_arguments(manifest, interval=DAY, stages=("ingest",)))
    inside = f'mount --bind "{hosts}" /etc/hosts && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", inside, "sh", *map(str, line)]
    # Within that namespace it is root.
    environment = {"PATH": os.environ["PATH"], **env, "LAKEHOUSE_CHROMIUM_SANDBOX": "off"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    return done.returncode, done.stdout + done.stderr


def test_a_name_that_leads_inside_is_not_followed(lake: Lakehouse, env: dict[str, str], tmp_path: Path) -> None:
    name = "cdn.example.com"
    made = "document.body.innerHTML = '<li id=1>' + (document.cookie || 'made')"
    with Site({"/made.js": Page(made, SCRIPT)}, "127.0.0.1") as other:
        host = f"{name}:{other.port}"
        page = f"<li id=0>not made<body><script src=http://{host}/made.js></script>"
        with Site({"/": Page(page)}) as site:
            for address in ("127.0.0.1", "169.254.169.254"):
                inside = written(lake, site.url, definition(), resourceHosts=[host])
                status, text = elsewhere(lake, inside, tmp_path / "hosts", address, name, env)
                assert status == 0, text
                assert f"/made.js: not sent, {name} has the " in log(lake)
                shutil.rmtree(lake.folder)
            assert other.visits == []
            # What the test does to names is what leads there: allowed by the Lakehouse, it is reached; without the token.
            secret = {"authorizationSecret": {"name": "site", "key": "token"}}
            allowed = written(
                lake, site.url, definition(), resourceHosts=[host], allowedNetworks=["127.0.0.0/8"], **secret
            )
            status, text = elsewhere(lake, allowed, tmp_path / "hosts", "127.0.0.1", name, env)
            assert status == 0, text
            assert "authorization" not in other.visit("/made.js").headers
            [entry] = objects(lake)
            assert b'<li id="1">made' in (lake.folder / "bronze" / entry["key"]).read_bytes()
            # A page of that host is none of the connection's.
            site.pages["/"] = [Page(status=302, headers={"Location": f"http://{host}/made.js"})]
            shutil.rmtree(lake.folder)
            allowed = written(lake, site.url, definition(), resourceHosts=[host], allowedNetworks=["127.0.0.0/8"])
            status, text = elsewhere(lake, allowed, tmp_path / "hosts", "127.0.0.1", name, env)
            assert (status, "redirects to another host are not followed" in text) == (TERMINAL, True), text


def hanging(
    lake: Lakehouse, site: Site, env: dict[str, str], room: Path, **scrape: Any
) -> tuple[subprocess.Popen[str], dict[int, str]]:
    """A run that waits for a page, and the processes of its Chromium."""
    site.visits.clear()
    secret = {"authorizationSecret": {"name": "site", "key": "token"}}
    manifest = written(lake, site.url, definition({"timeout": "60s"}, **scrape), **secret)
    process = lake.start(*lake.run_arguments(manifest, interval=DAY, stages=("ingest",)), env=env)
    wait_until("the page's request", lambda: "/endless" in site.paths(), seconds=30)
    return process, chromium_processes(room)


WAITING = "<li id=1>x<script>fetch('/endless')</script>"


def test_a_process_of_the_page_that_dies_is_another_try(lake: Lakehouse, env: dict[str, str], room: Path) -> None:
    with Site({"/": [Page(WAITING), Page("<li id=2>again")], "/endless": Page(endless=True)}) as site:
        process, processes = hanging(lake, site, env, room, retries=1)
        for number in [number for number, arguments in processes.items() if "--type=renderer" in arguments]:
            os.kill(number, signal.SIGKILL)
        _, text = process.communicate(timeout=60)
        assert process.returncode == 0, text
        assert "the process of Chromium that made the page ended" in log(lake)
        assert [entry["records"] for entry in objects(lake)] == [1]


def test_a_chromium_that_dies_is_another_try(lake: Lakehouse, env: dict[str, str], room: Path) -> None:
    with Site({"/": [Page(WAITING), Page("<li id=2>again")], "/endless": Page(endless=True)}) as site:
        process, processes = hanging(lake, site, env, room, retries=1)
        # Its children, and the shell that Debian begins it by, are left to end by themselves.
        [main] = [
            number
            for number, arguments in processes.items()
            if "--type=" not in arguments and not arguments.startswith("/bin/sh ")
        ]
        os.kill(main, signal.SIGKILL)
        _, text = process.communicate(timeout=60)
        assert process.returncode == 0, text
        assert "Chromium ended" in log(lake)


def test_chromium_has_no_secret_and_ends_with_its_run(lake: Lakehouse, env: dict[str, str], room: Path) -> None:
    with Site({"/": Page(WAITING), "/endless": Page(endless=True)}) as site:
        process, processes = hanging(lake, site, env, room)
        assert len(processes) >= 3
        environments = [Path(f"/proc/{number}/environ").read_bytes() for number in processes]
        assert any(environments)
        assert all(TOKEN.encode() not in one for one in environments)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode != 0
        wait_until("the end of Chromium", lambda: not chromium_processes(room), seconds=5)
        # Killed, it cannot tidy up: the processes end with their pipes, and the folder is removed by the next run.
        # In a lake of its own, as the run after it: a lease of a run that was killed has to expire.
        process, _ = hanging(Lakehouse(lake.folder / "killed"), site, env, room)
        process.kill()
        process.communicate(timeout=20)
        wait_until("the end of Chromium", lambda: not chromium_processes(room), seconds=5)
        [left] = chromium_folders(room)
        an_hour_ago = time.time() - 3600
        os.utime(left, (an_hour_ago, an_hour_ago))
        site.pages["/"] = [Page("<li id=1>x")]
        other = Lakehouse(lake.folder / "other")
        other.run(written(other, site.url, definition()), interval=DAY, stages=("ingest",), env=env)


def test_without_chromium_it_says_what_to_install(lake: Lakehouse, tmp_path: Path) -> None:
    with Site({"/": Page("<li id=1>x")}) as site:
        manifest = written(lake, site.url, definition())
        for env, message in (
            ({"PATH": str(tmp_path)}, "there is no Chromium on the PATH: install it (Debian: chromium-headless-shell"),
            ({"LAKEHOUSE_CHROMIUM": "/nowhere/chromium"}, "LAKEHOUSE_CHROMIUM is /nowhere/chromium, where there is no"),
            ({"LAKEHOUSE_CHROMIUM": shutil.which("false") or ""}, "Chromium ended at once, after it said: nothing"),
        ):
            outcome = lake.fail(manifest, interval=DAY, stages=("ingest",), env={"LAKEHOUSE_CHROMIUM": "", **env})
            assert outcome.status == TERMINAL, outcome.text
            assert message in outcome.text
        # None of its pages was asked for.
        assert set(site.paths()) <= {"/robots.txt"}


@pytest.mark.parametrize(
    ("render", "message"),
    [
        ({"chromium": {"waitFor": "li::text"}}, "scrape.render.chromium.waitFor: `li::text` is not a CSS selector"),
        ({"firefox": {}}, "spec.ingest[0].scrape.render"),
        ({"chromium": {"timeout": "soon"}}, "spec.ingest[0].scrape.render.chromium.timeout"),
    ],
)
def test_a_wrong_definition_is_named(lake: Lakehouse, render: Document, message: str) -> None:
    outcome = lake.validate(written(lake, "http://site", rendering(render)))
    assert outcome.status != 0
    assert message in outcome.text


def rendering(render: Document) -> Document:
    """A pipeline with this `render`."""
    pipeline = definition()
    pipeline["spec"]["ingest"][0]["scrape"]["render"] = render
    return pipeline
