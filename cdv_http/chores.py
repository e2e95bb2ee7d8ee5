"""Work off the request path, while the service is open."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from loguru import logger

from cdv_adapters.service import Chore
from cdv_core.errors import CdvError
from cdv_http.metrics import chore_items_total, chores_total

_BREATH_SECONDS: Final = 0.1  # ours: between two batches, so that requests come in between


@asynccontextmanager
async def doing(chores: Iterable[Chore]) -> AsyncGenerator[None, None]:
    """Do the chores, each at its own pace, until the block ends; what is then under way is cancelled, which is safe."""
    tasks = [asyncio.create_task(_repeat(chore), name=chore.name) for chore in chores]
    try:
        yield
    finally:
        await asyncio.gather(*map(end, tasks))


async def end(task: asyncio.Task[None]) -> None:
    """Cancel the task until it has ended: in Python 3.11 a wait may drop a cancellation, psycopg_pool's for one."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=1)


async def _repeat(chore: Chore) -> None:
    done: object = None
    while True:
        if not chore.until_done:
            # What has removed something may find more of it, and must not fall behind those who make it.
            await (asyncio.sleep(_BREATH_SECONDS) if isinstance(done, int) and done else _pause(chore))
        done = None
        try:
            done = await chore.do()
            chores_total.labels(chore.name, "done").inc()
            if isinstance(done, int):
                chore_items_total.labels(chore.name).inc(done)
            if chore.until_done:
                return
        except CdvError as error:
            chores_total.labels(chore.name, "put off").inc()
            logger.warning("{} will be tried again: {}", chore.name, error)
        except Exception:  # noqa: BLE001 - a defect in one round must not end the rounds; it is logged whole
            chores_total.labels(chore.name, "failed").inc()
            logger.exception("{} failed", chore.name)
        if chore.until_done:
            await _pause(chore)


async def _pause(chore: Chore) -> None:
    # Some jitter, so that replicas started together do not work at the same moments for ever.
    await asyncio.sleep(chore.every_seconds * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
