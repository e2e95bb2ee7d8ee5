"""How events get into a stream: in the order in which they are sent or not at all, though many are under way at once.

Each message says which sequence its stream must have reached before it (Nats-Expected-Last-Sequence). When one is not
taken, none after it is; and nothing is taken by a stream that does not end where the caller saw it end.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import nats.errors
from loguru import logger
from nats.aio.msg import Msg
from nats.js.errors import APIError

from cdv_adapters.events.nats_connection import NatsConnection, raise_error
from cdv_adapters.tracing import span
from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import Did
from cdv_core.errors import Unavailable
from cdv_core.ports.events import STREAMS, Acknowledged, StreamState
from cdv_core.ports.outbox import OpLogEntry

# https://github.com/nats-io/nats-server/blob/main/server/errors.json
_MESSAGE_NOT_FOUND: Final = 10037
_WRONG_LAST_SEQUENCE: Final = 10071
_SENT_AT_ONCE: Final = 50  # ours: then requests have their turn


def event_id(message_id: str) -> str:
    """Return the event's id: a message that had to be sent under another id has it up to the first dot."""
    return message_id.partition(".")[0]


@dataclass(slots=True)
class _End:
    """Where a stream ends: `sequence` of its last message."""

    name: str
    subject_prefix: str
    sequence: int


@dataclass(frozen=True, slots=True)
class _Ack:
    seq: int
    duplicate: bool


class Publication:
    """One call of `publish`, on one connection, for a bounded time."""

    def __init__(self, connection: NatsConnection, timeout_seconds: float) -> None:
        self._connection = connection
        self._client = connection.client
        self._deadline = asyncio.get_running_loop().time() + timeout_seconds
        self._acknowledged: dict[int, Acknowledged] = {}

    async def of(self, entries: Sequence[OpLogEntry], onto: Sequence[StreamState]) -> list[Acknowledged | None]:
        """Add the entries to their streams.

        Of a DID with events for both streams, those for one are acknowledged before those for the other are sent.
        """
        ends = [_End(state.name, state.subject_prefix, state.last_sequence) for state in onto]
        waiting = list(entries)
        while waiting:
            sent, waiting = _round(waiting)
            await asyncio.gather(*(self._add(end, sent) for end in ends))
            held_up = {entry.event.did for entry in sent if entry.sequence not in self._acknowledged}
            waiting = [entry for entry in waiting if entry.event.did not in held_up]
        return [self._acknowledged.get(entry.sequence) for entry in entries]

    async def _add(self, end: _End, sent: Sequence[OpLogEntry]) -> None:
        """Add the stream's part of what is sent, until one is not acknowledged.

        One by one as long as the stream recognises them, for then it must be asked whether it still holds them; from
        the first that is new to it on, all at once.
        """
        entries = [entry for entry in sent if entry.event.subject.startswith(end.subject_prefix)]
        place = 0
        while place < len(entries):
            recognised = await self._add_one(end, entries[place])
            if recognised is None:
                return
            place += 1
            if not recognised:
                place += await self._add_all(end, entries[place:])

    async def _add_one(self, end: _End, entry: OpLogEntry) -> bool | None:
        """Return whether the stream recognised the event's id; None if it did not acknowledge the event."""
        message_id = entry.event.event_id
        while True:
            (ack,) = await self._send(end, [(entry, message_id)])
            held = await self._held(end, ack.seq) if ack and ack.duplicate else None
            if ack is None or (ack.duplicate and held is None):
                return None
            if not ack.duplicate:
                end.sequence = ack.seq
            if not ack.duplicate or held == entry.event.event_id:
                self._acknowledged[entry.sequence] = Acknowledged(ack.seq, duplicate=ack.duplicate)
                return ack.duplicate or message_id != entry.event.event_id
            # Purged, and still recognised. Every relay that finds this out gives it the same new id.
            message_id = f"{entry.event.event_id}.{ack.seq}"

    async def _add_all(self, end: _End, entries: Sequence[OpLogEntry]) -> int:
        """Return how many, from the first on, were new to the stream and are acknowledged."""
        acks = await self._send(end, [(entry, entry.event.event_id) for entry in entries])
        for count, (entry, ack) in enumerate(zip(entries, acks, strict=True)):
            if ack is None or ack.duplicate:
                return count
            end.sequence = ack.seq
            self._acknowledged[entry.sequence] = Acknowledged(ack.seq)
        return len(entries)

    async def _send(self, end: _End, messages: Sequence[tuple[OpLogEntry, str]]) -> list[_Ack | None]:
        """Send all of them and return what the stream says of each; None where it does not take it, or says nothing."""
        if not messages:
            return []
        answers = _Answers(len(messages))
        problem: Exception | str = "no answer in time, or the connection was lost"
        inbox = self._client.new_inbox()
        remaining = max(self._deadline - asyncio.get_running_loop().time(), 0)
        try:
            # One subscription for all answers, and not a request for each event: docs/adr/012-fewer-instructions.md.
            subscription = await self._client.subscribe(f"{inbox}.*", cb=answers.take)
            try:
                for place, (entry, message_id) in enumerate(messages):
                    headers = {
                        "Nats-Msg-Id": message_id,
                        "Nats-Expected-Stream": end.name,
                        "Nats-Expected-Last-Sequence": str(end.sequence + place),
                    }
                    await self._publish(entry.event, f"{inbox}.{place}", headers)
                    if place % _SENT_AT_ONCE == _SENT_AT_ONCE - 1:
                        await asyncio.sleep(0)  # requests wait meanwhile
                await self._connection.settle([answers.complete], remaining)
            finally:
                with suppress(nats.errors.Error):  # it went with the connection
                    await subscription.unsubscribe()
        except (nats.errors.Error, OSError) as error:
            problem = error
        acks: list[_Ack | None] = []
        for answer in answers.messages:
            try:
                acks.append(None if answer is None else _ack(answer))
            except (nats.errors.Error, APIError) as error:
                acks.append(None)
                problem = error
            if acks[-1] is None and all(acks[:-1]):  # those after the first fail because it did
                # Not the stream that the caller saw: it is going to look again, and that is all.
                expected = isinstance(problem, APIError) and problem.err_code == _WRONG_LAST_SEQUENCE
                logger.log("DEBUG" if expected else "WARNING", "{} did not take an event: {}", end.name, problem)
        return acks

    async def _publish(self, event: Event, reply: str, headers: dict[str, str]) -> None:
        attributes = {"messaging.system": "nats", "messaging.destination.name": event.subject}
        with span("publish", "producer", attributes, parent=event.traceparent) as publishing:
            if traceparent := publishing.traceparent or event.traceparent:
                headers["traceparent"] = traceparent
            await self._client.publish(event.subject, event.envelope, reply=reply, headers=headers)

    async def _held(self, end: _End, sequence: int) -> str | None:
        """Return the id of the event at that place, "" if there is none, None if the stream does not answer."""
        try:
            answer = await self._connection.ask(self._client, f"STREAM.MSG.GET.{end.name}", {"seq": sequence})
        except APIError as error:
            return "" if error.err_code == _MESSAGE_NOT_FOUND else None
        except (nats.errors.Error, Unavailable):
            return None
        for line in b64decode(answer["message"].get("hdrs", "")).decode("ascii", "replace").splitlines():
            name, _, value = line.partition(":")
            if name == "Nats-Msg-Id":
                return event_id(value.strip())
        return ""


