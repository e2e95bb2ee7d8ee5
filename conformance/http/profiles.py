"""Profiles, which set how many examples a run tries, and `for_all`, which runs a test on them and shrinks failures."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from conformance.http.exchanges import RECORDER


class Profile(NamedTuple):
    """Examples of a property of cost 1, time to shrink one failure, and wait budget of the run (see WaitBudget)."""

    examples: int
    shrink_seconds: float
    wait_seconds: float


PROFILES = {
    "quick": Profile(10, 5, 130),
    "default": Profile(40, 20, 600),
    "thorough": Profile(300, 120, 7200),
}
_EVERY_MAX = 200  # more than any finite list of cases; a test ends when all are tried
_chosen = PROFILES["default"]


def choose(name: str) -> None:
    """Activate a profile. Must be called before any test module is imported."""
    global _chosen
    _chosen = PROFILES[name]
    settings.register_profile(
        "conformance",
        max_examples=_chosen.examples,
        deadline=None,  # how long an example takes depends on the network
        derandomize=False,  # Hypothesis sets it where the variable CI is set, and then ignores the seed
        database=None,  # failing examples of one target say nothing about another
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    settings.load_profile("conformance")


def examples(cost: int = 1) -> int:
    """Return how many examples to try of a property whose examples are `cost` times as expensive as the cheapest."""
    return max(3, _chosen.examples // cost)


def for_all(
    *, cost: int = 1, every: bool = False, **strategies: SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run the test on examples of the strategies. Each example starts a new recording of exchanges.

    `every`: try all examples in every profile; for finite lists of cases that implementations get wrong one by one.
    Examples are identified by the repr of what is drawn, so that must be unambiguous, and the test may draw no more.
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
                return  # the time for shrinking is over: from here on, only examples that are known to fail may fail
            RECORDER.begin()
            try:
                test(*args, **named)
            except AssertionError:
                first_failure = first_failure or time.monotonic()
                failing.add(drawn)
                raise

        return run

    return decorate
