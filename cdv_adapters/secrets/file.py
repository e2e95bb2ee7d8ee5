"""Secrets in files, as Docker, Kubernetes and systemd mount them: `file:/run/secrets/db-password`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import anyio.to_thread

from cdv_core.errors import InvalidField, Unavailable
from cdv_core.ports.secrets import UnusableSecret

PREFIX: Final = "file:"
_MAX_BYTES: Final = 64 * 1024  # ours: the largest secret is a NATS credentials file, of a few KiB


class FileSecrets:
    """A SecretSource that reads the file named by the reference, an absolute path, and strips trailing line breaks."""

    async def get(self, reference: str) -> str:
        """Raises: InvalidField: not `file:` and an absolute path. Unavailable: the file is missing or holds no text."""
        path = Path(reference.removeprefix(PREFIX))
        if not reference.startswith(PREFIX) or not path.is_absolute() or "\0" in reference:
            raise InvalidField("secret reference", "not file: and an absolute path")
        try:
            # In a thread: the file may be on a network mount.
            return await anyio.to_thread.run_sync(_read, path)
        except (OSError, UnusableSecret) as error:
            raise Unavailable("secret_source") from error


def _read(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise UnusableSecret(f"{path}: more than {_MAX_BYTES} bytes")
    try:
        secret = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        secret = None
    # Raised outside the handler: the decoding error contains the secret's bytes.
    if secret is None:
        raise UnusableSecret(f"{path}: not UTF-8")
    if not secret:
        raise UnusableSecret(f"{path}: empty")
    return secret
