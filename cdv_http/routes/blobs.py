"""Media bytes, where no object store has a server of its own: the URLs are signed, the signature is the authority."""

from __future__ import annotations

import re
from typing import Any, Final

from litestar import Response, get, put
from litestar.response import Stream

from cdv_core.ports.blobs import ServedBlobStore
from cdv_http.app_state import service_of
from cdv_http.error_responses import RequestRefused
from cdv_http.request_state import state_of
from cdv_http.requests import AnyRequest, body_chunks

_RANGE: Final = re.compile(r"bytes=(\d{0,1000})-(\d{0,1000})", re.ASCII | re.IGNORECASE)
# A file from a stranger is shown, if at all, as if it came from nowhere.
_SANDBOX: Final = {"Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "private, max-age=300"}


@put("/v1/blobs/upload/{token:str}", status_code=200)
async def upload_blob(request: AnyRequest) -> Response[bytes]:
    """Take the bytes of one upload."""
    await _store_of(request).receive(request.path_params["token"], body_chunks(request))
    return Response(b"", status_code=200)


@get("/v1/blobs/download/{token:str}")
async def download_blob(request: AnyRequest) -> Response[Any]:
    """Give the bytes of one object, or the part of them that a Range header names."""
    content = await _store_of(request).open(request.path_params["token"])
    headers = {**_SANDBOX, "Content-Disposition": content.disposition, "Accept-Ranges": "bytes"}
    asked = state_of(request.scope).headers
    # If-Range: downloads have no validator, so that none can match; then the whole is due (RFC 9110, 13.1.5).
    wanted = b"" if b"if-range" in asked else asked.last(b"range")
    part = _part(wanted.decode("latin-1"), content.size_bytes)
    if part is None:
        start, stop, status = 0, content.size_bytes, 200
    elif part.start >= part.stop:
        reason = f"the file has {content.size_bytes} bytes, and none of those asked for"
        raise RequestRefused(416, reason, {"Content-Range": f"bytes */{content.size_bytes}"})
    else:
        start, stop, status = part.start, part.stop, 206
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size_bytes}"
    headers["Content-Length"] = str(stop - start)
    return Stream(content.chunks(start, stop), status_code=status, headers=headers, media_type=content.mime_type)


def _part(header: str, size_bytes: int) -> range | None:
    """Return the bytes that a Range header asks for, empty if the object has none of them, None if it asks for all.

    A range that ends before it begins is none (RFC 9110, 14.1.1), and of several none is served: the whole object is
    a valid answer to them (14.2).
    """
    match = _RANGE.fullmatch(header)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return range(max(size_bytes - int(last), 0), size_bytes if int(last) else 0)
    if last and int(last) < int(first):
        return None
    stop = min(int(last) + 1, size_bytes) if last else size_bytes
    return range(int(first), stop) if int(first) < size_bytes else range(0)


def _store_of(request: AnyRequest) -> ServedBlobStore:
    store = service_of(request).served_blobs
    assert store is not None, "the routes are registered only with a store that is served here"  # noqa: S101
    return store
