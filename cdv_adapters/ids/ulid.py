"""ULIDs, ascending whatever the clock does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock

from ulid import ULIDGenerator

from cdv_core.ports.ids import IdSource

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class UlidSource(IdSource):
    """Safe to share between threads. Within one millisecond each id is the one before plus one."""

    def __init__(self, randomness: Callable[[int], bytes] | None = None) -> None:
        """`randomness`: gives the 10 random bytes of a millisecond's first id; the system's if None."""
        self._generator = ULIDGenerator(randomness=randomness)
        self._last_millis = 0
        self._lock = Lock()

    def new(self, at: datetime) -> str:
        with self._lock:
            # A clock that has stepped back stands still here until it has caught up.
            self._last_millis = max(self._last_millis, (at - _EPOCH) // _MILLISECOND)
            try:
                return str(self._generator.generate(self._last_millis))
            except ValueError:
                # The random part has run over, as it can from a very high start: borrow the next millisecond.
                self._last_millis += 1
                return str(self._generator.generate(self._last_millis))
