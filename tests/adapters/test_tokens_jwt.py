"""Tokens during key rotation and withdrawal, and the cache of verified tokens."""

import asyncio
import json
from pathlib import Path

import pytest

from cdv_adapters.tokens.ed25519 import PublicKey
from cdv_adapters.tokens.jwks import JwksTokenVerifier
from cdv_adapters.tokens.local_key import LocalIssuer
from cdv_core.errors import TokenInvalid
from tests.adapters.issuers import ISSUER, SUBJECT, World, background_fetch_done, run_ready_tasks, world

__all__ = ["world"]  # the fixture


async def test_key_rotation_with_overlap_refuses_no_token(world: World):
    old = world.a.issue(SUBJECT, 36000, world.clock.now())
    assert await world.accepts(world.a, old)

    world.issuer.keys = [world.a, world.b]  # published and used immediately
    for _ in range(100):
        assert await world.accepts(world.b)
        assert await world.accepts(world.a, old)
        world.now += 13

    world.issuer.keys = [world.b]
    for _ in range(100):
        assert await world.accepts(world.b)
        world.now += 13
        await background_fetch_done()


async def test_tokens_of_a_withdrawn_key_are_refused_after_the_next_refresh_even_if_cached(world: World):
    token = world.a.issue(SUBJECT, 36000, world.clock.now())
    for _ in range(3):
        assert await world.accepts(world.a, token)

    world.issuer.keys = [world.b]
    assert await world.accepts(world.b)  # an unknown key causes a fetch

    assert not await world.accepts(world.a, token)


async def test_tokens_are_refused_once_their_kid_names_another_key(world: World):
    token = world.a.issue(SUBJECT, 36000, world.clock.now())
    assert await world.accepts(world.a, token)

    (impostor,) = world.b.jwks()["keys"]
    world.issuer.body = json.dumps({"keys": [{**impostor, "kid": world.a.kid}]}).encode()
    world.now += 301

    assert not await world.accepts(world.a, token)


async def test_tokens_of_a_republished_key_are_accepted_again(world: World):
    token = world.a.issue(SUBJECT, 36000, world.clock.now())
    for keys, good in ([world.a], True), ([], False), ([world.a], True):
        world.issuer.keys = keys
        world.now += 301
        assert await world.accepts(world.a, token) is good


async def test_tokens_of_another_issuer_or_audience_cause_no_fetch(world: World, tmp_path: Path):
    others = [
        LocalIssuer.open(tmp_path / "a", issuer="https://other.example", audience="cdv"),
        LocalIssuer.open(tmp_path / "a", issuer=ISSUER, audience="other"),
    ]
    for other in others:
        assert not await world.accepts(other)
    assert world.keys.state.fetches == 0


async def test_the_token_cache_is_bounded_and_holds_no_refused_tokens(world: World):
    verifier = JwksTokenVerifier(world.keys, issuer=ISSUER, audience="cdv", clock=world.clock)
    verifier._cached_tokens_max = 3
    tokens = [world.a.issue(SUBJECT, 60, world.clock.now()) for _ in range(5)]
    for token in [*tokens[:3], tokens[0], *tokens[3:], tokens[0]]:
        await verifier.verify(token)
        with pytest.raises(TokenInvalid):
            await verifier.verify(world.stranger.issue(SUBJECT, 60, world.clock.now()))

    assert len(verifier._cached) == 3


async def test_a_cached_token_is_not_verified_again(world: World, monkeypatch: pytest.MonkeyPatch):
    token = world.a.issue(SUBJECT, 60, world.clock.now())
    first = await world.verifier.verify(token)
    monkeypatch.setattr("cdv_adapters.tokens.jwt.read_token", None)

    assert await world.verifier.verify(token) == first


async def test_a_cached_token_evicted_during_its_key_lookup_is_still_accepted(world: World):
    old = world.a.issue(SUBJECT, 60, world.clock.now())
    others = [world.a.issue(SUBJECT, 61 + n, world.clock.now()) for n in range(2)]
    find = world.verifier._find_key
    assert await world.accepts(world.a, old)
    world.verifier._cached_tokens_max = 1
    proceed = asyncio.Event()

    async def slowly(kid: str) -> PublicKey | None:
        await proceed.wait()
        return await find(kid)

    world.verifier._find_key = slowly
    verifying = asyncio.create_task(world.verifier.verify(old))
    await run_ready_tasks()
    world.verifier._find_key = find
    for other in others:
        await world.verifier.verify(other)
    proceed.set()
    assert (await verifying).subject == SUBJECT
