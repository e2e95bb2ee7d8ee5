"""Grapheme clusters: what a reader takes for one character (Unicode, UAX 29, extended clusters)."""

from __future__ import annotations

from typing import Final

import regex

_CLUSTER: Final = regex.compile(r"\X")
# Two regional indicators are one cluster, a flag. \X goes back to the first of a run for each of them: 65,000 in one
# string, which fit into a record, took 19 s.
_FLAG: Final = regex.compile("[\U0001f1e6-\U0001f1ff]{2}")


def count_graphemes(text: str) -> int:
    """Return how many extended grapheme clusters `text` has. CR LF is one."""
    if text.isascii():
        return len(text) - text.count("\r\n")
    return sum(1 for _ in _CLUSTER.finditer(_FLAG.sub("X", text)))
