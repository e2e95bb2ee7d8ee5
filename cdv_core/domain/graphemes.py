"""Grapheme clusters: what a reader takes for one character (Unicode, UAX 29, extended clusters)."""

from __future__ import annotations

from typing import Final

import regex

_CLUSTER: Final = regex.compile(r"\X")


def count_graphemes(text: str) -> int:
    """Return how many extended grapheme clusters `text` has. CR LF is one."""
    if text.isascii():
        return len(text) - text.count("\r\n")
    return sum(1 for _ in _CLUSTER.finditer(text))
