"""Requests with ambiguous framing (smuggling), generated from a seed: most parts are valid, any may be broken."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Final

from tests.http.api import PROFILE
from tests.load.hostile_requests import DID

_BROKEN_SHARE: Final = 0.35  # of the parts of a request


def broken_framing(seed: int, token: str, many: int) -> list[bytes]:
    """Return that many requests, each for its own connection."""
    chance = random.Random(seed)
    body = json.dumps({"did": DID, "collection": PROFILE, "record": {"displayName": "Ada"}}).encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    inner = b"GET /v1/smuggled HTTP/1.1\r\nHost: vault\r\n\r\n"
    lines = (
        b"POST /v1/repo/record HTTP/1.1",
        b"POST /v1/repo/record HTTP/1.0",
        b"POST http://vault/v1/repo/record HTTP/1.1",
        b"POST http://evil.example/v1/repo/record HTTP/1.1",
        b"POST * HTTP/1.1",
        b"POST /v1/repo/record HTTP/9.9",
        b"POST  /v1/repo/record HTTP/1.1",
        b"POST /v1/repo/record",
        b"post /v1/repo/record HTTP/1.1",
        b"P\x00ST / HTTP/1.1",
        b"POST /v1/repo/record\x01 HTTP/1.1",
        b"POST /v1/\xff HTTP/1.1",
        b"CONNECT vault:80 HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"POST /v1/repo/record HTTP/1.1\r\n",
        b"\r\n\r\nPOST /v1/repo/record HTTP/1.1",
        b"TRACE / HTTP/1.1",
        b"",
    )
    lengths = (
        b"Content-Length: %d" % len(body),
        b"Content-Length: 0",
        b"Content-Length: +5",
        b"Content-Length: -1",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5, 5",
        b"Content-Length: 0x10",
        b"Content-Length:",
        b"Content-Length : 5",
        b"Content-Length: 5\r\n 6",
        b"Content-Length: 99999999999999999999",
        b"Content-Length:\x0b5",
        b"",
    )
    encodings = (
        b"",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\tchunked",
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
        b"Transfer-Encoding:\r\n chunked",
        b"X: y\rTransfer-Encoding: chunked",
        b"Transfer-Encoding: CHUNKED",
    )
    hosts = (b"Host: vault", b"Host: a\r\nHost: b", b"", b"Host: ", b"Host: va\x00ult", b"Host: a b", b"host\xff: x")
    bodies = (
        body,
        chunked,
        chunked + inner,
        body + inner,
        b"0\r\n\r\n" + inner,
        b"5\nabcde\n0\n\n",
        b"-1\r\n",
        b"zz\r\nab\r\n",
        b"5;ext=\x00\r\nabcde\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\n",
        b"5\r\nabcdeX0\r\n\r\n",
        b"0\r\nTrailer: x\r\n\r\n" + inner,
        b"\x00" * 40,
        b"\r\n" * 40,
        b"0" * 5000 + b"\r\n\r\n",
        b"",
    )
    authorization = f"Authorization: Bearer {token}".encode()
    oversize = (
        b"X: " + b"a" * 70_000,
        b"\r\n".join(b"X-%d: y" % number for number in range(300)),
        b": empty",
        b"no colon",
    )

    def one_of(parts: Sequence[bytes]) -> bytes:
        return chance.choice(parts) if chance.random() < _BROKEN_SHARE else parts[0]

    def request() -> bytes:
        content = chance.choice(bodies)
        good = (b"Content-Length: %d" % len(content), *lengths)
        parts = [one_of(lines), one_of(hosts), authorization, b"Content-Type: application/json"]
        parts += [one_of(good), one_of(encodings), one_of((b"", *oversize))]
        return b"\r\n".join(part for part in parts if part) + b"\r\n\r\n" + content

    return [request() for _ in range(many)]
