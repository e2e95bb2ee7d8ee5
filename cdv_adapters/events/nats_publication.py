"""How events get into a stream: in the order in which they are sent or not at all, though many are under way at once.

Each message says which sequence its stream must have reached before it (Nats-Expected-Last-Sequence). When one is not
taken, none after it is; and nothing is taken by a stream that does not end where the caller saw it end.

Many go as one atomic batch where the stream allows that: the broker then syncs once for all of them, not once for each.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import nats.errors
from loguru import logger
from nats.aio.msg import Msg
from nats.js.errors import APIError

from cdv_adapters.events.nats_connection import NatsConnection, raise_error
from cdv_adapters.tracing import span
from cdv_core.domain.events import Event, trace_context
from cdv_core.domain.identifiers import Did
from cdv_core.errors import Unavailable
from cdv_core.ports.events import STREAMS, Acknowledged, StreamState
from cdv_core.ports.outbox import OpLogEntry

# https://github.com/nats-io/nats-server/blob/main/server/errors.json
_MESSAGE_NOT_FOUND: Final = 10037
_TOO_LARGE: Final = 10054
_WRONG_LAST_SEQUENCE: Final = 10071
_GARBAGE: Final = (ValueError, LookupError, TypeError, AttributeError)  # what reading an answer of no sense raises
_SENT_AT_ONCE: Final = 50  # ours: then requests have their turn
_BATCH_FROM: Final = 16  # ours: a batch costs the broker files of its own, as much as syncing about so many messages


def event_id(message_id: str) -> str:
    """Return the event's id: a message that had to be sent under another id has it up to the first dot."""
    return message_id.partition(".")[0]


@dataclass(slots=True)
class _End:
    """Where a stream ends: `sequence` of its last message."""

    name: str
    carries: Callable[[Event], bool]
    sequence: int


@dataclass(frozen=True, slots=True)
class _Ack:
    seq: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class _Message:
    event: Event
    headers: dict[str, str]
    answered: bool = True


