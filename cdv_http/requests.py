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
from cdv_http.request_headers import RequestHeaders
from cdv_http.request_state import state_of

# A subset of RFC 3986, 3.2.2: a name, an IPv4 or an IPv6 address, with an optional port.
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?", re.ASCII)
_PORT_MAX: Final = 65535

AnyRequest = Request[Any, Any, Any]


def require_json(headers: RequestHeaders, max_bytes: int) -> None:
    """Return if the headers announce JSON of at most `max_bytes`, or of a length that is not known yet.

    Raises RequestRefused: 413, Content-Length exceeds `max_bytes`; 415, the one Content-Type is not `application/json`,
    or there is a Content-Encoding.
    """
    if headers.content_length() > max_bytes:
        raise _too_large(max_bytes)
    if not _is_json(headers.only(b"content-type") or b""):
        raise RequestRefused(
            415, "Content-Type must be application/json; a charset must be utf-8", {"Accept": "application/json"}
        )
    if any(encoding.lower() not in (b"", b"identity") for encoding in headers.every(b"content-encoding")):
        raise RequestRefused(415, "the body must be sent without a Content-Encoding", {"Accept-Encoding": "identity"})


async def read_body(request: AnyRequest, max_bytes: int) -> bytes:
    """Return the complete body.

    Raises RequestRefused: 413, it exceeds `max_bytes`; 400, it ended early.
    """
    body, more = await _body_chunk(request)
    if more:
        # Extend in place: a body of a million chunks must not be copied a million times.
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

    Raises RequestRefused: 400, it ended early: the connection broke, or its chunked encoding is invalid.
    """
    more = True
    while more:
        chunk, more = await _body_chunk(request)
        if chunk:
            yield chunk


async def _body_chunk(request: AnyRequest) -> tuple[bytes, bool]:
    """Return the next chunk of the body, and whether more follows. Raises: as `body_chunks`."""
    message = await request.receive()
    if message["type"] != "http.request":
        raise RequestRefused(400, "the body ended before it was complete")
    return message.get("body", b""), message.get("more_body", False)


def query_parameters(request: AnyRequest, allowed: frozenset[str]) -> dict[str, str]:
    """Return the query's parameters.

    Raises InvalidField: a parameter is unknown (a misspelt `limit` must not be silently ignored) or given twice, or the
    query is not valid UTF-8.
    """
    # A plus sign means itself (RFC 3986), as in a time's offset. Only HTML forms encode a space so; no value has one.
    query = request.scope["query_string"].replace(b"+", b"%2B")
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError as error:
        raise InvalidField("query", "must be a valid query string") from error
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            raise InvalidField(name, "is not a parameter of this endpoint")
        if name in parameters:
            raise InvalidField(name, "must be given once")
        parameters[name] = value
    return parameters


def no_parameters(request: AnyRequest) -> None:
    """Raises InvalidField: the query has a parameter, which would have no effect."""
    if request.scope["query_string"]:
        query_parameters(request, frozenset())


def required(parameters: dict[str, str], name: str) -> str:
    """Return the parameter's value. Raises InvalidField: it is missing."""
    if name not in parameters:
        raise InvalidField(name, "is required")
    return parameters[name]


def absolute_url(request: AnyRequest, url: str) -> str:
    """Return `url` as an absolute URL. A relative one gets the scheme and host that the client used.

    Raises RequestRefused: 400, the Host header is missing, sent twice or not a valid host.
    """
    if "://" in url:
        return url
    host = state_of(request.scope).headers.only(b"host")
    if host is None or not is_host(host):
        raise RequestRefused(400, "the Host header must be a valid host, sent once")
    return f"{request.scope['scheme']}://{host.decode('ascii')}{url}"


@lru_cache(maxsize=64)  # few different ones are sent
def is_host(value: bytes) -> bool:
    """Return whether this is a valid Host header."""
    match = _HOST.fullmatch(value.decode("latin-1"))
    return match is not None and int(match[1] or 0) <= _PORT_MAX


@lru_cache(maxsize=64)  # few different ones are sent
def _is_json(value: bytes) -> bool:
    content_type = value.decode("latin-1")
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    pairs = [parameter.partition("=") for parameter in parameters]
    return media_type == "application/json" and all(
        text.strip('" ') == "utf-8" for name, _, text in pairs if name.strip() == "charset"
    )


def _too_large(max_bytes: int) -> RequestRefused:
    return RequestRefused(413, f"the body exceeds the limit of {max_bytes} bytes")
