"""Convert a subtype of str, which an embedding program may pass, to a plain str of the same characters."""

from __future__ import annotations

from typing import Final

# Not str(), which calls the subtype's __str__: for `class Kind(str, Enum)` that returns "Kind.NOTE", not "note".
plain_str: Final = str.__str__
