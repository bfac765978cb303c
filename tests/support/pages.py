"""A web server with pages given by their paths, and what Python's own HTML parser finds in the recorded ones."""

from collections.abc import Mapping
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urljoin

from support.serving import ServerInThread
from support.shared import shared_data

HTML = "text/html"


def recorded(name: str) -> bytes:
    """A saved page."""
    return shared_data("web", name).read_bytes()


class PageServer(ServerInThread):
    """Answers with the page at the path, as `text/html` or as `kinds` says; everything else is 404, robots.txt too."""

    def __init__(
        self, pages: Mapping[str, bytes], kinds: Mapping[str, str] | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.pages = dict(pages)
        self.kinds = dict(kinds or {})
        self.requests: list[str] = []
        super().__init__(_Server((host, 0), self))
        self.url = f"http://{host}:{self.port}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], pages: PageServer) -> None:
        self.pages = pages
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        pages = self.server.pages
        pages.requests.append(self.path)
        body = pages.pages.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", pages.kinds.get(self.path, HTML))
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Requests are in `PageServer.requests`; nothing is printed."""


class _Books(HTMLParser):
    """Reads a list of books without a tree: what stands in an article, by the tag that was opened last."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.books: list[dict[str, Any]] = []
        self.inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        classes = (named.get("class") or "").split()
        if tag == "article":
            self.books.append({"price": "", "availability": ""})
        elif not self.books:
            return
        elif "star-rating" in classes:
            self.books[-1]["rating"] = classes[1]
        elif tag == "a" and "title" in named:
            self.books[-1] |= {"title": named["title"], "url": urljoin(self.url, named["href"] or "")}
        elif tag == "p":
            self.inside = {"price_color": "price", "availability": "availability"}.get(" ".join(classes[-1:]))

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside and self.books:
            self.books[-1][self.inside] += data


def books(page: bytes, url: str) -> list[dict[str, Any]]:
    """The books of a recorded list at `url`: title, url, price (as it is written), rating, availability."""
    parser = _Books(url)
    parser.feed(page.decode())
    return [{**book, "availability": " ".join(book["availability"].split())} for book in parser.books]


class _Quotes(HTMLParser):
    """Reads a list of quotes in the same way."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.quotes: list[dict[str, Any]] = []
        self.inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        kind = named.get("class")
        if kind == "quote":
            self.quotes.append({"text": "", "author": "", "tags": []})
        elif self.quotes and kind in ("text", "author", "tag"):
            self.inside = kind
        elif self.quotes and tag == "a" and kind is None:
            self.quotes[-1].setdefault("author_url", urljoin(self.url, named["href"] or ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside == "tag":
            self.quotes[-1]["tags"].append(data)
        elif self.inside:
            self.quotes[-1][self.inside] += data


def quotes(page: bytes, url: str) -> list[dict[str, Any]]:
    """The quotes of the recorded page at `url`: text (without its quotation marks), author, author_url, tags."""
    parser = _Quotes(url)
    # Beside the quotes there is a box of tags that belong to none.
    parser.feed(page.decode().split("tags-box")[0])
    return [{**quote, "text": quote["text"].strip("“”")} for quote in parser.quotes]
