"""An object store that trickles its responses: calls time out, and no thread stays blocked."""

import asyncio
from contextlib import suppress

from cdv_adapters.blobs.s3 import S3BlobStore, S3TimeLimits
from cdv_core.errors import Unavailable
from tests.fakes.clock import FakeClock


async def test_slow_responses_time_out_and_free_their_threads() -> None:
    is_slow = True
    handlers: set[asyncio.Task[None]] = set()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if is_slow and head.startswith(b"GET"):
                    writer.write(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 100000\r\n\r\n')
                    for _ in range(100_000):
                        writer.write(b".")
                        await writer.drain()
                        await asyncio.sleep(0.05)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has disconnected, or the test is over
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        store = S3BlobStore(
            endpoint=f"http://{host}:{port}",
            bucket="bucket",
            clock=FakeClock(),
            keys=lambda: ("access", "secret"),
            time_limits=S3TimeLimits(call_seconds=0.5, read_seconds=0.5),
            max_threads=2,
        )
        inspections = [store.inspect(f"uploads/{number}", size_bytes=100_000) for number in range(2)]
        errors = await asyncio.gather(*inspections, return_exceptions=True)
        assert {type(error) for error in errors} == {Unavailable}
        is_slow = False
        async with asyncio.timeout(20):
            while True:
                with suppress(Unavailable):
                    await store.check()
                    break
        store.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers)
