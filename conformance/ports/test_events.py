"""Our event buses, put to the contract."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from cdv_adapters.clock.system import SystemClock
from cdv_adapters.events.memory import MemoryEventBus
from cdv_adapters.events.nats import NatsEventBus
from cdv_adapters.events.nats_connection import NatsAccess
from conformance.ports.events import BOUNDED, EventBusContract, OpenBus, event_bus_machine
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


class TestEventBuses(EventBusContract):
    @pytest.fixture(params=["open_memory", "open_fake", "open_nats"])
    def open_bus(self, request: pytest.FixtureRequest) -> OpenBus:
        opened: OpenBus = request.getfixturevalue(request.param)
        return opened


@pytest.mark.parametrize("name", ["open_memory", "open_fake"])
def test_a_bus_in_memory_behaves_like_the_model_in_more_sequences(name: str, request: pytest.FixtureRequest):
    run_state_machine_as_test(event_bus_machine(request.getfixturevalue(name)), settings=MORE)
