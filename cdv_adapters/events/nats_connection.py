"""Keeps one connection to NATS open in the background, and replaces it whenever it breaks.

nats-py's own reconnect is not used: it sends messages that it had buffered although earlier ones were lost with the old
connection, and so breaks their order. Here a broken connection is dropped together with its client and its buffer, and
messages in flight on it stay unacknowledged. A new client also reads the credentials again, so that rotated ones take
effect without a restart.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Self, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

import nats.errors
from loguru import logger
from nats.aio.client import Client, RawCredentials
from nats.aio.transport import TcpTransport
from nats.js.errors import APIError

from cdv_adapters.cancellation import cancel_and_wait
from cdv_core.errors import Unavailable

Secret: TypeAlias = str | Callable[[], Awaitable[str]]
"""A value, or a function that returns the current one and is called for each new connection."""

API_TIMEOUT_SECONDS: Final = 3.0
_CONNECT_TIMEOUT_SECONDS: Final = 5.0
_PREPARE_TIMEOUT_SECONDS: Final = 20.0  # ours: a cluster may be electing a leader
_CLOSE_TIMEOUT_SECONDS: Final = 1.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LAST_PAUSE_SECONDS: Final = 2.0  # ours: the longest delay until a broker that is up again is noticed
_PING_EVERY_SECONDS: Final = 2.0
# More than is ever in flight: beyond this limit nats-py waits for the socket, and ignores cancellation while it does.
_PENDING_BYTES: Final = 64 * 1024**2
_DEFAULT_PORT: Final = 4222


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """The broker's address and the credentials for it.

    `url`: `nats://` or `tls://`, several separated by commas; may hold `user:password@` or `token@`, percent-encoded.
    `credentials`: the text of a .creds file, or its path. `tls_ca`: the CA to trust instead of the system's. With
    `tls_ca` or with `tls://`, TLS is required: a server without it is rejected.
    """

    url: Secret
    credentials: Secret | None = field(default=None, repr=False)
    tls_ca: Path | None = None


class NatsConnection:
    """A connection that is replaced when it breaks.

    `prepare`: called with each new connection before it is used for anything else. `ping_subject`: a subject of the
    JetStream API; any reply to a request there shows that the connection is alive.
    """

    def __init__(self, access: NatsAccess, prepare: Callable[[Client], Awaitable[None]], ping_subject: str) -> None:
        self._access = access
        self._prepare = prepare
        self._ping_subject = ping_subject
        self._client: NatsClient | None = None
        self._lost = asyncio.Event()
        self._ready = asyncio.Event()
        self._tried = asyncio.Event()
        self._awaited: set[asyncio.Future[Any]] = set()
        self._problem: Exception | None = None
        self._server_error: Exception | None = None  # the cause, which nats-py's NoServersError does not carry
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start to connect in the background. Returns at once, even if the broker is down."""
        self._keeper = asyncio.create_task(self._keep_connected(), name="NATS connection")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeper is not None:
            await cancel_and_wait(self._keeper)

    @property
    def client(self) -> NatsClient:
        """The current connection's client. Raises: Unavailable: there is no connection; its cause says why."""
        if self._client is None:
            raise Unavailable("events") from self._problem
        return self._client

    async def ready(self) -> None:
        """Return when there is a connection, without a time limit."""
        await self._ready.wait()

    async def tried(self) -> None:
        """Return when the first connection attempt has succeeded or failed; at once if it already has."""
        await self._tried.wait()

    async def settle(self, futures: Collection[asyncio.Future[Any]], timeout_seconds: float) -> None:
        """Return when all futures are done, the timeout has passed or the connection is lost; cancel the others."""
        self._awaited.update(futures)
        try:
            if futures:
                await asyncio.wait(futures, timeout=timeout_seconds)
        finally:
            self._awaited.difference_update(futures)
            _cancel(futures)

    async def request(self, client: Client, subject: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return JetStream's reply to a request to `$JS.API.{subject}`.

        Raises: APIError: JetStream returned an error. Unavailable: the connection was lost. nats.errors.Error: no
        reply.
        """
        payload = b"" if body is None else json.dumps(body).encode()
        request = asyncio.ensure_future(client.request(f"$JS.API.{subject}", payload, timeout=API_TIMEOUT_SECONDS))
        await self.settle([request], 2 * API_TIMEOUT_SECONDS)
        if not request.done() or request.cancelled():
            raise Unavailable("events") from self._problem
        reply: dict[str, Any] = json.loads(request.result().data)
        raise_error(reply)
        return reply

    async def _keep_connected(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        for attempt in count():
            client = None
            try:
                client = await self._connect(attempt)
                self._lost.clear()
                async with asyncio.timeout(_PREPARE_TIMEOUT_SECONDS):
                    await self._prepare(client)
                self._client, self._problem, pause = client, None, _FIRST_PAUSE_SECONDS
                self._ready.set()
                self._tried.set()
                logger.info("connected to NATS at {}", _address(client))
                await self._watch(client)
            except Exception as error:  # noqa: BLE001 - after any error, the next attempt may succeed
                problem = self._server_error if isinstance(error, nats.errors.NoServersError) else error
                if str(problem) != str(self._problem):
                    logger.warning("no connection to NATS, retrying: {!r}", problem)
                self._problem = problem
                self._tried.set()
            finally:
                self._client = None
                self._ready.clear()
                await self._on_closed()
                if client is not None:
                    await _drop(client)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE_SECONDS)

    async def _connect(self, attempt: int) -> NatsClient:
        urls = [_split(url) for url in (await _present(self._access.url)).split(",")]
        url = urls[attempt % len(urls)]
        credentials = None if self._access.credentials is None else await _present(self._access.credentials)
        client = NatsClient(must_encrypt=url.scheme == "tls" or self._access.tls_ca is not None)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_SECONDS):
                await client.connect(
                    f"{url.scheme}://{url.hostname}:{url.port or _DEFAULT_PORT}",
                    name="cdv",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,  # otherwise it would retry this server and these credentials for ever
                    reconnect_time_wait=0,
                    connect_timeout=int(_CONNECT_TIMEOUT_SECONDS),
                    pending_size=_PENDING_BYTES,
                    error_cb=self._on_error,
                    closed_cb=self._on_closed,
                    tls=None if self._access.tls_ca is None else ssl.create_default_context(cafile=self._access.tls_ca),
                    user_credentials=None if credentials is None else _credentials(credentials),
                    **_userinfo(url),
                )
        except BaseException:
            await _drop(client)
            raise
        return client

    async def _watch(self, client: Client) -> None:
        """Ping the server until the connection is lost. A server that does not reply counts as lost.

        Raises: ConnectionError, nats.errors.Error: the connection is lost.
        """
        while not self._lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_PING_EVERY_SECONDS):
                    await self._lost.wait()
                break
            # Not nats-py's flush: a PONG that arrives after its timeout silently ends the client's read loop.
            with suppress(APIError, nats.errors.NoRespondersError):
                await self.request(client, self._ping_subject)
        raise ConnectionError("the connection was closed")

    async def _on_error(self, error: Exception) -> None:
        logger.debug("NATS: {!r}", error)
        self._server_error = error
        if isinstance(error, nats.errors.StaleConnectionError | OSError):
            await self._on_closed()

    async def _on_closed(self) -> None:
        self._lost.set()
        _cancel(self._awaited)


def raise_error(reply: Mapping[str, Any]) -> None:
    """Raises: APIError: JetStream replied with an error."""
    if error := reply.get("error"):
        raise APIError(error.get("code"), error.get("description"), error.get("err_code"))


class NatsClient(Client):
    def __init__(self, *, must_encrypt: bool) -> None:
        super().__init__()
        self._must_encrypt = must_encrypt

    def _connect_command(self) -> bytes:
        # nats-py uses TLS only if the server asks for it. A fake server that does not would get the password.
        if self._must_encrypt and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        return super()._connect_command()

    async def send(self, messages: bytes) -> None:
        """Send messages already in wire format. Faster than nats-py's publish, which checks each header.

        Raises: ConnectionClosedError.
        """
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        await self._send_command(messages)
        await self._flush_pending()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        # Discard the buffer and abort: otherwise a peer that does not read could keep the socket open.
        self._pending.clear()
        self._pending_data_size = 0
        if isinstance(self._transport, TcpTransport) and self._transport._io_writer is not None:  # noqa: SLF001
            self._transport._io_writer.transport.abort()  # noqa: SLF001 - nats-py has no other way
        await super()._close(status, do_cbs)


async def _drop(client: Client) -> None:
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_SECONDS):
            await client.close()
    except Exception as error:  # noqa: BLE001 - must not hide the error because of which the client is dropped
        logger.debug("NATS: closing: {!r}", error)


async def _present(secret: Secret) -> str:
    return secret if isinstance(secret, str) else await secret()


def _split(url: str) -> SplitResult:
    """Parse an address. Raises: ValueError: it is invalid; the message leaves it out, as it may hold a password."""
    with suppress(ValueError):
        parts = urlsplit(url.strip() if "://" in url else f"nats://{url.strip()}")
        if parts.hostname and parts.port != 0:
            return parts
    raise ValueError("not an address such as nats://host:4222")


def _userinfo(url: SplitResult) -> dict[str, Any]:
    if not url.username:
        return {}
    if url.password is None:
        return {"token": unquote(url.username)}
    return {"user": unquote(url.username), "password": unquote(url.password)}


def _credentials(text_or_path: str) -> RawCredentials | str:
    return RawCredentials(text_or_path) if "-----BEGIN" in text_or_path else text_or_path


def _address(client: Client) -> str:
    url = client.connected_url
    return "" if url is None else f"{url.hostname}:{url.port}"


def _cancel(futures: Collection[asyncio.Future[Any]]) -> None:
    for future in futures:
        future.cancel()
