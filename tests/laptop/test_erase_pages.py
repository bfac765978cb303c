"""Erasing a key from pages: its records leave the stored page, the others and their rows stay, and a page that cannot be cut is named."""

import json
from pathlib import Path

from support import manifests, readers
from support.lakehouse import Json, Lakehouse
from support.pages import PageServer

DAY = "2024-05-01"
PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>Posts</title></head><body>
<nav>Newest by <a href="/by/ann">ann</a></nav>
<article><b class="by">ann</b><p>mine</p></article>
<article><b class="by">bo</b><p>Zürich &amp; Bern</p></article>
<article><b class="by">cy</b><p>an answer to ann</p></article>
</body></html>"""
WHEN = {"processed_at"}


def erase(lake: Lakehouse, manifest: Path, *more: str) -> Json:
    outcome = lake.command("erase", "-f", manifest, "--local", lake.folder, "-o", "json", "--key", "author=ann", *more)
    assert outcome.status == 0, outcome.text
    return json.loads(outcome.stdout)


def scraped(lake: Lakehouse, folder: Path, page: bytes) -> Path:
    """A lake with the posts of one page."""
    source = {
        "name": "posts",
        "scrape": {
            "connection": "site",
            "path": "/",
            "records": "article",
            "fields": [{"name": "author", "select": ".by"}, {"name": "text", "select": "p"}],
            "history": "byInterval",
        },
    }
    table = {
        "name": "posts",
        "from": "posts",
        "write": {"overwrite": {}},
        "columns": [manifests.column(name, f"/{name}", "string", required=True) for name in ("author", "text")],
    }
    with PageServer({"/": page}) as server:
        place = manifests.lakehouse([{"name": "site", "baseUrl": server.url}])
        manifest = manifests.write(folder / "posts.yaml", place, manifests.pipeline("posts", [source], [table]))
        lake.run(manifest, interval=DAY)
    return manifest


def stored(lake: Lakehouse) -> list[Path]:
    return lake.bronze("posts/posts/dt=*/run=*/part-*")


def test_records_leave_the_page_and_what_is_made_from_it_again_is_the_same(lake: Lakehouse, tmp_path: Path) -> None:
    manifest = scraped(lake, tmp_path, PAGE.encode())
    rest = [row for row in readers.without(lake.rows("silver.posts"), WHEN) if row["author"] != "ann"]
    (before,) = stored(lake)
    would = erase(lake, manifest, "--dry-run")
    assert would["bronze"]["records"] == 1
    assert stored(lake) == [before], "a dry run changes nothing"
    report = erase(lake, manifest)
    assert (report["bronze"]["records"], report["left"]) == (1, [])
    assert "whole" not in report["bronze"]
    (after,) = stored(lake)
    text = after.read_text()
    assert "mine" not in text
    assert "/by/[erased]" in text, "outside of records the value is replaced"
    assert [Path(uri).name for uri in report["mentions"]] == [after.name], "it stands in a record of another"
    assert readers.without(lake.rows("silver.posts"), WHEN) == readers.ordered(rest)
    again = lake.command(*lake.run_arguments(manifest, interval=DAY, stages=["silver"]), "--again")
    assert again.status == 0, again.text
    assert readers.without(lake.rows("silver.posts"), WHEN) == readers.ordered(rest)
    assert erase(lake, manifest)["bronze"]["records"] == 0
    assert stored(lake) == [after]


def test_a_page_that_cannot_be_written_anew_goes_as_a_whole_and_is_named(lake: Lakehouse, tmp_path: Path) -> None:
    manifest = scraped(lake, tmp_path, PAGE.encode("utf-16"))
    assert len(lake.rows("silver.posts")) == 3
    report = erase(lake, manifest)
    (line,) = report["bronze"]["whole"]
    assert "1 records could not be cut out, 2 others go with them" in line
    assert stored(lake) == []
    assert {row["author"] for row in lake.rows("silver.posts")} == {"bo", "cy"}, "rows of others stay"
