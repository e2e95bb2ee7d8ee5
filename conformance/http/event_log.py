"""A consumer of the events that a target publishes on NATS, in the order of each stream."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from conformance.http.requirements import Undecided

STREAMS = {"RA_RECORDS": "cdv.records.>", "RA_MEDIA": "cdv.media.>"}  # domain, events
ARRIVAL_SECONDS = 30.0  # the contract sets no bound; a running relay needs less than one second
STREAMS_SECONDS = 10.0  # for a target that has just started, to create its streams
_CONNECT_SECONDS = 10


class NoEvents(Exception):
    """No events can be received from that address; the message says why."""


@dataclass(frozen=True)
class Event:
    """One message. `envelope`: its body, decoded from JSON; None if it is not JSON."""

    stream: str
    subject: str
    headers: dict[str, str]
    envelope: Any

    @property
    def payload(self) -> dict[str, Any]:
        payload = self.envelope.get("payload") if isinstance(self.envelope, dict) else None
        return payload if isinstance(payload, dict) else {}


def try_connection(url: str) -> None:
    """Check before a run that NATS can be reached. Raises NoEvents."""

    async def connect() -> None:
        await (await _connected(url)).close()

    asyncio.run(connect())


class EventLog:
    """Collects events in a background thread, from the moment it is opened, and reconnects after a lost connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._events: list[Event] = []
        self._arrived = threading.Condition()
        self._ready = threading.Event()
        self._disconnected_reason = (
            ""  # set from the loss of the connection to the next event: a missing event proves nothing
        )
        self._next: dict[str, int] = {}  # stream → sequence number of the next message to receive
        self._subscriptions: list[Any] = []
        self.problem = ""  # why no events can be received, through no fault of the target; empty if they can
        self.missing = ""  # what the target should have created and has not; empty if nothing is missing
        self.streams: dict[str, tuple[list[str], set[str]]] = {}  # name → subjects, names of consumers

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._consume(),), daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._loop.is_closed():
            with suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._loop.close()

    def wait(self, matches: Callable[[Event], bool]) -> list[Event]:
        """Wait until an event matches; return all events received so far.

        Raises: AssertionError: none matched in time. Undecided: the connection was lost, so it may have been missed.
        """
        assert not self.missing, self.missing
        deadline = time.monotonic() + ARRIVAL_SECONDS
        with self._arrived:
            while not any(map(matches, self._events)):
                if self._arrived.wait(deadline - time.monotonic()):
                    continue
                if self._disconnected_reason:
                    raise Undecided(self._disconnected_reason)
                raise AssertionError(f"no such event arrived within {ARRIVAL_SECONDS:.0f} s")
            return list(self._events)

    async def _consume(self) -> None:
        self._closing = asyncio.Event()
        try:
            self._connection = await _connected(self._url, self._on_disconnect, self._resubscribe)
        except NoEvents as error:
            self.problem = str(error)
            self._ready.set()
            return
        try:
            await self._find_streams()
        except Exception as error:
            self.problem = f"the streams on {self._url} cannot be read: {error!r}"
        self._ready.set()
        await self._closing.wait()
        await self._connection.close()

    async def _find_streams(self) -> None:
        from nats.js.errors import BadRequestError, NotFoundError

        streams = self._connection.jetstream()
        deadline = time.monotonic() + STREAMS_SECONDS
        for name, subject in STREAMS.items():
            while True:
                try:
                    found = await streams.stream_info(name)
                    break
                except NotFoundError:
                    if time.monotonic() > deadline:
                        self.missing = f"there is no stream {name} on NATS"
                        return
                    await asyncio.sleep(0.2)
            consumers = {consumer.name for consumer in await streams.consumers_info(name)}
            self.streams[name] = list(found.config.subjects or []), consumers
            self._next[name] = found.state.last_seq + 1
            try:
                await self._subscribe(name)
            except BadRequestError as error:
                self.missing = f"stream {name} has no messages on subject {subject}: {error.description}"

    async def _subscribe(self, name: str) -> None:
        from nats.js.api import ConsumerConfig, DeliverPolicy

        start = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._next[name])
        self._subscriptions.append(
            await self._connection.jetstream().subscribe(
                STREAMS[name], stream=name, ordered_consumer=True, config=start, cb=self._message_handler(name)
            )
        )

    def _message_handler(self, stream: str) -> Any:
        async def hear(message: Any) -> None:
            sequence = message.metadata.sequence.stream
            if sequence < self._next[stream]:
                return  # received before the connection was lost
            self._next[stream] = sequence + 1
            try:
                envelope = json.loads(message.data)
            except ValueError:
                envelope = None
            with self._arrived:
                self._events.append(Event(stream, message.subject, dict(message.headers or {}), envelope))
                if self._connection.is_connected:  # else the message is from the buffer of a lost connection
                    self._disconnected_reason = ""
                self._arrived.notify_all()

        return hear

    async def _on_disconnect(self) -> None:
        self._disconnected_reason = f"the connection to NATS at {self._url} was lost, so events may have been missed"

    async def _resubscribe(self) -> None:
        """Create the subscriptions again, from the next messages on: the server may have removed idle consumers."""
        for each in self._subscriptions:
            with suppress(Exception):
                await each.unsubscribe()
        self._subscriptions = []
        try:
            for name in self._next:
                found = await self._connection.jetstream().stream_info(name)
                self._next[name] = min(self._next[name], found.state.last_seq + 1)  # a stream may have been recreated
                await self._subscribe(name)
        except Exception as error:
            self._disconnected_reason = f"the streams cannot be read again after the connection was lost: {error!r}"


async def _ignore(*_: object) -> None:
    """Ignore a callback of the connection: its state shows in what is received."""


async def _connected(url: str, lost: Any = _ignore, again: Any = _ignore) -> Any:
    """Return a connection that reconnects without limit whenever it is lost. Raises NoEvents."""
    try:
        import nats
    except ImportError as error:
        raise NoEvents("--nats needs nats-py, which is not installed: pip install nats-py") from error
    try:
        # The client retries the first connection without limit as well, so the timeout is ours.
        return await asyncio.wait_for(
            nats.connect(
                url,
                connect_timeout=_CONNECT_SECONDS,
                max_reconnect_attempts=-1,
                error_cb=_ignore,
                disconnected_cb=lost,
                reconnected_cb=again,
            ),
            _CONNECT_SECONDS,
        )
    except Exception as error:
        raise NoEvents(f"--nats: no connection to {url}: {error!r}") from error
