"""The objects that the application's lifespan opens, for request handlers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from litestar import Litestar, Request

from cdv_adapters.service import Service
from cdv_http.admission import Admission
from cdv_http.metrics_exporter import MetricsExporter
from cdv_http.rate_limits import RateLimits

_KEY: Final = "cdv"


@dataclass(frozen=True, slots=True)
class AppState:
    """One per worker. `admission`: shared with load shedding. `metrics`: renders metrics, and checks dependencies."""

    service: Service
    admission: Admission
    metrics: MetricsExporter
    rate_limits: RateLimits


def keep_app_state(app: Litestar, state: AppState) -> None:
    """Store the state for `app_state_of`, once everything is open and before the first request."""
    app.state[_KEY] = state


def app_state_of(app: Litestar) -> AppState:
    """Return the state that `keep_app_state` stored."""
    state: AppState = app.state[_KEY]
    return state


def service_of(request: Request[Any, Any, Any]) -> Service:
    """Return the service, which has the use cases, the settings and the token verifier."""
    state: AppState = request.app.state[_KEY]  # not by app_state_of, to save a call
    return state.service
