"""Whether the dependencies are up, looked at when somebody asks and within a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from loguru import logger

from cdv_adapters.cancellation import cancel_and_wait
from cdv_adapters.service import Dependency
from cdv_core.errors import CdvError

# Ours: probes and monitors wait longer, and one that gives up on a service in trouble learns nothing.
LOOK_SECONDS: Final = 2.0


class DependencyLooks:
    """Looks at each dependency once at a time, whoever asks."""

    def __init__(self, dependencies: Iterable[Dependency]) -> None:
        self._dependencies = dependencies
        self._under_way: dict[str, asyncio.Task[bool]] = {}

    async def up(self) -> dict[str, bool]:
        """Return whether each is up, by name: one that has not answered in LOOK_SECONDS is not.

        Its look goes on by itself, so that a hundred probes of something that hangs are one call.
        """
        looks = {dependency.name: self._look(dependency) for dependency in self._dependencies}
        await asyncio.wait(looks.values(), timeout=LOOK_SECONDS)
        for name, look in looks.items():
            if not look.done():
                logger.warning("{} is down: no answer in {} s", name, LOOK_SECONDS)
        return {name: look.done() and look.result() for name, look in looks.items()}

    async def close(self) -> None:
        """Give up what is under way."""
        await asyncio.gather(*map(cancel_and_wait, self._under_way.values()))

    def _look(self, dependency: Dependency) -> asyncio.Task[bool]:
        look = self._under_way.get(dependency.name)
        if look is None or look.done():
            look = asyncio.create_task(_is_up(dependency), name=f"look at {dependency.name}")
            self._under_way[dependency.name] = look
        return look


async def _is_up(dependency: Dependency) -> bool:
    try:
        await dependency.check()
    except CdvError as error:
        logger.warning("{} is down: {}", dependency.name, error)
        return False
    except Exception:  # noqa: BLE001 - a defect in one look must not hide the others; it is logged whole
        logger.exception("whether {} is up cannot be seen", dependency.name)
        return False
    return True
