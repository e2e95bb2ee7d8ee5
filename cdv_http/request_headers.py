"""A request's headers, indexed by name once per request."""

from __future__ import annotations

from collections.abc import Iterable


class RequestHeaders:
    """Headers by lower-case name; values are the bytes that the client sent."""

    __slots__ = ("_by_name", "_pairs")

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._pairs = list(pairs)
        self._by_name = dict(self._pairs)

    def __contains__(self, name: bytes) -> bool:
        return name in self._by_name

    def every(self, name: bytes) -> list[bytes]:
        """Return the values of all headers of that name, in the order sent; [] if there is none."""
        if name not in self._by_name:
            return []
        if len(self._by_name) == len(self._pairs):  # the usual case: no name is repeated
            return [self._by_name[name]]
        return [value for each, value in self._pairs if each == name]

    def only(self, name: bytes) -> bytes | None:
        """Return the value of the only header of that name; None if there is none, or more than one."""
        values = self.every(name)
        return values[0] if len(values) == 1 else None

    def last(self, name: bytes, default: bytes = b"") -> bytes:
        """Return the value of the last header of that name."""
        return self._by_name.get(name, default)

    def content_length(self) -> int:
        """Return the Content-Length; -1 if there is none, or no number. More than 20 digits are cut off."""
        value = self.last(b"content-length")
        return int(value[:20]) if value.isdigit() else -1

    def has_known_length(self) -> bool:
        """Return whether the length of the body is known before it has arrived."""
        return b"transfer-encoding" not in self._by_name and self.content_length() >= 0
