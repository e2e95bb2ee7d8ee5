"""An issuer that is down, hangs or publishes junk: cached keys are used for a bounded time, and no request waits."""

import pytest

from cdv_adapters.tokens.key_set import IssuerKeys, KeysNotFetched
from cdv_core.errors import Unavailable
from tests.adapters.issuers import World, background_fetch_done, results_of, run_ready_tasks, world

__all__ = ["world"]  # the fixture


async def test_cached_keys_verify_tokens_for_an_hour_past_their_lifetime_during_an_outage(world: World):
    await world.accepts(world.a)
    world.issuer.down = True
    for age in [*range(50, 3900, 50), 3899]:  # up to one second before the lifetime of 300 s and the hour after it end
        world.now = 1000 + age
        for _ in range(3):
            assert await world.accepts(world.a)
            await background_fetch_done()
    assert world.keys.state.fetches == 1 + len(range(250, 3900, 50)) + 1

    world.now += 1
    with pytest.raises(Unavailable) as caught:
        await world.accepts(world.a)
    assert caught.value.dependency == "issuer"
    assert isinstance(caught.value.__cause__, KeysNotFetched)

    world.issuer.down = False
    world.now += 5
    assert await world.accepts(world.a)


async def test_a_hanging_refresh_during_an_outage_blocks_no_request(world: World):
    await world.accepts(world.a)
    world.issuer.down = True
    world.now += 299
    await world.accepts(world.a)
    await background_fetch_done()

    world.issuer.gate.clear()
    world.now += 60  # past the lifetime, and due for a retry
    assert await world.accepts(world.a)
    await run_ready_tasks()
    world.now += 10
    assert await world.accepts(world.a)
    await run_ready_tasks()
    assert (world.keys.state.fetches, world.keys.state.failures) == (
        3,
        1,
    )  # the third still hangs, and no request waits for it


async def test_an_unknown_key_during_an_outage_is_refused_without_extra_fetches(world: World):
    await world.accepts(world.a)
    world.issuer.down = True

    for _ in range(10):
        assert not await world.accepts(world.stranger)
    assert world.keys.state.fetches == 2

    world.now += 300
    await world.accepts(world.a)
    await background_fetch_done()
    assert world.keys.state.fetches == 3
    assert not await world.accepts(world.stranger)  # the cool-down is over, but the last fetch has just failed
    assert world.keys.state.fetches == 3


async def test_without_cached_keys_requests_are_unavailable_and_fetches_are_rate_limited(world: World):
    world.issuer.down = True
    for tries in range(1, 4):
        answers = await results_of(*(world.accepts(world.a) for _ in range(50)))
        assert {type(answer) for answer in answers} == {Unavailable}
        world.now += 4
        with pytest.raises(Unavailable) as caught:
            await world.accepts(world.a)
        assert caught.value.retry_after_seconds == 1
        assert world.keys.state.fetches == tries
        world.now += 1

    world.issuer.down = False
    assert await world.accepts(world.a)


async def test_an_outage_after_an_empty_key_set_is_unavailable(world: World):
    world.issuer.keys = []
    assert not await world.accepts(world.a)
    world.issuer.down = True
    world.now += 11
    with pytest.raises(Unavailable):
        await world.accepts(world.a)
    world.issuer.down, world.issuer.keys = False, [world.a]
    world.now += 11
    assert await world.accepts(world.a)


async def test_the_first_fetch_from_a_hanging_issuer_times_out(world: World):
    keys = IssuerKeys(world.issuer, fetch_timeout_seconds=0.01)
    world.issuer.gate.clear()
    try:
        with pytest.raises(Unavailable) as caught:
            await keys.find(world.a.kid)
        assert isinstance(caught.value.__cause__, TimeoutError)
    finally:
        world.issuer.gate.set()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b'{"keys":{}}',
        b'{"data":[]}',
        b'{"data":{}}',
        b'{"keys":[],"keys":[]}',
        b"\xff",
    ],
)
async def test_an_invalid_key_set_document_keeps_the_cached_keys(world: World, body: bytes):
    await world.accepts(world.a)
    world.issuer.body = body
    world.now += 299
    await world.accepts(world.a)
    await background_fetch_done()

    assert world.keys.state.failing
    assert await world.accepts(world.a)


async def test_state_and_check_report_an_outage_while_cached_keys_still_verify(world: World):
    assert world.keys.state.age_seconds is None
    await world.keys.check()
    world.now += 240
    world.issuer.down = True
    await world.keys.check()
    await background_fetch_done()

    with pytest.raises(Unavailable):
        await world.keys.check()
    assert await world.accepts(world.a)
    state = world.keys.state
    assert (state.keys, state.age_seconds, state.failing, state.fetches, state.failures) == (1, 240, True, 2, 1)

    world.issuer.down = False
    world.now += 5
    with pytest.raises(Unavailable):  # the last known state; a fetch is in flight
        await world.keys.check()
    await background_fetch_done()
    await world.keys.check()
    assert world.keys.state.age_seconds == 0
