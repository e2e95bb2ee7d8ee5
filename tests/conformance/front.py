"""Several replicas of our service behind one address, as behind a load balancer, on a network with latency."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tests.chaos.replica import Replica
from tests.servers.process import free_port
from tests.servers.redis_server import own_redis, redis_program

CHUNK_BYTES = 65536
HEAD_MAX_BYTES = 1024 * 1024
LINGER_SECONDS = 2.0  # for a client that still sends after the response: closing at once could reset its connection
_KEEP_ALIVE = re.compile(rb"\r\nconnection:[ \t]*keep-alive[ \t]*\r\n", re.IGNORECASE)


class Target(Protocol):
    """A service under test, which runs from the beginning to the end of the block."""

    @property
    def url(self) -> str: ...

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


Serving = Callable[[Path, dict[str, str]], Target]  # arguments: folder for its log, settings


class Replicas:
    """`count` replicas behind `url`, to which requests go in turn. It accepts connections once all replicas are ready.

    The replicas share a rate-limit store if this machine has one; else each counts for itself, with limits so high that
    they are never reached. `latency_seconds`: delay of each chunk in either direction.
    """

    def __init__(self, folder: Path, settings: dict[str, str], count: int, latency_seconds: float = 0.0) -> None:
        self._store_port = free_port() if shares_budgets() else None
        budgets = (
            {"CDV_RATE_LIMIT_WRITES": "1000000/minute"}
            if self._store_port is None
            else {"CDV_RATE_LIMIT_STORAGE": f"redis://127.0.0.1:{self._store_port}"}
        )
        self._replicas = [Replica(folder, {**settings, **budgets}, name=f"replica-{number}") for number in range(count)]
        self._proxy = RoundRobinProxy([replica.port for replica in self._replicas], latency_seconds)
        self._stack = ExitStack()
        self.url = self._proxy.url

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            if self._store_port is not None:
                opening.enter_context(own_redis(self._store_port))
            for replica in self._replicas:
                opening.enter_context(replica)
            opening.enter_context(self._proxy)
            self._stack = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def shares_budgets() -> bool:
    """Return whether replicas on this machine can share a rate-limit store, as the contract requires."""
    return redis_program() is not None


class RoundRobinProxy:
    """Forwards each connection to the next port, and limits each connection to one request.

    Thus consecutive requests reach different replicas. Of the bytes, only the header `Connection` is changed.
    """

    def __init__(self, ports: list[int], latency_seconds: float = 0.0) -> None:
        self._ports = itertools.cycle(ports)
        self._latency_seconds = latency_seconds
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="front", daemon=True)
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._listener = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", self._port, limit=HEAD_MAX_BYTES, backlog=1024)

    async def _close(self) -> None:
        self._listener.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self._loop.create_task(self._forward(reader, writer, next(self._ports)))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _forward(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter, port: int) -> None:
        to_server: asyncio.StreamWriter | None = None
        forwarding: asyncio.Task[None] | None = None
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", port)
            forwarding = self._loop.create_task(self._forward_request(client, to_server))
            while chunk := await server.read(CHUNK_BYTES):
                await asyncio.sleep(self._latency_seconds)
                to_client.write(chunk)
                await to_client.drain()
            to_client.write_eof()
            await asyncio.wait([forwarding], timeout=LINGER_SECONDS)
        except OSError:
            to_client.transport.abort()  # pass on that the other side was reset
        finally:
            if forwarding is not None:
                forwarding.cancel()
                with suppress(asyncio.CancelledError):
                    await forwarding
            for writer in (to_server, to_client):
                if writer is not None:
                    writer.close()

    async def _forward_request(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        """Forward what the client sends. Once the server stops reading, it has responded, and the rest is discarded."""
        try:
            chunk = await client.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            chunk = error.partial
        except (asyncio.LimitOverrunError, OSError):
            chunk = b""
        chunk = _KEEP_ALIVE.sub(b"\r\nConnection: close\r\n", chunk, count=1)
        server_reads = True
        with suppress(OSError):
            while chunk:
                await asyncio.sleep(self._latency_seconds)
                if server_reads:
                    server_reads = await _sent(to_server, chunk)
                chunk = await client.read(CHUNK_BYTES)
            if server_reads:
                to_server.write_eof()


async def _sent(writer: asyncio.StreamWriter, chunk: bytes) -> bool:
    try:
        writer.write(chunk)
        await writer.drain()
    except OSError:
        return False
    return True
