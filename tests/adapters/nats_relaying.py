"""A vault's op log relayed to a real NATS server with faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import nats

from cdv_adapters.clock.system import SystemClock
from cdv_adapters.events.nats import NatsEventBus
from cdv_adapters.events.nats_connection import NatsAccess
from cdv_adapters.events.nats_streams import StreamSettings
from cdv_adapters.ids.ulid import UlidSource
from cdv_core.domain.events import Event
from cdv_core.errors import Unavailable
from cdv_core.use_cases.relay import Relay
from conformance.ports.events import DIDS, SUBJECTS, ids_of
from tests.fakes.outbox import FakeOutbox

DEADLINE_SECONDS = 60  # far more than an operation takes


class Vault:
    """An op log that grows by `write`, and relays from it to `bus`. `written`: the ids of all events, in order.

    `runs`: the completed runs of all relays.
    """

    def __init__(self, bus: NatsEventBus) -> None:
        self.bus = bus
        self.outbox = FakeOutbox()
        self.clock = SystemClock()
        self.ids = UlidSource()
        self.written: list[str] = []
        self.runs = 0

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            number = len(self.written)
            now = self.clock.now()
            event = Event(
                self.ids.new(now), DIDS[number % 3], SUBJECTS[number % 7 % 3], b'{"number": %d}' % number, now
            )
            self.outbox.append(event)
            self.written.append(event.event_id)

    @property
    def published(self) -> int:
        return sum(entry.stream_sequence is not None for entry in self.outbox.entries.values())

    @asynccontextmanager
    async def relaying(self, relays: int = 1, batch_entries: int = 20) -> AsyncIterator[None]:
        """Run that many relays continuously during the block."""
        tasks = [asyncio.create_task(self._relay(batch_entries)) for _ in range(relays)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    async def _relay(self, batch_entries: int) -> None:
        relay = Relay(self.outbox, self.bus, self.clock, self.ids, batch_entries=batch_entries)
        while True:
            try:
                await relay.run_once()
                self.runs += 1
            except Unavailable:
                await self.bus.connected()
            await asyncio.sleep(0.001)

    async def everything_published(self) -> None:
        await until(lambda: self.published == len(self.written))

    async def more_published(self, count: int) -> None:
        enough = self.published + count
        await until(lambda: self.published >= enough)

    async def settled(self) -> None:
        """Wait until every written event is marked as published and the streams hold that many messages."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while self.published < len(self.written) or await self._messages() < len(self.written):
                await asyncio.sleep(0.005)

    async def _messages(self) -> int:
        try:
            return sum(state.messages for state in await self.bus.streams())
        except Unavailable:
            return 0

    async def held(self) -> list[str]:
        """Return the ids of all messages in the streams, those of records first."""
        return [event_id for name in ("RA_RECORDS", "RA_MEDIA") for _, event_id in await ids_of(self.bus, name)]

    async def assert_everything_is_there_once_and_in_order(self) -> None:
        held = await self.held()
        assert sorted(held) == sorted(self.written)
        entries = [entry.event for entry in self.outbox.entries.values()]
        for did in DIDS:
            for prefix in ("cdv.records.", "cdv.media."):
                its_own = [event.event_id for event in entries if event.did == did and event.subject.startswith(prefix)]
                assert [event_id for event_id in held if event_id in set(its_own)] == its_own


@asynccontextmanager
async def open_vault(url: str, **options: Any) -> AsyncIterator[Vault]:
    async with NatsEventBus(NatsAccess(url), **options) as bus:
        yield Vault(bus)


@asynccontextmanager
async def connected(access: NatsAccess, settings: StreamSettings | None = None) -> AsyncIterator[NatsEventBus]:
    async with NatsEventBus(access, settings) as bus, asyncio.timeout(60):
        await bus.connected()
        yield bus


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def operator(url: str) -> AsyncIterator[Any]:
    """Open a separate JetStream context, to change streams as an operator would."""
    connection = await nats.connect(url, allow_reconnect=False)
    try:
        yield connection.jetstream()
    finally:
        await connection.close()
