"""The proxies themselves: what passes is unchanged, and a fault fires where it says."""

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psycopg2
import pytest
import s3fs
from faults import pg, s3
from faults.points import put
from support import http_proxy
from support.minio import ACCESS_KEY_ID, SECRET_ACCESS_KEY, Minio
from support.postgres import Postgres
from support.proxy import Fault, Hold, Reset, Spot, World

CONTENT = bytes(range(256)) * 4096
HELD = [Spot.REQUESTED, Spot.HALF_SENT, Spot.APPLIED]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()
    assert not world.errors


@pytest.fixture
def store(world: World, minio: Minio) -> s3fs.S3FileSystem:
    """The store through the proxy."""
    return s3fs.S3FileSystem(
        key=ACCESS_KEY_ID,
        secret=SECRET_ACCESS_KEY,
        endpoint_url=f"http://127.0.0.1:{world.listen(http_proxy.handle, minio.port)}",
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def upload(store: s3fs.S3FileSystem, key: str, content: bytes) -> int:
    """One upload, never tried again; the status of its answer."""
    url = urlsplit(store.sign(key, client_method="put_object"))
    assert url.port is not None
    connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=20)
    try:
        connection.request("PUT", f"{url.path}?{url.query}", content)
        return connection.getresponse().status
    finally:
        connection.close()


def test_objects_pass_unchanged(store: s3fs.S3FileSystem) -> None:
    store.pipe_file("bronze/proxy/a b+%é", CONTENT)
    assert store.cat_file("bronze/proxy/a b+%é") == CONTENT
    assert store.find("bronze/proxy/a b+%é") == ["bronze/proxy/a b+%é"]
    assert store.size("bronze/proxy/a b+%é") == len(CONTENT)


@pytest.mark.parametrize("spot", HELD, ids=lambda spot: spot.name)
def test_an_upload_is_held(world: World, store: s3fs.S3FileSystem, minio: Minio, spot: Spot) -> None:
    key = f"bronze/held/{spot.name}"
    fault = world.expect(Fault(put(f"/{key}$"), spot))
    with ThreadPoolExecutor(1) as pool:
        uploading = pool.submit(upload, store, key, CONTENT)
        assert fault.fired.wait(10)
        assert not uploading.done()
        world.cut()
        with pytest.raises((OSError, http.client.HTTPException)):
            uploading.result(30)
    assert minio.files().exists(key) == (spot is Spot.APPLIED)


def test_an_answer_is_lost_once(world: World, store: s3fs.S3FileSystem, minio: Minio) -> None:
    fault = world.expect(Fault(put("/bronze/lost$"), Spot.APPLIED, s3.failure(503, "SlowDown")))
    assert upload(store, "bronze/lost", CONTENT) == 503
    assert fault.fired.wait(10)
    assert minio.files().cat_file("bronze/lost") == CONTENT
    assert upload(store, "bronze/lost", b"again") == 200


def test_what_the_store_refuses_does_not_count(world: World, store: s3fs.S3FileSystem) -> None:
    fault = world.expect(Fault(put("/no-such-bucket/"), Spot.APPLIED))
    assert upload(store, "no-such-bucket/a", b"a") == 404
    assert not fault.fired.is_set()


def test_the_next_request_is_held(world: World, store: s3fs.S3FileSystem, minio: Minio) -> None:
    fault = world.expect(Fault(put("/bronze/first$"), Spot.ANSWERED, Hold()))
    assert upload(store, "bronze/first", b"1") == 200
    assert not fault.fired.is_set()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(upload, store, "bronze/second", b"2")
        assert fault.fired.wait(10)
        world.cut()
        with pytest.raises((OSError, http.client.HTTPException)):
            second.result(30)
    assert "second" in fault.at
    assert not minio.files().exists("bronze/second")


@pytest.mark.parametrize("spot", [Spot.REQUESTED, Spot.APPLIED], ids=lambda spot: spot.name)
def test_a_statement_loses_its_answer(world: World, postgres: Postgres, spot: Spot) -> None:
    table = f"proxied_{spot.name.lower()}"
    postgres.execute("postgres", f"create table {table} (n int)")
    uri = postgres.uri_at(world.listen(pg.handle, postgres.port)).rpartition("/")[0] + "/postgres"
    fault = world.expect(Fault(pg.statement(f"insert into {table}"), spot, Reset()))
    connection = psycopg2.connect(uri, connect_timeout=5)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("select 41 + 1")
        assert cursor.fetchone() == (42,)
        with pytest.raises(psycopg2.OperationalError):
            cursor.execute(f"insert into {table} values (1)")
    assert fault.fired.wait(10)
    assert postgres.execute("postgres", f"select count(*) from {table}") == ("1" if spot is Spot.APPLIED else "0")
