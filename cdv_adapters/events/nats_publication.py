"""Publishes events to JetStream in order, with many messages in flight at once.

Each message carries the last sequence number that its stream must have (Nats-Expected-Last-Sequence). If the stream
rejects a message, it rejects every later one too, and it rejects all of them if its last sequence number is not the one
that the caller saw.

Many messages are sent as one atomic batch if the stream allows that: the broker then syncs to disk once per batch
instead of once per message.
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
_MALFORMED_REPLY: Final = (ValueError, LookupError, TypeError, AttributeError)  # raised by parsing a malformed reply
_MESSAGES_PER_WRITE: Final = 50  # ours: after each write, the event loop serves requests
_BATCH_FROM: Final = 16  # ours: for a batch the broker writes files, which costs about as much as syncing 16 messages


def event_id(message_id: str) -> str:
    """Return the event's id: the message id up to the first dot. A republished message has a suffix after it."""
    return message_id.partition(".")[0]


@dataclass(slots=True)
class _StreamEnd:
    """The end of a stream. `sequence`: the sequence number of its last message."""

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
    wants_reply: bool = True


class Publication:
    """One call of `NatsEventBus.publish`, on one connection, with one deadline.

    `batching`: the names of the streams that allow atomic batches.
    """

    def __init__(self, connection: NatsConnection, timeout_seconds: float, batching: Collection[str]) -> None:
        self._connection = connection
        self._batching = batching
        self._client = connection.client
        self._deadline = asyncio.get_running_loop().time() + timeout_seconds
        self._acknowledged: dict[int, Acknowledged] = {}
        self._too_large: set[int] = set()  # entries, by their sequence

    async def publish(self, entries: Sequence[OpLogEntry], onto: Sequence[StreamState]) -> list[Acknowledged | None]:
        """Add the entries to their streams and return one acknowledgement per entry, None if it was not added.

        If a DID has events for both streams, those for one are acknowledged before those for the other are sent.
        """
        ends = [_StreamEnd(state.name, state.carries, state.last_sequence) for state in onto]
        waiting = list(entries)
        while waiting:
            sent, waiting = _split_by_stream(waiting)
            outcomes = await asyncio.gather(*(self._add(end, sent) for end in ends), return_exceptions=True)
            # Raise only after all have ended: none may still publish after the caller has released its lease.
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome
            held_up = {entry.event.did for entry in sent if entry.sequence not in self._acknowledged}
            waiting = [entry for entry in waiting if entry.event.did not in held_up]
        return [self._acknowledged.get(entry.sequence) for entry in entries]

    async def _add(self, end: _StreamEnd, sent: Sequence[OpLogEntry]) -> None:
        """Add this stream's entries in order; stop at the first that is not acknowledged.

        An entry that is too large for the stream blocks only later entries of the same DID.

        The entries are sent as an atomic batch if possible. Otherwise they are sent one by one as long as the stream
        reports duplicates, because for each duplicate it must be asked whether it still stores the message; after the
        first that is not a duplicate, all the others are sent at once.
        """
        entries = [entry for entry in sent if end.carries(entry.event)]
        if len(entries) >= _BATCH_FROM and end.name in self._batching and await self._add_batch(end, entries):
            return
        index = 0
        while index < len(entries):
            entry = entries[index]
            is_duplicate = await self._add_one(end, entry)
            if is_duplicate is None and entry.sequence not in self._too_large:
                return
            index += 1
            if is_duplicate is None:
                entries[index:] = [it for it in entries[index:] if it.event.did != entry.event.did]
            elif not is_duplicate:
                index += await self._add_all(end, entries[index:])

    async def _add_one(self, end: _StreamEnd, entry: OpLogEntry) -> bool | None:
        """Return whether the event's id is a duplicate in the stream; None if the event was not acknowledged."""
        message_id = entry.event.event_id
        while True:
            (ack,) = await self._send(end, [(entry, message_id)])
            stored_id = await self._event_id_at(end, ack.seq) if ack and ack.duplicate else None
            if ack is None or (ack.duplicate and stored_id is None):
                return None
            if not ack.duplicate:
                end.sequence = ack.seq
            if not ack.duplicate or stored_id == entry.event.event_id:
                self._acknowledged[entry.sequence] = Acknowledged(ack.seq, duplicate=ack.duplicate)
                return ack.duplicate or message_id != entry.event.event_id
            # The message was purged, but its id is still in the duplicate window: publish it under another id. Every
            # relay that finds the same duplicate derives the same new id.
            message_id = f"{entry.event.event_id}.{ack.seq}"

    async def _add_all(self, end: _StreamEnd, entries: Sequence[OpLogEntry]) -> int:
        """Send all entries; return how many, counted from the first, were acknowledged as new messages."""
        acks = await self._send(end, [(entry, entry.event.event_id) for entry in entries])
        for count, (entry, ack) in enumerate(zip(entries, acks, strict=True)):
            if ack is None or ack.duplicate:
                return count
            end.sequence = ack.seq
            self._acknowledged[entry.sequence] = Acknowledged(ack.seq)
        return len(entries)

    async def _add_batch(self, end: _StreamEnd, entries: Sequence[OpLogEntry]) -> bool:
        """Add all entries or none. Return False if the stream rejected the batch and the entries can be sent singly."""
        batch, last = self._client.new_inbox().rpartition(".")[2], len(entries) - 1
        messages = []
        for index, entry in enumerate(entries):
            headers = {"Nats-Msg-Id": entry.event.event_id, "Nats-Batch-Id": batch}
            headers["Nats-Batch-Sequence"] = str(index + 1)
            if index == 0:
                headers |= _expect_headers(end.name, end.sequence)
            if index == last:
                headers["Nats-Batch-Commit"] = "1"
            messages.append(_Message(entry.event, headers, wants_reply=index in (0, last)))
        opened, committed = await self._exchange(messages)
        try:
            _raise_rejection(opened)
            end.sequence = _ack(committed).seq
        except APIError:
            # One entry is a duplicate, or the server limits batches. Sent singly, an entry that is at fault shows.
            return False
        except nats.errors.Error as error:
            _log_rejection(end, error)
            return True
        first = end.sequence - last
        self._acknowledged |= {entry.sequence: Acknowledged(first + index) for index, entry in enumerate(entries)}
        return True

    async def _send(self, end: _StreamEnd, messages: Sequence[tuple[OpLogEntry, str]]) -> list[_Ack | None]:
        """Send all messages; return each one's acknowledgement, None if it was rejected or got no reply."""
        if not messages:
            return []
        numbered = enumerate(messages, end.sequence)
        replies = await self._exchange(
            [
                _Message(entry.event, {"Nats-Msg-Id": message_id, **_expect_headers(end.name, last)})
                for last, (entry, message_id) in numbered
            ]
        )
        acks: list[_Ack | None] = []
        for reply in replies:
            try:
                acks.append(_ack(reply))
            except nats.errors.Error as error:
                if all(acks):  # log the first failure only: the later ones follow from it
                    _log_rejection(end, error)
                if len(messages) == 1 and _is_too_large(error):
                    self._too_large.add(messages[0][0].sequence)
                acks.append(None)
        return acks

    async def _exchange(self, messages: Sequence[_Message]) -> list[Msg | nats.errors.Error]:
        """Send all messages; return for each that wants a reply the reply, or the error that kept it from arriving."""
        replies = _ReplyCollector(sum(message.wants_reply for message in messages))
        problem = nats.errors.Error("no reply within the timeout, or the connection was lost")
        inbox = self._client.new_inbox()
        remaining = max(self._deadline - asyncio.get_running_loop().time(), 0)
        reply_index = 0
        try:
            # One subscription for all replies instead of a request per event: docs/adr/012-fewer-instructions.md.
            subscription = await self._client.subscribe(f"{inbox}.*", cb=replies.receive)
            try:
                for begin in range(0, len(messages), _MESSAGES_PER_WRITE):
                    encoded = []
                    for message in messages[begin : begin + _MESSAGES_PER_WRITE]:
                        reply_to = f"{inbox}.{reply_index}" if message.wants_reply else ""
                        encoded.append(self._encoded(message, reply_to))
                        reply_index += message.wants_reply
                    await self._client.send(b"".join(encoded))
                    await asyncio.sleep(0)  # let the event loop serve requests
                await self._connection.settle([replies.complete], remaining)
            finally:
                with suppress(nats.errors.Error):  # the connection may be closed, and the subscription with it
                    await subscription.unsubscribe()
        except nats.errors.Error as error:
            problem = error
        except OSError as error:
            problem = nats.errors.Error(str(error))
        return [problem if reply is None else reply for reply in replies.messages]

    def _encoded(self, message: _Message, reply_to: str) -> bytes:
        """Return the message in wire format. Raises: MaxPayloadError: it is larger than the broker accepts."""
        event, headers = message.event, message.headers
        attributes = {"messaging.system": "nats", "messaging.destination.name": event.subject}
        parent = trace_context(event.traceparent)  # earlier versions stored it unchecked
        with span("publish", "producer", attributes, parent=parent) as publishing:
            traceparent = publishing.traceparent or parent
            if traceparent:
                headers["traceparent"] = traceparent
        # Values need no escaping: they are identifiers and numbers, without line breaks.
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"NATS/1.0\r\n{lines}\r\n".encode()
        size = len(head) + len(event.envelope)
        if size > self._client.max_payload:
            raise nats.errors.MaxPayloadError
        command = f"HPUB {event.subject} {reply_to} {len(head)} {size}\r\n".encode()
        return b"%b%b%b\r\n" % (command, head, event.envelope)

    async def _event_id_at(self, end: _StreamEnd, sequence: int) -> str | None:
        """Return the id of the event with that sequence number, "" if there is none, None if the request failed."""
        try:
            reply = await self._connection.request(self._client, f"STREAM.MSG.GET.{end.name}", {"seq": sequence})
            headers = b64decode(reply["message"].get("hdrs", "")).decode("ascii", "replace")
        except APIError as error:
            return "" if error.err_code == _MESSAGE_NOT_FOUND else None
        except (nats.errors.Error, Unavailable, *_MALFORMED_REPLY):
            return None
        for line in headers.splitlines():
            name, _, value = line.partition(":")
            if name == "Nats-Msg-Id":
                return event_id(value.strip())
        return ""


