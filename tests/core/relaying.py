"""The harness of the relay's tests: a fake op log and fake streams under one clock."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import Did
from cdv_core.use_cases.relay import Relay, RelayOutcome
from tests.fakes.clock import FakeClock
from tests.fakes.events import FakeEventBus
from tests.fakes.ids import FakeIdSource
from tests.fakes.outbox import FakeOutbox

ADA, BOB = Did("did:example:ada"), Did("did:example:bob")
RECORD, MEDIA = "cdv.records.com.registryaccord.feed.post.created", "cdv.media.finalized"


class Harness:
    """A fake outbox and a fake bus under one clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ids = FakeIdSource()
        self.outbox = FakeOutbox()
        self.bus = FakeEventBus(self.clock)

    def write(self, did: Did = ADA, subject: str = RECORD, age: timedelta = timedelta()) -> str:
        """Commit an event and return its id."""
        moment = self.clock.now() - age
        event_id = self.ids.new(self.clock.now())
        self.outbox.append(Event(event_id, did, subject, b"{}", moment))
        return event_id

    def relay(self, batch_entries: int = 500, chunk_entries: int = 20_000) -> Relay:
        return Relay(
            self.outbox, self.bus, self.clock, self.ids, batch_entries=batch_entries, chunk_entries=chunk_entries
        )


async def drain(relay: Relay) -> list[RelayOutcome]:
    """Run until no work is left that can be done at once; return the outcome of each run."""
    outcomes = [await relay.run_once()]
    while outcomes[-1].more:
        outcomes.append(await relay.run_once())
    return outcomes


class Crash(BaseException):
    """The process has died."""


class Crashing:
    """Forwards calls to `target` until `steps` are used up; each call and each return takes one."""

    def __init__(self, target: Any, steps: list[int]) -> None:
        self._target, self._steps = target, steps

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        if name == "message_ids":
            return method

        async def call(*arguments: Any, **options: Any) -> Any:
            self._spend()
            result = await method(*arguments, **options)
            self._spend()
            return result

        return call

    def _spend(self) -> None:
        self._steps[0] -= 1
        if self._steps[0] < 0:
            raise Crash


async def run_until_crash(harness: Harness, steps: int, **options: int) -> None:
    """Run a relay whose process dies after `steps` calls and returns of its outbox and bus."""
    left = [steps]
    relay = Relay(Crashing(harness.outbox, left), Crashing(harness.bus, left), harness.clock, harness.ids, **options)
    with suppress(Crash):
        while True:
            await relay.run_once()
