"""The event bus on NATS JetStream. Connecting, publishing and stream settings are in the modules beside this one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import Any, Final, Self

import nats.errors
from loguru import logger
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError

from cdv_adapters.events.nats_connection import API_TIMEOUT_SECONDS, NatsAccess, NatsConnection
from cdv_adapters.events.nats_publication import Publication, event_id
from cdv_adapters.events.nats_streams import (
    CONSUMERS,
    StreamConfigDifference,
    StreamSettings,
    differences,
    stream_state,
)
from cdv_adapters.tracing import span
from cdv_core.errors import Unavailable
from cdv_core.ports.events import STREAMS, Acknowledged, EventBus, StreamMessage, StreamState
from cdv_core.ports.outbox import OpLogEntry

PUBLISH_TIMEOUT_SECONDS: Final = 5.0  # ours: for one call, however many entries
_FETCH_MAX: Final = 1000
_READER_INACTIVE_SECONDS: Final = 60.0  # ours: the server deletes a consumer that was left behind after this time

# https://github.com/nats-io/nats-server/blob/main/server/errors.json
_CONSUMER_NOT_FOUND: Final = 10014
_STREAM_NOT_FOUND: Final = 10059
_FIRST_WITH_BATCHES: Final = (2, 12)


class NatsEventBus(EventBus):
    """Publishes to the streams RA_RECORDS and RA_MEDIA. Creates them and their consumers if they do not exist.

    As a context manager it keeps a connection in the background while the block runs; the broker may be down at first.
    Existing streams and consumers with other settings are not changed, but listed in `differences`. Requires NATS 2.10
    or newer.
    """

    def __init__(
        self,
        access: NatsAccess,
        settings: StreamSettings | None = None,
        *,
        publish_timeout_seconds: float = PUBLISH_TIMEOUT_SECONDS,
    ) -> None:
        self._settings = settings or StreamSettings()
        self._timeout_seconds = publish_timeout_seconds
        self._connection = NatsConnection(access, self._verify, f"STREAM.INFO.{next(iter(STREAMS))}")
        self._batching: frozenset[str] = frozenset()
        self.differences: tuple[StreamConfigDifference, ...] = ()

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._connection.__aexit__(*exception)

    async def connected(self) -> None:
        """Return when there is a connection and the streams have been verified, without a time limit."""
        await self._connection.ready()

    async def check(self) -> None:
        """Return when JetStream has answered for each stream. Raises: Unavailable: it did not within seconds."""
        with suppress(TimeoutError):  # just after opening, the first connection attempt may still be running
            async with asyncio.timeout(API_TIMEOUT_SECONDS):
                await self._connection.tried()
        await self.streams()

    async def publish(self, entries: Sequence[OpLogEntry], onto: Sequence[StreamState]) -> list[Acknowledged | None]:
        with span(
            "publish a batch", attributes={"messaging.system": "nats", "messaging.batch.message_count": len(entries)}
        ):
            return await Publication(self._connection, self._timeout_seconds, self._batching).publish(entries, onto)

    async def streams(self) -> list[StreamState]:
        client = self._connection.client
        with _translated():
            try:
                infos = await self._infos(client)
            except APIError as error:
                if error.err_code != _STREAM_NOT_FOUND:
                    raise
                await self._verify(client)
                infos = await self._infos(client)
            self._batching = frozenset(info["config"]["name"] for info in infos if info["config"].get("allow_atomic"))
            return [stream_state(info) for info in infos]

    async def message_ids(self, stream: StreamState, after: int = 0) -> AsyncGenerator[StreamMessage]:
        async with aclosing(self._messages(stream, after, headers_only=True)) as messages:
            async for message in messages:
                metadata, message_id = message.metadata, (message.headers or {}).get("Nats-Msg-Id", "")
                yield StreamMessage(metadata.sequence.stream, event_id(message_id), metadata.timestamp)

    async def envelopes(self, stream: StreamState, after: int) -> AsyncGenerator[bytes]:
        """Yield the envelopes of the events whose ids `message_ids` yields. Raises: Unavailable."""
        async with aclosing(self._messages(stream, after, headers_only=False)) as messages:
            async for message in messages:
                yield message.data

    async def _messages(self, stream: StreamState, after: int, *, headers_only: bool) -> AsyncGenerator[Msg]:
        jetstream = self._connection.client.jetstream(timeout=API_TIMEOUT_SECONDS)
        reader = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            ack_policy=AckPolicy.NONE,
            headers_only=headers_only,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=_READER_INACTIVE_SECONDS,
        )
        with _translated():
            subscription = await jetstream.pull_subscribe(
                f"{stream.subject_prefix}>", stream=stream.name, config=reader
            )
            info = await subscription.consumer_info()
        delivered, pending = 0, info.num_pending
        try:
            while pending:
                with _translated():
                    messages = await subscription.fetch(_FETCH_MAX, timeout=API_TIMEOUT_SECONDS)
                for message in messages:
                    sequence, pending = message.metadata.sequence, message.metadata.num_pending
                    delivered += 1
                    if sequence.consumer != delivered:
                        # A message was lost between server and client. Skipped, it would look as if the stream had
                        # lost it.
                        raise Unavailable("events")
                    if sequence.stream > stream.last_sequence:
                        return
                    yield message
        finally:
            with suppress(nats.errors.Error, OSError, TimeoutError):
                await subscription.unsubscribe()
                await jetstream.delete_consumer(stream.name, info.name)

    async def _infos(self, client: Client) -> list[dict[str, Any]]:
        return list(
            await asyncio.gather(*(self._connection.request(client, f"STREAM.INFO.{name}") for name in STREAMS))
        )

    async def _verify(self, client: Client) -> None:
        """Create the streams and consumers that do not exist, and compare the others with their configuration."""
        found: list[StreamConfigDifference] = []
        for name in STREAMS:
            wanted = self._settings.stream(name, batching=_supports_batches(client))
            info = await self._existing(client, f"STREAM.INFO.{name}", _STREAM_NOT_FOUND)
            info = info or await self._connection.request(client, f"STREAM.CREATE.{name}", wanted)
            found += differences(name, wanted, info["config"])
            for consumer in CONSUMERS:
                wanted = self._settings.consumer(consumer)
                request = {"stream_name": name, "config": wanted, "action": "create"}
                info = await self._existing(client, f"CONSUMER.INFO.{name}.{consumer}", _CONSUMER_NOT_FOUND)
                info = info or await self._connection.request(client, f"CONSUMER.CREATE.{name}.{consumer}", request)
                found += differences(f"{name}/{consumer}", wanted, info["config"])
        for difference in set(found) - set(self.differences):
            logger.warning("a setting in NATS differs from the configuration and is not changed: {}", difference)
        self.differences = tuple(found)

    async def _existing(self, client: Client, subject: str, not_found: int) -> dict[str, Any] | None:
        try:
            return await self._connection.request(client, subject)
        except APIError as error:
            if error.err_code != not_found:
                raise
            return None


def _supports_batches(client: Client) -> bool:
    version = client.connected_server_version
    return (version.major, version.minor) >= _FIRST_WITH_BATCHES


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except asyncio.CancelledError as error:
        # nats-py cancels calls that wait on a connection that closes. Only a cancellation of this task is passed on.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Unavailable("events") from error
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise Unavailable("events") from error
