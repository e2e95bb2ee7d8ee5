"""Text of a subtype of str, which an embedding program may send, as the characters that it is made of."""

from __future__ import annotations

from typing import Final

# Not str(), which asks the value what it says of itself: of `class Kind(str, Enum)` that is "Kind.NOTE", not "note".
plain_str: Final = str.__str__
