"""Secrets encrypted with a key in AWS KMS: `awskms:<base64 ciphertext>`. Needs the extra `aws`.

Credentials, region and endpoint are found as AWS's own tools find them: `AWS_REGION`, an instance's or pod's role, web
identity, `AWS_ENDPOINT_URL_KMS`. The ciphertext is bound to its encryption context: one made for staging does not open
in production.
"""

from __future__ import annotations

import base64
import os
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

    def __init__(self, encryption_context: Mapping[str, str], *, attempts: int = 3) -> None:
        """Raises InvalidField: the extra is not installed, or AWS's settings name no region or are broken."""
        self._context = dict(encryption_context)
        self._client = _client(attempts)
        self._decrypted: dict[str, str] = {}

    async def get(self, reference: str) -> str:
        """Raises: InvalidField: not base64. Unavailable: KMS does not answer after `attempts`, or refuses; the
        cause says which.
        """
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
            raise Unavailable("secret source") from error
        try:
            return str(answer["Plaintext"].decode())
        except UnicodeDecodeError:
            pass
        # Outside the handler: the decoding error carries the bytes.
        raise Unavailable("secret source") from UnusableSecret("not UTF-8")


def _client(attempts: int) -> Any:  # noqa: ANN401 - botocore makes its clients' classes as it runs
    try:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
        from botocore.session import get_session
    except ImportError as error:
        raise InvalidField(
            "secret reference", "awskms: botocore is not installed: pip install botocore (the extra aws has it)"
        ) from error
    # botocore's own retries, which know AWS's errors.
    retries = {"mode": "standard", "total_max_attempts": attempts}
    config = Config(connect_timeout=2, read_timeout=3, retries=retries)
    try:
        # botocore itself looks at AWS_DEFAULT_REGION only.
        return get_session().create_client("kms", region_name=os.environ.get("AWS_REGION"), config=config)
    except (BotoCoreError, ValueError) as error:
        raise InvalidField("secret reference", f"awskms: {error}") from error
