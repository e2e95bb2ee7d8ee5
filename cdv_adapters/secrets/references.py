"""Secrets as settings give them: in plain text, or as a reference by whose prefix its source is told."""

from __future__ import annotations

import os

from cdv_adapters.secrets.env import PlainSecrets
from cdv_adapters.secrets.file import FileSecrets
from cdv_adapters.secrets.remembered import RememberedSecrets
from cdv_core.ports.secrets import SecretSource


class SecretReferences:
    """A SecretSource that passes each reference to the source of its kind, set up when it is first needed.

    A file or a Vault that is away later does not stop who runs: the last value serves.

    `env`: the environment's name, part of the context that AWS KMS ciphertexts must have been made with.
    """

    def __init__(self, env: str) -> None:
        self._env = env
        self._sources: dict[str, SecretSource] = {}

    async def get(self, reference: str) -> str:
        """As the port says. Raises also: InvalidField: the source cannot be set up."""
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
