"""The issuer's keys over time: rotation, outages, floods. No network, no waiting: the fetch and the clocks are ours."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdv_adapters.tokens.ed25519 import PublicKey
from cdv_adapters.tokens.jwks import JwksTokenVerifier
from cdv_adapters.tokens.key_set import FetchedDocument, IssuerKeys, KeysNotFetched, read_key_set
from cdv_adapters.tokens.local_key import LocalIssuer
from cdv_core.domain.identifiers import Did
from cdv_core.errors import TokenInvalid, Unavailable
from tests.fakes.clock import FakeClock

ISSUER = "https://identity.example"
SUBJECT = Did("did:plc:ewvi7nxzyoun6zhxrhs64oiz")


class FakeIssuer:
    """Publishes `keys`. While `gate` is closed nobody is answered; while `down`, with an error."""

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
    """An issuer, its verifier, and the clock that ages keys. The wall clock of the tokens stands still."""

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
    world.issuer.gate.set()  # or a test that failed would leave a thread behind its closed gate


async def finished(*awaitables: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*awaitables, return_exceptions=True)


async def turns() -> None:
    """Let every task run until it waits for a fetch."""
    for _ in range(10):
        await asyncio.sleep(0)


async def settle() -> None:
    """Let a fetch that nobody waits for run to its end."""
    for task in asyncio.all_tasks():
        if task.get_name() == "issuer keys":
            await task


async def test_the_first_requests_share_one_fetch_and_later_ones_need_none(world: World):
    world.issuer.gate.clear()
    crowd = asyncio.gather(*(world.accepts(world.a) for _ in range(20)))
    await turns()
    world.issuer.gate.set()

    assert await crowd == [True] * 20
    assert await world.accepts(world.a)
    assert world.keys.state.fetches == 1


async def test_keys_are_fetched_anew_before_their_lifetime_ends_while_nobody_waits(world: World):
    await world.accepts(world.a)
    world.issuer.gate.clear()

    world.now += 239
    assert await world.accepts(world.a)
    assert world.keys.state.fetches == 1
    world.now += 1
    assert await world.accepts(world.a)
    await turns()
    assert world.keys.state.fetches == 2

    world.issuer.keys = [world.b]
    world.issuer.gate.set()
    await settle()
    assert await finished(world.accepts(world.a), world.accepts(world.b)) == [False, True]


@pytest.mark.parametrize(
    ("max_age_seconds", "lifetime"), [(None, 300), (0, 60), (59, 60), (61, 61), (600, 600), (3600, 3600), (10**8, 3600)]
)
async def test_the_issuer_decides_how_long_within_bounds(world: World, max_age_seconds: int | None, lifetime: float):
    world.issuer.max_age_seconds = max_age_seconds
    await world.accepts(world.a)

    world.now += lifetime * 0.8 - 0.01
    await world.accepts(world.a)
    await settle()
    assert world.keys.state.fetches == 1
    world.now += 0.02
    await world.accepts(world.a)
    await settle()
    assert world.keys.state.fetches == 2


async def test_after_a_pause_the_first_request_waits_for_fresh_keys(world: World):
    token = world.a.issue(SUBJECT, 36000, world.clock.now())
    assert await world.accepts(world.a, token)

    world.now += 301
    world.issuer.keys = [world.b]

    assert not await world.accepts(world.a, token)
    assert await world.accepts(world.b)


async def test_rotation_with_overlap_loses_no_request(world: World):
    old = world.a.issue(SUBJECT, 36000, world.clock.now())
    assert await world.accepts(world.a, old)

    world.issuer.keys = [world.a, world.b]  # published and used at once
    for _ in range(100):
        assert await world.accepts(world.b)
        assert await world.accepts(world.a, old)
        world.now += 13

    world.issuer.keys = [world.b]
    for _ in range(100):
        assert await world.accepts(world.b)
        world.now += 13
        await settle()


async def test_a_withdrawn_key_ends_its_tokens_at_the_next_refresh_however_often_they_were_seen(world: World):
    token = world.a.issue(SUBJECT, 36000, world.clock.now())
    for _ in range(3):
        assert await world.accepts(world.a, token)

    world.issuer.keys = [world.b]
    assert await world.accepts(world.b)  # unknown, and so fetched anew

    assert not await world.accepts(world.a, token)


async def test_a_key_replaced_under_its_old_name_ends_the_old_tokens(world: World):
    token = world.a.issue(SUBJECT, 36000, world.clock.now())
    assert await world.accepts(world.a, token)

    (impostor,) = world.b.jwks()["keys"]
    world.issuer.body = json.dumps({"keys": [{**impostor, "kid": world.a.kid}]}).encode()
    world.now += 301

    assert not await world.accepts(world.a, token)


async def test_a_key_that_comes_back_makes_its_tokens_good_again(world: World):
    token = world.a.issue(SUBJECT, 36000, world.clock.now())
    for keys, good in ([world.a], True), ([], False), ([world.a], True):
        world.issuer.keys = keys
        world.now += 301
        assert await world.accepts(world.a, token) is good


async def test_unknown_keys_fetch_once_per_cool_down_however_many_ask(world: World):
    await world.accepts(world.a)

    for cool_down in range(1, 4):
        world.issuer.gate.clear()
        crowd = asyncio.gather(*(world.accepts(world.stranger) for _ in range(50)))
        await turns()
        world.issuer.gate.set()
        assert await crowd == [False] * 50
        for _ in range(50):
            assert not await world.accepts(world.stranger)
        world.now += 9.99
        assert not await world.accepts(world.stranger)
        assert world.keys.state.fetches == 1 + cool_down
        world.now += 0.02


async def test_who_asks_while_an_unknown_key_is_looked_for_gets_that_answer(world: World):
    await world.accepts(world.a)
    world.issuer.keys = [world.a, world.b]
    world.issuer.gate.clear()

    junk = asyncio.create_task(world.accepts(world.stranger))
    await turns()
    rotated = asyncio.create_task(world.accepts(world.b))
    known = await world.accepts(world.a)  # does not wait
    await turns()
    assert not rotated.done()
    world.issuer.gate.set()

    assert (await junk, await rotated, known) == (False, True, True)
    assert world.keys.state.fetches == 2


async def test_an_unknown_key_right_after_the_first_fetch_does_not_fetch_again_for_the_same_request(world: World):
    assert not await world.accepts(world.stranger)
    assert world.keys.state.fetches == 1


async def test_tokens_that_are_not_for_us_do_not_reach_the_issuer(world: World, tmp_path: Path):
    others = [
        LocalIssuer.open(tmp_path / "a", issuer="https://other.example", audience="cdv"),
        LocalIssuer.open(tmp_path / "a", issuer=ISSUER, audience="other"),
    ]
    for other in others:
        assert not await world.accepts(other)
    assert world.keys.state.fetches == 0


async def test_an_outage_is_survived_on_the_last_keys_for_a_bounded_time_and_nobody_waits(world: World):
    await world.accepts(world.a)
    world.issuer.down = True
    for age in [*range(50, 3900, 50), 3899]:  # the lifetime of 300 and the hour after it, but for a second
        world.now = 1000 + age
        for _ in range(3):
            assert await world.accepts(world.a)
            await settle()
    assert world.keys.state.fetches == 1 + len(range(250, 3900, 50)) + 1

    world.now += 1
    with pytest.raises(Unavailable) as caught:
        await world.accepts(world.a)
    assert caught.value.dependency == "issuer"
    assert isinstance(caught.value.__cause__, KeysNotFetched)

    world.issuer.down = False
    world.now += 5
    assert await world.accepts(world.a)


async def test_during_an_outage_a_hanging_issuer_holds_up_nobody(world: World):
    await world.accepts(world.a)
    world.issuer.down = True
    world.now += 299
    await world.accepts(world.a)
    await settle()

    world.issuer.gate.clear()
    world.now += 60  # past the lifetime, and due for another try
    assert await world.accepts(world.a)
    await turns()
    world.now += 10
    assert await world.accepts(world.a)
    await turns()
    assert (world.keys.state.fetches, world.keys.state.failures) == (3, 1)  # the third is still waited for, by nobody


async def test_an_unknown_key_during_an_outage_is_refused_and_not_asked_for_more_often(world: World):
    await world.accepts(world.a)
    world.issuer.down = True

    for _ in range(10):
        assert not await world.accepts(world.stranger)
    assert world.keys.state.fetches == 2

    world.now += 300
    await world.accepts(world.a)
    await settle()
    assert world.keys.state.fetches == 3
    assert not await world.accepts(world.stranger)  # the cool-down is over, and yet the issuer failed just now
    assert world.keys.state.fetches == 3


async def test_without_any_keys_everything_is_unavailable_and_the_issuer_is_spared(world: World):
    world.issuer.down = True
    for tries in range(1, 4):
        answers = await finished(*(world.accepts(world.a) for _ in range(50)))
        assert {type(answer) for answer in answers} == {Unavailable}
        world.now += 4
        with pytest.raises(Unavailable) as caught:
            await world.accepts(world.a)
        assert caught.value.retry_after_seconds == 1
        assert world.keys.state.fetches == tries
        world.now += 1

    world.issuer.down = False
    assert await world.accepts(world.a)


async def test_an_issuer_that_hangs_from_the_start_is_given_up_on(world: World):
    keys = IssuerKeys(world.issuer, fetch_timeout_seconds=0.01)
    world.issuer.gate.clear()
    try:
        with pytest.raises(Unavailable) as caught:
            await keys.find(world.a.kid)
        assert isinstance(caught.value.__cause__, TimeoutError)
    finally:
        world.issuer.gate.set()


async def test_a_request_that_is_given_up_does_not_take_the_fetch_with_it(world: World):
    world.issuer.gate.clear()
    first = asyncio.create_task(world.accepts(world.a))
    await turns()
    second = asyncio.create_task(world.accepts(world.a))
    await turns()

    first.cancel()
    await finished(first)
    world.issuer.gate.set()

    assert await second
    assert world.keys.state.fetches == 1


async def test_closing_gives_up_a_fetch_under_way(world: World):
    world.issuer.gate.clear()
    request = asyncio.create_task(world.accepts(world.a))
    await turns()

    await world.keys.aclose()
    await world.keys.aclose()
    assert world.keys.state.failures == 0  # it did not wait for the time limit
    world.issuer.gate.set()

    with pytest.raises(Unavailable):
        await request


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
async def test_what_is_no_key_set_changes_nothing(world: World, body: bytes):
    await world.accepts(world.a)
    world.issuer.body = body
    world.now += 299
    await world.accepts(world.a)
    await settle()

    assert world.keys.state.failing
    assert await world.accepts(world.a)


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


def test_the_same_key_twice_is_no_contradiction(world: World):
    (jwk,) = world.a.jwks()["keys"]

    assert list(read_key_set(json.dumps({"keys": [jwk, jwk]}).encode())) == [world.a.kid]


async def test_state_and_check_tell_of_an_outage_that_requests_do_not_notice(world: World):
    assert world.keys.state.age_seconds is None
    await world.keys.check()
    world.now += 240
    world.issuer.down = True
    await world.keys.check()
    await settle()

    with pytest.raises(Unavailable):
        await world.keys.check()
    assert await world.accepts(world.a)
    state = world.keys.state
    assert (state.keys, state.age_seconds, state.failing, state.fetches, state.failures) == (1, 240, True, 2, 1)

    world.issuer.down = False
    world.now += 5
    with pytest.raises(Unavailable):  # what it knows so far; it has asked again
        await world.keys.check()
    await settle()
    await world.keys.check()
    assert world.keys.state.age_seconds == 0


async def test_what_is_remembered_is_bounded_and_holds_no_refusals(world: World):
    verifier = JwksTokenVerifier(world.keys, issuer=ISSUER, audience="cdv", clock=world.clock)
    verifier._remembered_tokens = 3
    tokens = [world.a.issue(SUBJECT, 60, world.clock.now()) for _ in range(5)]
    for token in [*tokens[:3], tokens[0], *tokens[3:], tokens[0]]:
        await verifier.verify(token)
        with pytest.raises(TokenInvalid):
            await verifier.verify(world.stranger.issue(SUBJECT, 60, world.clock.now()))

    assert len(verifier._remembered) == 3


async def test_a_remembered_token_is_not_proved_again(world: World, monkeypatch: pytest.MonkeyPatch):
    token = world.a.issue(SUBJECT, 60, world.clock.now())
    first = await world.verifier.verify(token)
    monkeypatch.setattr("cdv_adapters.tokens.jwt.read_token", None)

    assert await world.verifier.verify(token) == first


async def test_a_remembered_token_that_is_pushed_out_while_its_key_is_looked_up_still_counts(world: World):
    old = world.a.issue(SUBJECT, 60, world.clock.now())
    others = [world.a.issue(SUBJECT, 61 + n, world.clock.now()) for n in range(2)]
    find = world.verifier._find_key
    assert await world.accepts(world.a, old)
    world.verifier._remembered_tokens = 1
    looked_up = asyncio.Event()

    async def slowly(kid: str) -> PublicKey | None:
        await looked_up.wait()
        return await find(kid)

    world.verifier._find_key = slowly
    asking = asyncio.create_task(world.verifier.verify(old))
    await turns()
    world.verifier._find_key = find
    for other in others:
        await world.verifier.verify(other)
    looked_up.set()
    assert (await asking).subject == SUBJECT
