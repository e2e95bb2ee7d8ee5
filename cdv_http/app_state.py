"""What the application's lifespan has opened, for the handlers of its requests."""

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
    """One worker's. `admission`: as the load shedding uses it. `metrics`: what the metrics show besides counts."""

    service: Service
    admission: Admission
    metrics: MetricsExporter
    rate_limits: RateLimits


def keep_app_state(app: Litestar, state: AppState) -> None:
    """Leave it for `app_state_of`: when all is open, before the first request."""
    app.state[_KEY] = state


def app_state_of(app: Litestar) -> AppState:
    """Return what `keep_app_state` has left there."""
    state: AppState = app.state[_KEY]
    return state


def service_of(request: Request[Any, Any, Any]) -> Service:
    """Return what a handler's use cases, settings and token verifier are in."""
    state: AppState = request.app.state[_KEY]  # not through app_state_of: a call less
    return state.service
