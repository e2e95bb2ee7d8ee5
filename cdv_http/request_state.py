"""What the layers around a request tell each other of it."""

from __future__ import annotations

from typing import Final

import msgspec
from litestar.types import HTTPScope, Scope

from cdv_core.domain.identifiers import Did
from cdv_http.request_headers import RequestHeaders

_KEY: Final = "cdv"  # ours: the framework keeps things of its own beside it


class RequestState(msgspec.Struct):
    """One request's, each field with who sets it. A struct: it has slots, and is made faster than a dataclass."""

    headers: RequestHeaders  # by load shedding
    client: str = ""  # by load shedding: an IPv4 address, an IPv6 /64 or `unknown`; empty for who needs no place
    holders: list[str] = []  # by load shedding and cdv_http/auth.py: whose place it takes: the client's, the subject's
    waited_seconds: float = 0.0  # by Admission's waits: how long nothing but its client kept it
    traceparent: str | None = None  # by the edge: W3C, version 00; our span's, or else the client's
    correlation_id: str = ""  # by the edge, before anything inside it runs
    head: bool = False  # by the exchange: it was a HEAD, and the scope says GET
    did: Did | None = None  # by cdv_http/auth.py: the subject, once it is counted and has its place
    rate_limit: tuple[int, int, int] | None = None  # by the rate limits: the limit, what is left, seconds since 1970
    error_code: str | None = None  # by whoever refuses it


def begin_state(scope: HTTPScope) -> RequestState:
    """Return the state that the request has from now on, of which only its headers are known."""
    state = RequestState(RequestHeaders(scope["headers"]))
    scope["state"] = {**(scope.get("state") or {}), _KEY: state}
    return state


def state_of(scope: Scope) -> RequestState:
    """Return what `begin_state` has made."""
    state: RequestState = scope["state"][_KEY]
    return state
