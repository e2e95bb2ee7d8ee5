"""Requests with hostile contents and valid framing, generated from a seed."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from typing import Any, Final

from tests.http.api import PNG, POST, PROFILE

DID: Final = "did:example:hostile"
_NASTY: Final = (
    *(
        "",
        "\x00",
        "\ud800",
        "\u202e",
        "\ufeff",
        "\U0010ffff",
        "../",
        "..\\",
        "/etc/passwd",
        "%00",
        "%2e%2e%2f",
        "\r\nX: y",
    ),
    *("'; DROP TABLE records; --", "${7*7}", "{{7*7}}", "<script>", "null", "NaN", "Infinity", "-0", "1e999", "0x10"),
    *("did:example:a", "did:", f"at://{DID}/{PROFILE}/01M85VXXZ7T2JXB720KXQH381M", "at://", PROFILE, POST, "com.a.b"),
    *("2026-11-24T02:53:29Z", "2026-13-45T99:99:99Z", "0000-00-00T00:00:00Z", "9999-12-31T23:59:59.999999+23:59"),
    *("image/png", "a" * 300, "é" * 2000, "\x7f", "\\", '"', "[" * 50, "{" * 50, "CON", ".", "..", "x" * 5000),
)
_NUMBERS: Final = (
    0,
    -1,
    1,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    10**40,
    0.1,
    1e308,
    -1e-320,
    25,
    100,
    101,
)
_MEMBERS: Final = (
    *(
        "did",
        "collection",
        "record",
        "createdAt",
        "idempotencyKey",
        "schemaVersion",
        "cid",
        "mimeType",
        "size",
        "sha256",
    ),
    *("filename", "assetId", "displayName", "text", "subject", "authorDid", "__proto__", "constructor", "", "record "),
)
_POSTS: Final = ("/v1/repo/record", "/v1/media/uploadInit", "/v1/media/finalize")
_GETS: Final = ("/v1/repo/listRecords", "/v1/repo/record")


class Hostile:
    """Generates requests that send `token`; the same ones for the same seed."""

    def __init__(self, seed: int, token: str) -> None:
        self._random = random.Random(seed)
        self._token = token

    def whole(self) -> bytes:
        """Return a request with valid framing, so that others may follow it."""
        kind: Callable[[], bytes] = self._random.choice(
            (
                self._body,
                self._body,
                self._broken_body,
                self._cursor,
                self._query,
                self._jwt,
                self._filename,
                self._path,
            )
        )
        return kind()

    def _text(self) -> str:
        if self._random.random() < 0.7:
            return self._random.choice(_NASTY)
        return "".join(chr(self._random.randrange(0x110000)) for _ in range(self._random.randrange(20)))

    def _value(self, depth: int = 0) -> Any:
        match self._random.randrange(8 if depth < 4 else 6):
            case 0 | 1 | 2:
                return self._text()
            case 3:
                return self._random.choice(_NUMBERS)
            case 4:
                return self._random.choice((None, True, False, [], {}))
            case 5:
                return self._random.random() * 10 ** self._random.randrange(-300, 300)
            case 6:
                return [self._value(depth + 1) for _ in range(self._random.randrange(5))]
            case _:
                return {self._text(): self._value(depth + 1) for _ in range(self._random.randrange(5))}

    def _good(self, path: str) -> dict[str, Any]:
        if path == "/v1/repo/record":
            return {"did": DID, "collection": PROFILE, "record": {"displayName": "Ada"}}
        if path == "/v1/media/uploadInit":
            return {"did": DID, "mimeType": "image/png", "size": len(PNG)}
        return {"assetId": "01M85VXXZ7T2JXB720KXQH381M", "sha256": "0" * 64}

    def _json(self, path: str) -> bytes:
        body = self._good(path)
        for _ in range(self._random.randrange(3)):
            body[self._random.choice(_MEMBERS)] = self._value()
        if self._random.random() < 0.2:
            body.pop(self._random.choice(list(body)))
        if self._random.random() < 0.3:
            body["record"] = {"displayName": "A", self._text(): self._value()}
        return json.dumps(body, ensure_ascii=self._random.random() < 0.5).encode("utf-8", "surrogatepass")

    def _body(self) -> bytes:
        path = self._random.choice(_POSTS)
        return self._post(path, self._json(path))

    def _broken_body(self) -> bytes:
        path = self._random.choice(_POSTS)
        body = bytearray(self._json(path))
        for _ in range(self._random.randrange(1, 5)):
            at = self._random.randrange(len(body) + 1)
            match self._random.randrange(4):
                case 0:
                    body[at : at + 1] = bytes([self._random.randrange(256)])
                case 1:
                    del body[at : at + self._random.randrange(10)]
                case 2:
                    body[at:at] = self._random.choice(
                        (b"{", b"}", b"[", b"]", b",", b'"', b"\\u", b"\xff", b"1e", b"null")
                    )
                case _:
                    body[at:at] = body[: self._random.randrange(len(body) + 1)]
        return self._post(path, bytes(body))

    def _cursor(self) -> bytes:
        inner: Any = {"lastIndexedAt": "2026-11-24T02:53:29.331656Z", "lastRkey": "01M85VXXZ7T2JXB720KXQH381M"}
        for _ in range(self._random.randrange(3)):
            inner[self._random.choice(("lastIndexedAt", "lastRkey", "more"))] = self._value()
        if self._random.random() < 0.1:
            inner = self._value()
        raw = json.dumps(inner).encode()
        spelling = base64.urlsafe_b64encode(raw).decode().rstrip("=" if self._random.random() < 0.8 else "")
        if self._random.random() < 0.3:
            at = self._random.randrange(len(spelling) + 1)
            spelling = spelling[:at] + self._text() + spelling[at + 1 :]
        return self._get(f"/v1/repo/listRecords?did={DID}&cursor={_escaped(spelling)}")

    def _query(self) -> bytes:
        names = ("did", "collection", "limit", "cursor", "since", "until", "uri", "x", "")
        pairs = [
            f"{self._random.choice(names)}={_escaped(self._text())}"
            if self._random.random() < 0.8
            else self._random_query()
            for _ in range(self._random.randrange(6))
        ]
        start = f"did={DID}&" if self._random.random() < 0.6 else ""
        return self._get(f"{self._random.choice(_GETS)}?{start}{'&'.join(pairs)}")

    def _random_query(self) -> str:
        return "".join(self._random.choice("%&=;+?/abc09.-_~!*'()[]") for _ in range(self._random.randrange(30)))

    def _jwt(self) -> bytes:
        token = self._token
        match self._random.randrange(5):
            case 0:
                at = self._random.randrange(len(token))
                token = token[:at] + self._random.choice("Aa0_-.=~") + token[at + 1 :]
            case 1:
                token = ".".join(_encoded(self._value()) for _ in range(self._random.randrange(1, 6)))
            case 2:
                header = {"alg": self._random.choice(("none", "HS256", "EdDSA", 7, None)), "kid": self._value()}
                token = f"{_encoded(header)}.{token.split('.')[1]}.{token.split('.')[2]}"
            case 3:
                claims = {"sub": self._value(), "exp": self._value(), "iss": self._value(), "aud": self._value()}
                token = f"{token.split('.')[0]}.{_encoded(claims)}.{token.split('.')[2]}"
            case _:
                token = "".join(chr(self._random.randrange(33, 127)) for _ in range(self._random.randrange(100)))
        return self._post("/v1/repo/record", self._json("/v1/repo/record"), token)

    def _filename(self) -> bytes:
        name = self._text() + self._text() + self._random.choice(("", ".png", "/x.png", "\\x.png", "\x00.png"))
        body = {**self._good("/v1/media/uploadInit"), "filename": name}
        return self._post("/v1/media/uploadInit", json.dumps(body).encode())

    def _path(self) -> bytes:
        leaf = self._random.choice(("meta", "content", "", "nope"))
        prefix = self._random.choice(("/v1/media", "/v1/blobs/upload", "/v1/blobs/download", "/v1/repo", "/v1", ""))
        return self._get(f"{prefix}/{_escaped(self._text())}/{leaf}")

    def _headers(self, token: str) -> str:
        extra = ""
        if self._random.random() < 0.2:
            name = self._random.choice(
                ("X-Correlation-Id", "Idempotency-Key", "traceparent", "Origin", "If-None-Match", "Range", "Accept",
                 "Content-Encoding", "X-Forwarded-For", "X-Forwarded-Proto", "Accept-Encoding")
            )  # fmt: skip
            value = "".join(chr(self._random.randrange(32, 127)) for _ in range(self._random.randrange(40)))
            extra = f"{name}: {value}\r\n"
        return f"Host: vault\r\nAuthorization: Bearer {token}\r\n{extra}"

    def _get(self, target: str) -> bytes:
        method = self._random.choice(("GET", "GET", "GET", "OPTIONS", "DELETE", "PUT"))
        length = "Content-Length: 0\r\n" if method == "PUT" else ""
        return f"{method} {target} HTTP/1.1\r\n{self._headers(self._token)}{length}\r\n".encode()

    def _post(self, path: str, body: bytes, token: str = "") -> bytes:
        kind = self._random.choice(("application/json",) * 9 + ("text/plain",))
        head = f"POST {path} HTTP/1.1\r\n{self._headers(token or self._token)}Content-Type: {kind}\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _escaped(text: str) -> str:
    return "".join(
        chr(byte) if byte < 128 and (chr(byte).isalnum() or chr(byte) in "-_.~:") else f"%{byte:02x}"
        for byte in text.encode("utf-8", "surrogatepass")
    )


def _encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
