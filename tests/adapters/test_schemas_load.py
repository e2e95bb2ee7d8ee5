"""A catalogue of the documented size, and write latency while a source misbehaves. Long: it takes a minute."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest

from cdv_adapters.clock.system import SystemClock
from cdv_adapters.ids.ulid import UlidSource
from cdv_adapters.schemas.cache import CatalogueCache
from cdv_adapters.schemas.specs_url import SpecsUrl
from cdv_adapters.schemas.url import UrlSchemas
from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import Did, Nsid
from cdv_core.domain.records import NewRecord
from cdv_core.ports.records import IdempotentReply
from cdv_core.use_cases.records import Records, SchemaPolicy
from tests.adapters.catalogue_server import CatalogueServer, catalogue_server
from tests.adapters.test_schemas_hostile_source import MISBEHAVIOURS
from tests.adapters.test_schemas_url import write
from tests.core.catalogues import entry, index_bytes
from tests.fakes.records import FakeRecordStore

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

RECORD = {"createdAt": "2026-11-24T02:53:29Z", "author": "did:plc:ada", "tags": ["a", "b"], "field0": "x", "x": 3}


def _document(collection: int, version: int) -> bytes:
    members: dict[str, Any] = {f"field{n}": {"type": "string", "maxLength": 100 + version} for n in range(4)}
    members["createdAt"] = {"type": "string", "format": "date-time"}
    members["author"] = {"type": "string", "format": "did"}
    members["tags"] = {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,20}$"}, "maxItems": 10}
    members["x"] = {"type": "integer", "minimum": -collection}
    return json.dumps({"type": "object", "required": ["createdAt", "author"], "properties": members}).encode()


def _catalogue(collections: int, versions: int = 5) -> dict[str, bytes]:
    numbers = [f"1.{version}.0" for version in range(versions)]
    names = [f"com.example.c{n}.record" for n in range(collections)]
    files = {f"{name}/{it}.json": _document(n, v) for n, name in enumerate(names) for v, it in enumerate(numbers)}
    return {"SPEC_INDEX.json": index_bytes(*[entry(name, numbers, latest=numbers[-1]) for name in names]), **files}


class _DiscardingStore(FakeRecordStore):
    """Accepts records and stores none, so that the last write costs as much as the first."""

    async def create(self, record: NewRecord, event: Event, retryable: IdempotentReply | None = None) -> bytes | None:
        return None


def _records(source: UrlSchemas) -> Records:
    policy = SchemaPolicy(allow_drafts=False, reject_deprecated=False)
    return Records(_DiscardingStore(), source, SystemClock(), UlidSource(), policy)


async def _write(records: Records, collection: str) -> float:
    """Write one record as a request does, after one loop iteration; return the seconds it took."""
    begun = time.perf_counter()
    await asyncio.sleep(0)
    await records.create(did=Did("did:plc:ada"), collection=Nsid(collection), record=RECORD)
    return time.perf_counter() - begun


async def _p95_during(work: Callable[[], Awaitable[object]], records: Records, collection: str) -> float:
    """Return the 95th percentile of the times of writes, one every two milliseconds, while `work` runs."""
    task = asyncio.ensure_future(work())
    times: list[float] = []
    while not task.done() or len(times) < 200:
        times.append(await _write(records, collection))
        await asyncio.sleep(0.002)
    await task
    return quantiles(times, n=20)[-1]


async def test_a_thousand_collections_load_in_25_cpu_seconds_without_delaying_writes(tmp_path: Path):
    url = write(tmp_path / "specs", _catalogue(1_000))
    source = UrlSchemas.at(write(tmp_path / "first", _catalogue(1)), tmp_path / "one")
    await source.open()
    records = _records(source)
    alone = await _p95_during(lambda: asyncio.sleep(1), records, "com.example.c0.record")

    big = UrlSchemas.at(url, tmp_path / "data")
    begun, spent = time.monotonic(), _child_cpu_seconds()
    beside = await _p95_during(big.refresh, records, "com.example.c0.record")
    seconds, spent = time.monotonic() - begun, _child_cpu_seconds() - spent
    assert (big.state.outcome, big.state.collections) == ("updated", 1_000)
    print(f"5000 documents in {seconds:.1f} s, {spent:.1f} s of them computing")
    print(f"p95 of writes {alone * 1e3:.2f} ms alone, {beside * 1e3:.2f} ms beside")
    # CPU time instead of wall time, because the machine may be busy.
    assert 0 < spent < 25
    # A waiting thread gets the GIL within the switch interval of 5 ms.
    assert beside < alone + 0.015

    small, large = [min(await _timed_writes(catalogue)) for catalogue in (source, big)]
    print(f"a write: {small * 1e6:.0f} us with one collection, {large * 1e6:.0f} us with a thousand")
    assert large < small * 1.5


def _child_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def _timed_writes(source: UrlSchemas) -> list[float]:
    records = _records(source)
    return [await _write(records, "com.example.c0.record") for _ in range(500)]


@pytest.fixture
def server() -> Iterator[CatalogueServer]:
    with catalogue_server() as running:
        yield running


@pytest.mark.parametrize("misbehave", MISBEHAVIOURS)
async def test_write_latency_is_bounded_while_the_source_misbehaves(
    misbehave: Callable[[BaseHTTPRequestHandler], None], server: CatalogueServer, tmp_path: Path
):
    server.publish(_catalogue(1))
    specs = SpecsUrl(server.url, timeout_seconds=5, pause_seconds=0.3)
    source = UrlSchemas(specs, CatalogueCache(tmp_path / "kept"))
    await source.open()
    records = _records(source)

    async def refreshing() -> None:
        for _ in range(5):
            await source.refresh()

    alone = await _p95_during(lambda: asyncio.sleep(0.5), records, "com.example.c0.record")
    server.misbehave = misbehave
    beside = await _p95_during(refreshing, records, "com.example.c0.record")
    assert source.state.failures + source.state.refusals == 5
    print(f"p95 of writes {alone * 1e3:.2f} ms alone, {beside * 1e3:.2f} ms beside")
    # The server runs in this process and competes for the GIL.
    assert beside < alone * 3 + 0.015
