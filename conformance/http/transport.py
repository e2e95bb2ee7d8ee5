"""An HTTP transport that bounds the time and size of each response, because a target may send without end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx

from conformance.http.requirements import Undecided

RESPONSE_MAX_BYTES = 64 * 1024 * 1024  # on the wire; twice the size of a page of the hundred largest records


class BoundedTransport(httpx.HTTPTransport):
    """Reads a response within `response_seconds`. Raises: httpx.ReadTimeout: it takes longer. Undecided: too large."""

    def __init__(self, response_seconds: float, **options: Any) -> None:
        super().__init__(trust_env=False, **options)
        self._response_seconds = response_seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = time.monotonic() + self._response_seconds
        response = super().handle_request(request)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Bounded(response.stream, deadline)
        return response


class _Bounded(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._stream:
            size += len(chunk)
            if size > RESPONSE_MAX_BYTES:
                raise Undecided(f"the response is larger than {RESPONSE_MAX_BYTES} bytes; the rest was not read")
            if time.monotonic() > self._deadline:
                raise httpx.ReadTimeout("the response was still being sent when its time was up")
            yield chunk

    def close(self) -> None:
        self._stream.close()
