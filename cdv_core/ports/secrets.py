"""The source of passwords and keys."""

from __future__ import annotations

from typing import Protocol


class UnusableSecret(Exception):
    """The source has a value, but it is no usable secret. The argument says why, without showing the value."""


class SecretSource(Protocol):
    async def get(self, reference: str) -> str:
        """Return the secret's current value; read at every call, so that rotation takes effect.

        Raises: Unavailable: the source did not respond. InvalidField: the reference is malformed.
        """
        ...
