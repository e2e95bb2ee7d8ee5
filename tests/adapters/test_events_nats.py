"""The NATS adapter on a real server: streams, reported differences, authentication and purges."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import aclosing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from msgspec.structs import replace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from cdv_adapters import tracing
from cdv_adapters.clock.system import SystemClock
from cdv_adapters.events.nats import NatsEventBus
from cdv_adapters.events.nats_connection import NatsAccess
from cdv_adapters.events.nats_streams import StreamConfigDifference, StreamSettings
from cdv_adapters.spans import Tracing
from cdv_core.domain.events import trace_context
from cdv_core.errors import Unavailable
from cdv_core.ports.events import Acknowledged
from conformance.ports.events import DIDS, an_entry, ids_of
from tests.adapters.nats_relaying import connected, operator
from tests.servers import FaultProxy, NatsServer
from tests.servers.nats import configuration
from tests.servers.process import Process, free_port, new_directory, program


def configured(**more: object) -> NatsServer:
    """Return a new server with additional configuration."""
    port, directory = free_port(), new_directory("cdv-nats-", durable=False)
    file = directory / "nats.conf"
    file.write_text(configuration(f"127.0.0.1:{port}", str(directory / "store"), durable=False, **more), "utf-8")
    process = Process([program("nats-server", NatsServer.WHEEL), "--config", file], port=port, directory=directory)
    return NatsServer(process, f"nats://127.0.0.1:{port}")


async def test_streams_and_consumers_are_created_with_the_configured_settings(nats_url: str):
    settings = StreamSettings(
        max_age=timedelta(hours=3), max_bytes=10**7, ack_wait=timedelta(seconds=7), max_ack_pending=17
    )
    async with connected(NatsAccess(nats_url), settings) as bus, operator(nats_url) as jetstream:
        assert bus.differences == ()
        for name, subject in (("RA_RECORDS", "cdv.records.>"), ("RA_MEDIA", "cdv.media.>")):
            stream = (await jetstream.stream_info(name)).config
            assert (stream.subjects, stream.retention, stream.storage) == ([subject], "limits", "file")
            assert (stream.max_age, stream.max_bytes, stream.num_replicas) == (10_800, 10**7, 1)
            assert stream.duplicate_window == 120
            consumers = {info.name: info.config for info in await jetstream.consumers_info(name)}
            assert sorted(consumers) == ["DURABLE_DEVTOOLS", "GATEWAY_FANOUT"]
            for consumer in consumers.values():
                assert (consumer.ack_policy, consumer.ack_wait, consumer.max_ack_pending) == ("explicit", 7, 17)


async def test_a_consumer_receives_the_envelope_with_the_events_subject_and_id(nats_url: str):
    async with connected(NatsAccess(nats_url)) as bus, operator(nats_url) as jetstream:
        entry = an_entry(1)
        await bus.publish([entry], await bus.streams())
        subscription = await jetstream.pull_subscribe_bind("GATEWAY_FANOUT", stream="RA_RECORDS")
        (message,) = await subscription.fetch(1)
        assert (message.subject, message.data) == (entry.event.subject, entry.event.envelope)
        assert message.headers["Nats-Msg-Id"] == entry.event.event_id
        assert "traceparent" not in message.headers


async def test_a_consumer_receives_the_trace_context_of_the_write(nats_url: str):
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with connected(NatsAccess(nats_url)) as bus, operator(nats_url) as jetstream:
        entry = an_entry(1)
        traced = replace(entry, event=replace(entry.event, traceparent=traceparent))
        await bus.publish([traced], await bus.streams())
        subscription = await jetstream.pull_subscribe_bind("GATEWAY_FANOUT", stream="RA_RECORDS")
        (message,) = await subscription.fetch(1)
        assert message.headers["traceparent"] == traceparent


@pytest.fixture
def traced() -> Iterator[None]:
    tracing.use(Tracing(TracerProvider(), SpanProcessor()))
    yield
    tracing.use(None)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("stored", ["junk", "junk01", "00-0a-0b-01\r\nNats-Rollup: all"])
async def test_an_invalid_stored_traceparent_is_replaced_and_injects_no_header(nats_url: str, stored: str):
    async with connected(NatsAccess(nats_url)) as bus, operator(nats_url) as jetstream:
        entry = an_entry(1)
        hostile = replace(entry, event=replace(entry.event, traceparent=stored))
        assert await bus.publish([hostile], await bus.streams()) == [Acknowledged(1)]
        message = await jetstream.get_msg("RA_RECORDS", 1)
        ours = {"Nats-Msg-Id", "Nats-Expected-Stream", "Nats-Expected-Last-Sequence", "traceparent"}
        assert set(message.headers) == ours
        assert trace_context(message.headers["traceparent"])


@pytest.mark.parametrize("many", [False, True])
async def test_an_event_that_the_stream_rejects_blocks_only_its_did(nats_url: str, many: bool):
    async with connected(NatsAccess(nats_url)) as bus, operator(nats_url) as jetstream:
        config = (await jetstream.stream_info("RA_RECORDS")).config
        await jetstream.update_stream(config.evolve(max_msg_size=4096))
        entries = [an_entry(number, DIDS[number % 3]) for number in range(1, 25 if many else 7)]
        large = entries[3]
        entries[3] = replace(large, event=replace(large.event, envelope=b'{"x": "%b"}' % (b"x" * 5000)))
        answers = await bus.publish(entries, await bus.streams())
        blocked = [entry.sequence for entry, answer in zip(entries, answers, strict=True) if answer is None]
        assert blocked == [entry.sequence for entry in entries[3:] if entry.event.did == large.event.did]
        (state, _) = await bus.streams()
        assert state.last_sequence == len(entries) - len(blocked)


async def test_an_event_over_the_max_payload_is_not_acknowledged_and_later_ones_are(nats_url: str):
    async with connected(NatsAccess(nats_url)) as bus:
        first, second, third = an_entry(1), an_entry(2), an_entry(3)
        # Within the broker's limit of 1 MiB without headers, and over it with them.
        large = replace(second, event=replace(second.event, envelope=b"x" * (1024 * 1024 - 1)))
        assert await bus.publish([first, large], await bus.streams()) == [Acknowledged(1), None]
        assert await bus.publish([third], await bus.streams()) == [Acknowledged(2)]


async def test_existing_streams_and_consumers_that_differ_are_reported_and_left_unchanged(nats_url: str):
    async with operator(nats_url) as jetstream:
        await jetstream.add_stream(name="RA_MEDIA", subjects=["cdv.media.>"], max_age=60, max_msgs=5)
        async with connected(NatsAccess(nats_url)) as bus:
            pass
        await jetstream.delete_consumer("RA_RECORDS", "GATEWAY_FANOUT")
        await jetstream.add_consumer("RA_RECORDS", durable_name="GATEWAY_FANOUT", ack_policy="explicit", ack_wait=99)
        async with connected(NatsAccess(nats_url)) as bus:
            week, minute = 7 * 24 * 3600 * 10**9, 60 * 10**9
            assert set(bus.differences) == {
                StreamConfigDifference("RA_RECORDS/GATEWAY_FANOUT", "ack_wait", 30 * 10**9, 99 * 10**9),
                StreamConfigDifference("RA_MEDIA", "max_age", week, minute),
                StreamConfigDifference("RA_MEDIA", "max_bytes", 1024**3, -1),
                StreamConfigDifference("RA_MEDIA", "max_msgs", -1, 5),
                StreamConfigDifference("RA_MEDIA", "duplicate_window", 2 * minute, minute),
                StreamConfigDifference("RA_MEDIA", "allow_atomic", True, None),
            }
            assert await bus.publish([an_entry(1)], await bus.streams()) == [Acknowledged(1)]
        assert (await jetstream.stream_info("RA_MEDIA")).config.max_age == 60
        assert (await jetstream.consumer_info("RA_RECORDS", "GATEWAY_FANOUT")).config.ack_wait == 99


async def test_a_difference_names_the_stream_the_setting_and_both_values():
    difference = StreamConfigDifference("RA_MEDIA", "max_age", 3, 4)
    assert str(difference) == "RA_MEDIA: max_age is 4, not 3"


async def test_a_purged_event_is_stored_again_within_the_duplicate_window(nats_url: str):
    async with connected(NatsAccess(nats_url)) as bus, operator(nats_url) as jetstream:
        entries = [an_entry(number) for number in (1, 2, 3)]
        await bus.publish(entries, await bus.streams())
        await jetstream.purge_stream("RA_RECORDS")
        entries.append(an_entry(4))
        assert await bus.publish(entries, await bus.streams()) == [Acknowledged(number) for number in (4, 5, 6, 7)]
        # Each is now stored under a second message id, and stays the only copy.
        again = await bus.publish(entries, await bus.streams())
        assert again == [Acknowledged(number, duplicate=True) for number in (4, 5, 6, 7)]
        assert await ids_of(bus) == [(3 + entry.sequence, entry.event.event_id) for entry in entries]
        await jetstream.purge_stream("RA_RECORDS")
        assert await bus.publish(entries, await bus.streams()) == [Acknowledged(number) for number in (8, 9, 10, 11)]


async def test_message_ids_include_the_time_stored(nats_url: str):
    async with connected(NatsAccess(nats_url)) as bus:
        before = SystemClock().now()
        await bus.publish([an_entry(1)], await bus.streams())
        (state, _) = await bus.streams()
        await asyncio.sleep(0.01)
        async with aclosing(bus.message_ids(state)) as ids:
            ((_, _, stored_at),) = [item async for item in ids]
        assert state.complete_since is not None
        read_at = state.complete_since + StreamSettings().max_age
        assert before <= stored_at <= read_at


async def test_credentials_are_read_anew_for_each_connection_attempt():
    with NatsServer.from_wheel(credentials=True) as server:
        assert server.credentials_file
        good, given = server.credentials_file.read_text("ascii"), asyncio.Event()
        bad = good.replace(good.splitlines()[1], "x" * 40)

        async def credentials() -> str:
            first = not given.is_set()
            given.set()
            return bad if first else good

        async with connected(NatsAccess(server.url, credentials)) as bus:
            await bus.check()
        async with connected(NatsAccess(server.url, str(server.credentials_file))) as bus:
            await bus.check()


async def test_a_connection_without_credentials_reports_the_authorization_error():
    with NatsServer.from_wheel(credentials=True) as server:
        async with NatsEventBus(NatsAccess(server.url)) as bus, asyncio.timeout(60):
            reason = ""
            while "Authorization" not in reason:
                with pytest.raises(Unavailable) as refused:
                    await bus.check()
                reason = str(refused.value.__cause__)
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("authorization", "userinfo"),
    [({"user": "ada", "password": "p@ss/w%rd"}, "ada:p%40ss%2Fw%25rd"), ({"token": "t:k/n"}, "t%3Ak%2Fn")],
    ids=["user and password", "token"],
)
async def test_a_password_or_token_in_the_url_authenticates(authorization: dict[str, str], userinfo: str):
    with configured(authorization=authorization) as server:
        async with connected(NatsAccess(server.url.replace("//", f"//{userinfo}@"))) as bus:
            await bus.check()


async def test_a_check_right_after_opening_waits_for_the_first_connection_attempt(nats_url: str):
    async with NatsEventBus(NatsAccess(nats_url)) as bus:
        await bus.check()
    async with NatsEventBus(NatsAccess(f"nats://127.0.0.1:{free_port()}")) as bus:
        with pytest.raises(Unavailable) as refused:
            await bus.check()
        assert isinstance(refused.value.__cause__, ConnectionRefusedError)


async def test_it_connects_to_any_reachable_server_of_a_list(nats_url: str):
    async with connected(NatsAccess(f"nats://127.0.0.1:{free_port()},{nats_url}")) as bus:
        await bus.check()


async def test_a_certificate_is_accepted_with_its_configured_ca_and_rejected_without(tmp_path: Path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    ca, certificate, key = (tmp_path / f"{name}.pem" for name in ("ca", "certificate", "key"))
    authority.cert_pem.write_to_path(str(ca))
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    with NatsServer.from_wheel(tls=(certificate, key)) as server:
        async with connected(NatsAccess(server.url, tls_ca=ca)) as bus:
            await bus.check()
        async with NatsEventBus(NatsAccess(server.url)) as bus, asyncio.timeout(60):
            reason: BaseException | None = None
            while not isinstance(reason, ssl.SSLCertVerificationError):
                with pytest.raises(Unavailable) as refused:
                    await bus.check()
                reason = refused.value.__cause__
                await asyncio.sleep(0.01)


async def test_no_password_is_sent_to_a_server_without_tls():
    received = bytearray()
    gone = asyncio.Event()

    async def eavesdrop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id": "X", "version": "2.15.0", "headers": true, "max_payload": 1000000}\r\n')
        received.extend(await reader.read())
        writer.close()
        gone.set()

    listener = await asyncio.start_server(eavesdrop, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with NatsEventBus(NatsAccess(f"tls://ada:secret@127.0.0.1:{port}")), asyncio.timeout(60):
        await gone.wait()
    listener.close()
    await listener.wait_closed()
    assert bytes(received) == b""


async def test_a_hanging_broker_is_unavailable_within_a_bounded_time(nats_url: str):
    with FaultProxy(nats_url) as proxy:
        async with connected(NatsAccess(proxy.url)) as bus:
            states = await bus.streams()
            await asyncio.to_thread(proxy.hang)
            async with asyncio.timeout(30):
                with pytest.raises(Unavailable):
                    await bus.check()
            with suppress(Unavailable):  # it may have noticed already
                assert await bus.publish([an_entry(1)], states) == [None]


async def test_closing_does_not_wait_for_a_peer_that_does_not_read(nats_url: str):
    with FaultProxy(nats_url) as proxy:
        async with asyncio.timeout(30), connected(NatsAccess(proxy.url)) as bus:
            client: Any = bus._connection.client
            socket = client._transport._io_writer.transport
            await asyncio.to_thread(proxy.hang)
            while not socket.get_write_buffer_size():
                await client.publish("elsewhere", b" " * 900_000)
                await asyncio.sleep(0)
        assert socket.get_write_buffer_size() == 0


async def test_a_server_without_jetstream_is_unavailable():
    port, directory = free_port(), new_directory("cdv-nats-", durable=False)
    executable = program("nats-server", NatsServer.WHEEL)
    process = Process([executable, "--addr", "127.0.0.1", "--port", str(port)], port=port, directory=directory)
    with NatsServer(process, f"nats://127.0.0.1:{port}") as server:
        async with NatsEventBus(NatsAccess(server.url)) as bus, asyncio.timeout(60):
            reason = ""
            while "no responders" not in reason:
                with pytest.raises(Unavailable) as refused:
                    await bus.check()
                reason = str(refused.value.__cause__)
                await asyncio.sleep(0.01)


async def test_a_subject_overlap_with_another_stream_is_reported_as_the_cause(nats_url: str):
    async with operator(nats_url) as jetstream:
        await jetstream.add_stream(name="OTHER", subjects=["cdv.records.com.example.>"])
        async with NatsEventBus(NatsAccess(nats_url)) as bus, asyncio.timeout(60):
            reason = ""
            while "overlap" not in reason:
                with pytest.raises(Unavailable) as refused:
                    await bus.check()
                reason = str(refused.value.__cause__)
                await asyncio.sleep(0.01)


def test_deploy_nats_conf_is_accepted_and_enables_sync_always(tmp_path: Path):
    port, monitoring = free_port(), free_port()
    text = (Path(__file__).parents[2] / "deploy" / "nats.conf").read_text("utf-8")
    for ours, here in (("0.0.0.0:4222", f"127.0.0.1:{port}"), ("8222", str(monitoring)), ("/data", str(tmp_path))):
        assert ours in text
        text = text.replace(ours, here)
    file = tmp_path / "nats.conf"
    file.write_text(text, "utf-8")
    process = Process([program("nats-server", NatsServer.WHEEL), "--config", file], port=port, directory=tmp_path)
    with NatsServer(process, f"nats://127.0.0.1:{port}"):
        effective = httpx.get(f"http://127.0.0.1:{monitoring}/varz").json()["jetstream"]["config"]
    assert effective["sync_always"] is True
