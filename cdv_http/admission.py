"""Who may come in: a bounded number at once, few of them once there is a crowd, and nobody with all the places."""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import Final

# Probes must get through a flood, or an orchestrator would kill what is merely busy.
NEVER_SHED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
# By Little's law, who comes in waits as long as it takes to serve those before: 256 at 1,000 a second take 256 ms. So
# many keep a process and its connections to the database busy; more would only wait for each other. In `make flood`,
# the p95 of accepted creates was 2.8 to 5.1 times that of quiet times with 8, 1.9 to 3.6 with 5, 1.7 to 3.7 with 4 (one
# of ten runs over 3).
_ENOUGH: Final = 4
_INTERVAL_SECONDS: Final = 1.0  # whoever was turned away has come back by then: Retry-After says so
_SLOW_SECONDS: Final = 0.25  # ours: a body that is on its way is there by then
_CROWD_SHARE: Final = 0.1  # ours: when fewer are turned away than this, the crowd is gone


class Admission:
    """Gives out places. `most`: how many there are; nobody has more than half of them.

    A burst may take them all and is served. Once they are all taken and more want in, that is a crowd: while it lasts,
    only so many are let in as can be served at once, so that those are served as fast as ever.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._each = (most + 1) // 2
        self._limit = most
        self._under_way = 0
        self._working = 0
        self._waits: dict[_Wait, float] = {}  # since when, the longest first; counted as work until they are slow
        self._held: Counter[str] = Counter()
        self._interval_began = monotonic()
        self._arrived = 0
        self._turned_away = 0

    def enter(self, client: str) -> bool:
        """Take a place for this client, to be left again; False if there is none for it now."""
        if monotonic() - self._interval_began >= _INTERVAL_SECONDS:
            self._end_interval()
        self._arrived += 1
        if self._working >= self._limit and not self._someone_is_slow():
            self._turned_away += 1
            self._limit = min(_ENOUGH, self._most)
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

    def leave(self, holders: list[str]) -> None:
        """Give back a place that counts as theirs."""
        self._under_way -= 1
        self._working -= 1
        for holder in holders:
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]

    def waiting_for_the_client(self) -> _Wait:
        """Say that a request does no work, once this takes long: it keeps its place, and nobody waits for it.

        Not at once, or all who arrive together would be let in while their bodies are fetched from the server below.
        """
        return _Wait(self)

    def wait_begins(self, wait: _Wait) -> None:
        self._waits[wait] = monotonic()

    def wait_ends(self, wait: _Wait) -> None:
        if self._waits.pop(wait, None) is None:  # it was slow
            self._working += 1

    def _someone_is_slow(self) -> bool:
        """Count no longer as work what has become slow; return whether that makes room."""
        until = monotonic() - _SLOW_SECONDS
        while self._waits:
            wait, since = next(iter(self._waits.items()))
            if since > until:
                break
            del self._waits[wait]
            self._working -= 1
        return self._working < self._limit

    def _end_interval(self) -> None:
        if self._turned_away < self._arrived * _CROWD_SHARE or not self._arrived:
            self._limit = self._most
        self._interval_began, self._arrived, self._turned_away = monotonic(), 0, 0


class _Wait:
    """While it is entered, a request waits for its client. Not a generator: every request does this, twice or more."""

    __slots__ = ("_admission",)

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def __enter__(self) -> None:
        self._admission.wait_begins(self)

    def __exit__(self, *_: object) -> None:
        self._admission.wait_ends(self)
