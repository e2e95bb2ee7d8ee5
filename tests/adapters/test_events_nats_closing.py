"""Closing ends a connection attempt even if it swallows a cancellation; a failed one is reported."""

import asyncio
from pathlib import Path

import pytest

from cdv_adapters.events.nats import NatsEventBus
from cdv_adapters.events.nats_connection import NatsAccess
from cdv_core.errors import Unavailable


async def test_closing_ends_a_connection_attempt_that_swallows_a_cancellation():
    begun = asyncio.Event()
    dropped: list[bool] = []

    async def url() -> str:
        begun.set()
        if not dropped:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                dropped.append(True)  # as asyncio.wait_for of Python 3.11 does if it completes at the same moment
        return "nats://127.0.0.1:9"

    async with asyncio.timeout(20):
        async with NatsEventBus(NatsAccess(url)):
            await begun.wait()
    assert dropped


@pytest.mark.parametrize(
    ("url", "tls_ca", "why"),
    [
        ("nats://u:hunter2@h:x", None, "not an address such as"),
        ("nats://u:hunter2/@h", None, "not an address such as"),
        ("nats://[::1", None, "not an address such as"),
        ("nats://", None, "not an address such as"),
        ("nats://127.0.0.1:9", Path("/nowhere/ca.pem"), "No such file"),
    ],
)
async def test_check_reports_the_connection_error_without_the_password(url: str, tls_ca: Path | None, why: str):
    async with NatsEventBus(NatsAccess(url, tls_ca=tls_ca)) as bus:
        async with asyncio.timeout(20):
            with pytest.raises(Unavailable) as caught:
                await bus.check()
    assert why in str(caught.value.__cause__)
    assert "hunter2" not in str(caught.value.__cause__)
