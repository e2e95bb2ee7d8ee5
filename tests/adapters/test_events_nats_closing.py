"""Closing ends whatever the connection is doing, also what does not hear that it is cancelled."""

import asyncio

from cdv_adapters.events.nats import NatsEventBus
from cdv_adapters.events.nats_connection import NatsAccess


async def test_closing_ends_a_connection_attempt_that_drops_a_cancellation():
    begun = asyncio.Event()
    dropped: list[bool] = []

    async def url() -> str:
        begun.set()
        if not dropped:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                dropped.append(True)  # as asyncio.wait_for does in Python 3.11 when it is done at the same moment
        return "nats://127.0.0.1:9"

    async with asyncio.timeout(20):
        async with NatsEventBus(NatsAccess(url)):
            await begun.wait()
    assert dropped
