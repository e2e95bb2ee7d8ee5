"""The events that a target publishes on NATS, in the order of each stream."""

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
ARRIVAL_SECONDS = 30.0  # the contract sets no bound; a relay that is up needs no second
STREAMS_SECONDS = 10.0  # for a target that has just started to make its streams
_CONNECT_SECONDS = 10


class NoEvents(Exception):
    """Nothing can be heard at that address: says why."""


@dataclass(frozen=True)
class Event:
    """One message: where it came, its headers, and its body, decoded if it is JSON."""

    stream: str
    subject: str
    headers: dict[str, str]
    envelope: Any

    @property
    def payload(self) -> dict[str, Any]:
        payload = self.envelope.get("payload") if isinstance(self.envelope, dict) else None
        return payload if isinstance(payload, dict) else {}


def try_connection(url: str) -> None:
    """Find out before a run whether there is NATS to listen to. Raises NoEvents."""

    async def connect() -> None:
        await (await _connected(url)).close()

    asyncio.run(connect())


class EventLog:
    """Listens from the moment it is opened, in a thread of its own, and again after each loss of its connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._events: list[Event] = []
        self._arrived = threading.Condition()
        self._ready = threading.Event()
        self._deaf = ""  # why silence proves nothing, from a loss of the connection to the next event
        self._next: dict[str, int] = {}  # stream → the first message that was not heard yet
        self._subscriptions: list[Any] = []
        self.problem = ""  # why nothing can be heard, which is not the target's doing; empty if all is well
        self.lacking = ""  # what the target should have made, and has not; empty if all is there
        self.streams: dict[str, tuple[list[str], set[str]]] = {}  # name → its subjects, its consumers

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._listen(),), daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._loop.is_closed():
            with suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._loop.close()

    def wait(self, matches: Callable[[Event], bool]) -> list[Event]:
        """Return the events so far once one matches.

        Raises: AssertionError: none came. Undecided: nor could it have been heard.
        """
        assert not self.lacking, self.lacking
        deadline = time.monotonic() + ARRIVAL_SECONDS
        with self._arrived:
            while not any(map(matches, self._events)):
                if self._arrived.wait(deadline - time.monotonic()):
                    continue
                if self._deaf:
                    raise Undecided(self._deaf)
                raise AssertionError(f"no such event in {ARRIVAL_SECONDS:.0f} s")
            return list(self._events)

    async def _listen(self) -> None:
        self._closing = asyncio.Event()
        try:
            self._connection = await _connected(self._url, self._lose, self._listen_again)
        except NoEvents as error:
            self.problem = str(error)
            self._ready.set()
            return
        try:
            await self._find_streams()
        except Exception as error:
            self.problem = f"the streams cannot be read: {error!r}"
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
                        self.lacking = f"there is no stream {name}"
                        return
                    await asyncio.sleep(0.2)
            consumers = {consumer.name for consumer in await streams.consumers_info(name)}
            self.streams[name] = list(found.config.subjects or []), consumers
            self._next[name] = found.state.last_seq + 1
            try:
                await self._subscribe(name)
            except BadRequestError as error:
                self.lacking = f"{name} cannot be read by {subject}: {error.description}"

    async def _subscribe(self, name: str) -> None:
        from nats.js.api import ConsumerConfig, DeliverPolicy

        place = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._next[name])
        self._subscriptions.append(
            await self._connection.jetstream().subscribe(
                STREAMS[name], stream=name, ordered_consumer=True, config=place, cb=self._hear(name)
            )
        )

    def _hear(self, stream: str) -> Any:
        async def hear(message: Any) -> None:
            sequence = message.metadata.sequence.stream
            if sequence < self._next[stream]:
                return  # heard before the connection was lost
            self._next[stream] = sequence + 1
            try:
                envelope = json.loads(message.data)
            except ValueError:
                envelope = None
            with self._arrived:
                self._events.append(Event(stream, message.subject, dict(message.headers or {}), envelope))
                if self._connection.is_connected:  # and not of what had come before a loss
                    self._deaf = ""
                self._arrived.notify_all()

        return hear

    async def _lose(self) -> None:
        self._deaf = f"the connection to {self._url} was lost"

    async def _listen_again(self) -> None:
        """Go on where the connection was lost: the server may have dropped consumers that nobody listened to."""
        for each in self._subscriptions:
            with suppress(Exception):
                await each.unsubscribe()
        self._subscriptions = []
        try:
            for name in self._next:
                found = await self._connection.jetstream().stream_info(name)
                self._next[name] = min(self._next[name], found.state.last_seq + 1)  # a stream may begin anew
                await self._subscribe(name)
        except Exception as error:
            self._deaf = f"the streams cannot be read since the connection was lost: {error!r}"


async def _nothing(*_: object) -> None:
    """Say nothing: what becomes of the connection is told by what is or is not heard."""


async def _connected(url: str, lost: Any = _nothing, again: Any = _nothing) -> Any:
    """Return a connection that is made again for as long as it takes, each time it is lost. Raises NoEvents."""
    try:
        import nats
    except ImportError as error:
        raise NoEvents("nats-py is not installed: pip install nats-py") from error
    try:
        # Without an end to its attempts it would not give up on the first connection either.
        return await asyncio.wait_for(
            nats.connect(
                url,
                connect_timeout=_CONNECT_SECONDS,
                max_reconnect_attempts=-1,
                error_cb=_nothing,
                disconnected_cb=lost,
                reconnected_cb=again,
            ),
            _CONNECT_SECONDS,
        )
    except Exception as error:
        raise NoEvents(f"no connection to {url}: {error!r}") from error
