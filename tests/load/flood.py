"""Offer the service four times its capacity, and check that it sheds the excess: `python -m tests.load.flood`.

Prints, and checks as ratios within one run: the 95th percentile latency of accepted requests under the flood against
that of quiet phases, over alternating rounds of both; the latency of refusals; and the recovery time. The flood is
wrk's: hundreds of connections that each send now and then. Measured are the requests of other clients that send a few
a second meanwhile, each when it is due, whether or not those before are answered. Each client has its own address
behind a trusted proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import uvloop

from tests.http.api import PROFILE
from tests.http.running import RunningVault
from tests.servers import PostgresServer, own

FACTOR: Final = 4
ROUNDS: Final = 3  # alternating, so that other load on the machine affects both alike
QUIET_PER_SECOND: Final = 100
CONNECTIONS: Final = 800
SLOWER_MAX: Final = 3.0  # accepted under the flood, against quiet
RECOVERY_MAX_SECONDS: Final = 5.0
CREATORS: Final = 40
TIMEOUT_SECONDS: Final = 40.0


@dataclass
class Phase:
    """The results of a phase: milliseconds by status; `sent_at`, status and milliseconds in order of responses."""

    milliseconds: dict[int, list[float]] = field(default_factory=dict)
    answers: list[tuple[float, int, float]] = field(default_factory=list)
    sent: int = 0

    def note(self, sent_at: float, status: int, milliseconds: float) -> None:
        self.milliseconds.setdefault(status, []).append(milliseconds)
        self.answers.append((sent_at, status, milliseconds))

    def add(self, other: Phase) -> None:
        self.sent += other.sent
        for answer in other.answers:
            self.note(*answer)

    def percentile(self, status: int, share: float) -> float:
        ordered = sorted(self.milliseconds.get(status, [float("inf")]))
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]

    def __str__(self) -> str:
        counts = Counter({status: len(them) for status, them in self.milliseconds.items()})
        shares = ", ".join(
            f"{count} x {status or 'no answer'} (p50 {self.percentile(status, 0.5):.1f},"
            f" p95 {self.percentile(status, 0.95):.1f}, p99 {self.percentile(status, 0.99):.1f} ms)"
            for status, count in counts.most_common()
        )
        return f"{self.sent} requests: {shares}"


class Connection(asyncio.Protocol):
    """One request at a time; `done` is called with each response's status, 0 if the connection broke."""

    def __init__(self) -> None:
        self.done: Callable[[int], None] | None = None
        self._buffer = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one without being a subclass

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._buffer = b""
            self._finish(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._finish(0)

    def _finish(self, status: int) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(status)


class Client:
    """Sends creates to a vault over as many connections as needed."""

    def __init__(self, vault: RunningVault) -> None:
        self._vault = vault
        dids = [f"did:example:flood{number}" for number in range(CREATORS)]
        self.requests = [self._request(number, did) for number, did in enumerate(dids)]
        self._idle: list[Connection] = []
        self._in_flight: set[asyncio.Task[None]] = set()

    def _request(self, number: int, did: str) -> bytes:
        body = json.dumps({"did": did, "collection": PROFILE, "record": {"displayName": "Ada"}}).encode()
        return (
            f"POST /v1/repo/record HTTP/1.1\r\nHost: vault\r\nContent-Type: application/json\r\n"
            f"X-Forwarded-For: 192.0.2.{number}\r\nAuthorization: Bearer {self._vault.token(did)}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    async def send(self, phase: Phase) -> None:
        """Send one create; return when it is answered."""
        sent_at = time.perf_counter()
        number, phase.sent = phase.sent, phase.sent + 1
        # The server closes those that are idle for long.
        self._idle = [each for each in self._idle if each.transport is not None]
        connection = self._idle.pop() if self._idle else await self._connect()
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        status = 0
        if connection is not None and connection.transport is not None:
            connection.done = answered.set_result
            connection.transport.write(self.requests[number % CREATORS])
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    status = await answered
            except TimeoutError:
                connection.done = None
                connection.transport.abort()
            if status:
                self._idle.append(connection)
        phase.note(sent_at, status, (time.perf_counter() - sent_at) * 1000)

    async def at_rate(self, per_second: float, seconds: float) -> Phase:
        """Send each request when it is due; return when all are answered."""
        phase, began = Phase(), time.perf_counter()
        for number in range(int(per_second * seconds)):
            if (ahead := began + number / per_second - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            task = asyncio.create_task(self.send(phase))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)
        await asyncio.gather(*self._in_flight)
        return phase

    async def _connect(self) -> Connection | None:
        try:
            _, made = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._vault.port)
        except OSError:
            return None
        return made


class Flooder:
    """Floods a vault with wrk."""

    def __init__(self, vault: RunningVault, client: Client, folder: Path) -> None:
        self._vault = vault
        self._folder = folder
        for number, request in enumerate(client.requests):
            (folder / f"{number}.http").write_bytes(request)

    async def run(self, connections: int, seconds: float, per_second: float = 0) -> tuple[float, float]:
        """Return how many requests per second were answered 200, and how many otherwise. No rate: without a pause."""
        pause = 1000 * connections / per_second if per_second else 0
        script = self._folder / "flooder.lua"
        script.write_text(_SCRIPT % {"folder": self._folder, "last": CREATORS - 1, "pause": pause})
        # At the lowest priority, since real clients have their own machines. Whether it sends enough is checked.
        wrk = await asyncio.create_subprocess_exec(
            *(
                "nice",
                "-n19",
                "wrk",
                "-t1",
                f"-c{connections}",
                f"-d{seconds:.0f}",
                "--timeout",
                "30",
                "-s",
                str(script),
            ),
            self._vault.base,
            stdout=asyncio.subprocess.PIPE,
        )
        output = (await wrk.communicate())[0].decode()
        summary = re.search(r"([0-9]+) requests in ([0-9.]+)s", output)
        assert wrk.returncode == 0, output
        assert summary is not None, output
        refused = re.search(r"Non-2xx or 3xx responses: ([0-9]+)", output)
        answered, others = int(summary[1]), int(refused[1]) if refused else 0
        return (answered - others) / float(summary[2]), others / float(summary[2])


_SCRIPT: Final = """
local requests, number = {}, 0
for each = 0, %(last)d do
  local file = io.open("%(folder)s/" .. each .. ".http", "rb")
  requests[each] = file:read("*a")
  file:close() -- or wrk, which counts on low numbers of files, cannot connect
end
function request() number = (number + 1) %% (%(last)d + 1) return requests[number] end
function delay() return math.random() * 2 * %(pause)f end
"""


async def flood(vault: RunningVault, seconds: float, folder: Path) -> bool:
    """Return whether the service stayed within the limits. `seconds`: of quiet and of flood in each round."""
    client = Client(vault)
    flooder = Flooder(vault, client, folder)
    await flooder.run(8, 2)  # warm-up
    capacity, _ = await flooder.run(8, 4)
    print(f"capacity: {capacity:.0f} per second")
    quiet, during, afterwards, offered = Phase(), Phase(), [], 0.0
    for number in range(1, ROUNDS + 1):
        quiet.add(await client.at_rate(QUIET_PER_SECOND, seconds))
        flooding = asyncio.create_task(flooder.run(CONNECTIONS, seconds + 2, FACTOR * capacity))
        await asyncio.sleep(1)
        during.add(await client.at_rate(QUIET_PER_SECOND, seconds))
        accepted, refused = await flooding
        over = time.perf_counter()
        offered += (accepted + refused) / ROUNDS
        print(
            f"flood {number} of {ROUNDS}: {accepted + refused:.0f} per second,"
            f" {accepted:.0f} accepted, {refused:.0f} refused"
        )
        afterwards.append((over, await client.at_rate(QUIET_PER_SECOND, RECOVERY_MAX_SECONDS + 1)))
    print(f"quiet:    {quiet}")
    print(f"meantime: {during}")
    normal = quiet.percentile(200, 0.95)
    slower = during.percentile(200, 0.95) / normal
    refused_ms = during.percentile(503, 0.95)
    recovery = max(_recovery_seconds(after, over, SLOWER_MAX * normal) for over, after in afterwards)
    passed = (
        offered >= FACTOR * capacity * 0.8
        and slower <= SLOWER_MAX
        and refused_ms <= SLOWER_MAX * normal
        and recovery <= RECOVERY_MAX_SECONDS
        and set(during.milliseconds) <= {200, 503}
    )
    print(
        f"{'passed' if passed else 'FAILED'}: accepted p95 {slower:.1f} times as slow as in quiet times, refusals p95"
        f" {refused_ms:.1f} ms, back to normal after {recovery:.1f} s"
    )
    return passed


def _recovery_seconds(after: Phase, over: float, most_ms: float) -> float:
    """Return the end of the last second after `over` of which more than one in twenty was refused or took longer."""
    seconds: dict[int, list[bool]] = {}
    for at, status, milliseconds in after.answers:
        seconds.setdefault(int(at - over), []).append(status != 200 or milliseconds > most_ms)
    return max((second + 1.0 for second, bad in seconds.items() if sum(bad) * 20 > len(bad)), default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of quiet and of flood in each round")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        print("This needs wrk (Debian: apt-get install wrk).")
        return 1
    with tempfile.TemporaryDirectory() as folder, own(PostgresServer) as postgres:
        vault = RunningVault(
            Path(folder) / "data",
            CDV_DB_DSN=postgres.create_database(),
            CDV_WORKERS="1",
            CDV_TRUSTED_PROXIES="127.0.0.1",
        )
        try:
            passed = uvloop.run(flood(vault, given.seconds, Path(folder)))
        finally:
            vault.kill()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
