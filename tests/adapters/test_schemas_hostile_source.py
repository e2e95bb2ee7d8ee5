"""A source that is slow, broken, hostile or unreachable: the last good catalogue stays; time and memory are bounded."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import select
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cdv_adapters.schemas.cache import CachedCatalogue, CatalogueCache
from cdv_adapters.schemas.specs_url import DOCUMENT_MAX_BYTES, INDEX_MAX_BYTES, SpecsUrl
from cdv_adapters.schemas.url import UrlSchemas
from tests.adapters.catalogue_server import CatalogueServer, catalogue_server, send
from tests.adapters.test_schemas_url import POST, catalogue_of, versions, write
from tests.core.catalogues import entry, index_bytes

Misbehaviour = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def server() -> Iterator[CatalogueServer]:
    with catalogue_server() as running:
        yield running


async def _following(server: CatalogueServer, folder: Path, timeout_seconds: float = 20) -> UrlSchemas:
    """Return a source that has loaded a valid catalogue, while the server already publishes a newer one."""
    server.publish(catalogue_of("1.0.0"))
    specs = SpecsUrl(server.url, timeout_seconds=timeout_seconds, pause_seconds=0.3)
    source = UrlSchemas(specs, CatalogueCache(folder / "kept"))
    await source.open()
    assert versions(source) == ["1.0.0"]
    server.publish(catalogue_of("1.0.0", "1.1.0"))
    return source


def _html(handler: BaseHTTPRequestHandler) -> None:
    send(handler, b"<!DOCTYPE html><title>Log in</title>", Content_Type="text/html")


def _truncated(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"schemas": [')
    handler.close_connection = True


def _silent(handler: BaseHTTPRequestHandler) -> None:
    # Longer than the client's timeout; ended when the client disconnects.
    handler.connection.settimeout(5)
    handler.rfile.read(1)
    handler.close_connection = True


def _bomb(handler: BaseHTTPRequestHandler) -> None:
    """A gigabyte of spaces, with which JSON may begin."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 30))
    handler.end_headers()
    for _ in range(1 << 10):
        handler.wfile.write(b" " * (1 << 20))


def _endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(1 << 20):
        handler.wfile.write(b"4000\r\n" + b" " * 0x4000 + b"\r\n")


_SMALL_AND_LARGE = gzip.compress(b" " * (1 << 26))


def _compressed(handler: BaseHTTPRequestHandler) -> None:
    send(handler, _SMALL_AND_LARGE, Content_Encoding="gzip")


def _redirecting(handler: BaseHTTPRequestHandler) -> None:
    send(handler, b"", 302, Location="file:///etc/passwd")


