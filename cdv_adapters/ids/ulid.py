"""ULIDs that ascend even if the clock steps back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock

from ulid import ULID, ULIDGenerator
from ulid.base32 import ENCODE as _DIGITS

from cdv_core.ports.ids import IdSource

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_RANDOM_MASK = (1 << 80) - 1


class UlidSource(IdSource):
    """Safe to share between threads. Within one millisecond, each id is the previous one plus one."""

    def __init__(self, randomness: Callable[[int], bytes] | None = None) -> None:
        """`randomness`: returns the 10 random bytes of a millisecond's first id; None: use the system's."""
        self._generator = ULIDGenerator(randomness=randomness)
        self._last_millis = -1
        self._last = ""
        self._lock = Lock()

    def new(self, at: datetime) -> str:
        millis = (at - _EPOCH) // _MILLISECOND
        with self._lock:
            if millis > self._last_millis:
                return self._begin(millis)
            # The same millisecond, or the clock has stepped back: keep the last millisecond until it has caught up.
            # Incrementing the last character gives the generator's result in a tenth of its time.
            digit = _DIGITS.find(self._last[-1]) + 1
            if digit < len(_DIGITS):
                self._last = self._last[:-1] + _DIGITS[digit]
                return self._last
            following = int.from_bytes(ULID.from_str(self._last).bytes) + 1
            if following & _RANDOM_MASK:
                self._last = str(ULID.from_int(following))
                return self._last
            # The random part has overflowed, which is possible if it started very high: use the next millisecond.
            return self._begin(self._last_millis + 1)

    def _begin(self, millis: int) -> str:
        self._last_millis, self._last = millis, str(self._generator.generate(millis))
        return self._last
