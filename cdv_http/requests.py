"""Reading a request, in the contract's order: size and media type, then who asks, then JSON and shape."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl

from litestar import Request

from cdv_adapters.service import Service
from cdv_core.domain.identifiers import Did
from cdv_core.domain.viewers import Viewer
from cdv_core.errors import CdvError, InvalidField, RateLimited, TokenMissing
from cdv_core.ports.tokens import TokenVerifier, VerifiedToken
from cdv_http.app_state import AppState, app_state_of
from cdv_http.error_responses import RequestRefused
from cdv_http.rate_limits import Budget
from cdv_http.request_state import state_of

# RFC 3986, 3.2.2 without what no host of ours would be: a name, an IPv4 or an IPv6 address, and perhaps a port.
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)

AnyRequest = Request[Any, Any, Any]


async def authenticated_json(request: AnyRequest, tokens: TokenVerifier, max_bytes: int) -> tuple[bytes, Did]:
    """Return the body and the subject of the bearer token.

    Raises: as `read_json`, then as `authenticate`, then InvalidField: the query names a parameter.
    """
    try:
        raw = await read_json(request, max_bytes)
    except RequestRefused:
        # Whoever sends what nobody reads has shown no token, and is counted all the same.
        await _charge(app_state_of(request.app), request, None)
        raise
    subject = await authenticate(request, tokens)
    no_parameters(request)
    return raw, subject


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


async def authenticate(request: AnyRequest, tokens: TokenVerifier) -> Did:
    """Return the subject of the request's bearer token, once it is counted and takes one of the subject's places.

    Raises: TokenMissing, what the verifier raises, and RateLimited.
    """
    app = app_state_of(request.app)
    try:
        token = await _identify(request, tokens)
    except CdvError:
        await _charge(app, request, None)  # whoever proves nothing is counted all the same
        raise
    await _charge(app, request, token)
    return _occupy(app, request, token.subject)


def authenticate_reader(request: AnyRequest, service: Service) -> Awaitable[Did | Viewer]:
    """Return the subject, or ANONYMOUS when no Authorization is sent and reads need none. One sent must be good.

    Raises: as `authenticate`.
    """
    # Hands on what is to be awaited, instead of awaiting it once more for each read.
    if service.reads_need_token or b"authorization" in state_of(request.scope).headers:
        return authenticate(request, service.tokens)
    return _anonymous(request)


async def _anonymous(request: AnyRequest) -> Viewer:
    """Return ANONYMOUS, once it is counted. Raises: RateLimited."""
    await _charge(app_state_of(request.app), request, None)
    return Viewer.ANONYMOUS


async def _identify(request: AnyRequest, tokens: TokenVerifier) -> VerifiedToken:
    """Return what the bearer token proves.

    Raises: TokenMissing: there is none, or several Authorization headers; and what the verifier raises.
    """
    said = state_of(request.scope).headers.only(b"authorization") or b""
    scheme, _, token = said.decode("latin-1").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise TokenMissing
    return await tokens.verify(token)


def _charge(app: AppState, request: AnyRequest, token: VerifiedToken | None) -> Awaitable[None]:
    """Count the request on the budget of the token's subject, or without one on its address's.

    Raises, when awaited: RateLimited: the budget is spent.
    """
    budget: Budget = "reads" if request.method == "GET" else "writes"
    return app.rate_limits.admit(state_of(request.scope), budget, token)


def _occupy(app: AppState, request: AnyRequest, subject: Did) -> Did:
    """Have the request's place count as the subject's too; return them.

    Raises: RateLimited: half of all places are theirs already.
    """
    if not app.admission.hold(subject):
        raise RateLimited("requests at once", 1)
    state = state_of(request.scope)
    state.holders.append(subject)
    state.did = subject
    return subject


def query_parameters(request: AnyRequest, allowed: frozenset[str]) -> dict[str, str]:
    """Return the query's parameters.

    Raises InvalidField: an unknown one (a misspelt `limit` must not be silently ignored), one given twice, or no UTF-8.
    """
    # A plus sign is one (RFC 3986), as before an offset. Forms alone write a space so, and no value of ours has one.
    query = request.scope["query_string"].replace(b"+", b"%2B")
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError as error:
        raise InvalidField("query", "must be a valid query string") from error
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            raise InvalidField(name, "unknown parameter")
        if name in parameters:
            raise InvalidField(name, "must be given only once")
        parameters[name] = value
    return parameters


def no_parameters(request: AnyRequest) -> None:
    """Raises InvalidField: the query names a parameter, which would do nothing."""
    if request.scope["query_string"]:
        query_parameters(request, frozenset())


def required(parameters: dict[str, str], name: str) -> str:
    """Return the parameter. Raises InvalidField: it is missing."""
    if name not in parameters:
        raise InvalidField(name, "must be given")
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
