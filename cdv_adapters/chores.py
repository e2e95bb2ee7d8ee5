"""Work off the request path, while the vault is open."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, Literal, TypeAlias

from loguru import logger

from cdv_adapters.cancellation import cancel_and_wait
from cdv_adapters.service import Chore
from cdv_core.errors import CdvError

_BREATH_SECONDS: Final = 0.1  # ours: between two batches, so that requests come in between

Observe: TypeAlias = Callable[[Chore, Literal["done", "put off", "failed"], int], None]


@asynccontextmanager
async def doing(chores: Iterable[Chore], observe: Observe = lambda *_: None) -> AsyncGenerator[None, None]:
    """Do the chores, each at its own pace, until the block ends; what is then under way is cancelled, which is safe.

    `observe` gets each round's outcome and how much it has removed.
    """
    tasks = [asyncio.create_task(_repeat(chore, observe), name=chore.name) for chore in chores]
    try:
        yield
    finally:
        await asyncio.gather(*map(cancel_and_wait, tasks))


async def _repeat(chore: Chore, observe: Observe) -> None:
    removed = 0
    while True:
        if not chore.until_done:
            # What has removed something may find more of it, and must not fall behind those who make it.
            await (asyncio.sleep(_BREATH_SECONDS) if removed else _pause(chore))
        removed = 0
        try:
            done = await chore.do()
            removed = done if isinstance(done, int) else 0
            observe(chore, "done", removed)
            if chore.until_done:
                return
        except CdvError as error:
            observe(chore, "put off", 0)
            logger.warning("{} will be tried again: {}", chore.name, error)
        except Exception:  # noqa: BLE001 - a defect in one round must not end the rounds; it is logged whole
            observe(chore, "failed", 0)
            logger.exception("{} failed", chore.name)
        if chore.until_done:
            await _pause(chore)


async def _pause(chore: Chore) -> None:
    # Some jitter, so that replicas started together do not work at the same moments for ever.
    await asyncio.sleep(chore.every_seconds * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
