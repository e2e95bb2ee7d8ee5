"""Budgets in a store that several nodes share, and while it is unavailable (spec: CDV_RATE_LIMIT_STORAGE)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest
import redis
from loguru import logger
from pydantic import SecretStr

from cdv_core.errors import CannotStart, Unavailable
from cdv_http.rate_limits import SharedCounters
from tests.http.api import Api, data, refused, serving
from tests.http.running import CDV, environment
from tests.http.test_rate_limits import budget
from tests.servers import FaultProxy
from tests.servers.process import free_port
from tests.servers.redis_server import START_SECONDS, own_redis, redis_program, wait_for_redis

WRITES = 4
no_program = pytest.mark.skipif(redis_program() is None, reason="no redis-server or valkey-server on this machine")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a store that tests must not stop."""
    if given := os.environ.get("CDV_TEST_REDIS_URL"):
        yield given
    elif redis_program() is None:
        pytest.skip("no redis-server or valkey-server on this machine, and no CDV_TEST_REDIS_URL")
    else:
        with own_redis() as process:
            yield f"redis://127.0.0.1:{process.port}"


def serving_on(folder: Path, url: str) -> AbstractAsyncContextManager[Api]:
    return serving(folder, rate_limit_writes=f"{WRITES}/day", rate_limit_storage=SecretStr(url))


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect the log lines about the store."""
    lines: list[str] = []
    handler = logger.add(
        lines.append, format="{message}", filter=lambda record: "store of the rate limits" in record["message"]
    )
    yield lines
    logger.remove(handler)


async def until_counted(api: Api) -> None:
    """Wait until the store answers again."""
    deadline = time.monotonic() + START_SECONDS
    with logged() as lines:
        while not any("answers again" in line for line in lines):
            assert time.monotonic() < deadline
            assert data(await api.creator().create())
            await asyncio.sleep(0.02)


@pytest.fixture
async def two(anyio_backend: str, tmp_path: Path, url: str) -> AsyncIterator[tuple[Api, Api]]:
    """Two nodes that share the store; each accepts the tokens of the other."""
    async with serving_on(tmp_path / "vault", url) as one, serving_on(tmp_path / "vault", url) as other:
        yield one, other


async def test_nodes_share_one_budget(two: tuple[Api, Api]) -> None:
    creator = two[0].creator()
    creators = (creator, two[1].creator(creator.did))
    for left in range(WRITES - 1, -1, -1):
        answer = await creators[left % 2].create()
        assert data(answer)
        assert budget(answer) == (WRITES, left)
    for creator in creators:
        refused(await creator.create(), 429, "CDV_RATE_LIMIT")


@pytest.mark.parametrize("is_up", [True, False])
async def test_the_store_is_a_non_critical_dependency(tmp_path: Path, url: str, is_up: bool) -> None:
    address = url if is_up else f"redis://127.0.0.1:{free_port()}"
    async with serving_on(tmp_path / "vault", address) as api:
        readiness = data(await api.http.get("/readyz"))
        exposed = (await api.http.get("/metrics")).text
    assert readiness["status"] == ("ready" if is_up else "degraded")
    assert readiness["dependencies"][-1] == {"name": "rate_limits", "up": is_up, "critical": False}
    assert f'cdv_dependency_up{{dependency="rate_limits"}} {float(is_up)}' in exposed


async def test_a_request_costs_one_round_trip_to_the_store(two: tuple[Api, Api], url: str) -> None:
    creator = two[0].creator()
    assert data(await creator.create())  # which may send the script
    with redis.from_url(url) as client:
        client.config_resetstat()
        for _ in range(WRITES - 1):
            assert data(await creator.create())
        calls = {name: figures["calls"] for name, figures in client.info("commandstats").items()}
    commands = {name: count for name, count in calls.items() if name not in {"cmdstat_incrby", "cmdstat_expire"}}
    assert commands == {"cmdstat_evalsha": WRITES - 1, "cmdstat_config|resetstat": 1}


@no_program
async def test_a_store_that_dies_blocks_no_request_and_is_logged_once(tmp_path: Path) -> None:
    with own_redis() as process:
        async with serving_on(tmp_path / "vault", f"redis://127.0.0.1:{process.port}") as api:
            assert data(await api.creator().create())
            process.kill()
            with logged() as lines:
                for _ in range(20):
                    creator = api.creator()
                    answer = await creator.create()
                    assert data(answer)
                    assert budget(answer) == (WRITES, WRITES - 1)
                for _ in range(WRITES - 1):
                    assert data(await creator.create())
                refused(await creator.create(), 429, "CDV_RATE_LIMIT")  # a node alone still counts
                assert len(lines) == 1
            process.start()
            wait_for_redis(process)
            await until_counted(api)
            with redis.Redis(port=process.port) as client:
                assert client.dbsize() >= 1


@no_program
async def test_a_store_that_hangs_delays_requests_only_briefly(tmp_path: Path) -> None:
    with own_redis() as process, FaultProxy(f"redis://127.0.0.1:{process.port}") as proxy:
        async with serving_on(tmp_path / "vault", proxy.url) as api:
            assert data(await api.creator().create())
            proxy.hang()
            with logged() as lines:
                began, slowest = time.monotonic(), 0.0
                while time.monotonic() < began + 2.5:  # longer than the store is skipped after a failure
                    sent = time.monotonic()
                    assert data(await api.creator().create())
                    slowest = max(slowest, time.monotonic() - sent)
                assert slowest < 1
                sent = time.monotonic()
                answers = await asyncio.gather(*(api.creator().create() for _ in range(20)))
                assert time.monotonic() - sent < 1.5
                assert {answer.status_code for answer in answers} == {200}
                assert len(lines) == 1
            proxy.heal()
            await until_counted(api)


@no_program
async def test_a_call_to_the_store_that_ignores_its_timeout_is_abandoned(monkeypatch) -> None:
    """Until Python 3.12, `asyncio.wait_for`, which the client uses to write, may swallow our cancellation."""
    with own_redis() as process, FaultProxy(f"redis://127.0.0.1:{process.port}") as proxy:
        counters = SharedCounters(proxy.url)
        assert await counters.add(b"key", time.time() + 60, time.time()) == 1
        proxy.hang()
        monkeypatch.setattr(asyncio, "timeout", lambda _: nullcontext())
        sent = time.monotonic()
        assert await counters.add(b"key", time.time() + 60, time.time()) is None
        assert time.monotonic() - sent < 3  # its own bound was 5 seconds, ten times over
        await counters.close()


async def test_an_unreachable_cluster_blocks_no_request_and_is_logged_once() -> None:
    counters = SharedCounters(f"redis+cluster://127.0.0.1:{free_port()}")
    with logged() as lines:
        assert await counters.add(b"key", time.time() + 60, time.time()) is None
    await counters.close()
    assert len(lines) == 1


async def test_the_storage_url_may_be_a_secret_reference(tmp_path: Path, url: str) -> None:
    secret = tmp_path / "redis-url"
    secret.write_text(f"{url}\n", encoding="utf-8")
    async with serving_on(tmp_path / "vault", f"file:{secret}") as api:
        creator = api.creator()
        for _ in range(WRITES):
            assert data(await creator.create())
        refused(await creator.create(), 429, "CDV_RATE_LIMIT")
    with redis.from_url(url) as client:
        assert client.dbsize() >= 1


@pytest.mark.parametrize("address", ["redis://127.0.0.1:x", "memcached://127.0.0.1"])
async def test_an_invalid_storage_url_is_refused_at_start(tmp_path: Path, address: str) -> None:
    settings = environment(tmp_path / "data", CDV_RATE_LIMIT_STORAGE=address)
    done = subprocess.run(
        [CDV, "serve", "--port", str(free_port())],
        env=settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot use CDV_RATE_LIMIT_STORAGE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "url",
    ["redis://:hunter2@127.0.0.1:x", "redis://:hunter2/@127.0.0.1:6379", "etcd://u:hunter2@h", "redis://:hunter2@[::1"],
)
def test_a_refused_storage_url_is_not_repeated_in_the_error(url: str) -> None:
    with pytest.raises(CannotStart, match="CDV_RATE_LIMIT_STORAGE") as caught:
        SharedCounters(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value, limit=0))


async def test_an_exception_of_the_stores_client_counts_as_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> bool:
        raise OSError("no route to host")

    counters = SharedCounters("memory://")
    monkeypatch.setattr(counters._storage, "check", fail)
    with pytest.raises(Unavailable) as caught:
        await counters.check()
    assert caught.value.dependency == "rate_limits"
    await counters.close()
