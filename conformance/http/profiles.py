"""How long to look: the profiles, and `for_all`, which runs a test on many examples and shrinks what fails."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from conformance.http.exchanges import RECORDER


class Profile(NamedTuple):
    """Examples of a cheap property, seconds to shrink one failure, seconds to wait in all for budgets to refill."""

    examples: int
    shrink_seconds: float
    wait_seconds: float


PROFILES = {
    "quick": Profile(10, 5, 130),
    "default": Profile(40, 20, 600),
    "thorough": Profile(300, 120, 7200),
}
_EVERY_MAX = 200  # a test ends when there are no more
_chosen = PROFILES["default"]


def choose(name: str) -> None:
    """Put a profile in force. To be called before any test module is imported."""
    global _chosen
    _chosen = PROFILES[name]
    settings.register_profile(
        "conformance",
        max_examples=_chosen.examples,
        deadline=None,  # the network decides
        derandomize=False,  # which Hypothesis sets where CI does, and then no seed counts
        database=None,  # what failed against one target says nothing about the next
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    settings.load_profile("conformance")


def examples(cost: int = 1) -> int:
    """Return how many examples to try of a property that costs `cost` times what a cheap one does."""
    return max(3, _chosen.examples // cost)


def for_all(
    *, cost: int = 1, every: bool = False, **strategies: SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run the test on examples of the strategies. Each example begins a new recording.

    `every`: on all examples there are, in every profile; for lists of cases, each of which somebody gets wrong.
    What is drawn must have a telling repr, and nothing may be drawn later: by its repr an example is known again.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        first_failure = 0.0
        failing: set[str] = set()

        @settings(max_examples=_EVERY_MAX if every else examples(cost))
        @given(**strategies)
        @functools.wraps(test)
        def run(*args: Any, **named: Any) -> None:
            nonlocal first_failure
            drawn = repr({name: named[name] for name in strategies})
            if first_failure and time.monotonic() > first_failure + _chosen.shrink_seconds and drawn not in failing:
                return  # enough shrunk: of what comes now only the smallest failure so far, replayed, fails
            RECORDER.begin()
            try:
                test(*args, **named)
            except AssertionError:
                first_failure = first_failure or time.monotonic()
                failing.add(drawn)
                raise

        return run

    return decorate
