"""Metrics count requests and work, with labels that clients cannot choose, even while dependencies hang."""

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
    """A vault for one test. Metrics are counted per process, so tests compare differences."""
    async with serving(tmp_path / "vault") as opened:
        yield opened


async def scrape(api: Api) -> Scrape:
    answer = await api.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].count("charset") == 1
    return Scrape(answer.text)


async def test_requests_are_counted_by_route_method_status_and_latency(api: Api, ada: Creator) -> None:
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
    # The scrape itself is in flight, but is not counted.
    assert after.value("cdv_requests_in_flight") == 0


HOSTILE_PATHS = ["/v1/x%22%7D%0Acdv_up 1", "/v1/%00", "/metrics/../nope", "/v1/media/" + "a" * 3000 + "/meta", "/é"]


async def test_clients_cannot_choose_label_values(api: Api, ada: Creator) -> None:
    for number in range(20):
        await api.http.request(f"VERB{number}", "/v1/repo/record")
        await api.http.get(f"/v1/chosen{number}")
        await api.http.get(f"/v1/media/chosen{number}/meta", headers=ada.auth)
        refused(await ada.create(collection=f"com.chosen{number}.record"), 400, "CDV_VALIDATION")
    for path in HOSTILE_PATHS:
        await api.http.get(path, headers={"X-Correlation-Id": "chosen"})
    scraped = await scrape(api)
    assert "chosen" not in scraped.text
    assert "aaaa" not in scraped.text
    assert not scraped.has("cdv_up")
    assert scraped.label_values("method") <= {"GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "PATCH", "other"}
    assert {route for route in scraped.label_values("route") if not route.startswith("/")} == {"unmatched"}
    assert all(name.startswith("com.registryaccord.") for name in scraped.label_values("collection"))


async def test_media_steps_are_counted_by_outcome(api: Api, ada: Creator) -> None:
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


async def test_runs_and_removals_of_background_tasks_are_counted(api: Api) -> None:
    done = asyncio.Event()

    async def sweep() -> int:
        done.set()
        return 7

    async with run_in_background([BackgroundTask("count me", 60, sweep, until_success=True)], observe_background_task):
        await done.wait()
        while not (await scrape(api)).has("cdv_background_removals_total", task="count me"):
            await asyncio.sleep(0)
    scraped = await scrape(api)
    assert scraped.value("cdv_background_removals_total", task="count me") == 7
    assert scraped.value("cdv_background_tasks_total", task="count me", outcome="done") == 1
    assert scraped.has(
        "cdv_background_tasks_total", task="sweep uploads", outcome="failed"
    )  # before the first failure, too


async def test_a_scrape_does_not_wait_for_hanging_dependencies(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
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
    for _ in range(2):  # the second finds the checks of the first in progress
        started = time.monotonic()
        scraped = await scrape(api)
        assert time.monotonic() - started < CHECK_TIMEOUT_SECONDS + 1
        assert scraped.value("cdv_dependency_up", dependency="database") == 0
        assert scraped.value("cdv_dependency_up", dependency="events") == 0
    hanging.set()
    scraped = await scrape(api)
    assert scraped.value("cdv_dependency_up", dependency="database") == 1
    assert scraped.value("cdv_oplog_backlog") == 3


async def test_a_dependency_that_is_down_is_0_and_a_defective_check_hides_no_other(api: Api) -> None:
    async def down() -> None:
        raise Unavailable("object_store")

    async def broken() -> None:
        raise RuntimeError("a defect")

    api.service.dependencies[1:] = [
        Dependency("object_store", critical=False, check=down),
        Dependency("issuer", critical=False, check=broken),
    ]
    scraped = await scrape(api)
    assert scraped.value("cdv_dependency_up", dependency="database") == 1
    assert scraped.value("cdv_dependency_up", dependency="object_store") == 0


async def test_counts_of_adapters_are_added_once_however_often_they_are_scraped(api: Api) -> None:
    fetches = 3.0
    api.service.readings.append(lambda: {"issuer_fetches": fetches, "issuer_failing": 1})
    before = (await scrape(api)).value("cdv_issuer_fetches_total")
    await scrape(api)
    fetches = 5.0
    scraped = await scrape(api)
    assert scraped.value("cdv_issuer_fetches_total") - before == 2
    assert scraped.value("cdv_issuer_failing") == 1


async def test_a_scrape_succeeds_while_a_worker_creates_or_removes_its_files(
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


async def test_the_catalogue_in_use_is_reported(api: Api) -> None:
    scraped = await scrape(api)
    assert scraped.value("cdv_catalogue_collections") == 8
    assert scraped.value("cdv_catalogue_generated_timestamp_seconds") > 1.7e9


async def test_requests_refused_by_a_rate_limit_are_counted(anyio_backend: str, tmp_path: Path) -> None:
    async with serving(tmp_path / "small", rate_limit_writes="1/minute") as api:
        before = await scrape(api)
        ada = api.creator()
        data(await ada.create())
        refused(await ada.create(collection=POST), 429, "CDV_RATE_LIMIT")
        after = await scrape(api)
    labels = {"budget": "writes"}
    assert after.value("cdv_rate_limited_total", **labels) - before.value("cdv_rate_limited_total", **labels) == 1