def _round(entries: Sequence[OpLogEntry]) -> tuple[list[OpLogEntry], list[OpLogEntry]]:
    """Return, of each DID, what comes before its first event for another stream; and the rest."""
    stream_of: dict[Did, str] = {}
    deferred: set[Did] = set()
    now: list[OpLogEntry] = []
    later: list[OpLogEntry] = []
    for entry in entries:
        did = entry.event.did
        prefix = next((it for it in STREAMS.values() if entry.event.subject.startswith(it)), "")
        if stream_of.setdefault(did, prefix) != prefix:
            deferred.add(did)
        (later if did in deferred else now).append(entry)
    return now, later


class _Answers:
    """What comes back of so many messages, by their places. `complete` is done when nothing is missing."""

    def __init__(self, count: int) -> None:
        self.messages: list[Msg | None] = [None] * count
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._missing = count

    async def take(self, message: Msg) -> None:
        place = int(message.subject.rpartition(".")[2])
        if self.messages[place] is None:
            self.messages[place] = message
            self._missing -= 1
            if not self._missing and not self.complete.done():
                self.complete.set_result(None)


def _ack(message: Msg) -> _Ack:
    """Raises: NoRespondersError: there is no such stream. APIError: it says no."""
    if not message.data and message.headers and message.headers.get("Status") == "503":
        raise nats.errors.NoRespondersError
    answer = json.loads(message.data)
    raise_error(answer)
    return _Ack(answer["seq"], answer.get("duplicate", False))
