"""Writes that share a commit each get their own result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from cdv_adapters.database.batching import MAX_CONCURRENT_BATCHES, Batcher
from cdv_adapters.database.group_commit import GROUP_MAX, GROUP_MAX_BYTES, GroupCommit, Row
from cdv_core.errors import IdTaken, Unavailable

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def row(event_id: str, key: str | None = None, did: str = "did:plc:ada", value: bytes = b"{}") -> Row:
    raw = msgspec.Raw(value)
    return Row(did, "a.b.c", event_id, "cid", raw, NOW, "1.0.0", None, event_id, "subject", raw, None, key)


class Store:
    """Stores groups once `proceed` is set; refuses a group with an id in `taken`; skips keys in `answered`."""

    def __init__(self) -> None:
        self.proceed = asyncio.Event()
        self.groups: list[list[str]] = []
        self.taken: set[str] = set()
        self.refusal: Exception = IdTaken()
        self.answered: set[tuple[str, str]] = set()
        self.fails_with: Exception | None = None

    async def write(self, rows_json: bytes) -> Sequence[str]:
        rows: list[dict[str, Any]] = json.loads(rows_json)
        self.groups.append([row["event_id"] for row in rows])
        await self.proceed.wait()
        if self.fails_with is not None:
            raise self.fails_with
        if any(row["event_id"] in self.taken for row in rows):
            raise self.refusal
        fresh = [row for row in rows if row["key"] is None or (row["did"], row["key"]) not in self.answered]
        self.answered |= {(row["did"], row["key"]) for row in fresh}
        return [row["event_id"] for row in fresh]


async def all_of(group: GroupCommit, rows: Sequence[Row], store: Store) -> list[Any]:
    """Store `rows` concurrently, the first MAX_CONCURRENT_BATCHES of them alone; return their results and errors."""
    tasks = []
    for row in rows:
        tasks.append(asyncio.create_task(group.store(row)))
        while len(store.groups) < min(len(tasks), MAX_CONCURRENT_BATCHES):
            await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    store.proceed.set()
    return list(await asyncio.gather(*tasks, return_exceptions=True))


async def test_a_single_write_is_executed_immediately():
    store = Store()
    store.proceed.set()
    group = GroupCommit(store.write)
    assert [await group.store(row("1")), await group.store(row("2"))] == [True, True]
    assert store.groups == [["1"], ["2"]]


async def test_writes_that_arrive_while_others_execute_form_one_group_in_order():
    store = Store()
    names = [str(number) for number in range(10)]
    assert await all_of(GroupCommit(store.write), [row(name) for name in names], store) == [True] * 10
    assert store.groups[:MAX_CONCURRENT_BATCHES] == [[name] for name in names[:MAX_CONCURRENT_BATCHES]]
    assert store.groups[MAX_CONCURRENT_BATCHES:] == [names[MAX_CONCURRENT_BATCHES:]]


async def test_a_group_waits_for_writes_that_arrive_within_a_few_loop_iterations():
    store = Store()
    store.proceed.set()
    group = GroupCommit(store.write)

    async def one(number: int) -> bool:
        for _ in range(2 * number):  # as many loop iterations as it takes to read and validate a request
            await asyncio.sleep(0)
        return await group.store(row(str(number)))

    assert await asyncio.gather(*map(one, range(10))) == [True] * 10
    assert store.groups == [[str(number) for number in range(10)]]


async def test_a_group_runs_in_the_context_of_its_first_caller():
    caller: ContextVar[str] = ContextVar("caller")
    names: list[str] = []

    async def execute(requests: Sequence[str]) -> Sequence[str]:
        names.append(caller.get())
        await asyncio.sleep(0)
        return requests

    batcher: Batcher[str, str] = Batcher(execute, lambda: lambda _: True, max_batch_size=3)

    async def submit(name: str) -> str:
        caller.set(name)
        return await batcher.submit(name)

    callers = [str(number) for number in range(9)]
    assert await asyncio.gather(*map(submit, callers)) == callers
    assert names == ["0", "3", "6"]


async def test_a_group_is_bounded_in_rows_and_in_bytes():
    store = Store()
    await all_of(
        GroupCommit(store.write), [row(str(number)) for number in range(2 * GROUP_MAX + MAX_CONCURRENT_BATCHES)], store
    )
    assert max(map(len, store.groups)) == GROUP_MAX
    large = b'"' + b"x" * (GROUP_MAX_BYTES // 2) + b'"'
    again = Store()
    await all_of(GroupCommit(again.write), [row(str(number), value=large) for number in range(10)], again)
    assert max(map(len, again.groups)) == 2


async def test_two_writes_with_one_idempotency_key_never_share_a_group():
    store = Store()
    rows = [row("a"), row("b"), row("1", "key"), row("2", "key"), row("3", "key", did="did:plc:eve"), row("4", "other")]
    assert await all_of(GroupCommit(store.write), rows, store) == [True, True, True, False, True, True]
    assert store.groups[MAX_CONCURRENT_BATCHES:] == [["1", "3", "4"], ["2"]]


async def test_a_write_that_cannot_join_a_group_starts_before_that_group_completes():
    store = Store()
    group = GroupCommit(store.write)
    tasks = [asyncio.create_task(group.store(row(name, "key"))) for name in ("1", "2")]
    async with asyncio.timeout(30):
        while len(store.groups) < MAX_CONCURRENT_BATCHES:
            await asyncio.sleep(0)
    store.proceed.set()
    assert await asyncio.gather(*tasks) == [True, False]


@pytest.mark.parametrize("refusal", [IdTaken(), ValueError("a row that the database cannot take")])
async def test_a_refused_row_fails_only_its_own_write(refusal: Exception):
    store = Store()
    store.taken, store.refusal = {"5"}, refusal
    results = await all_of(GroupCommit(store.write), [row(str(number)) for number in range(8)], store)
    assert [type(result) for result in results] == [bool] * 5 + [type(refusal)] + [bool] * 2


@pytest.mark.parametrize("error", [Unavailable("database"), ZeroDivisionError()])
async def test_a_failure_is_raised_to_every_caller_of_the_group_and_the_next_group_runs(error: Exception):
    store = Store()
    store.fails_with = error
    group = GroupCommit(store.write)
    unhandled: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    results = await all_of(group, [row(str(number)) for number in range(6)], store)
    assert {type(result) for result in results} == {type(error)}
    store.fails_with = None
    assert await group.store(row("later"))
    assert unhandled == []


async def test_a_cancelled_caller_does_not_affect_the_others():
    store = Store()
    group = GroupCommit(store.write)
    tasks = [asyncio.create_task(group.store(row(str(number)))) for number in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[-1].cancel()
    await asyncio.sleep(0)
    store.proceed.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, bool, bool, bool, asyncio.CancelledError]
    assert "4" not in {name for group in store.groups for name in group}  # it was cancelled before it was executed


async def test_a_write_that_arrives_as_the_last_group_ends_is_still_executed():
    store = Store()
    store.proceed.set()
    group = GroupCommit(store.write)

    async def one_after_another(name: str) -> None:
        for number in range(200):
            await group.store(row(f"{name}-{number}"))

    async with asyncio.timeout(10):
        await asyncio.gather(*[one_after_another(str(name)) for name in range(7)])
