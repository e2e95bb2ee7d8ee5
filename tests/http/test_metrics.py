"""Metrics count what happens, under names that no client chooses, and are there while everything else hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from cdv_adapters.background import run_in_background
from cdv_adapters.service import BackgroundTask, Dependency
from cdv_core.errors import Unavailable
from cdv_core.ports.outbox import Backlog
from cdv_http.dependency_checks import CHECK_TIMEOUT_SECONDS
from cdv_http.metrics import observe_background_task
from tests.http.api import PNG, POST, Api, Creator, data, refused, serving
from tests.http.scraping import Scrape


@pytest.fixture
async def api(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Api]:
    """A vault of this test's own. The counts are the process's: tests look at what they add."""
    async with serving(tmp_path / "vault") as opened:
        yield opened


async def scrape(api: Api) -> Scrape:
    answer = await api.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].count("charset") == 1
    return Scrape(answer.text)


async def test_requests_are_counted_by_route_method_status_and_time(api: Api, ada: Creator) -> None:
    before = await scrape(api)
    await ada.created()
    refused(await ada.create(record={}), 400, "CDV_SCHEMA_REJECT")
    after = await scrape(api)
    route = {"route": "/v1/repo/record", "method": "POST"}

    def added(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert added("cdv_requests_total", **route, status="200") == 1
    assert added("cdv_requests_total", **route, status="400") == 1
    assert added("cdv_request_seconds_count", **route) == 2
    assert added("cdv_errors_total", route="/v1/repo/record", code="CDV_SCHEMA_REJECT") == 1
    assert added("cdv_schema_rejects_total", collection="com.registryaccord.profile") == 1
    assert after.label_values("le") >= {"0.05", "0.1", "0.2", "0.25", "0.3", "0.5", "+Inf"}
    # This very scrape is under way, and is not counted among what the service is there for.
    assert after.value("cdv_requests_in_flight") == 0


HOSTILE_PATHS = ["/v1/x%22%7D%0Acdv_up 1", "/v1/%00", "/metrics/../nope", "/v1/media/" + "a" * 3000 + "/meta", "/é"]


async def test_no_client_chooses_a_label(api: Api, ada: Creator) -> None:
    for number in range(20):
        await api.http.request(f"VERB{number}", "/v1/repo/record")
        await api.http.get(f"/v1/chosen{number}")
        await api.http.get(f"/v1/media/chosen{number}/meta", headers=ada.auth)
        refused(await ada.create(collection=f"com.chosen{number}.record"), 400, "CDV_VALIDATION")
    for path in HOSTILE_PATHS:
        await api.http.get(path, headers={"X-Correlation-Id": "chosen"})
    seen = await scrape(api)
    assert "chosen" not in seen.text
    assert "aaaa" not in seen.text
    assert not seen.has("cdv_up")
    assert seen.label_values("method") <= {"GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "PATCH", "other"}
    assert {route for route in seen.label_values("route") if not route.startswith("/")} == {"unmatched"}
    assert all(name.startswith("com.registryaccord.") for name in seen.label_values("collection"))


async def test_uploads_are_counted_by_what_came_of_them(api: Api, ada: Creator) -> None:
    before = await scrape(api)
    await ada.uploaded()
    refused(await ada.init(size=10**9), 400, "CDV_MEDIA_SIZE")
    ticket = await ada.staged(PNG + b"other")
    refused(await ada.finalize(ticket["assetId"]), 400, "CDV_MEDIA_CHECKSUM")
    after = await scrape(api)
    for step, outcome, count in (
        ("announce", "done", 2),
        ("announce", "CDV_MEDIA_SIZE", 1),
        ("finalize", "done", 1),
        ("finalize", "CDV_MEDIA_CHECKSUM", 1),
    ):
        labels = {"step": step, "outcome": outcome}
        assert after.value("cdv_media_total", **labels) - before.value("cdv_media_total", **labels) == count, labels


async def test_the_work_of_background_tasks_is_counted(api: Api) -> None:
    done = asyncio.Event()

    async def sweep() -> int:
        done.set()
        return 7

    async with run_in_background([BackgroundTask("count me", 60, sweep, until_success=True)], observe_background_task):
        await done.wait()
        while not (await scrape(api)).has("cdv_background_removals_total", task="count me"):
            await asyncio.sleep(0)
    seen = await scrape(api)
    assert seen.value("cdv_background_removals_total", task="count me") == 7
    assert seen.value("cdv_background_tasks_total", task="count me", outcome="done") == 1
    assert seen.has(
        "cdv_background_tasks_total", task="sweep uploads", outcome="failed"
    )  # before the first failure, too


async def test_a_scrape_waits_for_nothing_that_hangs(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = asyncio.Event()

    async def hang() -> None:
        await hanging.wait()

    async def backlog() -> Backlog:
        await hanging.wait()
        return Backlog(3, None)

    api.service.dependencies[:] = [
        Dependency("database", critical=True, check=hang),
        Dependency("events", critical=False, check=hang),
    ]
    monkeypatch.setattr(api.service.outbox, "backlog", backlog)
    for _ in range(2):  # the second finds the first's looks under way
        started = time.monotonic()
        seen = await scrape(api)
        assert time.monotonic() - started < CHECK_TIMEOUT_SECONDS + 1
        assert seen.value("cdv_dependency_up", dependency="database") == 0
        assert seen.value("cdv_dependency_up", dependency="events") == 0
    hanging.set()
    seen = await scrape(api)
    assert seen.value("cdv_dependency_up", dependency="database") == 1
    assert seen.value("cdv_oplog_backlog") == 3


async def test_a_dependency_that_is_down_is_0_and_a_defect_hides_nothing(api: Api) -> None:
    async def down() -> None:
        raise Unavailable("object_store")

    async def broken() -> None:
        raise RuntimeError("a defect")

    api.service.dependencies[1:] = [
        Dependency("object_store", critical=False, check=down),
        Dependency("issuer", critical=False, check=broken),
    ]
    seen = await scrape(api)
    assert seen.value("cdv_dependency_up", dependency="database") == 1
    assert seen.value("cdv_dependency_up", dependency="object_store") == 0


async def test_what_adapters_count_is_added_once_however_often_it_is_read(api: Api) -> None:
    fetches = 3.0
    api.service.readings.append(lambda: {"issuer_fetches": fetches, "issuer_failing": 1})
    before = (await scrape(api)).value("cdv_issuer_fetches_total")
    await scrape(api)
    fetches = 5.0
    seen = await scrape(api)
    assert seen.value("cdv_issuer_fetches_total") - before == 2
    assert seen.value("cdv_issuer_failing") == 1


async def test_a_scrape_while_a_worker_makes_its_files_is_answered(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "of workers"
    folder.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    key = mmap_key("cdv_requests", "cdv_requests_total", [], [], "Requests answered")
    for pid in (1, 2):
        counts = MmapedDict(str(folder / f"counter_{pid}.db"))
        counts.write_value(key, pid, 0.0)
        counts.close()
    (folder / "counter_3.db").touch()
    (folder / "counter_4.db").symlink_to(folder / "gone since it was listed")
    assert (await scrape(api)).value("cdv_requests_total") == 3


async def test_the_catalogue_in_force_is_named(api: Api) -> None:
    seen = await scrape(api)
    assert seen.value("cdv_catalogue_collections") == 8
    assert seen.value("cdv_catalogue_generated_timestamp_seconds") > 1.7e9


async def test_requests_over_a_budget_are_counted(anyio_backend: str, tmp_path: Path) -> None:
    async with serving(tmp_path / "small", rate_limit_writes="1/minute") as api:
        before = await scrape(api)
        ada = api.creator()
        data(await ada.create())
        refused(await ada.create(collection=POST), 429, "CDV_RATE_LIMIT")
        after = await scrape(api)
    labels = {"budget": "writes"}
    assert after.value("cdv_rate_limited_total", **labels) - before.value("cdv_rate_limited_total", **labels) == 1
