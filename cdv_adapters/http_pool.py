"""HTTP connections with a timeout for the whole head of a response, and for its whole body.

urllib3's read timeout applies to each read from the socket. A server that sends a response very slowly would block the
caller, its thread and its connection for as long as bytes keep arriving.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from threading import Timer
from typing import Any, Final

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

_CHUNK_BYTES: Final = 64 * 1024


class BodyRefused(HTTPError):
    """The body of a response is too large, or took too long."""


def http_pool(**options: Any) -> PoolManager:  # noqa: ANN401 - urllib3's
    """Return a pool whose read timeout also limits a response's whole head. Read its body with `read_body`."""
    pool = PoolManager(**options)
    pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return pool


def read_body(response: BaseHTTPResponse, *, max_bytes: int, deadline: float) -> bytes:
    """Return the whole body, not decompressed. `deadline`: in time.monotonic() seconds.

    Raises: BodyRefused: it has more than `max_bytes`, or was not complete by `deadline`. Any other HTTPError.
    """
    body = bytearray()
    # read1 returns what has arrived instead of waiting for a whole chunk, so that the deadline is checked often.
    while chunk := response.read1(_CHUNK_BYTES, decode_content=False):
        body += chunk
        if len(body) > max_bytes:
            raise BodyRefused(f"more than {max_bytes} bytes")
        if time.monotonic() > deadline:
            raise BodyRefused("too slow")
    return bytes(body)


class _HeadTimeoutConnection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3's own
        timed_out = False

        def abort() -> None:
            nonlocal timed_out
            timed_out = True
            with suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # not SSLSocket's, which would wait for the peer

        assert self.timeout is not None, "the pool has a read timeout"  # noqa: S101
        timer = Timer(self.timeout, abort)
        timer.start()
        try:
            return super().getresponse()
        finally:
            timer.cancel()
            if timed_out:  # even if there is a response: http.client parses a truncated head as if it were complete
                raise TimeoutError


class _HttpsHeadTimeoutConnection(_HeadTimeoutConnection, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HeadTimeoutConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsHeadTimeoutConnection
