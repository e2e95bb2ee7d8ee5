"""Grapheme clusters: user-perceived characters (Unicode UAX 29, extended grapheme clusters)."""

from __future__ import annotations

from typing import Final

import regex

_CLUSTER: Final = regex.compile(r"\X")


def count_graphemes(text: str) -> int:
    """Return the number of extended grapheme clusters in `text`. CR LF is one."""
    if text.isascii():
        return len(text) - text.count("\r\n")
    return sum(1 for _ in _CLUSTER.finditer(text))
