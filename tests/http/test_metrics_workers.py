"""Metrics of real processes: several workers, TLS, and a database and a broker that hang."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from cdv_http.dependency_checks import CHECK_TIMEOUT_SECONDS
from cdv_http.metrics_exporter import _drop_dead_workers
from tests.http.certificates import files
from tests.http.running import RunningVault
from tests.http.scraping import Scrape
from tests.servers.proxy import FaultProxy

ADA = "did:example:ada"
WAIT_SECONDS = 20


@pytest.fixture
def started() -> Iterator[list[RunningVault]]:
    running: list[RunningVault] = []
    yield running
    for vault in running:
        vault.kill()


def scrape(vault: RunningVault) -> Scrape:
    """Scrape over a new connection: any worker reports the metrics of all."""
    return Scrape(httpx.get(f"{vault.base}/metrics", timeout=WAIT_SECONDS).raise_for_status().text)


def workers(vault: RunningVault) -> list[psutil.Process]:
    """Return the worker processes, without multiprocessing's resource tracker."""
    found = []
    for child in psutil.Process(vault.process.pid).children():
        with suppress(psutil.Error):  # it has just ended
            if "resource_tracker" not in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_a_scrape_reports_the_sum_of_two_workers(started: list[RunningVault], tmp_path: Path) -> None:
    started.append(vault := RunningVault(tmp_path / "data", CDV_WORKERS="2"))
    for _ in range(40):
        httpx.get(f"{vault.base}/v1/repo/listRecords", params={"did": ADA}).raise_for_status()
    labels = {"route": "/v1/repo/listRecords", "status": "200"}
    assert {scrape(vault).value("cdv_requests_total", **labels) for _ in range(10)} == {40}
    assert scrape(vault).value("cdv_request_seconds_count", route="/v1/repo/listRecords") == 40
    assert scrape(vault).value("cdv_dependency_up", dependency="database") == 1
    assert scrape(vault).value("cdv_catalogue_collections") == 8  # of one catalogue, not of two


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no folder in memory")
def test_metric_files_are_kept_in_shared_memory_not_on_disk(started: list[RunningVault], tmp_path: Path) -> None:
    started.append(vault := RunningVault(tmp_path / "data", CDV_WORKERS="2"))
    mapped = {Path(file.path).parent for file in workers(vault)[0].memory_maps() if "cdv-metrics-" in file.path}
    assert {folder.parent for folder in mapped} == {Path("/dev/shm")}


def test_a_killed_worker_leaves_its_counts_and_nothing_in_flight(started: list[RunningVault], tmp_path: Path) -> None:
    started.append(vault := RunningVault(tmp_path / "data", CDV_WORKERS="2"))
    token, before = vault.token(ADA), workers(vault)
    body = b"POST /v1/repo/record HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer "
    with ExitStack() as held:
        for _ in range(8):
            connection = held.enter_context(vault.connect())
            connection.sendall(body + token.encode() + b"\r\nContent-Length: 10\r\n\r\n{")  # and no more
        wait_for(vault, lambda scraped: scraped.value("cdv_requests_in_flight") == 8)
        requests = scrape(vault).value("cdv_requests_total", route="/readyz")
        for worker in before:
            os.kill(worker.pid, signal.SIGKILL)
        deadline = time.monotonic() + WAIT_SECONDS
        while len(after := [each for each in workers(vault) if each not in before]) < 2:
            assert time.monotonic() < deadline, after
            time.sleep(0.05)
        wait_for(vault, lambda scraped: scraped.value("cdv_requests_in_flight") == 0)
        assert scrape(vault).value("cdv_requests_total", route="/readyz") == requests >= 1
    assert vault.log.count("exited unexpectedly (-9); starting another") == 2


def test_the_expiry_of_the_certificate_is_reported(started: list[RunningVault], tmp_path: Path) -> None:
    server = files(tmp_path)
    started.append(vault := RunningVault(tmp_path / "data", server.trusting(), **server.settings))
    answer = httpx.get(f"{vault.base}/metrics", verify=server.trusting())
    expiry = Scrape(answer.text).value("cdv_tls_certificate_expiry_timestamp_seconds")
    assert expiry > time.time()


def test_a_scrape_succeeds_while_database_and_broker_hang(
    started: list[RunningVault], tmp_path: Path, postgres_dsn: str, nats_url: str
) -> None:
    with FaultProxy(postgres_dsn) as database, FaultProxy(nats_url) as broker:
        settings = {"CDV_DB_DSN": database.url, "CDV_NATS_URL": broker.url}
        started.append(vault := RunningVault(tmp_path / "data", **settings))
        body = {"did": ADA, "collection": "com.registryaccord.profile", "record": {"displayName": "Ada"}}
        token = {"Authorization": f"Bearer {vault.token(ADA)}"}
        httpx.post(f"{vault.base}/v1/repo/record", json=body, headers=token).raise_for_status()
        wait_for(vault, lambda scraped: scraped.value("cdv_events_published_total") == 1)
        scraped = scrape(vault)
        assert scraped.value("cdv_dependency_up") == 3
        assert scraped.value("cdv_oplog_backlog") == 0
        assert scraped.value("cdv_stream_differences") == 0
        assert scraped.value("cdv_database_connections_max") == 10
        assert scraped.value("cdv_relay_runs_total", outcome="published") == 1
        for fault in (database.hang, broker.hang):
            fault()
        began = time.monotonic()
        scraped = scrape(vault)
        assert time.monotonic() - began < CHECK_TIMEOUT_SECONDS + 1
        assert scraped.value("cdv_dependency_up", dependency="database") == 0
        assert scraped.value("cdv_dependency_up", dependency="events") == 0
        wait_for(vault, lambda scraped: scraped.value("cdv_relay_runs_total", outcome="failed") >= 1)
        database.heal()
        broker.heal()
        wait_for(vault, lambda scraped: scraped.value("cdv_dependency_up") == 3)


def wait_for(vault: RunningVault, condition: Callable[[Scrape], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition(scraped := scrape(vault)):
        assert time.monotonic() < deadline, scraped.text
        time.sleep(0.05)


def test_gauges_of_a_dead_worker_are_dropped_if_another_user_has_its_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    alive, theirs = os.getpid(), os.getppid()

    def kill(pid: int, _: int) -> None:
        if pid == theirs:
            raise PermissionError

    monkeypatch.setattr("cdv_http.metrics_exporter.os.kill", kill)
    for pid in (alive, theirs):
        (tmp_path / f"gauge_livesum_{pid}.db").touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    _drop_dead_workers(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [f"gauge_livesum_{alive}.db"]
