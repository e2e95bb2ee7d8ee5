"""Writers that record every acknowledged write and retry all others until they are acknowledged."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

from cdv_adapters.tokens.local_key import LocalIssuer
from cdv_core.domain.identifiers import Did

PROFILE = "com.registryaccord.profile"
_ATTEMPT_SECONDS = 15.0


@dataclass
class Outcomes:
    """What the service acknowledged. `records`: URI → CID, by DID. `answers`: how many of each status, 0 for none.

    `slowest_refusal_seconds`: the longest time until a 503.
    """

    records: dict[str, dict[str, str]] = field(default_factory=dict)
    answers: Counter[int] = field(default_factory=Counter)
    slowest_refusal_seconds: float = 0.0
    unexpected: list[str] = field(default_factory=list)

    @property
    def acknowledged(self) -> int:
        return sum(len(records) for records in self.records.values())


class Writers:
    """`count` creators, each writing one record after the other through any of `urls`.

    Each write has its own idempotency key and is retried until it is acknowledged.
    """

    def __init__(self, urls: Sequence[str], issuer: LocalIssuer, count: int, seed: int) -> None:
        self.outcomes = Outcomes()
        self._urls = urls
        self._random = random.Random(seed)
        self._dids = [f"did:example:{secrets.token_hex(8)}" for _ in range(count)]
        self._tokens = {did: issuer.issue(Did(did), 7200, datetime.now(UTC)) for did in self._dids}
        self._stopping = False

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[None]:
        """Write while the block runs; when it has ended, every write in flight has been acknowledged."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
        async with (
            httpx.AsyncClient(timeout=_ATTEMPT_SECONDS, limits=limits) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for did in self._dids:
                tasks.create_task(self._write(client, did))
            try:
                yield
            finally:
                self._stopping = True

    async def until(self, acknowledged: int) -> None:
        """Return when that many writes have been acknowledged."""
        while self.outcomes.acknowledged < acknowledged:
            await asyncio.sleep(0.01)

    async def _write(self, client: httpx.AsyncClient, did: str) -> None:
        kept = self.outcomes.records.setdefault(did, {})
        while not self._stopping:
            body: dict[str, object] = {
                "did": did,
                "collection": PROFILE,
                "record": {"displayName": "Ada", "n": len(kept), "nonce": secrets.token_hex(4)},
                "idempotencyKey": secrets.token_hex(12),
            }
            receipt = await self._until_acknowledged(client, did, body)
            kept[receipt["uri"]] = receipt["cid"]

    async def _until_acknowledged(self, client: httpx.AsyncClient, did: str, body: dict[str, object]) -> dict[str, str]:
        while True:
            url = self._random.choice(self._urls)
            started = time.monotonic()
            try:
                answer = await client.post(
                    f"{url}/v1/repo/record", json=body, headers={"Authorization": f"Bearer {self._tokens[did]}"}
                )
            except httpx.HTTPError:
                self.outcomes.answers[0] += 1
                await asyncio.sleep(0.25)
                continue
            self.outcomes.answers[answer.status_code] += 1
            if answer.status_code == 200:
                receipt: dict[str, str] = answer.json()["data"]
                return receipt
            if answer.status_code != 503 or "retry-after" not in answer.headers:
                self.outcomes.unexpected.append(f"{answer.status_code} {answer.text[:300]}")
            waited = time.monotonic() - started
            self.outcomes.slowest_refusal_seconds = max(self.outcomes.slowest_refusal_seconds, waited)
            await asyncio.sleep(0.1)
