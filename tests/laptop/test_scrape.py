"""Recorded pages through deploy/scrape.yaml, against Python's own parser; wrong and hostile pages; selectors that change later."""

import copy
import json
import resource
import subprocess
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import manifests, pages, readers
from support.jobs import TERMINAL
from support.lakehouse import Lakehouse
from support.manifests import Document, column
from support.pages import PageServer
from support.readers import Row

DAY = "2024-05-01"
WHEN = {"processed_at", "captured_at", "seen_on"}
TWO = b'<li class="next"><a href="catalogue/page-2.html">next</a></li>'


def connected(sample: list[Document], server: PageServer) -> list[Document]:
    """Documents of the sample with a Lakehouse whose connections are the server, which may be asked for any day."""
    names = ("books", "quotes")
    documents = copy.deepcopy(sample)
    for source in documents[0]["spec"]["ingest"]:
        source["scrape"] |= {"history": "byInterval", "requestInterval": "0s"}
    return [manifests.lakehouse([{"name": name, "baseUrl": server.url} for name in names]), *documents]


@dataclass(frozen=True)
class Scraped:
    """A lake after a run of the sample, what was served, and what the pages say."""

    lake: Lakehouse
    manifest: Path
    server: PageServer
    books: list[Row]
    quotes: list[Row]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Scraped:
    """The sample over two pages of books and two of quotes; the server is gone when the tests look."""
    folder = tmp_path_factory.mktemp("scraped")
    first, second = pages.recorded("books_listing_scrapy.html"), pages.recorded("books_listing_webpoet.html")
    quotes = pages.recorded("quotes_listing_scrapy.html")
    served = {
        "/index.html": first,
        "/catalogue/page-2.html": second.replace(TWO, b""),
        "/": quotes,
        # The same quotes again: one row each.
        "/page/2/": quotes.replace(b'class="next"', b'class="last"'),
    }
    assert all(served[path] != body for path, body in (("/catalogue/page-2.html", second), ("/page/2/", quotes)))
    lake = Lakehouse(folder / "lake")
    with PageServer(served) as server:
        documents = connected(manifests.sample("scrape.yaml"), server)
        manifest = manifests.write(folder / "scrape.yaml", *documents)
        lake.run(manifest, interval=DAY)
        again = lake.command(*lake.run_arguments(manifest, interval=DAY), "--again")
    assert again.status == 0, again.text
    expected = [
        book
        for path in ("/index.html", "/catalogue/page-2.html")
        for book in pages.books(served[path], server.url + path)
    ]
    return Scraped(lake, manifest, server, expected, pages.quotes(quotes, server.url + "/"))


def test_the_recorded_pages_have_what_the_tests_need(scraped: Scraped) -> None:
    """Guards the tests: an independent parser that finds nothing would prove nothing."""
    assert len(scraped.books) == 40
    assert len({book["url"] for book in scraped.books}) == 40
    assert len({book["rating"] for book in scraped.books}) == 5
    assert len(scraped.quotes) == 10
    assert sum(len(quote["tags"]) for quote in scraped.quotes) > 20


def test_books_are_what_the_pages_say(scraped: Scraped) -> None:
    wanted = [
        {**book, "price": Decimal(book["price"].removeprefix("£")), "currency": "£", "page_url": page}
        for number, book in enumerate(scraped.books)
        for page in [scraped.server.url + ("/index.html" if number < 20 else "/catalogue/page-2.html")]
    ]
    assert readers.without(scraped.lake.rows("silver.books"), WHEN) == readers.ordered(wanted)


def test_quotes_are_what_the_pages_say(scraped: Scraped) -> None:
    rows = readers.without(scraped.lake.rows("silver.quotes"), WHEN)
    rows = [{**row, "tags": json.loads(row["tags"])} for row in rows]
    wanted = [{**quote, "first_tag": quote["tags"][0] if quote["tags"] else None} for quote in scraped.quotes]
    key = lambda row: (row["author"], row["text"])  # noqa: E731
    assert sorted(rows, key=key) == sorted(wanted, key=key)
    [quotes] = [table for table in scraped.lake.reports("silver")[0]["tables"] if table["name"] == "silver.quotes"]
    assert (quotes["rowsRead"], quotes["rowsWritten"], quotes["rowsDeduplicated"]) == (20, 10, 10)


def test_gold_ranks_and_counts_them(scraped: Scraped) -> None:
    prices = sorted((Decimal(book["price"].removeprefix("£")) for book in scraped.books), reverse=True)
    ranking = scraped.lake.rows("gold.book_ranking")
    assert sorted((row["price_rank"], row["price"]) for row in ranking) == sorted(
        (prices.index(p) + 1, p) for p in prices
    )
    counts = {row["rating"]: row["books"] for row in scraped.lake.rows("gold.ratings")}
    assert counts == Counter(book["rating"] for book in scraped.books)


