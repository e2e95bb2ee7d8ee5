"""One connection to NATS at a time, made in the background, and another whenever it breaks, for ever.

A connection is never mended. nats-py's own way to reconnect sends what it had buffered after what was lost at the
break, and so out of order; here a broken connection's client goes with all it held, and what was under way on it is
not acknowledged. A new client also reads the credentials afresh, so that rotated ones need no restart.
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
"""A value, or what gives its present one, asked each time a connection is made."""

API_TIMEOUT_SECONDS: Final = 3.0
_CONNECT_TIMEOUT_SECONDS: Final = 5.0
_PREPARE_TIMEOUT_SECONDS: Final = 20.0  # ours: a cluster may be electing who answers
_CLOSE_TIMEOUT_SECONDS: Final = 1.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LAST_PAUSE_SECONDS: Final = 2.0  # ours: a broker that is back is noticed this soon
_PING_EVERY_SECONDS: Final = 2.0
# More than is ever under way at once: beyond it nats-py would wait for the socket, and swallow being cancelled.
_PENDING_BYTES: Final = 64 * 1024**2
_DEFAULT_PORT: Final = 4222


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """Where the broker is and how to be let in.

    `url`: `nats://` or `tls://`, several separated by commas; may hold `user:password@` or `token@`, percent-encoded.
    `credentials`: the text of a .creds file, or its path. `tls_ca`: whom to trust instead of the system's; given, or
    with `tls://`, a server that does not encrypt is refused.
    """

    url: Secret
    credentials: Secret | None = field(default=None, repr=False)
    tls_ca: Path | None = None


class NatsConnection:
    """`prepare`: run on each new connection before anyone else may use it. `ping_subject`: of the JetStream API, any
    answer shows life.
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
        self._refusal: Exception | None = None  # what nats-py swallows when it gives a server up
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to connect. Returns at once, whether or not there is a broker."""
        self._keeper = asyncio.create_task(self._keep_connected(), name="NATS connection")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeper is not None:
            await cancel_and_wait(self._keeper)

    @property
    def client(self) -> NatsClient:
        """Raises: Unavailable: there is no connection now; its cause is why."""
        if self._client is None:
            raise Unavailable("events") from self._problem
        return self._client

    async def ready(self) -> None:
        """Return when there is a connection, however long that takes."""
        await self._ready.wait()

    async def tried(self) -> None:
        """Return when the first attempt has ended, well or not: at once ever after."""
        await self._tried.wait()

    async def settle(self, futures: Collection[asyncio.Future[Any]], timeout_seconds: float) -> None:
        """Return when all are done, the time is up, or the connection is lost; what is not done then is cancelled."""
        self._awaited.update(futures)
        try:
            if futures:
                await asyncio.wait(futures, timeout=timeout_seconds)
        finally:
            self._awaited.difference_update(futures)
            _cancel(futures)

    async def ask(self, client: Client, subject: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return JetStream's answer to `$JS.API.{subject}`.

        Raises: APIError: it says no. Unavailable: the connection was lost. nats.errors.Error: nobody answers.
        """
        payload = b"" if request is None else json.dumps(request).encode()
        asking = asyncio.ensure_future(client.request(f"$JS.API.{subject}", payload, timeout=API_TIMEOUT_SECONDS))
        await self.settle([asking], 2 * API_TIMEOUT_SECONDS)
        if not asking.done() or asking.cancelled():
            raise Unavailable("events") from self._problem
        answer: dict[str, Any] = json.loads(asking.result().data)
        raise_error(answer)
        return answer

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
            except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may go better
                problem = self._refusal if isinstance(error, nats.errors.NoServersError) else error
                if str(problem) != str(self._problem):
                    logger.warning("no connection to NATS, trying on: {!r}", problem)
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
                    max_reconnect_attempts=1,  # or it would go on for ever, with that server and those credentials
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
        """Raises: ConnectionError, nats.errors.Error: the connection is lost. A peer that is silent is lost too."""
        while not self._lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_PING_EVERY_SECONDS):
                    await self._lost.wait()
                break
            # Not nats-py's flush: a PONG that comes after its timeout ends the client's reading without a word.
            with suppress(APIError, nats.errors.NoRespondersError):
                await self.ask(client, self._ping_subject)
        raise ConnectionError("the connection was closed")

    async def _on_error(self, error: Exception) -> None:
        logger.debug("NATS: {!r}", error)
        self._refusal = error
        if isinstance(error, nats.errors.StaleConnectionError | OSError):
            await self._on_closed()

    async def _on_closed(self) -> None:
        self._lost.set()
        _cancel(self._awaited)


def raise_error(answer: Mapping[str, Any]) -> None:
    """Raises: APIError: JetStream has answered with an error."""
    if error := answer.get("error"):
        raise APIError(error.get("code"), error.get("description"), error.get("err_code"))


class NatsClient(Client):
    def __init__(self, *, must_encrypt: bool) -> None:
        super().__init__()
        self._must_encrypt = must_encrypt

    def _connect_command(self) -> bytes:
        # nats-py encrypts when the server asks for it; whoever pretends to be one that does not would get the password.
        if self._must_encrypt and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        return super()._connect_command()

    async def send(self, messages: bytes) -> None:
        """Send messages as the wire has them. nats-py looks through each header of each message, which takes longer.

        Raises: ConnectionClosedError.
        """
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        await self._send_command(messages)
        await self._flush_pending()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        # What is buffered does not go out any more, and a peer that does not read cannot keep the socket open.
        self._pending.clear()
        self._pending_data_size = 0
        if isinstance(self._transport, TcpTransport) and self._transport._io_writer is not None:  # noqa: SLF001
            self._transport._io_writer.transport.abort()  # noqa: SLF001 - nats-py has no other way
        await super()._close(status, do_cbs)


async def _drop(client: Client) -> None:
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_SECONDS):
            await client.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not hide why the client goes
        logger.debug("NATS: closing: {!r}", error)


async def _present(secret: Secret) -> str:
    return secret if isinstance(secret, str) else await secret()


def _split(url: str) -> SplitResult:
    """Raises: ValueError: it is no address. It is not repeated: it may hold a password."""
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
