"""Secrets in plain text in the environment. For development: in other environments the settings reject them."""

from __future__ import annotations


class PlainSecrets:
    """A SecretSource whose references are the secrets themselves."""

    async def get(self, reference: str) -> str:
        return reference
