"""Where passwords and keys come from."""

from __future__ import annotations

from typing import Protocol


class UnusableSecret(Exception):
    """The source has a value, but it is no usable secret. The argument says why, without showing the value."""


class SecretSource(Protocol):
    async def get(self, reference: str) -> str:
        """Return the secret's present value; read again at every call, so that a rotated one is seen.

        Raises: Unavailable: the source did not answer. InvalidField: the reference cannot be read.
        """
        ...