def test_bronze_is_the_pages_byte_for_byte_and_says_where_they_came_from(scraped: Scraped) -> None:
    for manifest in scraped.lake.manifests("scrape"):
        for source in manifest["sources"]:
            for entry in source["objects"]:
                path = entry["metadata"]["url"].removeprefix(scraped.server.url)
                assert (scraped.lake.folder / "bronze" / entry["key"]).read_bytes() == scraped.server.pages[path]
                assert (entry["metadata"]["content-type"], entry["key"][-5:]) == ("text/html", ".html")
    assert scraped.server.requests.count("/robots.txt") == 4


def test_the_same_pages_again_make_no_new_commit(scraped: Scraped) -> None:
    assert len(scraped.lake.manifests("scrape")) == 2
    assert all(table["alreadyCommitted"] for table in scraped.lake.reports("silver")[1]["tables"])
    snapshots = scraped.lake.snapshots()
    assert {table: snapshots[table] for table in ("silver.books", "silver.quotes", "gold.ratings")} == {
        "silver.books": 1,
        "silver.quotes": 1,
        "gold.ratings": 1,
    }


def test_a_changed_selector_works_on_pages_that_were_fetched_before(scraped: Scraped, tmp_path: Path) -> None:
    lakehouse, pipeline = (copy.deepcopy(document) for document in yaml.safe_load_all(scraped.manifest.read_text()))
    scrape = pipeline["spec"]["ingest"][0]["scrape"]
    scrape["records"] = "li:has(> article .star-rating.Five) > article"
    # There are fewer of these than the sample wants to see.
    pipeline["spec"]["silver"][0]["expectations"] = []
    fields = {field["name"]: field for field in scrape["fields"]}
    fields["availability"] |= {"select": ".availability i", "attribute": "class"}
    manifest = manifests.write(tmp_path / "changed.yaml", lakehouse, pipeline)
    asked, bronze = len(scraped.server.requests), scraped.lake.bronze()
    # The server is gone: nothing can be fetched.
    scraped.lake.run(manifest, interval=DAY, stages=("silver",))
    rows = scraped.lake.rows("silver.books")
    five = sorted(book["url"] for book in scraped.books if book["rating"] == "Five")
    assert (sorted(row["url"] for row in rows), {row["availability"] for row in rows}) == (five, {"icon-ok"})
    assert (len(scraped.server.requests), scraped.lake.bronze()) == (asked, bronze)
    # And back again.
    scraped.lake.run(scraped.manifest, interval=DAY, stages=("silver",))
    assert len(scraped.lake.rows("silver.books")) == 40


def items(**scrape: Any) -> Document:
    """A pipeline of list items with an `id` and a text, over whatever is at /."""
    fields = [{"name": "id", "attribute": "id"}, {"name": "text"}]
    options = {
        "connection": "site",
        "path": "/",
        "history": "byInterval",
        "requestInterval": "0s",
        "robots": "ignore",
        "retries": 0,
    }
    source = {"name": "items", "scrape": {**options, "records": "li", "fields": fields, **scrape}}
    columns = [
        column("id", "/id", "long"),
        column("text", "/text", "string"),
        column("charset", "$document/charset", "string"),
    ]
    table = {"name": "items", "from": "items", "write": {"append": {}}, "columns": columns}
    return manifests.pipeline("items", [source], [table])


def scrape_items(
    lake: Lakehouse, page: bytes, kind: str = pages.HTML, memory: int | None = None
) -> subprocess.CompletedProcess[str]:
    """A run over one page, with so many bytes of memory; its manifest is in the lake's folder."""
    lake.folder.mkdir(parents=True, exist_ok=True)
    with PageServer({"/": page}, {"/": kind}) as server:
        lakehouse = manifests.lakehouse([{"name": "site", "baseUrl": server.url}])
        manifest = manifests.write(lake.folder / "items.yaml", lakehouse, items())
        limit = memory or 4 << 30
        return subprocess.run(
            lake.command_line(*lake.run_arguments(manifest, interval=DAY)),
            capture_output=True,
            text=True,
            timeout=300,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
        )


