"""Runs the suite as users do: as a process, against a target."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from conformance.http.servers import Issuer
from tests.chaos.replica import Replica
from tests.conformance.front import Serving
from tests.servers.process import free_port

COMMAND = (sys.executable, "-m", "conformance.http.cli")
ORIGIN = "https://app.example"
START_SECONDS = 30
RUN_SECONDS = 240


@dataclass(frozen=True)
class Judgement:
    """The result of a run: exit code, output, and JSON report, which is empty if none was written."""

    code: int
    text: str
    report: dict[str, Any]

    def verdict(self, requirement: str) -> dict[str, Any]:
        return next(each for each in self.report["requirements"] if each["id"] == requirement)

    def ids(self, verdict: str) -> set[str]:
        return {each["id"] for each in self.report["requirements"] if each["verdict"] == verdict}


def judge(folder: Path, url: str, *options: str, command: Sequence[str] = COMMAND) -> Judgement:
    """Run the suite against a target that is running already."""
    return finished(started(folder, url, *options, command=command), folder)


def judge_with_everything(
    folder: Path, settings: dict[str, str], *options: str, serving: Serving = Replica, run_seconds: float = RUN_SECONDS
) -> Judgement:
    """Run the suite with all options against our service, which uses the suite's issuer and catalogue."""
    issuer, catalogue = free_port(), free_port()
    pointed = {
        "CDV_JWT_ISSUER": f"http://127.0.0.1:{issuer}",
        "CDV_JWT_AUDIENCE": "cdv",
        "CDV_SPECS_URL": f"http://127.0.0.1:{catalogue}",
        "CDV_CORS_ALLOWED_ORIGINS": ORIGIN,
        # Low enough for the quick profile to exhaust, but more than any of its creators writes otherwise.
        "CDV_RATE_LIMIT_WRITES": "140/minute",
        "CDV_RATE_LIMIT_READS": "1000000/minute",
        # The default types, and one that must be served as an attachment.
        "CDV_ALLOWED_MIME_TYPES": "image/jpeg,image/png,image/gif,video/mp4,application/pdf",
        "CDV_DATA_DIR": str(folder / "data"),
    }
    target = serving(folder, {**pointed, **settings})
    means = ("--own-issuer", str(issuer), "--catalogue", str(catalogue), "--cors-origin", ORIGIN)
    running = started(folder, target.url, *means, "--nats", settings["CDV_NATS_URL"], *options)
    try:
        wait_for(f"http://127.0.0.1:{issuer}{Issuer.PATH}", running)
        wait_for(f"http://127.0.0.1:{catalogue}/SPEC_INDEX.json", running)
        with target:
            return finished(running, folder, run_seconds)
    finally:
        running.kill()
        running.communicate()


def started(folder: Path, url: str, *options: str, command: Sequence[str] = COMMAND) -> subprocess.Popen[str]:
    words = [*command, "run", "--url", url, "--profile", "quick", "--json", str(folder / "report.json"), *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(running: subprocess.Popen[str], folder: Path, run_seconds: float = RUN_SECONDS) -> Judgement:
    text, _ = running.communicate(timeout=run_seconds)
    file = folder / "report.json"
    return Judgement(running.returncode, text, json.loads(file.read_text()) if file.exists() else {})


def wait_for(url: str, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx.get(url).raise_for_status()
            return
        except httpx.HTTPError:
            assert running.poll() is None, running.communicate()[0]
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.02)
