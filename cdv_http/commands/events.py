"""`cdv events`: print the events in the op log, follow new ones, and repair streams that have lost some."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias, TypeVar

import msgspec

from cdv_core.domain.times import format_time
from cdv_core.errors import Unavailable
from cdv_core.ports.clock import Clock
from cdv_core.ports.outbox import OpLogEntry, Outbox
from cdv_core.use_cases.reconciliation import Comparison
from cdv_core.use_cases.relay import Relay

_PAGE_ENTRIES: Final = 1000
_SEQUENCE_MAX: Final = 2**63 - 1  # the largest sequence that the databases support
_POLL_SECONDS: Final = 0.5  # ours: an event is printed this long after its commit at the latest
_LATE: Final = timedelta(seconds=30)  # ours: longer than a write takes from getting its sequence to its commit
_TIMEOUT_SECONDS: Final = 30.0  # ours: until the broker is reached and another relay finishes
_RETRY_SECONDS: Final = 0.2

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class EventsAccess:
    """What the commands need. `relay`: None if no broker is configured."""

    outbox: Outbox
    clock: Clock
    relay: Relay | None = None


OpenEvents: TypeAlias = Callable[[], AbstractAsyncContextManager[EventsAccess]]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], open_events: OpenEvents) -> None:
    """Add `events` to the subparsers. `open_events`: opens the database, and the broker if there is one."""
    parser = commands.add_parser("events", help="print or follow the events in the op log, repair streams")
    parser.add_argument("--follow", action="store_true", help="keep printing new events; without --from, only new ones")
    parser.add_argument("--from", dest="first", type=_sequence, metavar="SEQ", help="begin at this op-log sequence")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.set_defaults(run=lambda arguments: asyncio.run(print_events(arguments, open_events)))
    subcommands = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND")
    reconciling = subcommands.add_parser("reconcile", help="find what a stream has lost, and publish it again")
    reconciling.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object per line")

    def run_reconcile(arguments: argparse.Namespace) -> int:
        if arguments.follow or arguments.first is not None:
            reconciling.error("--follow and --from apply to printing events, not to reconcile")
        return asyncio.run(reconcile(arguments, open_events))

    reconciling.set_defaults(run=run_reconcile)


def _sequence(text: str) -> int:
    if not text.isdecimal() or int(text) > _SEQUENCE_MAX:
        raise argparse.ArgumentTypeError(f"not a number from 0 to {_SEQUENCE_MAX}")
    return int(text)


async def print_events(arguments: argparse.Namespace, open_events: OpenEvents) -> int:
    """Print one event per line: the present ones, or with --follow also new ones, without end."""
    async with open_events() as access:
        outbox, first = access.outbox, arguments.first
        if arguments.follow:
            entries = follow(outbox, access.clock, await end_of_log(outbox) if first is None else first - 1)
        else:
            entries = _read(outbox, 0 if first is None else first - 1)
        async with aclosing(entries):
            async for entry in entries:
                print(_as_json(entry) if arguments.json else _as_text(entry), flush=True)
    return 0


async def reconcile(
    arguments: argparse.Namespace, open_events: OpenEvents, timeout_seconds: float = _TIMEOUT_SECONDS
) -> int:
    """Compare the streams with the op log, print what was found, and publish what was missing.

    Raises: Unavailable: the broker cannot be reached, or another relay does not finish.
    """
    async with open_events() as access:
        relay = access.relay
        if relay is None:
            print("cdv: no broker is configured (CDV_NATS_URL): events stay in the op log", file=sys.stderr)
            return 1
        comparisons = await _retried(relay.reconcile, timeout_seconds)
        for comparison in comparisons:
            print(_report(comparison, as_json=arguments.json), flush=True)

        async def publish() -> bool | None:
            """Return whether nothing is left to publish; None if this run could not publish, and must be retried."""
            outcome = await relay.run_once()
            if not outcome.leased or (outcome.waiting and not outcome.published):
                return None
            return not (outcome.published or outcome.comparisons)

        if any(comparison.requeued for comparison in comparisons):
            while not await _retried(publish, timeout_seconds):
                pass
    return 0


async def follow(
    outbox: Outbox, clock: Clock, after: int, *, poll_seconds: float = _POLL_SECONDS
) -> AsyncGenerator[OpLogEntry]:
    """Yield the entries after that sequence, then new ones, without end.

    In op-log order, except that an entry that commits after others with higher sequences is yielded after them. None is
    missed: while a sequence is missing that may still be committed, the log is read again from there.
    """
    yielded: dict[int, datetime] = {}
    while True:
        position = after
        while page := await outbox.read(position, _PAGE_ENTRIES):
            position = page[-1].sequence
            for entry in page:
                if entry.sequence not in yielded:
                    yielded[entry.sequence] = entry.event.occurred_at
                    yield entry
            after = _settled(after, yielded, clock.now() - _LATE)
            yielded = {sequence: at for sequence, at in yielded.items() if sequence > after}
        await asyncio.sleep(poll_seconds)


def _settled(after: int, yielded: dict[int, datetime], before: datetime) -> int:
    """Return the sequence up to which no further entry can be committed."""
    settled = max((sequence for sequence, occurred_at in yielded.items() if occurred_at < before), default=after)
    while settled + 1 in yielded:
        settled += 1
    return settled


async def _read(outbox: Outbox, after: int) -> AsyncGenerator[OpLogEntry]:
    while page := await outbox.read(after, _PAGE_ENTRIES):
        for entry in page:
            yield entry
        after = page[-1].sequence


async def end_of_log(outbox: Outbox) -> int:
    """Return the highest sequence in the op log, found by bisection."""
    low, high = 0, 1
    while await outbox.read(high - 1, 1):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if await outbox.read(middle - 1, 1):
            low = middle
        else:
            high = middle
    return low


async def _retried(call: Callable[[], Awaitable[Result | None]], timeout_seconds: float) -> Result:
    """Call until the result is not None, and return it. Raises: Unavailable: there was none within the timeout."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    while True:
        problem = Unavailable("events")
        try:
            result = await call()
        except Unavailable as error:
            problem = error
        else:
            if result is not None:
                return result
        if loop.time() >= deadline:
            raise problem
        await asyncio.sleep(_RETRY_SECONDS)


def _as_json(entry: OpLogEntry) -> str:
    line = {
        "sequence": entry.sequence,
        "eventId": entry.event.event_id,
        "streamSequence": entry.stream_sequence,
        "event": msgspec.Raw(entry.event.envelope),
    }
    return msgspec.json.encode(line).decode()


def _as_text(entry: OpLogEntry) -> str:
    uri = msgspec.json.decode(entry.event.envelope)["payload"]["uri"]
    published = "waiting" if entry.stream_sequence is None else f"published as {entry.stream_sequence}"
    return f"{entry.sequence}  {format_time(entry.event.occurred_at)}  {entry.event.subject}  {uri}  {published}"


def _report(comparison: Comparison, *, as_json: bool) -> str:
    if as_json:
        return msgspec.json.encode(comparison).decode()
    return f"{comparison.stream}: {comparison.compared} compared, {comparison.requeued} lost and published again"
