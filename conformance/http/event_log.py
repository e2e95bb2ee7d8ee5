"""The events that a target publishes on NATS, in the order of each stream."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

STREAMS = {"RA_RECORDS": "cdv.records.>", "RA_MEDIA": "cdv.media.>"}  # domain, events
ARRIVAL_SECONDS = 30.0  # the contract sets no bound; a relay that is up needs no second
_CONNECT_SECONDS = 10


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


class EventLog:
    """Listens from the moment it is opened, in a thread of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._events: list[Event] = []
        self._arrived = threading.Condition()
        self._ready = threading.Event()
        self._problem = ""
        self.streams: dict[str, tuple[list[str], set[str]]] = {}  # name → its subjects, its consumers

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._listen(),), daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._loop.close()

    @property
    def problem(self) -> str:
        """Why nothing can be heard; empty if all is well."""
        return self._problem

    def wait(self, matches: Callable[[Event], bool]) -> list[Event]:
        """Return the events so far once one matches. Raises AssertionError: none came."""
        assert not self._problem, self._problem
        deadline = time.monotonic() + ARRIVAL_SECONDS
        with self._arrived:
            while not any(map(matches, self._events)):
                assert self._arrived.wait(deadline - time.monotonic()), f"no such event in {ARRIVAL_SECONDS:.0f} s"
            return list(self._events)

    async def _listen(self) -> None:
        self._closing = asyncio.Event()
        try:
            import nats
            from nats.js.api import DeliverPolicy
        except ImportError:
            self._fail("nats-py is not installed: pip install 'cdv-conformance[nats]'")
            return
        try:
            connection = await nats.connect(self._url, connect_timeout=_CONNECT_SECONDS, max_reconnect_attempts=3)
        except Exception as error:
            self._fail(f"no connection to {self._url}: {error!r}")
            return
        try:
            stream = connection.jetstream()
            for name, subject in STREAMS.items():
                found = await stream.stream_info(name)
                consumers = {consumer.name for consumer in await stream.consumers_info(name)}
                self.streams[name] = list(found.config.subjects or []), consumers
                await stream.subscribe(
                    subject, stream=name, ordered_consumer=True, deliver_policy=DeliverPolicy.NEW, cb=self._hear(name)
                )
            self._ready.set()
            await self._closing.wait()
        except Exception as error:
            self._fail(f"the streams cannot be read: {error!r}")
        finally:
            await connection.close()

    def _hear(self, stream: str) -> Any:
        async def hear(message: Any) -> None:
            try:
                envelope = json.loads(message.data)
            except ValueError:
                envelope = None
            with self._arrived:
                self._events.append(Event(stream, message.subject, dict(message.headers or {}), envelope))
                self._arrived.notify_all()

        return hear

    def _fail(self, problem: str) -> None:
        self._problem = problem
        self._ready.set()
