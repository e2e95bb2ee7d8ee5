"""Strings: subtypes of str, which an embedding program may pass, and lengths for messages."""

from __future__ import annotations

from typing import Final

# Not str(), which calls the subtype's __str__: for `class Kind(str, Enum)` that returns "Kind.NOTE", not "note".
plain_str: Final = str.__str__


def shortened(text: str) -> str:
    """Return at most the first hundred characters, for a message."""
    return text if len(text) <= 100 else f"{text[:100]}..."
