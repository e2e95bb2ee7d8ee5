"""Runs the relay in the background: at once after a write, with a backoff after failures."""

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

_MANY_EVENTS: Final = 16  # ours: in one batch; that is some hundreds of writes a second


@dataclass(frozen=True, slots=True)
class Pace:
    """How long the relay waits between runs.

    `idle_seconds`: when no event is waiting and no write wakes it; the next run then notices what streams have lost.
    `gather_seconds`: after a batch, so that the next one is worth its round trips. `gather_many_seconds`: after a batch
    of many events, when requests need the CPU time. `first_pause_seconds`, doubled up to `last_pause_seconds`: after a
    run that published nothing because the bus or the database is down, or another relay holds the lease.
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
    """Run the relay while the block runs. Then a run in progress is cancelled, which loses and repeats no event.

    Yields a function to call after each write: it wakes the relay, without waiting. `observe` gets every outcome, or
    None for a run that failed.
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
        woken.clear()  # before the run, which may miss a write that is made meanwhile
        outcome = await _run(relay)
        observe(outcome)
        if outcome is not None and outcome.published:
            pause = pace.first_pause_seconds
            many = (
                outcome.published >= _MANY_EVENTS and not outcome.more
            )  # if more is waiting already, there is nothing to gather
            await asyncio.sleep(pace.gather_many_seconds if many else pace.gather_seconds)
        elif outcome is None or not outcome.leased or outcome.waiting or outcome.more:
            # Do not wait for a wake-up here: while the broker is down, each write would start a run that fails.
            await asyncio.sleep(pause)
            pause = min(2 * pause, pace.last_pause_seconds)
        else:
            pause = pace.first_pause_seconds
            with suppress(TimeoutError):
                # Not wait_for: in Python 3.11 it drops a cancellation that arrives together with the wake-up.
                async with asyncio.timeout(pace.idle_seconds):
                    await woken.wait()


async def _run(relay: Relay) -> RelayOutcome | None:
    try:
        outcome = await relay.run_once()
    except CdvError as error:
        logger.debug("the relay failed and will try again: {}", error)
        return None
    except Exception:  # noqa: BLE001 - a defect must not end the relay; it is logged with its traceback
        logger.exception("relaying failed")
        return None
    for comparison in outcome.comparisons:
        logger.warning(
            "{} was recreated, restored or truncated: of {} events that it should hold, {} are lost, published again",
            comparison.stream,
            comparison.compared,
            comparison.requeued,
        )
    return outcome
