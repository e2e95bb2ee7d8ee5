"""HTTP connections with a timeout for the whole head of a response.

urllib3's read timeout applies to each read from the socket. A server that sends a response's head very slowly would
block the caller, its thread and its connection for as long as bytes keep arriving.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Timer
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection


def http_pool(**options: Any) -> PoolManager:  # noqa: ANN401 - urllib3's
    """Return a pool whose read timeout also limits a response's whole head. The caller must limit the body itself."""
    pool = PoolManager(**options)
    pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return pool


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
