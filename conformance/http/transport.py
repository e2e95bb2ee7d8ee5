"""How the suite reads answers: no longer and no more than an answer can take, since a target may send for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx

from conformance.http.requirements import Undecided

ANSWER_MAX_BYTES = 64 * 1024 * 1024  # as sent: twice a page of the hundred largest records


class BoundedTransport(httpx.HTTPTransport):
    """Gives an answer `answer_seconds` for all of its bytes. Raises Undecided: it has too many."""

    def __init__(self, answer_seconds: float, **options: Any) -> None:
        super().__init__(trust_env=False, **options)
        self._answer_seconds = answer_seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = time.monotonic() + self._answer_seconds
        answer = super().handle_request(request)
        assert isinstance(answer.stream, httpx.SyncByteStream)
        answer.stream = _Bounded(answer.stream, deadline)
        return answer


class _Bounded(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._stream:
            size += len(chunk)
            if size > ANSWER_MAX_BYTES:
                raise Undecided(f"an answer of more than {ANSWER_MAX_BYTES} bytes")
            if time.monotonic() > self._deadline:
                raise httpx.ReadTimeout("the answer does not end")
            yield chunk

    def close(self) -> None:
        self._stream.close()
