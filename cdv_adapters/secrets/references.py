"""Secrets as settings give them: in plain text, or as a reference whose prefix names its source."""

from __future__ import annotations

import os

from cdv_adapters.secrets.env import PlainSecrets
from cdv_adapters.secrets.file import FileSecrets
from cdv_adapters.secrets.remembered import RememberedSecrets
from cdv_core.ports.secrets import SecretSource


class SecretReferences:
    """A SecretSource that passes each reference to the source for its prefix. Each source is created on first use.

    If a file or Vault becomes unavailable later, the last value that was read is used.

    `env`: CDV_ENV, which is part of the encryption context of AWS KMS ciphertexts.
    """

    def __init__(self, env: str) -> None:
        self._env = env
        self._sources: dict[str, SecretSource] = {}

    async def get(self, reference: str) -> str:
        """As the port says. Also raises: InvalidField: the source is misconfigured."""
        kind = next((prefix for prefix in ("file:", "vault:", "awskms:") if reference.startswith(prefix)), "")
        if kind not in self._sources:
            self._sources[kind] = self._source(kind)
        return await self._sources[kind].get(reference)

    def _source(self, kind: str) -> SecretSource:
        match kind:
            case "file:":
                return RememberedSecrets(FileSecrets())
            case "vault:":
                from cdv_adapters.secrets.vault import VaultSecrets

                return RememberedSecrets(VaultSecrets(os.environ))
            case "awskms:":
                from cdv_adapters.secrets.aws_kms import KmsSecrets, encryption_context

                return KmsSecrets(encryption_context(self._env))
            case _:
                return PlainSecrets()
