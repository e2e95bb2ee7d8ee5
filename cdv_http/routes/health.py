"""Liveness, readiness, metrics and the keys of the built-in issuer."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get
from prometheus_client import CONTENT_TYPE_LATEST

from cdv_http.app_state import app_state_of, service_of
from cdv_http.error_responses import error_bytes
from cdv_http.request_state import state_of
from cdv_http.requests import AnyRequest
from cdv_http.responses import success


class Liveness(msgspec.Struct):
    status: str


class DependencyState(msgspec.Struct):
    name: str
    up: bool
    critical: bool


class Readiness(msgspec.Struct):
    """`status`: ready, degraded (a dependency is down that is not critical), unavailable or draining."""

    status: str
    dependencies: list[DependencyState]


@get("/healthz")
async def healthz() -> Response[bytes]:
    """Return 200 while the process is running. Touches no dependency."""
    return success(Liveness("ok"))


@get("/readyz")
async def readyz(request: AnyRequest) -> Response[bytes]:
    """Return whether requests can be served: 503 while a critical dependency is down or the process is draining."""
    app = app_state_of(request.app)
    up = await app.metrics.dependencies.statuses()
    states = [DependencyState(it.name, up[it.name], it.critical) for it in app.service.dependencies]
    if app.admission.closing:  # this process accepts no new connections; another one may take over
        status = "draining"
    elif any(state.critical and not state.up for state in states):
        status = "unavailable"
    else:
        status = "ready" if all(state.up for state in states) else "degraded"
    readiness = Readiness(status, states)
    if status in {"ready", "degraded"}:
        return success(readiness)
    content = error_bytes(
        "CDV_UNAVAILABLE",
        f"not ready: {status}",
        state_of(request.scope).correlation_id,
        msgspec.to_builtins(readiness),
    )
    return Response(content, status_code=503, headers={"Retry-After": "1"}, media_type="application/json")


@get("/metrics")
async def metrics(request: AnyRequest) -> Response[bytes]:
    """Return the service's metrics in the Prometheus text format."""
    exposition = await app_state_of(request.app).metrics.exposition()
    # Not as media_type: the framework would add the charset a second time.
    return Response(exposition, headers={"Content-Type": CONTENT_TYPE_LATEST})


@get("/.well-known/jwks.json")
async def jwks(request: AnyRequest) -> Response[bytes]:
    """Return the public keys of the built-in issuer."""
    keys: dict[str, Any] | None = service_of(request).public_keys
    content = msgspec.json.encode(keys)
    return Response(content, headers={"Cache-Control": "public, max-age=300"}, media_type="application/json")
