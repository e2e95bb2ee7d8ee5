"""Open-loop load, at a fixed rate, and load of a fixed number of requests.

In an open loop the latency of a request counts from the time at which it was due, so that a stall counts for every
request that was due meanwhile (no coordinated omission). wrk cannot do that.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from statistics import quantiles

import msgspec

from tests.load.bench.wrk import Prepared


class Paced(msgspec.Struct, frozen=True):
    """Times in milliseconds. `answers`: by status; 0 for connections that broke."""

    rate: float
    requests: int
    seconds: float
    p50: float
    p95: float
    p99: float
    max: float
    answers: dict[int, int]


async def open_loop(port: int, prepared: Prepared, *, rate: float, seconds: float) -> Paced:
    """Send `rate` requests a second, evenly spaced, over as many connections as that takes."""
    loop = asyncio.get_running_loop()
    clients = _Clients(port)
    begun = loop.time()
    for number in range(int(rate * seconds)):
        due = begun + number / rate
        if (ahead := due - loop.time()) > 0:
            await asyncio.sleep(ahead)
        clients.send(prepared.request(number), due)
    await clients.finish()
    return _paced(clients, rate, loop.time() - begun)


async def all_once(port: int, requests: Sequence[bytes], *, connections: int) -> Paced:
    """Send each request once, the next on a connection after the response to the last."""
    loop = asyncio.get_running_loop()
    clients = _Clients(port, most=connections)
    begun = loop.time()
    for request in requests:
        while clients.busy >= connections:
            await clients.wait_for_response()
        clients.send(request, loop.time())
    await clients.finish()
    seconds = loop.time() - begun
    return _paced(clients, len(requests) / seconds, seconds)


def _paced(clients: _Clients, rate: float, seconds: float) -> Paced:
    took = sorted(clients.milliseconds)
    # Inclusive: otherwise the p99 of few requests is extrapolated beyond the longest that was measured.
    cuts = quantiles(took, n=100, method="inclusive") if len(took) > 1 else 99 * took
    return Paced(rate, len(took), seconds, cuts[49], cuts[94], cuts[98], took[-1], dict(clients.answers))


class _Clients:
    """Connections that are opened when they are needed and then reused."""

    def __init__(self, port: int, most: int = 1000) -> None:
        self._port = port
        self._most = most
        self._idle: list[_Connection] = []
        self._queue: deque[tuple[bytes, float]] = deque()
        self._one = asyncio.Event()
        self._opening: set[asyncio.Task[None]] = set()
        self.open = 0
        self.busy = 0
        self.milliseconds: list[float] = []
        self.answers: Counter[int] = Counter()

    def send(self, request: bytes, due: float) -> None:
        self.busy += 1
        if self._idle:
            self._idle.pop().send(request, due)
            return
        self._queue.append((request, due))
        if self.open < self._most:
            self.open += 1
            self._opening.add(asyncio.create_task(self._connect()))

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
        except OSError:
            self.open -= 1
            if self._queue:
                self.done(0, self._queue.popleft()[1])
            return
        self.free(connection)

    def free(self, connection: _Connection) -> None:
        if self._queue:
            connection.send(*self._queue.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        self.open -= 1
        self._idle = [it for it in self._idle if it is not connection]

    def done(self, status: int, due: float) -> None:
        self.busy -= 1
        self.answers[status] += 1
        self.milliseconds.append((asyncio.get_running_loop().time() - due) * 1000)
        self._one.set()

    async def wait_for_response(self) -> None:
        self._one.clear()
        await self._one.wait()

    async def finish(self) -> None:
        """Wait for the pending responses, then close the connections."""
        async with asyncio.timeout(60):
            while self.busy:
                await self.wait_for_response()
            for connection in self._idle:
                connection.close()
            while self.open:
                await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """A minimal HTTP/1.1 client for responses with a Content-Length."""

    def __init__(self, clients: _Clients) -> None:
        self._clients = clients
        self._due: float | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes, due: float) -> None:
        self._due = due
        self._transport.write(request)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            return
        status, due = int(head[9:12]), self._due
        self._received.clear()
        self._due = None
        assert due is not None
        self._clients.done(status, due)
        self._clients.free(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._clients.lost(self)
        if self._due is not None:
            self._clients.done(0, self._due)
