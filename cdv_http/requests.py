"""Reading a request: its body, its query parameters and the address that the client used."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl

from litestar import Request

from cdv_core.errors import InvalidField
from cdv_http.error_responses import RequestRefused
from cdv_http.request_state import state_of

# RFC 3986, 3.2.2 without what no host of ours would be: a name, an IPv4 or an IPv6 address, and perhaps a port.
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)

AnyRequest = Request[Any, Any, Any]


async def read_json(request: AnyRequest, max_bytes: int) -> bytes:
    """Return the whole body.

    Raises RequestRefused: 413 over `max_bytes`, whatever Content-Length says; 415 if it is not `application/json`, or
    compressed; 400 if it ends before it is whole.
    """
    headers = state_of(request.scope).headers
    if headers.content_length() > max_bytes:
        raise _too_large(max_bytes)
    if not _is_json(headers.last(b"content-type")):
        raise RequestRefused(415, "send application/json (UTF-8)", {"Accept": "application/json"})
    if headers.last(b"content-encoding").lower() not in (b"", b"identity"):
        raise RequestRefused(415, "send the body as it is, without a Content-Encoding", {"Accept-Encoding": "identity"})
    body, more = await _body_chunk(request)
    if more:
        # Grown in place: a body in a million pieces must not be copied for each of them.
        grown = bytearray(body)
        while more and len(grown) <= max_bytes:
            chunk, more = await _body_chunk(request)
            grown.extend(chunk)
        body = bytes(grown)
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


async def body_chunks(request: AnyRequest) -> AsyncIterator[bytes]:
    """Yield the body as it arrives.

    Raises RequestRefused: 400, it ended before it was whole: the connection broke, or a chunk of it is none.
    """
    more = True
    while more:
        chunk, more = await _body_chunk(request)
        if chunk:
            yield chunk


async def _body_chunk(request: AnyRequest) -> tuple[bytes, bool]:
    """Return what has come of the body, and whether there is more. Raises: as `body_chunks`."""
    message = await request.receive()
    if message["type"] != "http.request":
        raise RequestRefused(400, "the body ended before it was whole")
    return message.get("body", b""), message.get("more_body", False)


def query_parameters(request: AnyRequest, allowed: frozenset[str]) -> dict[str, str]:
    """Return the query's parameters.

    Raises InvalidField: an unknown one (a misspelt `limit` must not be silently ignored), one given twice, or no UTF-8.
    """
    # A plus sign is one (RFC 3986), as before an offset. Forms alone write a space so, and no value of ours has one.
    query = request.scope["query_string"].replace(b"+", b"%2B")
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError as error:
        raise InvalidField("query", "not a valid query string") from error
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            raise InvalidField(name, "no such parameter")
        if name in parameters:
            raise InvalidField(name, "given twice")
        parameters[name] = value
    return parameters


def no_parameters(request: AnyRequest) -> None:
    """Raises InvalidField: the query names a parameter, which would do nothing."""
    if request.scope["query_string"]:
        query_parameters(request, frozenset())


def required(parameters: dict[str, str], name: str) -> str:
    """Return the parameter. Raises InvalidField: it is missing."""
    if name not in parameters:
        raise InvalidField(name, "required")
    return parameters[name]


def absolute_url(request: AnyRequest, url: str) -> str:
    """Return `url`, if it is relative, at the address that the client used.

    Raises RequestRefused: 400, the client named no host or one that cannot be.
    """
    if "://" in url:
        return url
    host = state_of(request.scope).headers.only(b"host")
    if host is None or not is_host(host):
        raise RequestRefused(400, "the Host header names no host")
    return f"{request.scope['scheme']}://{host.decode('ascii')}{url}"


@lru_cache(maxsize=64)  # few are asked for
def is_host(said: bytes) -> bool:
    """Return whether a Host header may say so."""
    return _HOST.fullmatch(said.decode("latin-1")) is not None


@lru_cache(maxsize=64)  # few are sent
def _is_json(said: bytes) -> bool:
    content_type = said.decode("latin-1")
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    pairs = [parameter.partition("=") for parameter in parameters]
    return media_type == "application/json" and all(
        value.strip('" ') == "utf-8" for name, _, value in pairs if name.strip() == "charset"
    )


def _too_large(max_bytes: int) -> RequestRefused:
    return RequestRefused(413, f"the body is over the limit of {max_bytes} bytes")
