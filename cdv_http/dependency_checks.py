"""Whether the dependencies are up, checked on demand and within a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from loguru import logger

from cdv_adapters.cancellation import cancel_and_wait
from cdv_adapters.service import Dependency
from cdv_core.errors import CdvError

CHECK_TIMEOUT_SECONDS: Final = 2.0  # ours: shorter than probes and monitors wait, so that they get an answer


class DependencyChecks:
    """Checks each dependency at most once at a time, however many callers ask."""

    def __init__(self, dependencies: Iterable[Dependency]) -> None:
        self._dependencies = dependencies
        self._running: dict[str, asyncio.Task[bool]] = {}

    async def statuses(self) -> dict[str, bool]:
        """Return whether each dependency is up, by name: one that does not answer in CHECK_TIMEOUT_SECONDS is down.

        Its check continues and is shared with later callers: a hundred probes of a hanging dependency make one call.
        """
        checks = {dependency.name: self._check(dependency) for dependency in self._dependencies}
        await asyncio.wait(checks.values(), timeout=CHECK_TIMEOUT_SECONDS)
        for name, check in checks.items():
            if not check.done():
                logger.warning("{} is down: no answer in {} s", name, CHECK_TIMEOUT_SECONDS)
        return {name: check.done() and check.result() for name, check in checks.items()}

    async def close(self) -> None:
        """Cancel the checks that are still running."""
        await asyncio.gather(*map(cancel_and_wait, self._running.values()))

    def _check(self, dependency: Dependency) -> asyncio.Task[bool]:
        check = self._running.get(dependency.name)
        if check is None or check.done():
            check = asyncio.create_task(_is_up(dependency), name=f"check {dependency.name}")
            self._running[dependency.name] = check
        return check


async def _is_up(dependency: Dependency) -> bool:
    try:
        await dependency.check()
    except CdvError as error:
        logger.warning("{} is down: {}", dependency.name, error)
        return False
    except Exception:  # noqa: BLE001 - a defect in one check must not hide the others; it is logged with its traceback
        logger.exception("the check of {} failed", dependency.name)
        return False
    return True
