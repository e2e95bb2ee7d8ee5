"""An issuer and a verifier that fetches its keys, without a network or real time: fetch and clocks are fakes."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdv_adapters.tokens.jwks import JwksTokenVerifier
from cdv_adapters.tokens.key_set import FetchedDocument, IssuerKeys, KeysNotFetched
from cdv_adapters.tokens.local_key import LocalIssuer
from cdv_core.domain.identifiers import Did
from cdv_core.errors import TokenInvalid
from tests.fakes.clock import FakeClock

ISSUER = "https://identity.example"
SUBJECT = Did("did:plc:ewvi7nxzyoun6zhxrhs64oiz")


class FakeIssuer:
    """Publishes `keys`. While `gate` is closed, fetches hang; while `down`, they fail."""

    def __init__(self) -> None:
        self.keys: list[LocalIssuer] = []
        self.max_age_seconds: int | None = None
        self.body: bytes | None = None
        self.down = False
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> FetchedDocument:
        self.gate.wait()
        if self.down:
            raise KeysNotFetched("down")
        jwks = {"keys": [jwk for key in self.keys for jwk in key.jwks()["keys"]]}
        return FetchedDocument(json.dumps(jwks).encode() if self.body is None else self.body, self.max_age_seconds)


class World:
    """An issuer, its verifier, and the clock that ages keys. The tokens' wall clock does not advance."""

    def __init__(self, directory: Path) -> None:
        self.issuer = FakeIssuer()
        self.now = 1000.0
        self.clock = FakeClock()
        self.keys = IssuerKeys(self.issuer, monotonic=lambda: self.now)
        self.verifier = JwksTokenVerifier(self.keys, issuer=ISSUER, audience="cdv", clock=self.clock)
        self.a, self.b, self.stranger = (
            LocalIssuer.open(directory / name, issuer=ISSUER, audience="cdv") for name in ("a", "b", "stranger")
        )
        self.issuer.keys = [self.a]

    async def accepts(self, key: LocalIssuer, token: str | None = None) -> bool:
        try:
            await self.verifier.verify(token or key.issue(SUBJECT, 36000, self.clock.now()))
        except TokenInvalid:
            return False
        return True


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.issuer.gate.set()  # or a failed test would leave a hanging thread


async def results_of(*awaitables: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*awaitables, return_exceptions=True)


async def run_ready_tasks() -> None:
    """Let every task run until it waits for a fetch."""
    for _ in range(10):
        await asyncio.sleep(0)


async def background_fetch_done() -> None:
    """Wait until a background fetch has ended."""
    for task in asyncio.all_tasks():
        if task.get_name() == "issuer keys":
            await task