class Publication:
    """One call of `publish`, on one connection, for a bounded time.

    `batching`: the names of the streams that take atomic batches.
    """

    def __init__(self, connection: NatsConnection, timeout_seconds: float, batching: Collection[str]) -> None:
        self._connection = connection
        self._batching = batching
        self._client = connection.client
        self._deadline = asyncio.get_running_loop().time() + timeout_seconds
        self._acknowledged: dict[int, Acknowledged] = {}
        self._too_large: set[int] = set()  # entries, by their sequence

    async def of(self, entries: Sequence[OpLogEntry], onto: Sequence[StreamState]) -> list[Acknowledged | None]:
        """Add the entries to their streams.

        Of a DID with events for both streams, those for one are acknowledged before those for the other are sent.
        """
        ends = [_End(state.name, state.carries, state.last_sequence) for state in onto]
        waiting = list(entries)
        while waiting:
            sent, waiting = _round(waiting)
            outcomes = await asyncio.gather(*(self._add(end, sent) for end in ends), return_exceptions=True)
            # Only now that all have ended: none may go on publishing when the caller has given up its lease.
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome
            held_up = {entry.event.did for entry in sent if entry.sequence not in self._acknowledged}
            waiting = [entry for entry in waiting if entry.event.did not in held_up]
        return [self._acknowledged.get(entry.sequence) for entry in entries]

    async def _add(self, end: _End, sent: Sequence[OpLogEntry]) -> None:
        """Add the stream's part of what is sent, until one is not acknowledged.

        One that the stream will never take, being too large, holds up only what comes after it of the same DID.
        As a batch, if it takes it. Otherwise one by one as long as the stream recognises them, for then it must be
        asked whether it still holds them; from the first that is new to it on, all at once.
        """
        entries = [entry for entry in sent if end.carries(entry.event)]
        if len(entries) >= _BATCH_FROM and end.name in self._batching and await self._add_batch(end, entries):
            return
        place = 0
        while place < len(entries):
            entry = entries[place]
            recognised = await self._add_one(end, entry)
            if recognised is None and entry.sequence not in self._too_large:
                return
            place += 1
            if recognised is None:
                entries[place:] = [it for it in entries[place:] if it.event.did != entry.event.did]
            elif not recognised:
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

    async def _add_batch(self, end: _End, entries: Sequence[OpLogEntry]) -> bool:
        """Add all of them or none. Return False if none was added, and one by one some may be."""
        batch, last = self._client.new_inbox().rpartition(".")[2], len(entries) - 1
        messages = []
        for place, entry in enumerate(entries):
            headers = {"Nats-Msg-Id": entry.event.event_id, "Nats-Batch-Id": batch}
            headers["Nats-Batch-Sequence"] = str(place + 1)
            if place == 0:
                headers |= _onto(end.name, end.sequence)
            if place == last:
                headers["Nats-Batch-Commit"] = "1"
            messages.append(_Message(entry.event, headers, answered=place in (0, last)))
        opened, committed = await self._exchange(messages)
        try:
            _raise_refusal(opened)
            end.sequence = _ack(committed).seq
        except APIError:  # it recognises one of them, or limits batches: one by one shows what is wrong, if anything
            return False
        except nats.errors.Error as error:
            _tell(end, error)
            return True
        first = end.sequence - last
        self._acknowledged |= {entry.sequence: Acknowledged(first + place) for place, entry in enumerate(entries)}
        return True

    async def _send(self, end: _End, messages: Sequence[tuple[OpLogEntry, str]]) -> list[_Ack | None]:
        """Send all of them and return what the stream says of each; None where it does not take it, or says nothing."""
        if not messages:
            return []
        numbered = enumerate(messages, end.sequence)
        answers = await self._exchange(
            [_Message(entry.event, {"Nats-Msg-Id": it, **_onto(end.name, last)}) for last, (entry, it) in numbered]
        )
        acks: list[_Ack | None] = []
        for answer in answers:
            try:
                acks.append(_ack(answer))
            except nats.errors.Error as error:
                if all(acks):  # those after the first fail because it did
                    _tell(end, error)
                if len(messages) == 1 and _is_too_large(error):
                    self._too_large.add(messages[0][0].sequence)
                acks.append(None)
        return acks

    async def _exchange(self, messages: Sequence[_Message]) -> list[Msg | nats.errors.Error]:
        """Send all of them and return what comes back of each that is answered, or why nothing does."""
        answers = _Answers(sum(message.answered for message in messages))
        problem = nats.errors.Error("no answer in time, or the connection was lost")
        inbox = self._client.new_inbox()
        remaining = max(self._deadline - asyncio.get_running_loop().time(), 0)
        place = 0
        try:
            # One subscription for all answers, and not a request for each event: docs/adr/012-fewer-instructions.md.
            subscription = await self._client.subscribe(f"{inbox}.*", cb=answers.take)
            try:
                for begin in range(0, len(messages), _SENT_AT_ONCE):
                    encoded = []
                    for message in messages[begin : begin + _SENT_AT_ONCE]:
                        encoded.append(self._encoded(message, f"{inbox}.{place}" if message.answered else ""))
                        place += message.answered
                    await self._client.send(b"".join(encoded))
                    await asyncio.sleep(0)  # requests wait meanwhile
                await self._connection.settle([answers.complete], remaining)
            finally:
                with suppress(nats.errors.Error):  # it went with the connection
                    await subscription.unsubscribe()
        except nats.errors.Error as error:
            problem = error
        except OSError as error:
            problem = nats.errors.Error(str(error))
        return [problem if answer is None else answer for answer in answers.messages]

    def _encoded(self, message: _Message, reply: str) -> bytes:
        """Return the message as it goes over the wire. Raises: MaxPayloadError: the broker takes no larger ones."""
        event, headers = message.event, message.headers
        attributes = {"messaging.system": "nats", "messaging.destination.name": event.subject}
        parent = trace_context(event.traceparent)  # code of before stored whatever it was given
        with span("publish", "producer", attributes, parent=parent) as publishing:
            traceparent = publishing.traceparent or parent
            if traceparent:
                headers["traceparent"] = traceparent
        # None of the others has a line break: they are identifiers, and numbers.
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"NATS/1.0\r\n{lines}\r\n".encode()
        size = len(head) + len(event.envelope)
        if size > self._client.max_payload:
            raise nats.errors.MaxPayloadError
        command = f"HPUB {event.subject} {reply} {len(head)} {size}\r\n".encode()
        return b"%b%b%b\r\n" % (command, head, event.envelope)

    async def _held(self, end: _End, sequence: int) -> str | None:
        """Return the id of the event at that place, "" if there is none, None if the stream does not answer."""
        try:
            answer = await self._connection.ask(self._client, f"STREAM.MSG.GET.{end.name}", {"seq": sequence})
            headers = b64decode(answer["message"].get("hdrs", "")).decode("ascii", "replace")
        except APIError as error:
            return "" if error.err_code == _MESSAGE_NOT_FOUND else None
        except (nats.errors.Error, Unavailable, *_GARBAGE):
            return None
        for line in headers.splitlines():
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


def _onto(stream: str, last_sequence: int) -> dict[str, str]:
    return {"Nats-Expected-Stream": stream, "Nats-Expected-Last-Sequence": str(last_sequence)}


def _raise_refusal(answer: Msg | nats.errors.Error) -> None:
    """Raises: NoRespondersError: there is no such stream. APIError: it says no. Error: nothing of sense came back."""
    if isinstance(answer, nats.errors.Error):
        raise answer
    if answer.data:
        try:
            raise_error(json.loads(answer.data))
        except _GARBAGE as error:
            raise nats.errors.Error("an answer of no sense") from error
    elif answer.headers and answer.headers.get("Status") == "503":
        raise nats.errors.NoRespondersError


def _ack(answer: Msg | nats.errors.Error) -> _Ack:
    """Raises: as `_raise_refusal`."""
    _raise_refusal(answer)
    assert isinstance(answer, Msg)  # noqa: S101
    try:
        said = json.loads(answer.data)
        return _Ack(int(said["seq"]), bool(said.get("duplicate", False)))
    except _GARBAGE as error:
        raise nats.errors.Error("an answer of no sense") from error


def _is_too_large(problem: nats.errors.Error) -> bool:
    """Say whether the broker takes no message, or the stream none, that is as large."""
    return isinstance(problem, nats.errors.MaxPayloadError) or (
        isinstance(problem, APIError) and problem.err_code == _TOO_LARGE
    )


def _tell(end: _End, problem: nats.errors.Error) -> None:
    # Not the stream that the caller saw: it is going to look again, and that is all.
    expected = isinstance(problem, APIError) and problem.err_code == _WRONG_LAST_SEQUENCE
    logger.log("DEBUG" if expected else "WARNING", "{} did not take an event: {}", end.name, problem)
