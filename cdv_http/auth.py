"""Authentication of requests. Every request is charged to a rate limit, and each subject's concurrency is bounded.

The order of checks is the contract's (spec: conventions): size and media type, authentication, then JSON and shape.
"""

from __future__ import annotations

from collections.abc import Awaitable

from cdv_adapters.service import Service
from cdv_core.domain.identifiers import Did
from cdv_core.domain.viewers import Viewer
from cdv_core.errors import CdvError, RateLimited, TokenMissing
from cdv_core.ports.tokens import TokenVerifier, VerifiedToken
from cdv_http.app_state import AppState, app_state_of
from cdv_http.error_responses import RequestRefused
from cdv_http.rate_limits import Budget
from cdv_http.request_state import state_of
from cdv_http.requests import AnyRequest, no_parameters, read_body, require_json


async def authenticated_json(request: AnyRequest, tokens: TokenVerifier, max_bytes: int) -> tuple[bytes, Did]:
    """Return the body and the subject of the bearer token.

    A body of a known length is read last, so that nobody without a token can have us wait for one. One of an unknown
    length may be too large, which is checked before the token.

    Raises: as `require_json`, then as `authenticate`, then InvalidField: the query names a parameter; and as
    `read_body`.
    """
    headers, raw = state_of(request.scope).headers, None
    try:
        require_json(headers, max_bytes)
        if not headers.has_known_length():
            raw = await read_body(request, max_bytes)
    except RequestRefused:
        # The token has not been verified yet: charge the client's address.
        await _charge(app_state_of(request.app), request, None)
        raise
    subject = await authenticate(request, tokens)
    no_parameters(request)
    return await read_body(request, max_bytes) if raw is None else raw, subject


async def authenticate(request: AnyRequest, tokens: TokenVerifier) -> Did:
    """Return the subject of the bearer token, after charging the rate limit and taking one of the subject's slots.

    Raises: TokenMissing, what the verifier raises, and RateLimited.
    """
    app = app_state_of(request.app)
    try:
        token = await _identify(request, tokens)
    except CdvError:
        await _charge(app, request, None)  # failed authentication counts against the client's address
        raise
    await _charge(app, request, token)
    return _take_subject_slot(app, request, token.subject)


def authenticate_reader(request: AnyRequest, service: Service) -> Awaitable[Did | Viewer]:
    """Return the token's subject, or ANONYMOUS if there is no Authorization header and reads do not require a token.

    A token that is sent must be valid, even where none is required. Raises, when awaited: as `authenticate`.
    """
    # Returns the awaitable instead of awaiting it, which saves one coroutine for each read.
    if service.reads_need_token or b"authorization" in state_of(request.scope).headers:
        return authenticate(request, service.tokens)
    return _anonymous(request)


async def _anonymous(request: AnyRequest) -> Viewer:
    """Return ANONYMOUS, after charging the rate limit of the client's address. Raises: RateLimited."""
    await _charge(app_state_of(request.app), request, None)
    return Viewer.ANONYMOUS


async def _identify(request: AnyRequest, tokens: TokenVerifier) -> VerifiedToken:
    """Return the verified bearer token.

    Raises: TokenMissing: there is no bearer token, or there are several Authorization headers; and what the verifier
    raises.
    """
    authorization = state_of(request.scope).headers.only(b"authorization") or b""
    scheme, _, token = authorization.decode("latin-1").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise TokenMissing
    return await tokens.verify(token)


def _charge(app: AppState, request: AnyRequest, token: VerifiedToken | None) -> Awaitable[None]:
    """Count the request against the budget of the token's subject, or of the client's address if there is no token.

    Raises, when awaited: RateLimited: the budget is used up.
    """
    budget: Budget = "reads" if request.method == "GET" else "writes"
    return app.rate_limits.admit(state_of(request.scope), budget, token)


def _take_subject_slot(app: AppState, request: AnyRequest, subject: Did) -> Did:
    """Count the request's slot against the subject as well as the client's address; return the subject.

    Raises: RateLimited: the subject holds half of all slots already.
    """
    if not app.admission.claim_for(subject):
        raise RateLimited("concurrent_requests", 1)
    state = state_of(request.scope)
    state.holders.append(subject)
    state.did = subject
    return subject
