"""Secrets given as they are, in the environment. For development; elsewhere the settings refuse them."""

from __future__ import annotations


class PlainSecrets:
    """A SecretSource whose references are the secrets themselves."""

    async def get(self, reference: str) -> str:
        return reference
