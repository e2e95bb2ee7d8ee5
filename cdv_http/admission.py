"""Admission control: bounds the requests in flight, tightens the bound under overload, and caps each client's share."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from cdv_http.request_state import RequestState

# Probes must be served during a flood, or an orchestrator would restart a process that is merely busy.
NEVER_SHED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
# By Little's law, a new request waits as long as it takes to serve those in flight: 256 at 1,000 a second take 256 ms.
# By the same law, a core is kept busy by as many requests as it can serve in the time that one takes without overload.
_CPU_SECONDS_MIN: Final = 1 / 2_500  # ours: many creates together take less, but most are shed meanwhile
# In `make flood`, the p95 of admitted creates was 2.8 to 5.1 times the unloaded p95 with a limit of 8, and 1.6 to 2.7
# times with 4. On a disk that took 10 ms, a limit of 4 allowed 160 creates a second and 36 allowed 1,200. On
# a processor half as fast, a limit of 9 served no more requests than 4: p95 4.6 to 5.8 times the unloaded one, and 3.8.
_LIMIT_MIN: Final = 4
_SAMPLES_MIN: Final = 20  # ours: fewer requests say nothing about how long requests take
_BASELINE_DECAY: Final = 1.001  # ours, per interval: a lasting slowdown becomes the baseline within about ten minutes
_INTERVAL_SECONDS: Final = 1.0  # rejected clients have retried by then: the Retry-After of the 503 is one second
_SLOW_SECONDS: Final = 0.25  # ours: a body that is being sent has arrived by then
_OVERLOAD_SHARE: Final = 0.1  # ours: overload is over when a smaller share of the requests is shed


class Admission:
    """Hands out slots, one per request in flight.

    `max_in_flight`: the number of slots. No client and no subject may hold more than half of them.

    A burst may take every slot. When all slots are taken and another request arrives, that is overload: until it is
    over, only as many requests are admitted as keep the core busy, so that they are served almost as fast as without
    overload. The longer a request waits for a database or a store without overload, the higher that limit.

    `closing`: the process is draining. It accepts no new connections, and every response on an existing one carries
    `Connection: close`: a client that reused a connection while it is being closed would see its request fail.

    `monotonic`: the clock that requests are timed by. `thread_time`: the CPU time that this thread has used.
    """

    def __init__(
        self,
        max_in_flight: int,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        thread_time: Callable[[], float] = time.thread_time,
    ) -> None:
        self.closing = False
        self.monotonic = monotonic
        self._thread_time = thread_time
        self._max_in_flight = max_in_flight
        self._max_per_holder = (max_in_flight + 1) // 2
        self._limit = max_in_flight  # of the active requests; lowered during overload
        self._in_flight = 0
        self._active = 0  # in flight, without those that have waited for their client for _SLOW_SECONDS
        self._waits: dict[_Wait, None] = {}  # the longest first; these still count as active
        self._slow_waits: dict[_Wait, None] = {}  # the longest first; these do not
        self._slots_held: Counter[str] = Counter()
        self._interval_began = self.monotonic()
        self._arrived = 0
        self._shed = 0
        self._was_overloaded = False  # in the previous interval
        self._completed = 0
        self._latency_sum_seconds = 0.0
        self._cpu_began = self._thread_time()
        self._baseline_latency_seconds: float | None = None  # per request
        self._baseline_cpu_seconds: float | None = None  # per request, of the event loop's thread

    def enter(self, client: str) -> bool:
        """Take a slot for this client, to be returned with `leave`; False if the request must be shed."""
        if self.monotonic() - self._interval_began >= _INTERVAL_SECONDS:
            self._end_interval()
        self._arrived += 1
        if self._active >= self._limit and not self._discount_slow_waits():
            if not self._shed:
                self._limit = self._overload_limit()
            self._shed += 1
            return False
        if not self.claim_for(client):
            return False
        if self._in_flight >= self._max_in_flight and not self._end_longest_wait():
            self._release(client)
            return False
        self._in_flight += 1
        self._active += 1
        return True

    def claim_for(self, holder: str) -> bool:
        """Count a slot that is already taken against `holder` too; False if it holds half of all slots already.

        `holder`: the client's address, and after authentication also the token's subject.
        """
        if self._slots_held[holder] >= self._max_per_holder:
            return False
        self._slots_held[holder] += 1
        return True

    def leave(self, holders: list[str], seconds: float) -> None:
        """Return a slot that counts against `holders`. `seconds`: how long it was used, less waits for the client."""
        self._in_flight -= 1
        self._active -= 1
        self._completed += 1
        self._latency_sum_seconds += max(seconds, 0.0)
        for holder in holders:
            self._release(holder)

    def waiting_for_the_client(self, state: RequestState) -> _Wait:
        """Return a block that a request enters while it waits for its client; adds the time to `state.waited_seconds`.

        A request that waits for _SLOW_SECONDS keeps its slot but is no longer active, so that another may be admitted.
        It stays active until then: otherwise all requests of a burst would be admitted while their bodies are being
        fetched from the server.
        """
        return _Wait(self, self._waits, state)

    @property
    def in_flight(self) -> int:
        """How many requests hold a slot now."""
        return self._in_flight

    def slow_wait_ends(self, wait: _Wait) -> None:
        """Count a request as active again, after a wait that was discounted."""
        self._slow_waits.pop(wait, None)
        self._active += 1

    def _release(self, holder: str) -> None:
        self._slots_held[holder] -= 1
        if not self._slots_held[holder]:
            del self._slots_held[holder]

    def _end_longest_wait(self) -> bool:
        """End the request that has waited for its client for the longest time; False if none has for _SLOW_SECONDS.

        Otherwise the clients of two addresses could take all slots, send nothing, and lock everybody out. The slot of
        the ended request becomes free in a moment, so that the bound is exceeded until then.
        """
        self._discount_slow_waits()
        while self._slow_waits:
            wait = next(iter(self._slow_waits))
            del self._slow_waits[wait]
            if wait.state.end is not None:
                wait.state.end()
                return True
        return False

    def _discount_slow_waits(self) -> bool:
        """Stop counting requests whose wait has become slow as active; return whether that makes room for another."""
        slow_since = self.monotonic() - _SLOW_SECONDS
        while self._waits:
            wait = next(iter(self._waits))
            if wait.since > slow_since:
                break
            del self._waits[wait]
            self._slow_waits[wait] = None
            self._active -= 1
        return self._active < self._limit

    def _overload_limit(self) -> int:
        """Return how many active requests keep the core busy."""
        if self._baseline_latency_seconds is None or self._baseline_cpu_seconds is None:
            return min(_LIMIT_MIN, self._max_in_flight)
        busy = int(self._baseline_latency_seconds / max(self._baseline_cpu_seconds, _CPU_SECONDS_MIN))
        return min(max(busy, _LIMIT_MIN), self._max_in_flight)

    def _end_interval(self) -> None:
        overloaded = self._shed >= self._arrived * _OVERLOAD_SHARE and self._shed > 0
        if not overloaded:
            self._limit = self._max_in_flight
        # The first interval of an overload is not measured: it began as a burst, of which many were served together
        # and took little CPU time each.
        if self._completed >= _SAMPLES_MIN and overloaded <= self._was_overloaded:
            # Under overload this includes the CPU time of the shed requests; if the result is still below the baseline,
            # the core has capacity to spare.
            cpu_seconds = (self._thread_time() - self._cpu_began) / self._completed
            self._baseline_cpu_seconds = _baseline(self._baseline_cpu_seconds, cpu_seconds)
            if not overloaded:
                latency_seconds = self._latency_sum_seconds / self._completed
                self._baseline_latency_seconds = _baseline(self._baseline_latency_seconds, latency_seconds)
        if self._completed >= _SAMPLES_MIN or overloaded:
            self._completed, self._latency_sum_seconds, self._cpu_began = 0, 0.0, self._thread_time()
        self._was_overloaded = overloaded
        self._interval_began, self._arrived, self._shed = self.monotonic(), 0, 0


def _baseline(previous: float | None, measured: float) -> float:
    """Return what a request takes in an otherwise idle process: the least of what was measured, slowly forgotten."""
    return measured if previous is None else min(previous * _BASELINE_DECAY, measured)


class _Wait:
    """The block of `waiting_for_the_client`. No generator, which is slower: every request enters several of these."""

    __slots__ = ("_admission", "_waits", "since", "state")

    def __init__(self, admission: Admission, waits: dict[_Wait, None], state: RequestState) -> None:
        self._admission = admission
        self._waits = waits
        self.state = state
        self.since = 0.0

    def __enter__(self) -> None:
        self.since = self._admission.monotonic()
        self._waits[self] = None

    def __exit__(self, *_: object) -> None:
        self.state.waited_seconds += self._admission.monotonic() - self.since
        if self in self._waits:
            del self._waits[self]
        else:
            self._admission.slow_wait_ends(self)
