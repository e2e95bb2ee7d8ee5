"""One failure of each dependency, under load and scraped by Prometheus: its alert becomes active and is resolved.

How long a failure must last before it pages is tested with promtool (tests/deploy/test_monitoring.py).
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
def prometheus_alerts(stack: Stack, folder: Path) -> Iterator[Callable[[], set[str]]]:
    """Yield a function which returns the names of the alerts that are active."""
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
                return {alert["labels"]["alertname"] for alert in answer.json()["data"]["alerts"]}
        return {"Prometheus is not there"}

    try:
        yield alerts
    finally:
        process.kill()
        process.wait()


@contextmanager
def load(stack: Stack) -> Iterator[None]:
    """Write and read while the block runs, whatever the responses."""
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


def restart(stack: Stack) -> None:
    """Restart the service, since it contacts issuer and schema source at its start and then not for minutes."""
    stack.replica.kill()
    stack.replica.start()
    stack.replica.wait_until_ready()


def until(condition: Callable[[], bool], alerts: Callable[[], set[str]]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, alerts()
        time.sleep(0.2)


def with_restart(step: Callable[[Stack], None]) -> Callable[[Stack], None]:
    def steps(stack: Stack) -> None:
        step(stack)
        restart(stack)

    return steps


@pytest.mark.parametrize(
    ("alert", "fail", "repair"),
    [
        pytest.param(alert, fail, repair, id=alert)
        for alert, fail, repair in (
            ("CdvDatabaseDown", lambda stack: stack.postgres.kill(), lambda stack: stack.postgres.start()),
            ("CdvBrokerDown", lambda stack: stack.nats.kill(), lambda stack: stack.nats.start()),
            ("CdvObjectStoreDown", lambda stack: stack.s3.kill(), lambda stack: stack.s3.start()),
            (
                "CdvIssuerFailing",
                with_restart(lambda stack: stack.issuer.stop()),
                with_restart(lambda stack: stack.issuer.start()),
            ),
            (
                "CdvCatalogueStale",
                with_restart(lambda stack: stack.specs.stop()),
                with_restart(lambda stack: stack.specs.start()),
            ),
            ("CdvSilent", lambda stack: stack.replica.kill(), restart),
        )
    ],
)
def test_a_failure_raises_its_alert_and_its_repair_resolves_it(
    stack: Stack, tmp_path: Path, alert: str, fail: Callable[[Stack], object], repair: Callable[[Stack], object]
) -> None:
    with prometheus_alerts(stack, tmp_path) as alerts, load(stack):
        until(lambda: not alerts() & {alert, "Prometheus is not there"}, alerts)
        fail(stack)
        try:
            until(lambda: alert in alerts(), alerts)
        finally:
            repair(stack)
        until(lambda: alert not in alerts(), alerts)
