"""Requests as they go over the wire, made before the clock starts."""

from __future__ import annotations

import json
from urllib.parse import urlencode

from tests.load.bench.data import COLLECTION, did, post, rkey


def create(token: str, number: int, *, keyed: bool = False, text: object = None) -> bytes | tuple[bytes, bytes]:
    """Return a create; if keyed, in two parts, with its key missing in between. `text`: instead of the post's own."""
    record = post(number) if text is None else {**post(number), "text": text}
    body = json.dumps({"did": did(number), "collection": COLLECTION, "record": record}).encode()
    head = _head("POST", "/v1/repo/record", token, len(body))
    return (head + b"Idempotency-Key: ", b"\r\n\r\n" + body) if keyed else head + b"\r\n" + body


def listing(number: int, limit: int, **more: str) -> bytes:
    query = urlencode({"did": did(number), "collection": COLLECTION, "limit": limit, **more})
    return _head("GET", f"/v1/repo/listRecords?{query}") + b"\r\n"


def get(number: int, n: int) -> bytes:
    return _head("GET", "/v1/repo/record?" + urlencode({"uri": f"at://{did(number)}/{COLLECTION}/{rkey(n)}"})) + b"\r\n"


def finalize(token: str, asset_id: str, sha256: str) -> bytes:
    body = json.dumps({"assetId": asset_id, "sha256": sha256}).encode()
    return _head("POST", "/v1/media/finalize", token, len(body)) + b"\r\n" + body


def _head(method: str, target: str, token: str | None = None, body_bytes: int | None = None) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: vault"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body_bytes is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {body_bytes}"]
    return "".join(f"{line}\r\n" for line in lines).encode()