def _split_by_stream(entries: Sequence[OpLogEntry]) -> tuple[list[OpLogEntry], list[OpLogEntry]]:
    """Return the entries to send now and those to send later.

    For each DID, the first list ends before its first event for a second stream.
    """
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


class _ReplyCollector:
    """Collects `count` replies by index: the last token of a reply's subject. `complete` is done when all are there."""

    def __init__(self, count: int) -> None:
        self.messages: list[Msg | None] = [None] * count
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._missing = count

    async def receive(self, message: Msg) -> None:
        index = int(message.subject.rpartition(".")[2])
        if self.messages[index] is None:
            self.messages[index] = message
            self._missing -= 1
            if not self._missing and not self.complete.done():
                self.complete.set_result(None)


def _expect_headers(stream: str, last_sequence: int) -> dict[str, str]:
    return {"Nats-Expected-Stream": stream, "Nats-Expected-Last-Sequence": str(last_sequence)}


def _raise_rejection(reply: Msg | nats.errors.Error) -> None:
    """Return if the reply is not an error.

    Raises: NoRespondersError: there is no such stream. APIError: the stream rejected the message. Error: no reply, or
    a malformed one.
    """
    if isinstance(reply, nats.errors.Error):
        raise reply
    if reply.data:
        try:
            raise_error(json.loads(reply.data))
        except _MALFORMED_REPLY as error:
            raise nats.errors.Error("malformed reply") from error
    elif reply.headers and reply.headers.get("Status") == "503":
        raise nats.errors.NoRespondersError


def _ack(reply: Msg | nats.errors.Error) -> _Ack:
    """Return the acknowledgement. Raises: as `_raise_rejection`."""
    _raise_rejection(reply)
    assert isinstance(reply, Msg)  # noqa: S101
    try:
        parsed = json.loads(reply.data)
        return _Ack(int(parsed["seq"]), bool(parsed.get("duplicate", False)))
    except _MALFORMED_REPLY as error:
        raise nats.errors.Error("malformed reply") from error


def _is_too_large(problem: nats.errors.Error) -> bool:
    """Return whether the message exceeds the size limit of the broker or of the stream."""
    return isinstance(problem, nats.errors.MaxPayloadError) or (
        isinstance(problem, APIError) and problem.err_code == _TOO_LARGE
    )


def _log_rejection(end: _StreamEnd, problem: nats.errors.Error) -> None:
    # A wrong last sequence is expected: another relay has published. The caller reads the stream's state again.
    expected = isinstance(problem, APIError) and problem.err_code == _WRONG_LAST_SEQUENCE
    logger.log("DEBUG" if expected else "WARNING", "{} did not take an event: {}", end.name, problem)
