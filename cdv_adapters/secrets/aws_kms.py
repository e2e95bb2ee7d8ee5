"""Secrets encrypted with a key in AWS KMS: `awskms:<base64 ciphertext>`. Needs the extra `aws`.

Credentials, region and endpoint are found as AWS's own tools find them: `AWS_REGION`, an instance's or pod's role, web
identity, `AWS_ENDPOINT_URL_KMS`. The ciphertext is bound to its encryption context: one made for staging does not open
in production.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

import anyio.to_thread

from cdv_core.errors import InvalidField, Unavailable

PREFIX: Final = "awskms:"


class UnusableSecret(Exception):
    """KMS opened it and it is no secret of ours; the argument says why, and shows none of it."""


def encryption_context(environment: str) -> dict[str, str]:
    """Return what a secret of ours has to be encrypted with, beside the key. `environment`: CDV_ENV."""
    return {"service": "creator-data-vault", "environment": environment}


class KmsSecrets:
    """A SecretSource that decrypts its references, each once: a ciphertext never comes to mean anything else."""

    def __init__(self, encryption_context: Mapping[str, str]) -> None:
        """Raises InvalidField: the extra is not installed, or AWS's settings name no region or are broken."""
        self._context = dict(encryption_context)
        self._client = _client()
        self._decrypted: dict[str, str] = {}

    async def get(self, reference: str) -> str:
        """Raises: InvalidField: not base64. Unavailable: KMS does not answer after three tries, or refuses."""
        if reference not in self._decrypted:
            try:
                ciphertext = base64.b64decode(reference.removeprefix(PREFIX), validate=True)
            except ValueError:
                ciphertext = b""
            if not reference.startswith(PREFIX) or not ciphertext:
                raise InvalidField("secret reference", "not awskms: and base64")
            self._decrypted[reference] = await anyio.to_thread.run_sync(self._decrypt, ciphertext)
        return self._decrypted[reference]

    def _decrypt(self, ciphertext: bytes) -> str:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._client.decrypt(CiphertextBlob=ciphertext, EncryptionContext=self._context)
        except (BotoCoreError, ClientError) as error:
            raise Unavailable("secrets") from error
        try:
            return str(answer["Plaintext"].decode())
        except UnicodeDecodeError:
            pass
        # Outside the handler: the decoding error carries the bytes.
        raise Unavailable("secrets") from UnusableSecret("not UTF-8")


def _client() -> Any:  # noqa: ANN401 - botocore makes its clients' classes as it runs
    try:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
        from botocore.session import get_session
    except ImportError as error:
        raise InvalidField(
            "secret reference", "awskms: needs the extra: pip install creator-data-vault[aws]"
        ) from error
    # botocore's own retries, which know AWS's errors: three tries of at most five seconds.
    config = Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 3})
    try:
        return get_session().create_client("kms", config=config)
    except (BotoCoreError, ValueError) as error:
        raise InvalidField("secret reference", f"awskms: {error}") from error
