"""Budgets of reads and writes (spec: rate limits, sizes, CORS)."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cdv_http.client_address import ClientAddresses
from cdv_http.rate_limits import OwnCounters, RateLimits, _window_end
from cdv_http.request_state import begin_state
from tests.http.api import PNG, Api, data, refused, serving

WRITES, READS = 4, 6
MIB = 1024 * 1024


@pytest.fixture
async def api(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Api]:
    """A vault with small budgets whose windows do not end during a test."""
    async with serving(tmp_path, rate_limit_writes=f"{WRITES}/day", rate_limit_reads=f"{READS}/day") as opened:
        yield opened


def budget(answer: httpx.Response) -> tuple[int, int]:
    """Check the rate limit headers; return the limit and what remains of it."""
    limit, left, reset = (int(answer.headers[f"x-ratelimit-{name}"]) for name in ("limit", "remaining", "reset"))
    assert time.time() - 1 < reset <= time.time() + 86_401
    return limit, left


async def test_a_budget_is_counted_down_and_further_requests_are_refused_with_429(api: Api) -> None:
    creator = api.creator()
    for left in range(WRITES - 1, -1, -1):
        answer = await creator.create()
        assert data(answer)
        assert budget(answer) == (WRITES, left)
    for _ in range(2):
        answer = await creator.create()
        error = refused(answer, 429, "CDV_RATE_LIMIT")
        assert error["details"] == {"budget": "writes"}
        assert budget(answer) == (WRITES, 0)
        reset = int(answer.headers["x-ratelimit-reset"])
        assert abs(int(answer.headers["retry-after"]) - (reset - time.time())) <= 2
    assert len(data(await creator.list())["records"]) == WRITES


async def test_reads_and_writes_have_separate_budgets(api: Api) -> None:
    creator = api.creator()
    for _ in range(WRITES):
        assert data(await creator.create())
    refused(await creator.create(), 429, "CDV_RATE_LIMIT")
    for left in range(READS - 1, -1, -1):
        answer = await creator.list()
        assert data(answer)
        assert budget(answer) == (READS, left)
    refused(await creator.list(), 429, "CDV_RATE_LIMIT")
    refused(await creator.get("at://x"), 429, "CDV_RATE_LIMIT")


async def test_budgets_are_counted_per_subject(api: Api) -> None:
    one, two = api.creator(), api.creator()
    for _ in range(WRITES):
        assert data(await one.create())
    refused(await one.create(), 429, "CDV_RATE_LIMIT")
    assert budget(await two.create()) == (WRITES, WRITES - 1)


async def test_requests_without_a_valid_token_are_counted_by_address(api: Api) -> None:
    path = "/v1/repo/listRecords?did=did:example:a"
    for left in range(READS - 1, -1, -1):
        answer = await api.http.get(path)
        assert data(answer) == {"records": []}
        assert budget(answer) == (READS, left)
    refused(await api.http.get(path), 429, "CDV_RATE_LIMIT")
    # An invalid token is counted by address too, and a valid one by its subject.
    refused(await api.http.get(path, headers={"Authorization": "Bearer junk"}), 429, "CDV_RATE_LIMIT")
    assert data(await api.creator().list(did="did:example:a"))


async def test_requests_with_invalid_tokens_are_counted(api: Api) -> None:
    junk = {"Authorization": "Bearer a.b.c", "Content-Type": "application/json"}
    for _ in range(WRITES):
        refused(await api.http.post("/v1/repo/record", content=b"{}", headers=junk), 401, "CDV_JWT_MALFORMED")
    refused(await api.http.post("/v1/repo/record", content=b"{}", headers=junk), 429, "CDV_RATE_LIMIT")


async def test_refused_requests_count_too(api: Api) -> None:
    creator = api.creator()
    for _ in range(WRITES):
        answer = await creator.create(record={})
        refused(answer, 400, "CDV_SCHEMA_REJECT")
        assert budget(answer)[0] == WRITES
    refused(await creator.create(record={}), 429, "CDV_RATE_LIMIT")


@pytest.mark.parametrize("path", ["/v1/repo/record", "/v1/media/uploadInit", "/v1/media/finalize"])
async def test_a_request_refused_before_authentication_is_counted_by_address(api: Api, path: str) -> None:
    headers = {**api.creator().auth, "Content-Type": "application/json"}
    answers = [
        await api.http.post(path, content=b"{}", headers={**headers, "Content-Type": "text/plain"}),
        await api.http.post(path, content=b"x" * (MIB + 1), headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [415, 413]
    assert [budget(answer) for answer in answers] == [(WRITES, WRITES - 1), (WRITES, WRITES - 2)]
    for _ in range(WRITES - 2):
        await api.http.post(path, content=b"{}")
    refused(await api.http.post(path, content=b"{}"), 429, "CDV_RATE_LIMIT")


async def test_x_forwarded_for_is_ignored_by_default(api: Api) -> None:
    path = "/v1/repo/listRecords?did=did:example:a"
    for number in range(READS):
        assert data(await api.http.get(path, headers={"X-Forwarded-For": f"192.0.2.{number}"}))
    refused(await api.http.get(path, headers={"X-Forwarded-For": "192.0.2.99"}), 429, "CDV_RATE_LIMIT")


async def test_behind_trusted_proxies_the_nearest_untrusted_address_is_counted(tmp_path: Path) -> None:
    path = "/v1/repo/listRecords?did=did:example:a"
    async with serving(tmp_path, rate_limit_reads="2/day", trusted_proxies=("127.0.0.1", "10.0.0.0/8")) as api:

        async def left(forwarded: str) -> int:
            answer = await api.http.get(path, headers={"X-Forwarded-For": forwarded})
            return -1 if answer.status_code == 429 else budget(answer)[1]

        assert await left("192.0.2.1") == 1
        assert await left("192.0.2.2") == 1
        # Addresses before the nearest untrusted one may be forged and do not count.
        assert await left("203.0.113.9, 192.0.2.1, 10.1.2.3") == 0
        assert await left("198.51.100.7, 192.0.2.1") == -1
        # IPv6 clients are counted by their /64 network.
        assert await left("2001:db8::1") == 1
        assert await left("2001:db8::ffff") == 0
        assert await left("2001:db8:0:1::1") == 1


async def test_routes_without_a_limit_have_no_rate_limit_headers(api: Api) -> None:
    for _ in range(READS + 2):
        for path in ("/healthz", "/readyz", "/openapi.json", "/docs", "/.well-known/jwks.json", "/v1/nope"):
            answer = await api.http.get(path)
            assert answer.status_code in {200, 404}
            assert "x-ratelimit-limit" not in answer.headers


async def test_uploads_to_a_signed_url_are_not_rate_limited(api: Api) -> None:
    creator = api.creator()
    ticket = data(await creator.init())
    for _ in range(WRITES + 2):
        assert (await api.http.put(ticket["uploadUrl"], content=PNG)).status_code == 200


async def test_concurrent_requests_do_not_exceed_a_budget(api: Api) -> None:
    creator = api.creator()
    answers = await asyncio.gather(*(creator.create() for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * WRITES + [429] * (20 - WRITES)


async def test_head_counts_as_a_read(api: Api) -> None:
    creator = api.creator()
    for left in range(READS - 1, -1, -1):
        answer = await api.http.head(f"/v1/repo/listRecords?did={creator.did}", headers=creator.auth)
        assert budget(answer) == (READS, left)
    answer = await api.http.head(f"/v1/repo/listRecords?did={creator.did}", headers=creator.auth)
    assert (answer.status_code, answer.content) == (429, b"")


async def test_an_active_counter_is_not_evicted_by_a_flood_of_addresses() -> None:
    counters = OwnCounters(max_counters=100)
    for number in range(1000):
        assert counters.add(b"knocking", 60.0) == number + 1
        counters.add(number.to_bytes(16, "big"), 60.0)
    assert len(counters) == 100
    assert counters.add((1).to_bytes(16, "big"), 60.0) == 1  # idle for long, and evicted


async def test_a_new_window_starts_a_new_count() -> None:
    counters = OwnCounters()
    assert [counters.add(b"x", ends) for ends in (60.0, 60.0, 120.0, 120.0, 180.0)] == [1, 2, 1, 2, 1]


@pytest.mark.parametrize("moment", [0.0, 12.5, 1e9, 1.8e9 + 0.1])
@pytest.mark.parametrize("seconds", [1, 60, 86_400])
async def test_windows_follow_each_other_without_a_gap(moment: float, seconds: int) -> None:
    for key in (bytes(16), b"\xff" * 16, b"some more bytes."):
        ends = _window_end(key, seconds, moment)
        assert moment < ends <= moment + seconds
        assert _window_end(key, seconds, ends + seconds / 1000) == pytest.approx(ends + seconds, abs=1e-4)
    several = {_window_end(bytes([number] * 16), seconds, moment) for number in range(50)}
    assert len(several) > 40  # they do not all end at once


async def growth(addresses: int) -> int:
    """Return how many bytes the process grows when each of many addresses uses both budgets once."""
    limits = RateLimits(writes="600/minute", reads="3000/minute", storage_url=None)
    known = ClientAddresses(())
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    for number in range(addresses):
        client = (str(ipaddress.IPv4Address(number)), 1)
        scope: Any = {"client": client, "headers": ()}
        state = begin_state(scope)
        state.client = known.of(scope)
        await limits.admit(state, "reads", None)
        await limits.admit(state, "writes", None)
    grown: int = process.memory_info().rss - before
    await limits.close()
    return grown


async def test_memory_is_bounded_however_many_addresses_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnCounters.__init__, "__defaults__", (1000,))
    await growth(2000)
    assert await growth(20_000) < 2 * MIB


@pytest.mark.long
async def test_memory_is_bounded_when_a_million_addresses_are_counted() -> None:
    grown = await growth(1_000_000)
    print(f"\na million addresses: {grown / MIB:.0f} MiB")
    assert grown < 200 * MIB