WRONG = {
    "truncated": (b"<ul><li id=1>a<li id=2>b<li id=3", [(1, "a"), (2, "b")]),
    "truncated-text": (b"<ul><li id=1>a<b>c", [(1, "ac")]),
    "nul": (b"<li id=1>a\0b<li\0x id=2>c</li\0x><li id='3'>\0", [(1, "abc"), (3, "")]),
    "invalid-utf-8": (b"<li id=1>\xff\xfe<li id=2>\xe2\x82", [(1, "\ufffd\ufffd"), (2, "\ufffd")]),
    "misnested": (b"<ul><li id=1><b>a<li id=2>b</b></ul></p></div>", [(1, "a"), (2, "b")]),
    "no-html": (b"\x89PNG <li id=1>?", [(1, "?")]),
    "deep-but-not-too-deep": (b"<div>" * 900 + b"<li id=1>a", [(1, "a")]),
    "wide": (b"<ul>" + b"<li id=7>x" * 20_000, [(7, "x")] * 20_000),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_pages_give_what_a_browser_shows(lake: Lakehouse, name: str) -> None:
    page, expected = WRONG[name]
    done = scrape_items(lake, page, "text/html; charset=utf-8")
    assert done.returncode == 0, done.stderr
    assert sorted((row["id"], row["text"]) for row in lake.rows("silver.items")) == expected
    [report] = lake.reports("silver")
    assert (report["tables"][0]["rowsRead"], report["tables"][0]["rowsQuarantined"]) == (len(expected), 0)


@pytest.mark.parametrize(
    ("kind", "page", "charset"),
    [
        ("text/html; charset=ISO-8859-15", "Grün 5 €".encode("iso8859-15"), "ISO-8859-15"),
        ("text/html", b"<meta charset=windows-1252>" + "Grün 5 €".encode("cp1252"), "windows-1252"),
        ("text/html; charset=koi8-r", b"\xef\xbb\xbf" + "Grün 5 €".encode(), "UTF-8"),
        ("text/html", "\ufeffGrün 5 €".encode("utf-16-le"), "UTF-16LE"),
        ("text/html", "Grün 5 €".encode(), "UTF-8"),
    ],
)
def test_pages_have_the_encoding_that_the_standard_says(lake: Lakehouse, kind: str, page: bytes, charset: str) -> None:
    opened = "<li id=1>".encode("utf-16-le") if charset == "UTF-16LE" else b"<li id=1>"
    mark = next((mark for mark in (b"\xef\xbb\xbf", b"\xff\xfe") if page.startswith(mark)), b"")
    done = scrape_items(lake, mark + opened + page.removeprefix(mark), kind)
    assert done.returncode == 0, done.stderr
    [row] = lake.rows("silver.items")
    assert (row["text"], row["charset"]) == ("Grün 5 €", charset)


HOSTILE = {
    "deep": (b"<li>" + b"<div>" * 100_000, "nested more than 1000 levels deep"),
    "deep-formatting": (b"<li>" + b"<b>" * 100_000, "nested more than 1000 levels deep"),
    "reopened": (
        b"<li><p>" + b"".join(b"<font size=%d>" % n for n in range(900)) + b"<p>x" * 100_000,
        "has more than 500000 nodes",
    ),
    "attributes": (
        b"<li><b " + b"".join(b"a%d " % n for n in range(50_000)),
        "a tag or a comment with more than 30000 words",
    ),
    "too-large": (b"<li>" + b"x" * (16 << 20), f"with more than {16 << 20} bytes"),
    "empty": (b"<p>Are you human?", "records selector `li` matches nothing"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pages_are_refused_with_little_memory_and_kept(lake: Lakehouse, name: str) -> None:
    page, message = HOSTILE[name]
    done = scrape_items(lake, page, memory=1 << 30)
    assert done.returncode == TERMINAL, done.stderr
    assert message in done.stderr
    assert "panicked" not in done.stderr
    kept = [path.read_bytes() for path in (lake.folder / "bronze").rglob("rejected-*")]
    # What was too large to be taken is not kept.
    assert kept == ([] if name == "too-large" else [page])
    assert lake.tables() == set()


def test_a_page_that_is_large_is_counted_to_the_last_record(lake: Lakehouse) -> None:
    page = b"<ul>" + b"".join(b"<li id=%d>%s" % (n, b"x" * 80) for n in range(150_000))
    done = scrape_items(lake, page, memory=2 << 30)
    assert done.returncode == 0, done.stderr
    assert sorted(row["id"] for row in lake.rows("silver.items")) == list(range(150_000))


def test_a_link_to_another_host_is_not_followed(lake: Lakehouse) -> None:
    lake.folder.mkdir(parents=True)
    with (
        PageServer({"/": b"<li id=1>"}) as other,
        PageServer({"/": b"<li id=1><a href='%s/'>" % other.url.encode()}) as server,
    ):
        lakehouse = manifests.lakehouse([{"name": "site", "baseUrl": server.url}])
        definition = items(paging={"next": {"select": "a"}})
        outcome = lake.fail(manifests.write(lake.folder / "items.yaml", lakehouse, definition), interval=DAY)
        assert f"the next page {other.url}/ is not on {server.url}" in outcome.text
        assert (server.requests, other.requests) == (["/"], [])
