"""What arrives while a statement is under way goes together into the next one, and each gets an answer of its own.

docs/adr/011-group-commit.md says why.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from typing import Final, Generic, TypeVar

from cdv_adapters.tracing import is_recorded
from cdv_core.errors import Unavailable

Question = TypeVar("Question")
Answer = TypeVar("Answer")

AT_ONCE: Final = 2  # ours: while one group waits for the disk, the next is computed; more only make groups smaller


class Grouping(Generic[Question, Answer]):
    """Asks questions in groups. One that comes alone does not wait for others.

    `answer`: returns the answers in the order of the questions, or raises for all of them. `membership`: called for
    each group, gives what says of one question after the other whether it joins, of the first always; one that does not
    waits for the next group.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]],
        membership: Callable[[], Callable[[Question], bool]],
        *,
        most: int,
    ) -> None:
        self._answer = answer
        self._membership = membership
        self._most = most
        self._waiting: deque[tuple[Question, asyncio.Future[Answer], Context]] = deque()
        self._working: set[asyncio.Task[None] | None] = set()

    async def ask(self, question: Question) -> Answer:
        """Return the answer. A caller who no longer waits for it changes nothing for the others.

        Raises: what `answer` raises: Unavailable for the whole group; anything else only for whose question it was.
        """
        result: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, result, copy_context()))
        if len(self._working) < AT_ONCE:
            self._working.add(asyncio.create_task(self._work(), name="grouping"))
        return await result

    async def _work(self) -> None:
        try:
            while self._waiting:
                questions, results, context = self._next_group()
                if questions:  # or all who asked have gone
                    # Logs and traces name one of those who asked, and not who asked when this task began: the first,
                    # or the first whose trace is recorded.
                    await asyncio.create_task(self._ask(questions, results), context=context)
        finally:
            # In the same step as the look at the queue: a question that comes now must find nobody here.
            self._working.discard(asyncio.current_task())

    def _next_group(self) -> tuple[list[Question], list[asyncio.Future[Answer]], Context]:
        """Take from the front of the queue; who may not join keeps their place in it."""
        questions: list[Question] = []
        results: list[asyncio.Future[Answer]] = []
        context = self._waiting[0][2]
        passed_over: list[tuple[Question, asyncio.Future[Answer], Context]] = []
        joins = self._membership()
        while self._waiting and len(questions) < self._most and len(passed_over) < self._most:
            question, result, its_context = self._waiting.popleft()
            if result.cancelled():  # who asked has gone
                continue
            if not joins(question):
                passed_over.append((question, result, its_context))
                continue
            if not questions or (is_recorded(its_context) and not is_recorded(context)):
                context = its_context
            questions.append(question)
            results.append(result)
        self._waiting.extendleft(reversed(passed_over))
        return questions, results, context

    async def _ask(self, questions: Sequence[Question], results: Sequence[asyncio.Future[Answer]]) -> None:
        try:
            answers = await self._answer(questions)
        except Unavailable as error:
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
