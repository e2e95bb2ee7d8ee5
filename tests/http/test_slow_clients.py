"""Slow requests are bounded in time, and uploads while they make no progress (spec: CDV_REQUEST_TIMEOUT)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.http.api import PNG, Api, data, refused, serving

TIMEOUT = 1.0


@pytest.fixture
async def api(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path, request_timeout=TIMEOUT) as opened:
        yield opened


async def trickling(content: bytes, pauses: int, seconds: float) -> AsyncIterator[bytes]:
    """Send in `pauses` + 1 parts, with a pause between each two."""
    size = len(content) // (pauses + 1) + 1
    for number in range(pauses + 1):
        if number:
            await asyncio.sleep(seconds)
        yield content[number * size : (number + 1) * size]


async def never(content: bytes) -> AsyncIterator[bytes]:
    yield content
    await asyncio.Event().wait()


async def test_a_body_that_never_ends_is_refused_with_400(api: Api) -> None:
    headers = {**api.creator().auth, "Content-Type": "application/json"}
    answer = await api.http.post("/v1/repo/record", content=never(b"{"), headers=headers)
    refused(answer, 400, "CDV_BAD_REQUEST")


async def test_a_body_that_trickles_is_refused_with_400(api: Api) -> None:
    headers = {**api.creator().auth, "Content-Type": "application/json"}
    answer = await api.http.post("/v1/repo/record", content=trickling(b"{}" * 20, 6, TIMEOUT / 5), headers=headers)
    refused(answer, 400, "CDV_BAD_REQUEST")


async def test_an_upload_that_makes_progress_may_exceed_the_timeout(api: Api) -> None:
    creator = api.creator()
    ticket = data(await creator.init())
    answer = await api.http.put(ticket["uploadUrl"], content=trickling(PNG, 6, TIMEOUT / 5))
    assert answer.status_code == 200
    assert data(await creator.finalize(ticket["assetId"]))


async def test_a_stalled_upload_times_out_and_can_be_retried(api: Api) -> None:
    creator = api.creator()
    ticket = data(await creator.init())
    refused(await api.http.put(ticket["uploadUrl"], content=never(PNG[:9])), 400, "CDV_BAD_REQUEST")
    assert (
        refused(await creator.finalize(ticket["assetId"]), 409, "CDV_CONFLICT")["details"]["reason"] == "not_uploaded"
    )
    assert not list((api.settings.data_dir / "media" / "incoming").iterdir())
    assert (await api.http.put(ticket["uploadUrl"], content=PNG)).status_code == 200
    assert data(await creator.finalize(ticket["assetId"]))


async def test_after_timeouts_the_service_accepts_requests(api: Api) -> None:
    headers = {**api.creator().auth, "Content-Type": "application/json"}
    answers = await asyncio.gather(
        *(api.http.post("/v1/repo/record", content=never(b"{"), headers=headers) for _ in range(20))
    )
    assert {answer.status_code for answer in answers} == {400}
    assert data(await api.creator().create())


async def test_requests_stalled_by_their_clients_are_ended_when_slots_are_needed(tmp_path: Path) -> None:
    async with serving(tmp_path, max_in_flight=4, trusted_proxies=("127.0.0.1",)) as api:
        slow: list[asyncio.Task[httpx.Response]] = []
        for number in range(4):
            address = f"192.0.2.{number % 2}"
            headers = {**api.creator().auth, "Content-Type": "application/json", "X-Forwarded-For": address}
            slow.append(asyncio.create_task(api.http.post("/v1/repo/record", content=never(b"{"), headers=headers)))
        await asyncio.sleep(0.5)  # until the clients count as slow
        for _ in range(5):
            assert data(await api.creator().create())
        ended = [task.done() for task in slow]
        assert ended == [True, False, False, False]  # the longest first, and no more than were needed
        refused(slow[0].result(), 400, "CDV_BAD_REQUEST")
        for task in slow:
            task.cancel()


async def test_requests_over_the_in_flight_limit_are_shed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdv_http.admission._SLOW_SECONDS", 60.0)  # no client is slow yet
    async with serving(tmp_path, max_in_flight=4, trusted_proxies=("127.0.0.1",)) as api:
        gone = asyncio.Event()

        async def waiting() -> AsyncIterator[bytes]:
            yield b"{"
            await gone.wait()

        slow = []
        for number in range(4):  # of two addresses: one may not take all slots
            address = f"192.0.2.{number % 2}"
            headers = {**api.creator().auth, "Content-Type": "application/json", "X-Forwarded-For": address}
            slow.append(asyncio.create_task(api.http.post("/v1/repo/record", content=waiting(), headers=headers)))
        while (await api.http.get("/v1/nope")).status_code != 503:
            await asyncio.sleep(0)
        refused(await api.creator().list(), 503, "CDV_UNAVAILABLE")
        assert data(await api.http.get("/healthz"))
        assert data(await api.http.get("/readyz"))
        gone.set()
        for answer in await asyncio.gather(*slow):
            refused(answer, 400, "CDV_BAD_REQUEST")
        assert data(await api.creator().list()) == {"records": []}
