"""Who may come in: a bounded number at once, few of them once there is a crowd, and nobody with all the places."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from cdv_http.request_state import RequestState

# Probes must get through a flood, or an orchestrator would kill what is merely busy.
NEVER_SHED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
# By Little's law, who comes in waits as long as it takes to serve those before: 256 at 1,000 a second take 256 ms. By
# the same law, a core is kept busy by as many as it can serve in the time that one takes when there is no crowd.
_PROCESSOR_SECONDS_LEAST: Final = 1 / 2_500  # ours: many creates together take less, but most are turned away meanwhile
# In `make flood`, the p95 of accepted creates was 2.8 to 5.1 times that of quiet times with 8, 1.6 to 2.7 with 4. On a
# disk that took 10 ms, 4 were 160 creates a second and 36 were 1,200. On a processor that took twice as long, 9 were
# served no faster than 4: 4.6 to 5.8 times, and 3.8.
_FEWEST: Final = 4
_JUDGED_BY: Final = 20  # ours: fewer requests say nothing of how long requests take
_FORGOTTEN: Final = 1.001  # ours, each interval: what has become slower for good is the normal in ten minutes
_INTERVAL_SECONDS: Final = 1.0  # whoever was turned away has come back by then: Retry-After says so
_SLOW_SECONDS: Final = 0.25  # ours: a body that is on its way is there by then
_CROWD_SHARE: Final = 0.1  # ours: when fewer are turned away than this, the crowd is gone


class Admission:
    """Gives out places. `most`: how many there are; nobody has more than half of them.

    A burst may take them all and is served. Once they are all taken and more want in, that is a crowd: while it lasts,
    only so many are let in as can be served at once, so that those are served as fast as ever: the more of them, the
    longer each waits for a database or a store in quiet times.

    `closing`: nobody comes in any more but over connections that are open, and each is told so with its last answer: to
    ask again on one that is closed in that very moment would fail. `monotonic`: the clock by which requests are timed;
    `thread_time`: what this thread has taken of its core.
    """

    def __init__(
        self,
        most: int,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        thread_time: Callable[[], float] = time.thread_time,
    ) -> None:
        self.closing = False
        self.monotonic = monotonic
        self._thread_time = thread_time
        self._most = most
        self._each = (most + 1) // 2
        self._limit = most
        self._under_way = 0
        self._working = 0
        self._waits: dict[_Wait, None] = {}  # the longest first; counted as work until they are slow
        self._held: Counter[str] = Counter()
        self._interval_began = self.monotonic()
        self._arrived = 0
        self._turned_away = 0
        self._crowded = False  # in the interval before
        self._served = 0
        self._work_seconds = 0.0
        self._processor_began = self._thread_time()
        self._normal_seconds: float | None = None  # that one request takes
        self._processor_seconds: float | None = None  # that one takes of the loop's core

    def enter(self, client: str) -> bool:
        """Take a place for this client, to be left again; False if there is none for it now."""
        if self.monotonic() - self._interval_began >= _INTERVAL_SECONDS:
            self._end_interval()
        self._arrived += 1
        if self._working >= self._limit and not self._someone_is_slow():
            if not self._turned_away:
                self._limit = self._enough()
            self._turned_away += 1
            return False
        if self._under_way >= self._most or not self.hold(client):
            return False
        self._under_way += 1
        self._working += 1
        return True

    def hold(self, who: str) -> bool:
        """Count the place as `who`'s too, once that is proved; False if they have half of all places already."""
        if self._held[who] >= self._each:
            return False
        self._held[who] += 1
        return True

    def leave(self, holders: list[str], seconds: float) -> None:
        """Give back a place that counts as theirs, after so long, waits for the client left out."""
        self._under_way -= 1
        self._working -= 1
        self._served += 1
        self._work_seconds += max(seconds, 0.0)
        for holder in holders:
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]

    def waiting_for_the_client(self, state: RequestState) -> _Wait:
        """Say that a request does no work, once this takes long: it keeps its place, and nobody waits for it.

        Adds the seconds that it took to the `waited_seconds` of the request's state.

        Not at once, or all who arrive together would be let in while their bodies are fetched from the server below.
        """
        return _Wait(self, self._waits, state)

    @property
    def under_way(self) -> int:
        """How many requests have a place now."""
        return self._under_way

    def slow_wait_ends(self) -> None:
        """Count as work again what was too slow to be counted."""
        self._working += 1

    def _someone_is_slow(self) -> bool:
        """Count no longer as work what has become slow; return whether that makes room."""
        until = self.monotonic() - _SLOW_SECONDS
        while self._waits:
            wait = next(iter(self._waits))
            if wait.since > until:
                break
            del self._waits[wait]
            self._working -= 1
        return self._working < self._limit

    def _enough(self) -> int:
        if self._normal_seconds is None or self._processor_seconds is None:
            return min(_FEWEST, self._most)
        busy = int(self._normal_seconds / max(self._processor_seconds, _PROCESSOR_SECONDS_LEAST))
        return min(max(busy, _FEWEST), self._most)

    def _end_interval(self) -> None:
        crowded = self._turned_away >= self._arrived * _CROWD_SHARE and self._turned_away > 0
        if not crowded:
            self._limit = self._most
        # Not of a crowd's first: it came as a burst, of which many were served together and took little each.
        if self._served >= _JUDGED_BY and crowded <= self._crowded:
            # In a crowd it is more, for those who are turned away as well; if even so it is less, the core has room.
            processor = (self._thread_time() - self._processor_began) / self._served
            self._processor_seconds = _least(self._processor_seconds, processor)
            if not crowded:
                self._normal_seconds = _least(self._normal_seconds, self._work_seconds / self._served)
        if self._served >= _JUDGED_BY or crowded:
            self._served, self._work_seconds, self._processor_began = 0, 0.0, self._thread_time()
        self._crowded = crowded
        self._interval_began, self._arrived, self._turned_away = self.monotonic(), 0, 0


def _least(before: float | None, seconds: float) -> float:
    """Return what a request takes when nothing else goes on: the least of what several took."""
    return seconds if before is None else min(before * _FORGOTTEN, seconds)


class _Wait:
    """While it is entered, a request waits for its client. Not a generator: every request does this, twice or more."""

    __slots__ = ("_admission", "_state", "_waits", "since")

    def __init__(self, admission: Admission, waits: dict[_Wait, None], state: RequestState) -> None:
        self._admission = admission
        self._waits = waits
        self._state = state
        self.since = 0.0

    def __enter__(self) -> None:
        self.since = self._admission.monotonic()
        self._waits[self] = None

    def __exit__(self, *_: object) -> None:
        self._state.waited_seconds += self._admission.monotonic() - self.since
        if self in self._waits:
            del self._waits[self]
        else:
            self._admission.slow_wait_ends()