def _empty(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def _not_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")
    handler.close_connection = True


def _status(code: int) -> Misbehaviour:
    return lambda handler: handler.send_error(code)


MISBEHAVIOURS: list[Misbehaviour] = [
        _html, _truncated, _silent, _bomb, _endless, _compressed, _redirecting, _empty, _not_http,
        _status(404), _status(500),
        _status(206),
    ]  # fmt: skip


@pytest.mark.parametrize("misbehave", MISBEHAVIOURS)
async def test_a_misbehaving_server_leaves_the_last_good_catalogue_in_force(
    misbehave: Misbehaviour, server: CatalogueServer, tmp_path: Path
):
    source = await _following(server, tmp_path)
    catalogue = source.catalogue
    server.misbehave = misbehave
    tracemalloc.start()
    await source.refresh()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert source.catalogue is catalogue
    broken = source.state
    assert broken.outcome in {"failed", "refused"}
    assert broken.failures + broken.refusals == 1
    assert broken.reason
    assert peak < 4 * INDEX_MAX_BYTES
    # It recovers once the server responds correctly.
    server.misbehave = None
    await source.refresh()
    assert (versions(source), source.state.outcome, source.state.reason) == (["1.0.0", "1.1.0"], "updated", None)


async def test_an_unreachable_server_leaves_the_catalogue_unchanged(tmp_path: Path):
    with catalogue_server() as server:
        source = await _following(server, tmp_path)
    await source.refresh()
    assert (versions(source), source.state.outcome) == (["1.0.0"], "failed")


async def test_a_trickling_response_times_out(server: CatalogueServer, tmp_path: Path):
    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not select.select([handler.connection], [], [], 0.02)[0]:  # until the client disconnects
            handler.wfile.write(b" ")

    source = await _following(server, tmp_path, timeout_seconds=0.3)
    server.misbehave = trickle
    await source.refresh()
    assert source.state.outcome == "failed"
    assert "too slow" in str(source.state.reason)


async def test_a_refresh_that_exceeds_its_wait_time_fails(server: CatalogueServer, tmp_path: Path):
    source = await _following(server, tmp_path)
    server.misbehave = _silent
    await source.refresh(wait_seconds=0.05)
    assert (versions(source), source.state.outcome) == (["1.0.0"], "failed")
    assert "within 0 s" in str(source.state.reason)


async def test_a_timed_out_refresh_neither_overlaps_nor_undoes_the_next(
    server: CatalogueServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = await _following(server, tmp_path)
    fetched, proceed, overlapped = threading.Event(), threading.Event(), threading.Event()
    fetch = source._fetch

    def blocking_fetch() -> CachedCatalogue | None:
        if fetched.is_set():
            if not proceed.is_set():
                overlapped.set()
            return fetch()
        published = fetch()
        fetched.set()
        proceed.wait()
        return published

    monkeypatch.setattr(source, "_fetch", blocking_fetch)
    try:
        await source.refresh(wait_seconds=0.05)
        await asyncio.to_thread(fetched.wait)
        server.publish(catalogue_of("1.0.0", "1.2.0"))
        following = asyncio.create_task(source.refresh())
        await asyncio.to_thread(overlapped.wait, 0.5)
    finally:
        proceed.set()
    await following
    assert not overlapped.is_set()
    assert versions(source) == ["1.0.0", "1.2.0"]


async def test_a_flapping_server_is_followed_while_it_is_up(server: CatalogueServer, tmp_path: Path):
    source = await _following(server, tmp_path)
    for round_ in range(6):
        server.misbehave = _status(503) if round_ % 2 else None
        server.publish(catalogue_of("1.0.0", f"1.{round_}.1"))
        await source.refresh()
        expected = f"1.{round_ - round_ % 2}.1"
        assert versions(source) == ["1.0.0", expected]
    assert source.state.failures == 3


async def test_an_index_that_lists_missing_documents_leaves_the_catalogue_unchanged(
    server: CatalogueServer, tmp_path: Path
):
    source = await _following(server, tmp_path)
    del server.files[f"{POST}/1.1.0.json"]
    await source.refresh()
    assert (versions(source), source.state.outcome) == (["1.0.0"], "failed")
    assert f"{POST}/1.1.0.json: status 404" in str(source.state.reason)
    # The missing document is published, and the index stays the same.
    server.publish(catalogue_of("1.0.0", "1.1.0"))
    await source.refresh()
    assert versions(source) == ["1.0.0", "1.1.0"]


async def test_an_invalid_update_is_refused_and_the_problem_names_document_and_reason(
    server: CatalogueServer, tmp_path: Path
):
    source = await _following(server, tmp_path)
    server.files[f"{POST}/1.1.0.json"] = b'{"format": "nonsense"}'
    await source.refresh()
    assert (versions(source), source.state.outcome, source.state.refusals) == (["1.0.0"], "refused", 1)
    (problem,) = source.state.problems
    assert (problem.document, "'nonsense' is not a format" in problem.reason) == (f"{POST}/1.1.0.json", True)


async def test_an_internal_error_during_an_update_is_a_failed_refresh(
    server: CatalogueServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = await _following(server, tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise RecursionError("a defect")

    monkeypatch.setattr("cdv_adapters.schemas.url.build_catalogue", fail)
    await source.refresh()
    assert (versions(source), source.state.outcome, source.state.failures) == (["1.0.0"], "failed", 1)
    assert "internal error" in str(source.state.reason)


async def test_a_document_with_a_wrong_digest_is_refused(server: CatalogueServer, tmp_path: Path):
    source = await _following(server, tmp_path)
    server.publish(catalogue_of("1.0.0", "1.1.0", digests=True))
    server.files[f"{POST}/1.1.0.json"] += b" "
    await source.refresh()
    assert source.state.outcome == "refused"
    assert "SHA-256" in str(source.state.reason)


async def test_an_index_of_100_000_documents_is_refused_before_any_is_fetched(server: CatalogueServer, tmp_path: Path):
    source = await _following(server, tmp_path)
    server.publish({"SPEC_INDEX.json": index_bytes(entry("a.b.c", [f"1.0.{patch}" for patch in range(100_000)]))})
    server.paths()
    await source.refresh()
    assert source.state.outcome == "refused"
    assert "over the limit of 10000" in str(source.state.reason)
    assert server.paths() == ["SPEC_INDEX.json"]


async def test_a_document_that_is_too_large_is_refused(server: CatalogueServer, tmp_path: Path):
    source = await _following(server, tmp_path)
    server.files[f"{POST}/1.1.0.json"] = json.dumps({"title": "x" * DOCUMENT_MAX_BYTES}).encode()
    await source.refresh()
    assert source.state.outcome == "failed"
    assert "over the limit of 262144 bytes" in str(source.state.reason)


async def test_a_catalogue_over_the_total_size_limit_is_refused(tmp_path: Path):
    many = [f"1.{n}.0" for n in range(300)]
    files = catalogue_of(*many)
    big = b'{"title": "' + b"x" * (DOCUMENT_MAX_BYTES - 100) + b'"}'
    url = write(tmp_path / "specs", {path: big if path != "SPEC_INDEX.json" else body for path, body in files.items()})
    source = UrlSchemas.at(url, tmp_path / "data")
    await source.open()
    assert source.state.outcome == "failed"
    assert "the catalogue is over the limit of 67108864 bytes" in str(source.state.reason)


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
async def test_an_index_that_is_not_a_regular_file_is_refused(kind: str, tmp_path: Path):
    folder = tmp_path / "specs"
    folder.mkdir()
    index = folder / "SPEC_INDEX.json"
    if kind == "fifo":
        os.mkfifo(index)
    elif kind == "folder":
        index.mkdir()
    else:
        index.symlink_to("/dev/zero")
    source = UrlSchemas.at(folder.as_uri(), tmp_path / "data")
    await source.open()
    assert source.state.outcome == "failed"
    assert "not a regular file" in str(source.state.reason)


async def test_a_refresh_after_closing_fails(server: CatalogueServer, tmp_path: Path):
    source = await _following(server, tmp_path)
    source.close()
    await source.refresh()
    assert (versions(source), source.state.outcome) == (["1.0.0"], "failed")
