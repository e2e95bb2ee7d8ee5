"""Secrets encrypted with a key in AWS KMS: `awskms:<base64 ciphertext>`. Needs the extra `aws`.

Credentials, region and endpoint are looked up as AWS's own tools do: `AWS_REGION`, an instance's or pod's role, web
identity, `AWS_ENDPOINT_URL_KMS`. A ciphertext is bound to its encryption context: one made for staging cannot be
decrypted in production.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Any, Final

import anyio.to_thread

from cdv_core.errors import InvalidField, Unavailable
from cdv_core.ports.secrets import UnusableSecret

PREFIX: Final = "awskms:"


def encryption_context(environment: str) -> dict[str, str]:
    """Return the encryption context that secrets must be encrypted with. `environment`: CDV_ENV."""
    return {"service": "creator-data-vault", "environment": environment}


class KmsSecrets:
    """A SecretSource that decrypts each reference once and caches it: a ciphertext always has the same plaintext."""

    def __init__(self, encryption_context: Mapping[str, str], *, attempts: int = 3) -> None:
        """Raises InvalidField: the extra is not installed, or AWS's settings name no region or are invalid."""
        self._context = dict(encryption_context)
        self._client = _client(attempts)
        self._decrypted: dict[str, str] = {}

    async def get(self, reference: str) -> str:
        """Return the decrypted secret.

        Raises: InvalidField: not base64. Unavailable: KMS did not respond after `attempts`, or rejected the request;
        the cause says which.
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
            response = self._client.decrypt(CiphertextBlob=ciphertext, EncryptionContext=self._context)
        except (BotoCoreError, ClientError) as error:
            raise Unavailable("secret_source") from error
        try:
            return str(response["Plaintext"].decode())
        except UnicodeDecodeError:
            pass
        # Raised outside the handler: the decoding error contains the secret's bytes.
        raise Unavailable("secret_source") from UnusableSecret("not UTF-8")


def _client(attempts: int) -> Any:  # noqa: ANN401 - botocore creates its client classes at run time
    try:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
        from botocore.session import get_session
    except ImportError as error:
        raise InvalidField(
            "secret reference", "awskms: botocore is not installed: pip install botocore (the extra aws has it)"
        ) from error
    # botocore's own retries, because they know which of AWS's errors are transient.
    retries = {"mode": "standard", "total_max_attempts": attempts}
    config = Config(connect_timeout=2, read_timeout=3, retries=retries)
    try:
        # botocore itself reads AWS_DEFAULT_REGION only.
        return get_session().create_client("kms", region_name=os.environ.get("AWS_REGION"), config=config)
    except (BotoCoreError, ValueError) as error:
        raise InvalidField("secret reference", f"awskms: {error}") from error
