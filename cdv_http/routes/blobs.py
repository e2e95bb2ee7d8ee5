"""Media bytes, where no object store has a server of its own: the URLs are signed, the signature is the authority."""

from __future__ import annotations

import re
from typing import Any, Final

from litestar import Response, get, put
from litestar.response import Stream

from cdv_core.ports.blobs import ServedBlobStore
from cdv_http.requests import AnyRequest
from cdv_http.service import service_of

_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
# A file from a stranger is shown, if at all, as if it came from nowhere.
_SANDBOX: Final = {"Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "private, max-age=300"}


@put("/v1/blobs/upload/{token:str}", status_code=200)
async def upload_blob(request: AnyRequest, token: str) -> Response[bytes]:
    """Take the bytes of one upload."""
    await _store_of(request).receive(token, request.stream())
    return Response(b"", status_code=200)


@get("/v1/blobs/download/{token:str}")
async def download_blob(request: AnyRequest, token: str) -> Response[Any]:
    """Give the bytes of one object, or the part of them that a Range header names."""
    content = await _store_of(request).open(token)
    headers = {
        **_SANDBOX,
        "Content-Type": content.mime_type,
        "Content-Disposition": content.disposition,
        "Content-Length": str(content.size_bytes),
    }
    return Stream(content.chunks, headers=headers, media_type=content.mime_type)


def _store_of(request: AnyRequest) -> ServedBlobStore:
    store = service_of(request).served_blobs
    assert store is not None, "the routes are registered only with a store that is served here"  # noqa: S101
    return store
