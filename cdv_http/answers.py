"""Success: `{"data": ..., "meta"?: ...}`, encoded once."""

from __future__ import annotations

import msgspec
from litestar import Response
from msgspec import UNSET, UnsetType

_encoder = msgspec.json.Encoder()


class _Success(msgspec.Struct):
    data: msgspec.Struct
    meta: msgspec.Struct | UnsetType = UNSET


def success(
    data: msgspec.Struct, meta: msgspec.Struct | None = None, headers: dict[str, str] | None = None
) -> Response[bytes]:
    """Return a 200 with `data` and `meta` in the envelope."""
    return _answer(_encoder.encode(_Success(data, UNSET if meta is None else meta)), headers)


def success_json(data: bytes, headers: dict[str, str] | None = None) -> Response[bytes]:
    """Return a 200 with `data`, which is JSON already, in the envelope."""
    return _answer(b'{"data":%b}' % data, headers)


def _answer(content: bytes, headers: dict[str, str] | None) -> Response[bytes]:
    return Response(content, status_code=200, headers=headers, media_type="application/json")
