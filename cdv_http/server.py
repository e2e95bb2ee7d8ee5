"""The HTTP server around the application: granian, with the port and everything its workers need tried first."""

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
from cdv_http.tls import CertificateWatch, prove_certificates
from cdv_http.workers import Workers

# Ours: a DID of 2048 characters, a token of 8 KiB and a cursor fit many times. The server reads up to twice as much.
_HEADER_BYTES_MAX = 64 * 1024
_HEADER_TIMEOUT_MILLISECONDS = 10_000  # ours: whoever sends headers slower than this is no client
_BACKLOG = 1024  # granian's default
_CONNECTIONS_MAX = 10_000  # ours, per worker: idle ones cost little, and beyond it new ones wait for old ones to end


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; requests in flight get `shutdown_grace`. Return the exit code.

    SIGHUP, or a certificate renewed on disk, replaces the workers one by one.

    Raises: CannotStart: the port is taken, or what a worker would need cannot be had.
    """
    _allow_connections()
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(each) for each in _bound(settings.host, settings.port, _listener_count(settings))
        ]
        _prove(settings)
        # Workers are fresh processes and read the environment again: give them what the command line said.
        os.environ.update(CDV_HOST=settings.host, CDV_PORT=str(settings.port), CDV_WORKERS=str(settings.workers))
        workers = _workers([listeners[n % len(listeners)] for n in range(settings.workers)], settings)
        workers.on_startup(lambda: _greet(settings))
        stack.enter_context(CertificateWatch(settings, workers.replace_workers))
        with _listening(settings.host, settings.port):
            for listener in listeners:
                listener.listen(_BACKLOG)
        workers.serve()
    return 0


def _workers(listeners: Sequence[socket.socket], settings: Settings) -> Workers:
    return Workers(
        listeners,
        prove=partial(_prove, settings),
        factory=True,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        # Of HTTP/2 the server bounds neither headers nor silence: who says nothing would hold a connection for ever.
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


def _allow_connections() -> None:
    """Let this process and its workers open the files it takes, as far as they may: the default is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _CONNECTIONS_MAX
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))


def _listener_count(settings: Settings) -> int:
    # Linux deals connections out evenly among sockets of one port, and unevenly among processes that share a socket.
    return settings.workers if sys.platform == "linux" else 1


def _bound(host: str, port: int, count: int) -> list[socket.socket]:
    """Return `count` sockets that have the port and do not listen yet. Raises: CannotStart."""
    with _listening(host, port), ExitStack() as stack:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]

        def bound(*, shared: bool) -> socket.socket:
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.setblocking(False)
            listener.bind(address)
            return listener

        # The first shares with nobody, or another service that shares its port would not be noticed.
        listeners = [bound(shared=False)]
        if count > 1:
            listeners.pop().close()
            listeners = [bound(shared=True) for _ in range(count)]
        stack.pop_all()
        return listeners


@contextmanager
def _listening(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        foreign = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        remedy = "address with --host or CDV_HOST" if foreign else "port with --port or CDV_PORT"
        raise CannotStart(
            f"listen on {host}:{port}", error.strerror or str(error), f"choose another {remedy}"
        ) from error


def _prove(settings: Settings) -> None:
    """Return if a worker started now could serve. Raises: CannotStart."""
    prove_certificates(settings)
    asyncio.run(_try_service(settings))


async def _try_service(settings: Settings) -> None:
    async with open_service(settings) as service:
        if service.rate_limit_storage is not None:
            SharedCounters(service.rate_limit_storage)


def _greet(settings: Settings) -> None:
    """Say that the vault is open: to people in dev, elsewhere to whatever reads the log."""
    with suppress(OSError):  # a log that cannot be written, such as on a full disk, keeps nobody from serving
        if settings.is_dev:
            print(_greeting(settings), file=sys.stderr)
        else:
            logger.info("the vault is open at {} ({})", _base(settings), _kept_in(settings))


def _base(settings: Settings) -> str:
    scheme = "http" if settings.tls_cert is None else "https"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{settings.port}"


def _greeting(settings: Settings) -> str:
    base = _base(settings)
    opened = f"The vault is open at {base} ({_kept_in(settings)}). Reference: {base}/docs"
    if settings.jwt_issuer is not None:
        return opened
    cdv = Path(sys.argv[0])
    command = os.path.relpath(cdv) if cdv.is_absolute() else str(cdv)
    # What the other terminal does not know of, and the token depends on.
    for name in ("jwt_audience", "data_dir"):
        if getattr(settings, name) != Settings.model_fields[name].default:
            command = f"CDV_{name.upper()}={shlex.quote(str(getattr(settings, name)))} {command}"
    return (
        f"{opened}\n"
        "Try it from another terminal, in this folder:\n"
        f"  TOKEN=$({command} token --did did:example:ada)\n"
        f"  curl -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' {base}/v1/repo/record -d "
        '\'{"did": "did:example:ada", "collection": "com.registryaccord.profile", "record": {"displayName": "Ada"}}\'\n'
        f"  curl '{base}/v1/repo/listRecords?did=did:example:ada'"
    )


def _kept_in(settings: Settings) -> str:
    return f"kept in {settings.data_dir}" if settings.db_dsn is None else "kept in Postgres"
