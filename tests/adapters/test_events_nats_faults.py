"""Brokers that die, hang, lose messages or start late: afterwards the streams hold every event once, in order."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from cdv_adapters.events import nats_publication
from cdv_adapters.events.nats_streams import StreamSettings
from cdv_core.errors import Unavailable
from tests.adapters.nats_relaying import open_vault, operator, until
from tests.servers import FaultProxy, NatsServer
from tests.servers.process import Process


@pytest.fixture(autouse=True, params=[2, 1000], ids=["in batches", "one by one"])
def _batch_from(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_publication, "_BATCH_FROM", request.param)


async def test_every_event_is_published_once_when_the_broker_is_killed_mid_flight(own_nats_server: NatsServer):
    async with open_vault(own_nats_server.url) as vault, vault.relaying():
        await vault.bus.connected()
        for _ in range(3):
            vault.write(200)
            await vault.more_published(40)
            await asyncio.to_thread(own_nats_server.kill)
            vault.write(20)
            await asyncio.to_thread(own_nats_server.start)
        await vault.everything_published()
        await vault.assert_everything_is_there_once_and_in_order()


async def test_events_are_published_when_the_broker_starts_late(own_nats_server: NatsServer):
    await asyncio.to_thread(own_nats_server.stop)
    async with open_vault(own_nats_server.url) as vault, vault.relaying():
        vault.write(50)
        with pytest.raises(Unavailable):
            await vault.bus.check()
        await asyncio.to_thread(own_nats_server.start)
        await vault.everything_published()
        await vault.bus.check()
        await vault.assert_everything_is_there_once_and_in_order()


async def test_every_event_is_published_once_despite_network_faults(nats_url: str):
    with FaultProxy(nats_url) as proxy:
        async with open_vault(proxy.url, publish_timeout_seconds=0.5) as vault, vault.relaying():
            await vault.bus.connected()
            for fault in (proxy.cut_once, proxy.hang_replies, proxy.hang, proxy.cut):
                vault.write(100)
                await vault.more_published(20)
                await asyncio.to_thread(fault)
                vault.write(100)
                await asyncio.sleep(0)
                await asyncio.to_thread(proxy.heal)
                await vault.everything_published()
            await vault.assert_everything_is_there_once_and_in_order()


async def test_a_hanging_connection_is_replaced_and_late_messages_do_no_harm(nats_url: str):
    with FaultProxy(nats_url) as proxy:
        async with open_vault(proxy.url, publish_timeout_seconds=0.2) as vault:
            await vault.bus.connected()
            client = vault.bus._connection.client
            async with vault.relaying():
                vault.write(300)
                await until(lambda: vault.published > 40)
                await asyncio.to_thread(proxy.hang)
                await until(lambda: vault.bus._connection._client is not client)
                with pytest.raises(Unavailable):
                    await vault.bus.check()
                await asyncio.to_thread(proxy.heal)
                vault.write(100)
                await vault.everything_published()
            await vault.assert_everything_is_there_once_and_in_order()


async def test_a_deleted_stream_is_recreated_with_every_event(nats_url: str):
    async with open_vault(nats_url) as vault, vault.relaying(), operator(nats_url) as jetstream:
        await vault.bus.connected()
        vault.write(150)
        await until(lambda: vault.published > 50)
        await jetstream.delete_stream("RA_RECORDS")
        vault.write(100)
        await vault.settled()
        await vault.assert_everything_is_there_once_and_in_order()
        consumers = [info.name for info in await jetstream.consumers_info("RA_RECORDS")]
        assert sorted(consumers) == ["DURABLE_DEVTOOLS", "GATEWAY_FANOUT"]


async def test_a_stream_recreated_by_an_operator_receives_every_event(nats_url: str):
    async with open_vault(nats_url) as vault, vault.relaying(), operator(nats_url) as jetstream:
        await vault.bus.connected()
        vault.write(150)
        await until(lambda: vault.published > 50)
        await jetstream.delete_stream("RA_RECORDS")
        await jetstream.add_stream(name="RA_RECORDS", subjects=["cdv.records.>"])
        vault.write(100)
        await vault.settled()
        await vault.assert_everything_is_there_once_and_in_order()


@pytest.mark.parametrize(
    "options", [{}, {"keep": 20}, {"seq": 30}], ids=["all", "all but twenty", "up to the thirtieth"]
)
async def test_events_purged_between_two_runs_are_republished(nats_url: str, options: dict[str, int]):
    async with open_vault(nats_url) as vault, operator(nats_url) as jetstream:
        await vault.bus.connected()
        async with vault.relaying():
            vault.write(150)
            await vault.everything_published()
        await jetstream.purge_stream("RA_RECORDS", **options)
        async with vault.relaying():
            await vault.settled()
            vault.write(20)
            await vault.settled()
        assert sorted(await vault.held()) == sorted(vault.written)
        if not options:
            await vault.assert_everything_is_there_once_and_in_order()


async def test_events_purged_while_publishing_are_republished(nats_url: str):
    async with open_vault(nats_url) as vault, vault.relaying(), operator(nats_url) as jetstream:
        await vault.bus.connected()
        for _ in range(3):
            vault.write(100)
            await vault.more_published(20)
            await jetstream.purge_stream("RA_RECORDS")
        await vault.settled()
        assert sorted(await vault.held()) == sorted(vault.written)


async def test_a_deleted_message_is_republished(nats_url: str):
    async with open_vault(nats_url) as vault, vault.relaying(), operator(nats_url) as jetstream:
        await vault.bus.connected()
        vault.write(30)
        await vault.everything_published()
        await jetstream.delete_msg("RA_RECORDS", 5)
        await vault.settled()
        assert sorted(await vault.held()) == sorted(vault.written)


async def test_events_lost_by_restoring_an_older_copy_of_the_broker_are_republished(own_nats_server: NatsServer):
    host = own_nats_server.host
    if not isinstance(host, Process):
        pytest.skip("the files of a server in a container are out of reach")
    store, copy = host.directory / "store", host.directory / "copy"
    async with open_vault(own_nats_server.url) as vault, vault.relaying():
        await vault.bus.connected()
        vault.write(60)
        await vault.everything_published()
        await asyncio.to_thread(own_nats_server.stop)
        shutil.copytree(store, copy)
        await asyncio.to_thread(own_nats_server.start)
        vault.write(100)
        await until(lambda: vault.published > 120)
        await asyncio.to_thread(own_nats_server.kill)
        shutil.rmtree(store)
        copy.rename(store)
        vault.write(20)
        await asyncio.to_thread(own_nats_server.start)
        await vault.settled()
        await vault.assert_everything_is_there_once_and_in_order()


async def test_two_relays_publish_every_event_once_despite_connection_resets(nats_url: str):
    with FaultProxy(nats_url) as proxy:
        async with open_vault(proxy.url) as vault, vault.relaying(relays=2, batch_entries=7):
            await vault.bus.connected()
            for _ in range(3):
                vault.write(100)
                await vault.more_published(30)
                await asyncio.to_thread(proxy.cut_once)
            await vault.everything_published()
            await vault.assert_everything_is_there_once_and_in_order()


async def test_events_dropped_by_stream_limits_are_not_republished(nats_url: str):
    small = StreamSettings(max_bytes=20_000)
    async with open_vault(nats_url, settings=small) as vault, vault.relaying():
        await vault.bus.connected()
        vault.write(400)
        await vault.everything_published()
        records, _ = before = await vault.bus.streams()
        assert records.first_sequence > 1
        runs = vault.runs
        await until(lambda: vault.runs > runs + 20)
        assert [state.last_sequence for state in await vault.bus.streams()] == [state.last_sequence for state in before]
