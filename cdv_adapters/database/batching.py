"""What arrives while a statement is under way goes together into the next one, and each gets an answer of its own.

docs/adr/011-group-commit.md says why.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from cdv_adapters.tracing import is_recorded
from cdv_core.errors import Unavailable

Request = TypeVar("Request")
Result = TypeVar("Result")

MAX_CONCURRENT_BATCHES: Final = (
    2  # ours: while one group waits for the disk, the next is computed; more only make groups smaller
)
_QUIET_ROUNDS: Final = 3  # ours: of the event loop, in which a request that is on its way gets here


@dataclass(slots=True)
class _Waiting(Generic[Request, Result]):
    question: Request
    result: asyncio.Future[Result]
    context: Context
    is_recorded: bool


class Batcher(Generic[Request, Result]):
    """Asks questions in groups. One that comes alone waits for no others but those that the event loop has already.

    `answer`: returns the answers in the order of the questions, or raises for all of them. `membership`: called for
    each group, gives what says of one question after the other whether it joins, of the first always; one that does not
    waits for the next group. `each_alone_after`: says of a failure of the whole group whether to ask each question once
    more, by itself; only for questions that change nothing.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Request]], Awaitable[Sequence[Result]]],
        membership: Callable[[], Callable[[Request], bool]],
        *,
        most: int,
        each_alone_after: Callable[[Unavailable], bool] = lambda _: False,
    ) -> None:
        self._each_alone_after = each_alone_after
        self._answer = answer
        self._membership = membership
        self._most = most
        self._waiting: deque[_Waiting[Request, Result]] = deque()
        self._working: set[asyncio.Task[None] | None] = set()
        self._gathering = False

    async def ask(self, question: Request) -> Result:
        """Return the answer. A caller who no longer waits for it changes nothing for the others.

        Raises: what `answer` raises: Unavailable for the whole group; anything else only for whose question it was.
        """
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(question, result, copy_context(), is_recorded()))
        self._begin()
        return await result

    def _begin(self) -> None:
        if self._waiting and not self._gathering and len(self._working) < MAX_CONCURRENT_BATCHES:
            self._gathering = True
            context = self._waiting[0].context
            self._working.add(asyncio.create_task(self._work(context), name="batch", context=context))

    async def _work(self, own: Context) -> None:
        try:
            try:
                await self._gather()
            finally:
                self._gathering = False
            group = self._next_group()
            self._begin()  # who may not join need not wait for its answer
            if group:  # or all who asked have gone
                # Logs and traces name one of those who asked: the first, or the first whose trace is recorded.
                context = next((it.context for it in group if it.is_recorded), group[0].context)
                asking = self._ask([it.question for it in group], [it.result for it in group])
                await (asking if context is own else asyncio.create_task(asking, context=context))
        finally:
            self._working.discard(asyncio.current_task())
        # In the same step as that: a question that comes now must find nobody here, or be answered.
        self._begin()

    async def _gather(self) -> None:
        """Return when as many wait as a group takes, or nobody has come for some rounds of the loop.

        A round is as long as the loop is busy, so that this takes next to no time when nothing else goes on.
        """
        quiet_rounds = 0
        while quiet_rounds < _QUIET_ROUNDS and len(self._waiting) < self._most:
            waiting = len(self._waiting)
            await asyncio.sleep(0)
            quiet_rounds = 0 if len(self._waiting) > waiting else quiet_rounds + 1

    def _next_group(self) -> list[_Waiting[Request, Result]]:
        """Take from the front of the queue; who may not join keeps their place in it."""
        group: list[_Waiting[Request, Result]] = []
        passed_over: list[_Waiting[Request, Result]] = []
        joins = self._membership()
        while self._waiting and len(group) < self._most and len(passed_over) < self._most:
            waiting = self._waiting.popleft()
            if not waiting.result.cancelled():  # or who asked has gone
                (group if joins(waiting.question) else passed_over).append(waiting)
        self._waiting.extendleft(reversed(passed_over))
        return group

    async def _ask(self, questions: Sequence[Request], results: Sequence[asyncio.Future[Result]]) -> None:
        try:
            answers = await self._answer(questions)
        except Unavailable as error:
            if len(questions) > 1 and self._each_alone_after(error):
                alone = (self._ask([question], [result]) for question, result in zip(questions, results, strict=True))
                await asyncio.gather(*alone)
                return
            # Of a write, nobody knows whether it is stored: to try again is for those who have keys.
            for result in results:
                if not result.done():
                    result.set_exception(error)
        except Exception as error:  # noqa: BLE001 - whoever's question it was raises it
            # The statement was refused as a whole. Whose fault it was is not said, so each goes alone.
            if len(questions) > 1:
                for one in range(len(questions)):
                    await self._ask(questions[one : one + 1], results[one : one + 1])
            elif not results[0].done():
                results[0].set_exception(error)
        else:
            for result, answer in zip(results, answers, strict=True):
                if not result.done():  # who asked may have gone
                    result.set_result(answer)
