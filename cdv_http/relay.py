"""The relay in the background: at once when there has been a write, patient when there is trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from loguru import logger

from cdv_adapters.cancellation import cancel_and_wait
from cdv_core.errors import CdvError
from cdv_core.use_cases.relay import Relay, RelayOutcome

_MANY: Final = 16  # ours: some hundreds of writes a second, then


@dataclass(frozen=True, slots=True)
class Pace:
    """How long the relay rests. `idle_seconds`: when nothing waits and nobody wakes it; it then sees what streams lost.

    `gather_seconds`: after a batch, so that the next is worth its round trips; `gather_many_seconds`: after one of many
    events, when requests need the time. `first_pause_seconds`, doubled up to `last_pause_seconds`: after a run in vain,
    that is with the bus or the database down, or another relay at work.
    """

    idle_seconds: float = 5.0
    gather_seconds: float = 0.02
    gather_many_seconds: float = 0.1
    first_pause_seconds: float = 0.1
    last_pause_seconds: float = 2.0


@asynccontextmanager
async def relaying(
    relay: Relay, *, observe: Callable[[RelayOutcome | None], None] = lambda _: None, pace: Pace | None = None
) -> AsyncGenerator[Callable[[], None]]:
    """Relay while the block runs; what is then under way is cancelled, which loses and repeats nothing.

    Gives what to call after a write: it wakes the relay, at once and without waiting. `observe` gets every outcome,
    None of a run that failed.
    """
    woken = asyncio.Event()
    task = asyncio.create_task(_relay(relay, woken, observe, pace or Pace()), name="relay")
    try:
        yield woken.set
    finally:
        await cancel_and_wait(task)


async def _relay(
    relay: Relay, woken: asyncio.Event, observe: Callable[[RelayOutcome | None], None], pace: Pace
) -> None:
    pause = pace.first_pause_seconds
    while True:
        woken.clear()  # before the run: a write during it is not in it
        outcome = await _run(relay)
        observe(outcome)
        if outcome is not None and outcome.published:
            pause = pace.first_pause_seconds
            many = outcome.published >= _MANY and not outcome.more  # if there is more, no need to wait for it
            await asyncio.sleep(pace.gather_many_seconds if many else pace.gather_seconds)
        elif outcome is None or not outcome.leased or outcome.waiting or outcome.more:
            # Not to be woken: with the broker down every write would come to nothing here as well.
            await asyncio.sleep(pause)
            pause = min(2 * pause, pace.last_pause_seconds)
        else:
            pause = pace.first_pause_seconds
            with suppress(TimeoutError):
                # Not wait_for: in Python 3.11 it drops a cancellation that comes together with a wake.
                async with asyncio.timeout(pace.idle_seconds):
                    await woken.wait()


async def _run(relay: Relay) -> RelayOutcome | None:
    try:
        outcome = await relay.run_once()
    except CdvError as error:
        logger.debug("relaying will be tried again: {}", error)
        return None
    except Exception:  # noqa: BLE001 - a defect must not end the relaying; it is logged whole
        logger.exception("relaying failed")
        return None
    for comparison in outcome.comparisons:
        logger.warning(
            "{} was recreated, restored or shortened: of {} events that it should hold {} are gone and published again",
            comparison.stream,
            comparison.compared,
            comparison.requeued,
        )
    return outcome
