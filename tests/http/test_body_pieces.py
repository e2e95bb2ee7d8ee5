"""Bodies in many chunks, requests' and responses' (spec: the body limit does not depend on the headers)."""

from __future__ import annotations

from typing import Any, cast

import pytest

from cdv_http.admission import Admission
from cdv_http.error_responses import RequestRefused
from cdv_http.middleware.cors import AllowedOrigins
from cdv_http.middleware.exchange import Exchange
from cdv_http.request_state import begin_state
from cdv_http.requests import AnyRequest, read_body

PART = 256 * 1024


class Piece(bytes):
    """A chunk that counts how often other bytes are concatenated with it."""

    copies = 0

    def __radd__(self, before: bytes) -> bytes:
        Piece.copies += 1
        return before + bytes(self)


class InPieces:
    """The part of a request that is used to read its body. `taken`: how many chunks were requested."""

    def __init__(self, pieces: int) -> None:
        scope: Any = {"headers": [(b"content-type", b"application/json")]}
        begin_state(scope)
        self.scope = scope
        self.pieces = pieces
        self.taken = 0

    async def receive(self) -> Any:
        self.taken += 1
        return {"type": "http.request", "body": Piece(b"x"), "more_body": self.taken < self.pieces}


@pytest.mark.parametrize("pieces", [1, 2, 1000])
async def test_a_body_is_assembled_without_copying_it_for_each_chunk(pieces: int) -> None:
    Piece.copies = 0
    assert await read_body(cast("AnyRequest", InPieces(pieces)), 1000) == b"x" * pieces
    assert Piece.copies == 0


@pytest.mark.parametrize("limit", [0, 1, 999])
async def test_reading_a_body_stops_once_it_exceeds_the_limit(limit: int) -> None:
    request = InPieces(1000)
    with pytest.raises(RequestRefused) as refused:
        await read_body(cast("AnyRequest", request), limit)
    assert refused.value.status == 413
    assert request.taken <= limit + 2


class Reader:
    """A client that reads a response; `parts`: those received so far."""

    def __init__(self) -> None:
        self.parts: list[tuple[bytes, bool]] = []

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self.parts.append((message["body"], message.get("more_body", False)))


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 3 * PART, 3 * PART + 7])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_large_response_is_sent_in_parts_and_each_is_reported_as_progress(size: int, method: str) -> None:
    reader, moved = Reader(), []
    scope: Any = {"type": "http", "method": method, "headers": (), "scheme": "http", "http_version": "1.1"}
    begin_state(scope)
    exchange = Exchange(scope, Server().receive, reader.send, Admission(1), AllowedOrigins(()))
    exchange.on_progress = lambda: moved.append(len(reader.parts))
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    await exchange.send({"type": "http.response.start", "status": 200, "headers": []})
    await exchange.send(cast("Any", {"type": "http.response.body", "body": content, "more_body": False}))
    assert b"".join(part for part, _ in reader.parts) == (content if method == "GET" else b"")
    assert [more for _, more in reader.parts] == [True] * (len(reader.parts) - 1) + [False]
    assert max(len(part) for part, _ in reader.parts) <= PART
    assert moved == list(range(1, len(reader.parts)))


class Server:
    """An ASGI server that sends `pieces` and marks the end of the body with one more, empty chunk."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    async def receive(self) -> Any:
        more = bool(self.pieces)
        return {"type": "http.request", "body": self.pieces.pop(0) if more else b"", "more_body": more}

    async def send(self, message: Any) -> None:
        raise AssertionError(message)

    async def pieces_until_the_end(self, *headers: tuple[bytes, bytes]) -> list[bytes]:
        scope: Any = {"type": "http", "method": "POST", "headers": headers}
        begin_state(scope)
        exchange = Exchange(scope, self.receive, self.send, Admission(1), AllowedOrigins(()))
        pieces, more = [], True
        while more:
            message = await exchange.receive()
            pieces.append(message["body"])
            more = message["more_body"]
        return pieces


@pytest.mark.parametrize("pieces", [[b"abc"], [b"a", b"bc"], [b"", b"abc"]])
async def test_a_body_ends_once_its_content_length_is_received(pieces: list[bytes]) -> None:
    assert await Server(*pieces).pieces_until_the_end((b"content-length", b"3")) == pieces


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-length", b"3"), (b"transfer-encoding", b"chunked")],  # which decides (RFC 9112, 6.3)
        [(b"content-length", b"x")],
        [(b"content-length", b"4")],
        [(b"content-length", b"2")],  # no server lets that happen
    ],
)
async def test_without_an_exact_content_length_a_body_ends_where_the_server_marks_its_end(
    headers: list[tuple[bytes, bytes]],
) -> None:
    assert await Server(b"abc").pieces_until_the_end(*headers) == [b"abc", b""]
