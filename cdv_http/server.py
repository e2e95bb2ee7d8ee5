"""The HTTP server: granian. The port and everything that the workers need are checked before it starts."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from loguru import logger

from cdv_adapters.bootstrap import open_service
from cdv_adapters.settings import Settings
from cdv_core.errors import CannotStart
from cdv_http.rate_limits import SharedCounters
from cdv_http.tls import CertificateWatch, check_certificates
from cdv_http.workers import Workers

# Ours: several times a DID of 2048 characters, a token of 8 KiB and a cursor. The server reads up to twice as much.
_HEADER_BYTES_MAX = 64 * 1024
_HEADER_TIMEOUT_MILLISECONDS = 10_000  # ours: no legitimate client sends its headers more slowly
_BACKLOG = 1024  # granian's default
_CONNECTIONS_MAX = (
    10_000  # ours, per worker: idle connections cost little; beyond it, new ones wait until others are closed
)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; requests in flight get `shutdown_grace`. Return the exit code.

    SIGHUP, or a certificate renewed on disk, replaces the workers one by one.

    Raises: CannotStart: the port is taken, or a dependency or file that a worker needs is not available.
    """
    _raise_open_files_limit()
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(each) for each in _bind(settings.host, settings.port, _listener_count(settings))
        ]
        _check_startup(settings)
        # Workers are new processes that read the environment: pass on the options of the command line.
        os.environ.update(CDV_HOST=settings.host, CDV_PORT=str(settings.port), CDV_WORKERS=str(settings.workers))
        workers = _workers([listeners[n % len(listeners)] for n in range(settings.workers)], settings)
        workers.on_startup(lambda: _announce(settings))
        stack.enter_context(CertificateWatch(settings, workers.replace_workers))
        with _translated_bind_errors(settings.host, settings.port):
            for listener in listeners:
                listener.listen(_BACKLOG)
        workers.serve()
    return 0


def _workers(listeners: Sequence[socket.socket], settings: Settings) -> Workers:
    return Workers(
        listeners,
        check_startup=partial(_check_startup, settings),
        factory=True,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        # With HTTP/2 the server limits neither header size nor idle time: idle clients could hold connections for ever.
        http=HTTPModes.http1,
        websockets=False,
        workers=settings.workers,
        workers_kill_timeout=int(settings.shutdown_grace) or 1,
        respawn_failed_workers=True,
        backlog=_BACKLOG,
        backpressure=_CONNECTIONS_MAX,
        http1_settings=HTTP1Settings(
            header_read_timeout=_HEADER_TIMEOUT_MILLISECONDS, max_buffer_size=_HEADER_BYTES_MAX
        ),
        ssl_cert=settings.tls_cert,
        ssl_key=settings.tls_key,
        ssl_protocol_min=SSLProtocols.tls13,
        ssl_ca=settings.tls_client_ca,
        ssl_client_verify=settings.tls_client_ca is not None,
        log_enabled=False,
    )


def _raise_open_files_limit() -> None:
    """Raise the limit of open files of this process and its workers, if permitted: the default is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _CONNECTIONS_MAX
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))


def _listener_count(settings: Settings) -> int:
    # Linux balances connections evenly over several sockets on a port, but unevenly over processes that share a socket.
    return settings.workers if sys.platform == "linux" else 1


def _bind(host: str, port: int, count: int) -> list[socket.socket]:
    """Return `count` sockets that are bound to the port but do not listen yet. Raises: CannotStart."""
    with _translated_bind_errors(host, port), ExitStack() as stack:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]

        def bind(*, shared: bool) -> socket.socket:
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.setblocking(False)
            listener.bind(address)
            return listener

        # First without SO_REUSEPORT: with it, another service on the same port would go unnoticed.
        listeners = [bind(shared=False)]
        if count > 1:
            listeners.pop().close()
            listeners = [bind(shared=True) for _ in range(count)]
        stack.pop_all()
        return listeners


@contextmanager
def _translated_bind_errors(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        foreign = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        remedy = "address with --host or CDV_HOST" if foreign else "port with --port or CDV_PORT"
        raise CannotStart(
            f"listen on {host}:{port}", error.strerror or str(error), f"choose another {remedy}"
        ) from error


def _check_startup(settings: Settings) -> None:
    """Raises: CannotStart: a worker that is started now could not serve."""
    check_certificates(settings)
    asyncio.run(_open_and_close_service(settings))


async def _open_and_close_service(settings: Settings) -> None:
    async with open_service(settings) as service:
        if service.rate_limit_storage is not None:
            SharedCounters(service.rate_limit_storage)


def _announce(settings: Settings) -> None:
    """Announce that the service is ready: in dev by a greeting with an example, elsewhere by a log line."""
    with suppress(OSError):  # an unwritable log, such as on a full disk, must not stop the service
        if settings.is_dev:
            print(_greeting(settings), file=sys.stderr)
        else:
            logger.info("the vault is open at {} ({})", _base_url(settings), _storage_of(settings))


def _base_url(settings: Settings) -> str:
    scheme = "http" if settings.tls_cert is None else "https"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{settings.port}"


def _greeting(settings: Settings) -> str:
    base = _base_url(settings)
    announcement = f"The vault is open at {base} ({_storage_of(settings)}). Reference: {base}/docs"
    if settings.jwt_issuer is not None:
        return announcement
    cdv = Path(sys.argv[0])
    command = os.path.relpath(cdv) if cdv.is_absolute() else str(cdv)
    # Settings that the token depends on and that the other terminal may not have.
    for name in ("jwt_audience", "data_dir"):
        if getattr(settings, name) != Settings.model_fields[name].default:
            command = f"CDV_{name.upper()}={shlex.quote(str(getattr(settings, name)))} {command}"
    return (
        f"{announcement}\n"
        "Try it from another terminal, in this folder:\n"
        f"  TOKEN=$({command} token --did did:example:ada)\n"
        f"  curl -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' {base}/v1/repo/record -d "
        '\'{"did": "did:example:ada", "collection": "com.registryaccord.profile", "record": {"displayName": "Ada"}}\'\n'
        f"  curl '{base}/v1/repo/listRecords?did=did:example:ada'"
    )


def _storage_of(settings: Settings) -> str:
    return f"kept in {settings.data_dir}" if settings.db_dsn is None else "kept in Postgres"
