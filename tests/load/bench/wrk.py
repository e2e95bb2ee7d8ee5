"""Closed-loop load: as many requests as the service answers, over a number of connections."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

_SCRIPT = Path(__file__).with_suffix(".lua")


class Closed(msgspec.Struct, frozen=True):
    """What wrk counted. Times in milliseconds. `refused`: answers of 400 and above; `broken`: no answer."""

    requests: int
    seconds: float
    p50: float
    p95: float
    p99: float
    max: float
    refused: int
    broken: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class Prepared:
    """Requests for the generators, which read them from a file. In one of two parts, a fresh key goes in between."""

    def __init__(self, path: Path, requests: Sequence[bytes | tuple[bytes, bytes]]) -> None:
        self.path = path
        self.requests = [(it, b"") if isinstance(it, bytes) else it for it in requests]
        with path.open("wb") as file:
            for first, second in self.requests:
                file.write(b"%d %d\n%b%b" % (len(first), len(second), first, second))

    def request(self, number: int) -> bytes:
        """Return a request of those in turn, with a key of its own if it takes one."""
        first, second = self.requests[number % len(self.requests)]
        return first + b"%d-%b" % (number, os.urandom(8).hex().encode()) + second if second else first


def closed_loop(url: str, prepared: Prepared, *, connections: int, seconds: float) -> Closed:
    """Raises RuntimeError: wrk is not installed, or failed."""
    program = shutil.which("wrk")
    if program is None:
        raise RuntimeError("wrk is not installed: apt-get install wrk")
    command = [program, "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout=10s", "-s", str(_SCRIPT), url]
    output = subprocess.run([*command, str(prepared.path)], capture_output=True, text=True, check=False)
    if output.returncode != 0:
        raise RuntimeError(f"wrk failed: {output.stderr or output.stdout}")
    return msgspec.convert(json.loads(output.stdout.strip().splitlines()[-1]), Closed)
