"""Our event buses against the contract."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import nats
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from cdv_adapters.clock.system import SystemClock
from cdv_adapters.events.memory import MemoryEventBus
from cdv_adapters.events.nats import NatsEventBus
from cdv_adapters.events.nats_connection import NatsAccess
from cdv_core.ports.events import EventBus
from conformance.ports.events import BOUNDED, EventBusContract, OpenBus, Received, event_bus_machine
from tests.fakes.clock import FakeClock
from tests.fakes.events import FakeEventBus
from tests.servers import NatsServer

MORE = settings(BOUNDED, max_examples=30)


@pytest.fixture
def open_memory() -> OpenBus:
    @asynccontextmanager
    async def opened() -> AsyncIterator[MemoryEventBus]:
        yield MemoryEventBus(SystemClock())

    return opened


@pytest.fixture
def open_fake() -> OpenBus:
    @asynccontextmanager
    async def opened() -> AsyncIterator[FakeEventBus]:
        yield FakeEventBus(FakeClock())

    return opened


@pytest.fixture
def open_nats(nats_server: NatsServer) -> OpenBus:
    @asynccontextmanager
    async def opened() -> AsyncIterator[NatsEventBus]:
        nats_server.clear()
        async with NatsEventBus(NatsAccess(nats_server.url)) as bus:
            await bus.connected()
            yield bus

    return opened


async def followed(bus: EventBus) -> list[tuple[str, str, bytes]]:
    assert isinstance(bus, MemoryEventBus)
    found = []
    for state in await bus.streams():
        async with aclosing(bus.follow(state.name)) as messages:
            events = [(await anext(messages)).event for _ in range(state.messages)]
        found += [(event.subject, event.event_id, event.envelope) for event in events]
    return found


class TestEventBuses(EventBusContract):
    @pytest.fixture(params=["open_memory", "open_fake", "open_nats"])
    def open_bus(self, request: pytest.FixtureRequest) -> OpenBus:
        opened: OpenBus = request.getfixturevalue(request.param)
        return opened

    @pytest.fixture
    def received(self, open_bus: OpenBus, request: pytest.FixtureRequest) -> Received:
        if "open_nats" not in request.fixturenames:
            return followed
        url = request.getfixturevalue("nats_server").url

        async def got(bus: EventBus) -> list[tuple[str, str, bytes]]:
            client = await nats.connect(url)
            jetstream, found = client.jetstream(), []
            for state in await bus.streams():
                for sequence in range(state.first_sequence, state.last_sequence + 1):
                    message = await jetstream.get_msg(state.name, sequence)
                    event_id = (message.headers or {}).get("Nats-Msg-Id", "")
                    found.append((message.subject or "", event_id, message.data or b""))
            await client.close()
            return found

        return got


@pytest.mark.parametrize("name", ["open_memory", "open_fake"])
def test_an_in_memory_bus_matches_the_model_in_more_sequences(name: str, request: pytest.FixtureRequest):
    run_state_machine_as_test(event_bus_machine(request.getfixturevalue(name)), settings=MORE)
