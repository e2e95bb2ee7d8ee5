"""The access keys of the object store: read again at intervals and when the store rejects them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from minio.credentials.credentials import Credentials
from minio.credentials.providers import ChainedProvider, EnvAWSProvider, IamAwsProvider, Provider
from urllib3 import PoolManager, Retry, Timeout

from cdv_core.errors import Unavailable

_METADATA_TIMEOUT: Final = Timeout(connect=1.0, read=2.0)  # ours: a metadata service is local or does not exist


class CurrentCredentials(Provider):
    """The keys that the minio clients sign with.

    `fetch` returns the keys now valid, or raises Unavailable. They are fetched again once they are `fresh_seconds` old.
    """

    def __init__(
        self, fetch: Callable[[], Awaitable[Credentials]], fresh_seconds: float, monotonic: Callable[[], float]
    ) -> None:
        self._fetch = fetch
        self._fresh_seconds = fresh_seconds
        self._monotonic = monotonic
        self._fresh_until = 0.0
        self._credentials: Credentials | None = None

    def retrieve(self) -> Credentials:
        """Return the keys that were fetched last. Called by the minio clients, in any thread."""
        assert self._credentials is not None, "credentials are read before each call"  # noqa: S101
        return self._credentials

    async def current(self) -> Credentials:
        """Return the keys to sign with. Raises: Unavailable: none could ever be fetched."""
        if self._monotonic() >= self._fresh_until:
            try:
                self._credentials = await self._fetch()
            except Unavailable:
                if self._credentials is None:
                    raise
                # Otherwise continue with the old keys: if they are no longer valid, the store rejects them.
            self._fresh_until = self._monotonic() + self._fresh_seconds
        return self.retrieve()

    def expire(self) -> None:
        """Have the next call of `current` fetch the keys again."""
        self._fresh_until = 0.0


def platform_credentials(region: str) -> Credentials:
    """Return the platform's keys: of the environment, the web identity, or the container's or instance's role. Blocks.

    Raises: ValueError: there are none. Also whatever urllib3 raises.
    """
    # A new chain each time: a chain caches temporary keys until ten seconds before they expire, and signed URLs expire
    # with their keys.
    with PoolManager(timeout=_METADATA_TIMEOUT, retries=Retry(1)) as http:
        role = IamAwsProvider(http_client=http, region=region)
        try:
            return ChainedProvider([EnvAWSProvider(), role]).retrieve()
        except (LookupError, TypeError) as error:
            raise ValueError("the platform's credentials cannot be read") from error
