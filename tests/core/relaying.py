"""The harness of the relay's tests: a fake op log and fake streams under one clock."""

from __future__ import annotations

from datetime import timedelta

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
