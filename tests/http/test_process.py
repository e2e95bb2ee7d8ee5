"""The process: its start, shutdown, crash and restart (spec: domain, records; commands)."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cdv_adapters.container import local_issuer
from cdv_adapters.settings import Settings
from cdv_http.logs import set_up_logs
from cdv_http.server import _announce
from tests.http.api import PNG, Api, Creator, data
from tests.http.running import RunningVault
from tests.servers import PostgresServer

QUICK_SECONDS = 15  # for a busy machine; less than the grace period, after which workers are killed


@pytest.fixture
def started() -> Iterator[list[RunningVault]]:
    """The vaults that a test starts; killed after it."""
    running: list[RunningVault] = []
    yield running
    for vault in running:
        vault.kill()


def start(started: list[RunningVault], data_dir: Path, **settings: str) -> RunningVault:
    vault = RunningVault(data_dir, **settings)
    started.append(vault)
    return vault


def creator_of(vault: RunningVault, http: httpx.AsyncClient, did: str) -> Creator:
    settings = Settings.embedded(vault.data_dir)
    return Creator(Api(None, http, local_issuer(settings), settings), did)  # type: ignore[arg-type]


def refuses(vault: RunningVault) -> bool:
    try:
        vault.connect().close()
    except ConnectionRefusedError:
        return True
    except ConnectionError:  # it had been accepted in the last moment
        return False
    return False


async def test_sigint_and_sigterm_stop_it_cleanly_and_a_restart_has_all_data(
    started: list[RunningVault], tmp_path: Path
) -> None:
    vault = start(started, tmp_path / "data")
    async with httpx.AsyncClient(base_url=vault.base) as http:
        creator = creator_of(vault, http, "did:example:ada")
        receipt = await creator.created(idempotencyKey="k")
    assert await asyncio.to_thread(vault.stop, signal.SIGINT) == 0
    vault = start(started, tmp_path / "data")
    async with httpx.AsyncClient(base_url=vault.base) as http:
        creator = creator_of(vault, http, "did:example:ada")
        assert data(await creator.get(receipt["uri"]))["cid"] == receipt["cid"]
        again = await creator.create(idempotencyKey="k")
        assert data(again) == receipt
        assert again.headers["idempotent-replayed"] == "true"
    assert await asyncio.to_thread(vault.stop, signal.SIGTERM) == 0
    # Neither run has logged a warning or an error.
    for word in ("Traceback", "ERROR", "WARNING", "Exception"):
        assert word not in vault.log


async def test_the_printed_example_works_in_a_terminal_without_settings(
    started: list[RunningVault], tmp_path: Path
) -> None:
    vault = start(started, tmp_path / "data of mine", CDV_JWT_AUDIENCE="mine")
    [command] = re.findall(r"TOKEN=\$\((.+)\)", vault.log)
    unset = {name: value for name, value in os.environ.items() if not name.startswith("CDV_")}
    ended = await asyncio.to_thread(
        subprocess.run, ["sh", "-c", command], cwd=tmp_path, env=unset, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    record = {"did": "did:example:ada", "collection": "com.registryaccord.profile", "record": {"displayName": "Ada"}}
    headers = {"Authorization": f"Bearer {ended.stdout.strip()}"}
    async with httpx.AsyncClient(base_url=vault.base, headers=headers) as http:
        assert data(await http.post("/v1/repo/record", json=record))["uri"]


def test_an_ipv6_address_is_printed_in_brackets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _announce(Settings.embedded(tmp_path).model_copy(update={"host": "::1"}))
    assert "http://[::1]:8080/docs" in capsys.readouterr().err


def test_outside_dev_the_start_message_is_one_log_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    staging = Settings.embedded(tmp_path).model_copy(update={"env": "staging"})
    set_up_logs(staging)
    _announce(staging)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == f"the vault is open at http://127.0.0.1:8080 (kept in {tmp_path})"


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_start_message_that_cannot_be_written_does_not_prevent_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(sys, "stderr", _Full())
        _announce(Settings.embedded(tmp_path))


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_request_in_flight_is_answered_before_shutdown(
    started: list[RunningVault], tmp_path: Path, workers: str
) -> None:
    vault = start(started, tmp_path / "data", CDV_WORKERS=workers)
    with vault.connect() as connection, vault.connect() as probe:
        probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n")
        token = vault.token("did:example:ada")
        body = b'{"did":"did:example:ada","collection":"com.registryaccord.profile","record":{"displayName":"Ada"}}'
        connection.sendall(
            b"POST /v1/repo/record HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
            b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n" % (token.encode(), len(body))
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")  # the handler reads now
        vault.process.send_signal(signal.SIGTERM)
        # New connections are refused, so that clients can go elsewhere at once.
        deadline = time.monotonic() + 20
        while not refuses(vault):
            assert time.monotonic() < deadline
        if workers == "1":  # of several, an idle one has ended already
            # A client that is connected already gets the status.
            probe.sendall(b"\r\n")
            assert (reply := probe.recv(4000)).startswith(b"HTTP/1.1 503 "), reply
            assert b'"status":"draining"' in reply
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert vault.process.wait(40) == 0
    assert "panicked" not in vault.log


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_repeated_stop_signals_let_a_request_in_flight_finish(
    started: list[RunningVault], tmp_path: Path, workers: str
) -> None:
    vault = start(started, tmp_path / "data", CDV_WORKERS=workers)
    with vault.connect() as connection:
        connection.sendall(
            b"POST /v1/repo/record HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
            b"Authorization: Bearer %s\r\nContent-Length: 2\r\n\r\n" % vault.token("did:example:ada").encode()
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.killpg(vault.process.pid, number)
            deadline = time.monotonic() + 20
            while not refuses(vault):
                assert time.monotonic() < deadline
        connection.sendall(b"{}")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert vault.process.wait(QUICK_SECONDS) == 0


async def test_workers_that_are_signalled_while_they_start_end_in_time(
    started: list[RunningVault], tmp_path: Path
) -> None:
    vault = start(started, tmp_path / "data", CDV_WORKERS="4")  # one of them is ready
    os.killpg(vault.process.pid, signal.SIGTERM)
    assert vault.process.wait(QUICK_SECONDS) == 0


async def test_acknowledged_writes_survive_a_crash(started: list[RunningVault], tmp_path: Path) -> None:
    vault = start(started, tmp_path / "data")
    acknowledged: list[dict[str, str]] = []
    async with httpx.AsyncClient(base_url=vault.base, timeout=60) as http:
        creator = creator_of(vault, http, "did:example:ada")
        asset = await creator.uploaded()
        pending = await creator.staged()

        async def write_until_it_dies(writer: int) -> None:
            for number in range(1000):
                try:
                    answer = await creator.create(idempotencyKey=f"{writer}-{number}")
                except httpx.TransportError:
                    return
                acknowledged.append(data(answer))
                if len(acknowledged) == 60:
                    vault.kill()

        await asyncio.gather(*(write_until_it_dies(writer) for writer in range(8)))
    assert len(acknowledged) >= 60
    vault = start(started, tmp_path / "data")
    async with httpx.AsyncClient(base_url=vault.base, timeout=60) as http:
        creator = creator_of(vault, http, "did:example:ada")
        listed: list[dict[str, str]] = []
        cursor: dict[str, str] = {}
        while True:
            page = data(await creator.list(limit=100, **cursor))
            listed += page["records"]
            if "nextCursor" not in page:
                break
            cursor = {"cursor": page["nextCursor"]}
        assert {receipt["uri"] for receipt in acknowledged} <= {record["uri"] for record in listed}
        assert len({record["uri"] for record in listed}) == len(listed)
        first = await creator.create(idempotencyKey="0-0")
        assert data(first) in acknowledged
        assert data(await creator.meta(asset["assetId"])) == asset
        location = (await creator.content(asset["assetId"])).headers["location"]
        assert (await http.get(location)).content == PNG
        assert data(await creator.finalize(pending["assetId"]))
    assert "Traceback" not in vault.log


async def test_two_workers_share_one_vault(started: list[RunningVault], tmp_path: Path) -> None:
    vault = start(started, tmp_path / "data", CDV_WORKERS="2")
    async with httpx.AsyncClient(base_url=vault.base, timeout=60) as http:
        creator = creator_of(vault, http, "did:example:ada")
        answers = await asyncio.gather(*(creator.create(idempotencyKey="k") for _ in range(24)))
        assert len({answer.content for answer in answers}) == 1
        assert data(answers[0])
        receipts = await asyncio.gather(*(creator.created() for _ in range(30)))
        listed = data(await creator.list(limit=100))["records"]
        assert {receipt["uri"] for receipt in receipts} < {record["uri"] for record in listed}
        assert len(listed) == 31
        ticket = await creator.staged()
        assert data(await creator.finalize(ticket["assetId"]))
    assert await asyncio.to_thread(vault.stop) == 0


async def test_a_worker_that_crashes_while_the_database_is_down_is_replaced_when_it_is_back(
    started: list[RunningVault], tmp_path: Path, own_postgres_server: PostgresServer
) -> None:
    dsn = own_postgres_server.create_database()
    vault = start(started, tmp_path / "data", CDV_WORKERS="2", CDV_DB_DSN=dsn)
    service = psutil.Process(vault.process.pid)
    crashed = service.children()[0]
    own_postgres_server.kill()
    crashed.kill()
    await eventually(lambda: "no worker can be started now" in vault.log)
    for _ in range(20):  # each on a connection of its own, which the system gives to either listener
        assert (await asyncio.to_thread(httpx.get, f"{vault.base}/healthz", timeout=20)).status_code == 200

    own_postgres_server.start()
    await eventually(lambda: len(service.children()) == 2)
    for number in range(20):
        async with httpx.AsyncClient(base_url=vault.base, timeout=60) as http:
            assert data(await creator_of(vault, http, "did:example:ada").create(idempotencyKey=str(number)))
    assert await asyncio.to_thread(vault.stop) == 0


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.05)
