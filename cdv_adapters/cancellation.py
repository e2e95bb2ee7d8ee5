"""End a task, whatever it waits for."""

from __future__ import annotations

import asyncio
from typing import Any, Final

_AGAIN_SECONDS: Final = 1.0  # ours: longer than a task needs that has heard its cancellation


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancel the task until it has ended.

    Once is not enough: asyncio.wait_for, which libraries wait with, drops a cancellation in Python 3.11 that comes in
    the moment that what it waits for is done.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_SECONDS)
