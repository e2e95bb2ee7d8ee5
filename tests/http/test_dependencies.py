"""Alive, ready, and what works while something is down (spec: healthz, readyz; domain, what depends on what)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from cdv_adapters.service import Dependency, Service
from cdv_core.errors import Unavailable
from cdv_http.dependency_checks import CHECK_TIMEOUT_SECONDS
from tests.http.api import Api, data, refused, serving


@pytest.fixture
async def api(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Api]:
    """A vault of this test's own, to break."""
    async with serving(tmp_path / "vault") as opened:
        yield opened


async def check_up() -> None:
    pass


async def check_down() -> None:
    raise Unavailable("events")


def dependency(name: Any, *, critical: bool, up: bool) -> Dependency:
    return Dependency(name, critical=critical, check=check_up if up else check_down)


async def test_a_vault_that_is_well_is_alive_and_ready(api: Api) -> None:
    assert data(await api.http.get("/healthz")) == {"status": "ok"}
    assert data(await api.http.get("/readyz")) == {
        "status": "ready",
        "dependencies": [
            {"name": "database", "up": True, "critical": True},
            {"name": "object_store", "up": True, "critical": False},
        ],
    }


async def test_something_that_is_not_critical_degrades(api: Api) -> None:
    api.service.dependencies[1:] = [dependency("object_store", critical=False, up=False)]
    readiness = data(await api.http.get("/readyz"))
    assert readiness["status"] == "degraded"
    assert readiness["dependencies"][1] == {"name": "object_store", "up": False, "critical": False}


async def test_something_that_is_not_critical_and_hangs_degrades_and_holds_no_probe_up(api: Api) -> None:
    looks = 0

    async def hang() -> None:
        nonlocal looks
        looks += 1
        await asyncio.Event().wait()

    api.service.dependencies[1:] = [Dependency("object_store", critical=False, check=hang)]
    started = time.monotonic()
    answers = await asyncio.gather(*(api.http.get("/readyz") for _ in range(3)))
    assert time.monotonic() - started < 2 * CHECK_TIMEOUT_SECONDS  # the shipped probes give up after 5 s
    assert [data(answer)["status"] for answer in answers] == ["degraded"] * 3
    assert looks == 1


async def test_a_look_that_fails_by_a_defect_is_no_500(api: Api) -> None:
    async def broken() -> None:
        raise KeyError("ts")

    api.service.dependencies[1:] = [Dependency("events", critical=False, check=broken)]
    assert data(await api.http.get("/readyz"))["status"] == "degraded"


async def test_something_critical_makes_unready_and_is_named(api: Api) -> None:
    api.service.dependencies[:] = [
        dependency("database", critical=True, up=False),
        dependency("events", critical=False, up=True),
    ]
    error = refused(await api.http.get("/readyz"), 503, "CDV_UNAVAILABLE")
    assert error["details"] == {
        "status": "unavailable",
        "dependencies": [
            {"name": "database", "up": False, "critical": True},
            {"name": "events", "up": True, "critical": False},
        ],
    }
    assert data(await api.http.get("/healthz"))


async def test_a_process_that_is_draining_is_not_ready(api: Api) -> None:
    api.app.admission.closing = True
    assert refused(await api.http.get("/readyz"), 503, "CDV_UNAVAILABLE")["details"]["status"] == "draining"
    assert data(await api.http.get("/healthz"))
    assert data(await api.creator().create())


async def test_liveness_touches_nothing(api: Api) -> None:
    async def untouchable() -> None:
        raise AssertionError

    api.service.dependencies[:] = [Dependency("database", critical=True, check=untouchable)]
    assert data(await api.http.get("/healthz")) == {"status": "ok"}


def database_of(service: Service) -> Any:
    return service.vault.records._store._database  # type: ignore[attr-defined]


async def test_without_a_database_everything_answers_503(api: Api) -> None:
    creator = api.creator()
    receipt, asset, pending = await creator.created(), await creator.uploaded(), await creator.staged()
    await database_of(api.service).close()
    for answer in (
        await creator.create(),
        await creator.create(idempotencyKey="k"),
        await creator.get(receipt["uri"]),
        await creator.list(),
        await creator.init(),
        await creator.finalize(pending["assetId"]),
        await creator.meta(asset["assetId"]),
        await creator.content(asset["assetId"]),
    ):
        error = refused(answer, 503, "CDV_UNAVAILABLE")
        assert error["details"] == {"dependency": "database"}
        assert int(answer.headers["retry-after"]) >= 1
    assert refused(await api.http.get("/readyz"), 503, "CDV_UNAVAILABLE")["details"]["status"] == "unavailable"
    assert data(await api.http.get("/healthz"))
    # What needs no database is refused as ever, and before.
    refused(await creator.create(record={}), 400, "CDV_SCHEMA_REJECT")
    refused(await api.http.get("/v1/media/x/meta"), 401, "CDV_AUTHN")


async def test_without_an_object_store_records_go_on(api: Api, tmp_path: Path) -> None:
    creator = api.creator()
    pending, final = await creator.staged(), await creator.uploaded()
    media = api.settings.data_dir / "media"
    media.rename(tmp_path / "away")
    media.write_text("a file where the directory was")
    assert data(await creator.create())
    assert data(await creator.list())["records"]
    location = (await creator.content(final["assetId"])).headers["location"]
    for answer in (
        await api.http.put(pending["uploadUrl"], content=b"x"),
        await creator.finalize(pending["assetId"]),
        await api.http.get(location),
    ):
        assert refused(answer, 503, "CDV_UNAVAILABLE")["details"] == {"dependency": "object_store"}
    readiness = data(await api.http.get("/readyz"))
    assert readiness["status"] == "degraded"
    media.unlink()
    (tmp_path / "away").rename(media)
    assert data(await creator.finalize(pending["assetId"]))
    assert data(await api.http.get("/readyz"))["status"] == "ready"


async def test_a_defect_tells_the_client_its_correlation_id_only(api: Api) -> None:
    logged: list[str] = []
    logger.add(logged.append, format="{message} {extra[correlation_id]} {exception}")

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret of the house")

    api.service.vault.records.create = broken  # type: ignore[method-assign, assignment]
    answer = await api.creator().create(headers={"X-Correlation-Id": "find-me"})
    error = refused(answer, 500, "CDV_INTERNAL")
    assert error["correlationId"] == "find-me"
    assert "details" not in error
    assert "secret" not in answer.text
    assert "RuntimeError" not in answer.text
    (told,) = (line for line in logged if "secret of the house" in line)
    assert "find-me" in told
