"""AWS KMS served by moto over HTTP in this process, and the settings that direct AWS's client to it."""

from __future__ import annotations

import base64
from types import TracebackType
from typing import Any, Self

import pytest
from botocore.session import get_session
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from cdv_adapters.secrets.aws_kms import encryption_context

ENVIRONMENT = {"AWS_DEFAULT_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


class KmsServer:
    """A KMS with one key, at `url`."""

    def __enter__(self) -> Self:
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        self._client = get_session().create_client(
            "kms",
            region_name=ENVIRONMENT["AWS_DEFAULT_REGION"],
            endpoint_url=self.url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self._key_id = self._client.create_key()["KeyMetadata"]["KeyId"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._server.stop()
        assert self._server._server is not None
        self._server._server.server_close()

    def encrypted(self, secret: str | bytes, environment: str) -> str:
        """Return the reference of a secret encrypted for that CDV_ENV."""
        plain = secret.encode() if isinstance(secret, str) else secret
        answer: dict[str, Any] = self._client.encrypt(
            KeyId=self._key_id, Plaintext=plain, EncryptionContext=encryption_context(environment)
        )
        return "awskms:" + base64.b64encode(answer["CiphertextBlob"]).decode()

    def point_to(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        """Make AWS's client use `url` for KMS, and none of this machine's AWS settings."""
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", url)
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.delenv("AWS_PROFILE", raising=False)
