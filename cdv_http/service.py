"""What a request's handler needs, held by the application."""

from __future__ import annotations

from typing import Any

from litestar import Request

from cdv_adapters.service import Service


def service_of(request: Request[Any, Any, Any]) -> Service:
    """Return the service that the application's lifespan has opened."""
    service: Service = request.app.state["service"]
    return service
