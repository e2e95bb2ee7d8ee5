"""Cancels a task reliably."""

from __future__ import annotations

import asyncio
from typing import Any, Final

_AGAIN_SECONDS: Final = 1.0  # ours: longer than a task takes to end once it has received the cancellation


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancel the task, repeatedly if needed, and return when it has ended.

    Cancelling once is not enough: in Python 3.11, asyncio.wait_for, which libraries use, loses a cancellation that
    arrives at the moment when the awaited future completes.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_SECONDS)
