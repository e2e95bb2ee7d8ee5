"""Runs background tasks while the vault is open."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, Literal, TypeAlias

from loguru import logger

from cdv_adapters.cancellation import cancel_and_wait
from cdv_adapters.service import BackgroundTask
from cdv_core.errors import CdvError

_BATCH_PAUSE_SECONDS: Final = 0.1  # ours: between two batches, so that requests are not held up

TaskOutcome: TypeAlias = Literal["done", "postponed", "failed"]
Observe: TypeAlias = Callable[[BackgroundTask, TaskOutcome, int], None]


@asynccontextmanager
async def run_in_background(
    tasks: Iterable[BackgroundTask], observe: Observe = lambda *_: None
) -> AsyncGenerator[None, None]:
    """Run the tasks, each at its own interval, until the block ends; then cancel those in progress, which is safe.

    `observe` is called after each run with its outcome and the number of items that it removed.
    """
    running = [asyncio.create_task(_repeat(task, observe), name=task.name) for task in tasks]
    try:
        yield
    finally:
        await asyncio.gather(*map(cancel_and_wait, running))


async def _repeat(task: BackgroundTask, observe: Observe) -> None:
    removed = 0
    while True:
        if not task.until_success:
            # There may be more items: a task must remove them faster than new ones come in.
            await (asyncio.sleep(_BATCH_PAUSE_SECONDS) if removed else _pause(task))
        removed = 0
        try:
            result = await task.run()
            removed = result if isinstance(result, int) else 0
            observe(task, "done", removed)
            if task.until_success:
                return
        except CdvError as error:
            observe(task, "postponed", 0)
            logger.warning("{} will be tried again: {}", task.name, error)
        except Exception:  # noqa: BLE001 - a bug in one run must not end the task; it is logged with its traceback
            observe(task, "failed", 0)
            logger.exception("{} failed", task.name)
        if task.until_success:
            await _pause(task)


async def _pause(task: BackgroundTask) -> None:
    # With jitter, so that replicas started together do not run in lockstep.
    await asyncio.sleep(task.interval_seconds * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
