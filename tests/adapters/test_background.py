"""Background tasks continue after failures, and end when they are cancelled."""

import asyncio

import pytest

from cdv_adapters.background import run_in_background
from cdv_adapters.cancellation import cancel_and_wait
from cdv_adapters.service import BackgroundTask
from cdv_core.errors import Unavailable


async def test_a_task_is_repeated_after_an_expected_and_an_unexpected_error():
    done = asyncio.Event()
    outcomes = iter([Unavailable("database"), RuntimeError("a defect"), None])

    async def do() -> None:
        problem = next(outcomes)
        if problem is not None:
            raise problem
        done.set()

    async with asyncio.timeout(20), run_in_background([BackgroundTask("tidy up", 0.01, do)]):
        await done.wait()


async def test_a_task_that_finds_work_repeats_without_a_full_pause_until_none_is_left(monkeypatch: pytest.MonkeyPatch):
    left = 3
    found_nothing = asyncio.Event()

    async def remove_one() -> int:
        nonlocal left
        if left == 0:
            found_nothing.set()
            return 0
        left -= 1
        return 1

    paused: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        task = asyncio.current_task()
        if task is None or task.get_name() != "tidy up":  # a vault of another test in the same loop
            await sleep(seconds)
            return
        paused.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    async with asyncio.timeout(20), run_in_background([BackgroundTask("tidy up", 60, remove_one)]):
        await found_nothing.wait()
    assert [seconds < 1 for seconds in paused[:5]] == [False, True, True, True, False]


async def test_an_until_success_task_is_retried_until_it_succeeds_and_then_not_repeated():
    tries = 0

    async def do() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("object_store")

    other = asyncio.Event()

    async def wait_for_it() -> None:
        if tries >= 2:
            other.set()

    background_tasks = [
        BackgroundTask("prepare", 0.01, do, until_success=True),
        BackgroundTask("watch", 0.05, wait_for_it),
    ]
    async with asyncio.timeout(20), run_in_background(background_tasks):
        await other.wait()
    assert tries == 2


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again():
    begun, drops = asyncio.Event(), 0

    async def stubborn() -> None:
        nonlocal drops
        begun.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                drops += 1
                if drops == 2:
                    raise

    task = asyncio.create_task(stubborn())
    await begun.wait()
    async with asyncio.timeout(20):
        await cancel_and_wait(task)
    assert task.cancelled()
