"""The ASGI application: its lifespan, routes and middleware."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from litestar import Litestar
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from cdv_adapters import tracing
from cdv_adapters.background import run_in_background
from cdv_adapters.bootstrap import open_service
from cdv_adapters.settings import Settings, read_settings
from cdv_http.admission import Admission
from cdv_http.app_state import AppState, keep_app_state
from cdv_http.client_address import ClientAddresses
from cdv_http.completed_requests import record_pending
from cdv_http.error_responses import respond_to_error
from cdv_http.fast_routes import FastRoutes
from cdv_http.logs import set_up_logs
from cdv_http.metrics import observe_background_task, observe_relay
from cdv_http.metrics_exporter import MetricsExporter
from cdv_http.middleware.cors import AllowedOrigins
from cdv_http.middleware.edge import EdgeMiddleware
from cdv_http.middleware.load_shedding import LoadSheddingMiddleware
from cdv_http.middleware.time_limits import TimeLimits
from cdv_http.rate_limits import RateLimits
from cdv_http.relay import relaying
from cdv_http.routes import blobs, docs, health, media, records
from cdv_http.routes.options import options_of
from cdv_http.tls import certificate_expiry

_FAST_HANDLERS: Final = (
    *(records.create_record, records.get_record, records.list_records),
    *(media.upload_init, media.finalize),
)


def create_app(settings: Settings | None = None, started: Callable[[], None] = lambda: None) -> LoadSheddingMiddleware:
    """Return the service as an ASGI application. Its lifespan opens and closes all dependencies.

    `settings`: read from the environment if None. `started`: called when everything is open. Raises: SettingsRefused.
    """
    chosen = read_settings() if settings is None else settings
    admission = Admission(chosen.max_in_flight)
    set_up_logs(chosen)
    tracing.start()

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncGenerator[None, None]:
        async with AsyncExitStack() as stack:
            stack.callback(record_pending)
            stack.push_async_callback(tracing.stop)
            service = await stack.enter_async_context(open_service(chosen))
            await stack.enter_async_context(run_in_background(service.background_tasks, observe_background_task))
            if service.relay is not None:
                service.on_write = await stack.enter_async_context(relaying(service.relay, observe=observe_relay))
            service.readings.append(lambda: {"requests_in_flight": admission.in_flight})
            if chosen.tls_cert is not None:
                # Of the certificate that this worker serves: a renewed one is served by new workers.
                service.readings.append(partial(dict, certificate_expiry=certificate_expiry(chosen.tls_cert)))
            limits = RateLimits(
                writes=chosen.rate_limit_writes,
                reads=chosen.rate_limit_reads,
                storage_url=service.rate_limit_storage,
            )
            stack.push_async_callback(limits.close)
            if (store := limits.dependency) is not None:
                service.dependencies.append(store)
            metrics = await stack.enter_async_context(MetricsExporter(service))
            keep_app_state(app, AppState(service, admission, metrics, limits))
            started()
            yield
            admission.closing = True

    app = Litestar(
        route_handlers=_routes(chosen),
        lifespan=[lifespan],
        exception_handlers={HTTPException: respond_to_error, Exception: respond_to_error},
        openapi_config=None,  # cdv_http/openapi.py documents more than can be derived from types
        request_max_body_size=None,  # cdv_http/requests.py limits bodies as it reads them
        logging_config=None,
        debug=False,
    )
    addresses = ClientAddresses(chosen.trusted_proxies)
    allowed_origins = AllowedOrigins(chosen.cors_allowed_origins)
    # The layers that a request passes, outermost first; they are built from the inside out.
    #   worker    granian accepts the connection and reads the request's head (cdv_http/workers.py)
    #   shedding  creates the request's state, and takes a slot or sends 503; probes and preflights need no slot
    #   edge      sets ids and the time limit, answers preflights, and reports to metrics, trace and log
    #   exchange  created by the edge for each request: wraps receive and send (cdv_http/middleware/exchange.py)
    #   fast      calls the handlers of the busiest endpoints (cdv_http/fast_routes.py); everything else goes to
    #   Litestar  which routes to the same handlers and to all others
    routed = FastRoutes(app, _FAST_HANDLERS)
    edge = EdgeMiddleware(routed, admission, addresses, allowed_origins, TimeLimits(chosen.request_timeout))
    return LoadSheddingMiddleware(edge, admission, addresses, allowed_origins)


def _routes(settings: Settings) -> list[HTTPRouteHandler]:
    routes: list[HTTPRouteHandler] = [
        records.create_record,
        records.get_record,
        records.list_records,
        media.upload_init,
        media.finalize,
        media.media_meta,
        media.media_content,
        health.healthz,
        health.readyz,
        health.metrics,
        docs.openapi_json,
        docs.reference,
    ]
    if settings.s3_endpoint is None:
        routes += [blobs.upload_blob, blobs.download_blob]
    if settings.jwt_issuer is None:
        routes.append(health.jwks)
    return [options_of(routes), *routes]  # first, or the framework registers its own OPTIONS handlers
