"""The state of one request, shared by the layers around its handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from litestar.types import HTTPScope, Scope

from cdv_core.domain.identifiers import Did
from cdv_http.request_headers import RequestHeaders

_KEY: Final = "cdv"  # ours: the framework stores entries of its own in the same dictionary


class RequestState(msgspec.Struct):
    """Each field says which layer sets it. A struct, because it has slots and is created faster than a dataclass."""

    headers: RequestHeaders  # load shedding
    client: str = ""  # load shedding: IPv4 address, IPv6 /64 or `unknown`; empty if the request needs no slot
    holders: list[str] = []  # load shedding, then cdv_http/auth.py: whom the slot counts against (client, subject)
    waited_seconds: float = 0.0  # Admission: how long the request did nothing but wait for its client
    end: Callable[[], None] | None = None  # edge: ends the request as if its time were up
    traceparent: str | None = None  # edge: W3C, version 00; that of our span, or else the client's
    correlation_id: str = ""  # edge, before anything inside it runs
    head: bool = False  # exchange: the method was HEAD; the scope says GET
    did: Did | None = None  # cdv_http/auth.py: the token's subject, once the rate limit and the slot are granted
    rate_limit: tuple[int, int, int] | None = None  # rate limits: limit, remaining, reset in seconds since 1970
    error_code: str | None = None  # whichever layer makes the error response


def begin_state(scope: HTTPScope) -> RequestState:
    """Create the request's state, with its headers only, and return it."""
    state = RequestState(RequestHeaders(scope["headers"]))
    scope["state"] = {**(scope.get("state") or {}), _KEY: state}
    return state


def state_of(scope: Scope) -> RequestState:
    """Return the state that `begin_state` created."""
    state: RequestState = scope["state"][_KEY]
    return state
