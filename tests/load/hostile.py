"""Attack a fresh server over raw sockets: `python -m tests.load.hostile --requests 100000`.

Some connections carry pipelines of whole requests with hostile contents, others one request with broken framing.
Nothing may be answered 5xx, leave a traceback in the log, take longer than a deadline, or make the process grow.
"""

from __future__ import annotations

import argparse
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import psutil

from tests.http.running import RunningVault
from tests.load.hostile_framing import broken_framing
from tests.load.hostile_requests import DID, Hostile

PIPELINE: Final = 50
FRAMING_SHARE: Final = 0.1
DEADLINE_SECONDS: Final = 30.0  # the server's own, for heads, is 10
THREADS: Final = 4
GROWTH_MAX: Final = 32 * 1024 * 1024
_LAST: Final = b"GET /healthz HTTP/1.1\r\nHost: vault\r\nConnection: close\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")


class Hang(Exception):
    """A connection was neither answered nor closed in time."""


def answers_to(vault: RunningVault, sent: bytes, *, closing: bool = False) -> list[int]:
    """Send bytes, and return the statuses of all answers once the server has closed.

    `closing`: they end with a request to close. Otherwise half-close, which some servers treat as a disconnect.
    """
    received = bytearray()
    with vault.connect(DEADLINE_SECONDS) as connection:
        try:
            connection.sendall(sent)
            if not closing:
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except TimeoutError as error:
            raise Hang(repr(sent[:2000])) from error
        except OSError:
            pass  # it may refuse and close before it has read all
    return [int(status) for status in _STATUS.findall(received)]


def whole_requests(vault: RunningVault, token: str, seed: int) -> Counter[int]:
    """Send a pipeline; return how often each status was answered."""
    made = Hostile(seed, token)
    pipeline = [made.whole() for _ in range(PIPELINE)]
    statuses = answers_to(vault, b"".join([*pipeline, _LAST]), closing=True)
    if len(statuses) != PIPELINE + 1 or max(statuses) >= 500:
        statuses = []
        for request in pipeline:  # one by one, to find the request that ended the connection
            answered = answers_to(vault, request + _LAST, closing=True) or [0]
            if not 0 < answered[0] < 500:
                print(f"answered {answered[0]}: {request!r}")
            statuses += answered
    return Counter(statuses)


def broken_request(vault: RunningVault, sent: bytes) -> Counter[int]:
    """Return how often each status was answered, 0 if the server just closed."""
    statuses = answers_to(vault, sent) or [0]
    if max(statuses) >= 500:
        print(f"answered {statuses}: {sent[:2000]!r}")
    return Counter(statuses)


def memory_of(vault: RunningVault) -> int:
    process = psutil.Process(vault.process.pid)
    total = 0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += each.memory_info().rss
    return total


def attack(requests: int, seed: int) -> bool:
    """Return whether the service is unharmed."""
    with tempfile.TemporaryDirectory() as folder:
        vault = RunningVault(Path(folder) / "data", CDV_MAX_IN_FLIGHT="10000")
        try:
            return _attack(vault, requests, seed)
        finally:
            vault.kill()


def _attack(vault: RunningVault, requests: int, seed: int) -> bool:
    token = vault.token(DID)
    broken = broken_framing(seed, token, int(requests * FRAMING_SHARE))
    pipelines = (requests - len(broken)) // PIPELINE + 1
    whole, framing, sound = Counter[int](), Counter[int](), True
    began = time.monotonic()
    with ThreadPoolExecutor(THREADS) as threads:
        before = 0
        for part in range(10):
            try:
                seeds = range(seed + pipelines * part // 10, seed + pipelines * (part + 1) // 10)
                for statuses in threads.map(partial(whole_requests, vault, token), seeds):
                    whole += statuses
                these = broken[len(broken) * part // 10 : len(broken) * (part + 1) // 10]
                for statuses in threads.map(partial(broken_request, vault), these):
                    framing += statuses
            except Hang as hang:
                print(f"a hang, after sending {hang}")
                sound = False
            before = before or memory_of(vault)  # once everything is warm
    after = memory_of(vault)
    print(f"whole requests:  {sum(whole.values())}, answered {_formatted(whole)}")
    print(f"broken framing:  {sum(framing.values())}, answered {_formatted(framing)} (0: closed without a word)")
    print(
        f"{time.monotonic() - began:.0f} s, seed {seed}; memory {before / 2**20:.0f} MiB after a tenth,"
        f" {after / 2**20:.0f} MiB at the end; {vault.log.count('Traceback')} tracebacks in the log"
    )
    total = sum(whole.values()) + sum(framing.values())
    served = {200, 400, 401, 404} <= set(whole)  # or the contents have not been tested
    harmless = (
        max([*whole, *framing]) < 500
        and 0 not in whole
        and "Traceback" not in vault.log
        and vault.process.poll() is None
    )
    print(f"{total} requests: {'no harm done' if sound and harmless and served else 'HARM DONE'}")
    return sound and harmless and served and total >= requests and after - before <= GROWTH_MAX


def _formatted(statuses: Counter[int]) -> str:
    return ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    return 0 if attack(given.requests, given.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
