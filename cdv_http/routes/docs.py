"""The API reference: the OpenAPI document and the HTML page made from it."""

from __future__ import annotations

from functools import cache
from typing import Final

import msgspec
from litestar import Response, get

from cdv_http.api_reference import POLICY, reference_page
from cdv_http.openapi import openapi_document

_CACHED: Final = {"Cache-Control": "public, max-age=300"}


@get("/openapi.json")
async def openapi_json() -> Response[bytes]:
    """Return the OpenAPI document."""
    return Response(_document(), media_type="application/json", headers=_CACHED)


@get("/docs")
async def reference() -> Response[str]:
    """Return the API reference as an HTML page."""
    return Response(_page(), media_type="text/html", headers={**_CACHED, "Content-Security-Policy": POLICY})


@cache
def _document() -> bytes:
    return msgspec.json.encode(openapi_document())


@cache
def _page() -> str:
    return reference_page(openapi_document())
