"""One failure of each dependency, under load, with a Prometheus that watches: its alert begins, and ends afterwards.

How long each must last before anybody is called is promtool's to try (tests/deploy/test_monitoring.py).
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.chaos.test_dependencies import Stack, stack
from tests.servers.process import free_port

__all__ = ["stack"]  # the fixture
PROMETHEUS = shutil.which("prometheus")
RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules.yaml"
CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs: [{{job_name: cdv, static_configs: [{{targets: ["{target}"]}}]}}]
"""
SECONDS = 60

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")


@contextmanager
def watching(stack: Stack, folder: Path) -> Iterator[Callable[[], set[str]]]:
    """Give what returns the names of the alerts whose condition holds."""
    config, port = folder / "prometheus.yaml", free_port()
    config.write_text(CONFIG.format(rules=RULES, target=stack.replica.url.removeprefix("http://")), encoding="utf-8")
    command = [
        str(PROMETHEUS),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'series'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def alerts() -> set[str]:
        with suppress(httpx.TransportError):
            answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/alerts", timeout=5)
            if answer.status_code == 200:  # or it is still starting
                return {it["labels"]["alertname"] for it in answer.json()["data"]["alerts"]}
        return {"Prometheus is not there"}

    try:
        yield alerts
    finally:
        process.kill()
        process.wait()


@contextmanager
def load(stack: Stack) -> Iterator[None]:
    """Write and read while the block runs, whatever comes of it."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            with suppress(httpx.TransportError):  # the service is killed, too
                stack.write()
                stack.read()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        ended.set()
        for worker in workers:
            worker.join()


def begun_again(stack: Stack) -> None:
    """Restart the service: it asks issuer and schema source at its start, and then not for minutes."""
    stack.replica.kill()
    stack.replica.start()
    stack.replica.wait_until_ready()


def until(what: Callable[[], bool], alerts: Callable[[], set[str]]) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline, alerts()
        time.sleep(0.2)


def then_begun_again(step: Callable[[Stack], None]) -> Callable[[Stack], None]:
    def steps(stack: Stack) -> None:
        step(stack)
        begun_again(stack)

    return steps


@pytest.mark.parametrize(
    ("alert", "fail", "mend"),
    [
        pytest.param(alert, fail, mend, id=alert)
        for alert, fail, mend in (
            ("CdvDatabaseDown", lambda it: it.postgres.kill(), lambda it: it.postgres.start()),
            ("CdvBrokerDown", lambda it: it.nats.kill(), lambda it: it.nats.start()),
            ("CdvObjectStoreDown", lambda it: it.s3.kill(), lambda it: it.s3.start()),
            (
                "CdvIssuerFailing",
                then_begun_again(lambda it: it.issuer.stop()),
                then_begun_again(lambda it: it.issuer.start()),
            ),
            (
                "CdvCatalogueStale",
                then_begun_again(lambda it: it.specs.stop()),
                then_begun_again(lambda it: it.specs.start()),
            ),
            ("CdvSilent", lambda it: it.replica.kill(), begun_again),
        )
    ],
)
def test_a_failure_begins_its_alert_and_its_end_ends_it(
    stack: Stack, tmp_path: Path, alert: str, fail: Callable[[Stack], object], mend: Callable[[Stack], object]
) -> None:
    with watching(stack, tmp_path) as alerts, load(stack):
        until(lambda: not alerts() & {alert, "Prometheus is not there"}, alerts)
        fail(stack)
        try:
            until(lambda: alert in alerts(), alerts)
        finally:
            mend(stack)
        until(lambda: alert not in alerts(), alerts)
