"""The issuer's keys over time: when they are fetched, how long they are valid, and which requests wait."""

import asyncio
import json

import pytest

from cdv_adapters.tokens.key_set import read_key_set
from cdv_core.errors import Unavailable
from tests.adapters.issuers import SUBJECT, World, background_fetch_done, results_of, run_ready_tasks, world

__all__ = ["world"]  # the fixture


async def test_the_first_requests_share_one_fetch_and_later_ones_need_none(world: World):
    world.issuer.gate.clear()
    requests = asyncio.gather(*(world.accepts(world.a) for _ in range(20)))
    await run_ready_tasks()
    world.issuer.gate.set()

    assert await requests == [True] * 20
    assert await world.accepts(world.a)
    assert world.keys.state.fetches == 1


async def test_keys_are_refreshed_in_the_background_before_they_expire(world: World):
    await world.accepts(world.a)
    world.issuer.gate.clear()

    world.now += 239
    assert await world.accepts(world.a)
    assert world.keys.state.fetches == 1
    world.now += 1
    assert await world.accepts(world.a)
    await run_ready_tasks()
    assert world.keys.state.fetches == 2

    world.issuer.keys = [world.b]
    world.issuer.gate.set()
    await background_fetch_done()
    assert await results_of(world.accepts(world.a), world.accepts(world.b)) == [False, True]


@pytest.mark.parametrize(
    ("max_age_seconds", "lifetime"), [(None, 300), (0, 60), (59, 60), (61, 61), (600, 600), (3600, 3600), (10**8, 3600)]
)
async def test_the_key_lifetime_is_the_issuers_max_age_within_bounds(
    world: World, max_age_seconds: int | None, lifetime: float
):
    world.issuer.max_age_seconds = max_age_seconds
    await world.accepts(world.a)

    world.now += lifetime * 0.8 - 0.01
    await world.accepts(world.a)
    await background_fetch_done()
    assert world.keys.state.fetches == 1
    world.now += 0.02
    await world.accepts(world.a)
    await background_fetch_done()
    assert world.keys.state.fetches == 2


async def test_the_first_request_after_the_keys_expired_waits_for_fresh_ones(world: World):
    token = world.a.issue(SUBJECT, 36000, world.clock.now())
    assert await world.accepts(world.a, token)

    world.now += 301
    world.issuer.keys = [world.b]

    assert not await world.accepts(world.a, token)
    assert await world.accepts(world.b)


async def test_unknown_keys_cause_one_fetch_per_cool_down(world: World):
    await world.accepts(world.a)

    for cool_down in range(1, 4):
        world.issuer.gate.clear()
        requests = asyncio.gather(*(world.accepts(world.stranger) for _ in range(50)))
        await run_ready_tasks()
        world.issuer.gate.set()
        assert await requests == [False] * 50
        for _ in range(50):
            assert not await world.accepts(world.stranger)
        world.now += 9.99
        assert not await world.accepts(world.stranger)
        assert world.keys.state.fetches == 1 + cool_down
        world.now += 0.02


async def test_a_request_during_the_fetch_for_an_unknown_key_uses_its_result(world: World):
    await world.accepts(world.a)
    world.issuer.keys = [world.a, world.b]
    world.issuer.gate.clear()

    junk = asyncio.create_task(world.accepts(world.stranger))
    await run_ready_tasks()
    rotated = asyncio.create_task(world.accepts(world.b))
    known = await world.accepts(world.a)  # does not wait
    await run_ready_tasks()
    assert not rotated.done()
    world.issuer.gate.set()

    assert (await junk, await rotated, known) == (False, True, True)
    assert world.keys.state.fetches == 2


async def test_an_unknown_key_in_the_first_request_causes_no_second_fetch(world: World):
    assert not await world.accepts(world.stranger)
    assert world.keys.state.fetches == 1


async def test_a_cancelled_request_does_not_cancel_the_shared_fetch(world: World):
    world.issuer.gate.clear()
    first = asyncio.create_task(world.accepts(world.a))
    await run_ready_tasks()
    second = asyncio.create_task(world.accepts(world.a))
    await run_ready_tasks()

    first.cancel()
    await results_of(first)
    world.issuer.gate.set()

    assert await second
    assert world.keys.state.fetches == 1


async def test_closing_cancels_a_fetch_in_flight(world: World):
    world.issuer.gate.clear()
    request = asyncio.create_task(world.accepts(world.a))
    await run_ready_tasks()

    await world.keys.aclose()
    await world.keys.aclose()
    assert world.keys.state.failures == 0  # it did not wait for the time limit
    world.issuer.gate.set()

    with pytest.raises(Unavailable):
        await request


async def test_an_issuer_may_withdraw_all_its_keys(world: World):
    await world.accepts(world.a)
    world.issuer.keys = []
    world.now += 301

    assert not await world.accepts(world.a)
    assert not world.keys.state.failing


def test_a_wrapped_key_set_is_read_like_a_bare_one(world: World):
    bare = world.a.jwks()

    read = read_key_set(json.dumps(bare).encode())

    assert list(read) == [world.a.kid]
    assert read_key_set(json.dumps({"data": bare, "meta": {}}).encode()) == read
    assert read_key_set(json.dumps({**bare, "data": {"keys": []}}).encode()) == read


def test_a_repeated_identical_key_is_accepted(world: World):
    (jwk,) = world.a.jwks()["keys"]

    assert list(read_key_set(json.dumps({"keys": [jwk, jwk]}).encode())) == [world.a.kid]
