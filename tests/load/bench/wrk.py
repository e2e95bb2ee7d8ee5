"""Closed-loop load: on each connection the next request follows the response to the last."""

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
    """What wrk counted. Times in milliseconds. `refused`: responses of 400 and above; `broken`: no response."""

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
    """Requests in a file, for the load generators. In a request of two parts, a fresh key is inserted between them."""

    def __init__(self, path: Path, requests: Sequence[bytes | tuple[bytes, bytes]]) -> None:
        self.path = path
        self.requests = [(it, b"") if isinstance(it, bytes) else it for it in requests]
        with path.open("wb") as file:
            for first, second in self.requests:
                file.write(b"%d %d\n%b%b" % (len(first), len(second), first, second))

    def request(self, number: int) -> bytes:
        """Return the requests in turn, with a fresh idempotency key if the request takes one."""
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
