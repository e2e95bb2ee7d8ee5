"""HTTP connections that are given up when an answer's head does not come in time.

urllib3's read timeout bounds the silence between two pieces. Of a head that trickles in, it gives none back until it is
whole, and whoever waits would do so, with thread and connection, for as long as bytes keep coming.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Timer
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection


def http_pool(**options: Any) -> PoolManager:  # noqa: ANN401 - urllib3's
    """Return a pool whose read timeout bounds an answer's whole head too. A body's reader must look at the clock."""
    pool = PoolManager(**options)
    pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return pool


class _HeadInTime(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3's own
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            with suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # not TLS's own, which would talk to the other side

        assert self.timeout is not None, "the pool has a read timeout"  # noqa: S101
        watch = Timer(self.timeout, give_up)
        watch.start()
        try:
            return super().getresponse()
        finally:
            watch.cancel()
            if late:  # also when there is an answer: a head that is cut off is taken for a whole one
                raise TimeoutError


class _HttpsHeadInTime(_HeadInTime, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HeadInTime


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsHeadInTime
