"""A TCP proxy that injects network faults: resets, stalls and latency."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

CHUNK_BYTES = 65536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with a timeout of 0: closing sends RST, as a crashed peer does

Result = TypeVar("Result")


class FaultProxy:
    """Forwards to the server of `url`; clients use `self.url`, the same URL through the proxy.

    Works for any URL with host and port (postgresql, nats, http). It runs in its own thread, so tests may be sync or
    async. A fault is in force, for open and for new connections, from when the call returns until `heal`.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"no host and port in {url}")
        self._upstream = (parts.hostname, parts.port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self._connections: set[asyncio.Task[None]] = set()
        self._requests_pass = asyncio.Event()
        self._replies_pass = asyncio.Event()
        self._cut = False
        self._latency_seconds = 0.0
        self.heal()
        self._listener = self._do(self._listen())
        self.port: int = self._listener.sockets[0].getsockname()[1]
        userinfo, at, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{userinfo}{at}127.0.0.1:{self.port}").geturl()

    def heal(self) -> None:
        """Remove every fault. Bytes held back by `hang` are delivered now, in order."""

        async def heal() -> None:
            self._cut = False
            self._latency_seconds = 0.0
            self._requests_pass.set()
            self._replies_pass.set()

        self._do(heal())

    def cut(self) -> None:
        """Reset every open connection, and each new one as soon as it is accepted."""

        async def cut() -> None:
            self._cut = True
            await self._drop_connections()

        self._do(cut())

    def cut_once(self) -> None:
        """Reset every open connection; new ones work."""
        self._do(self._drop_connections())

    def hang(self) -> None:
        """Accept connections and keep them open, but forward nothing."""

        async def hang() -> None:
            self._requests_pass.clear()
            self._replies_pass.clear()

        self._do(hang())

    def hang_replies(self) -> None:
        """Forward what clients send, but no responses: the server acts, and the client does not learn of it."""

        async def hang() -> None:
            self._replies_pass.clear()

        self._do(hang())

    def delay(self, latency_seconds: float) -> None:
        """Delay every chunk, in both directions, by `latency_seconds`."""

        async def delay() -> None:
            self._latency_seconds = latency_seconds

        self._do(delay())

    def close(self) -> None:
        """Reset open connections and release the port. Closing twice is fine."""
        if self._loop.is_closed():
            return

        async def close() -> None:
            self._listener.close()
            await self._drop_connections()
            await self._listener.wait_closed()

        self._do(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self._loop.create_task(self._forward(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _drop_connections(self) -> None:
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _forward(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        writers = [client_writer]
        try:
            if self._cut:
                raise ConnectionResetError
            server_reader, server_writer = await asyncio.open_connection(*self._upstream)
            writers.append(server_writer)
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._pump(client_reader, server_writer, self._requests_pass))
                both_ways.create_task(self._pump(server_reader, client_writer, self._replies_pass))
        except* OSError:  # one side has failed: reset the other as well
            reset(writers)
        except* asyncio.CancelledError:
            reset(writers)
        finally:
            for writer in writers:
                writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await asyncio.sleep(self._latency_seconds)
            await gate.wait()
            writer.write(chunk)
            await writer.drain()
        await gate.wait()
        writer.write_eof()


def reset(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        with suppress(OSError):  # the peer's reset may have closed it already
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.transport.abort()
