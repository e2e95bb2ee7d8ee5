"""Tests of key rotation, unknown keys and an outage of the issuer. They need the run's own issuer (--own-issuer)."""

from __future__ import annotations

import time

from conformance.http.requirements import clause, judges
from conformance.http.servers import Issuer
from conformance.http.test_auth import assert_accepted, present_token
from conformance.http.tokens import Key, KeyTokens
from conformance.http.vault import Vault, concurrently, expect_error, on_every_replica

# The contract does not say how long the cool-down may last; ours: longer than this locks valid clients out too long.
COOL_DOWN_MAX_SECONDS = 90.0
FLOOD, FLOOD_CONCURRENCY = 64, 16


@judges("AUTH-024", "AUTH-026")
def test_a_new_key_is_found_and_the_old_one_stays_valid(vault: Vault, issuer: Issuer, minter: KeyTokens):
    did = vault.creator().did
    old = minter.key
    assert_accepted(present_token(vault, minter.mint(did)))
    new = Key.new()
    issuer.publish(old, new, wrapped=True)

    if _accepted(vault, minter, new, did):
        return
    issuer.publish(old, new)
    with clause("AUTH-024"):
        assert _accepted(vault, minter, new, did), f"the new key is not accepted after {COOL_DOWN_MAX_SECONDS:.0f} s"
    with clause("AUTH-026"):
        raise AssertionError("keys published as {data: {keys}} are not read, while keys published as {keys} are")


@judges("AUTH-025")
def test_unknown_kids_do_not_flood_the_issuer(vault: Vault, issuer: Issuer, minter: KeyTokens):
    did = vault.creator().did
    assert_accepted(present_token(vault, minter.mint(did)))
    before = issuer.fetches()

    def junk(_: int) -> None:
        other = Key.new()
        header = minter.header(kid=other.kid)
        expect_error(
            present_token(vault, minter.mint(did, header=header, sign=other.private.sign)), 401, "CDV_JWT_INVALID"
        )

    for number in range(FLOOD // 2):
        junk(number)  # sequential requests cannot share a fetch
    for _ in range(FLOOD // 2 // FLOOD_CONCURRENCY):
        concurrently(junk, range(FLOOD_CONCURRENCY))

    # Expected per replica: one, and one more if a cool-down ends or a periodic refresh is due meanwhile.
    fetched = issuer.fetches() - before
    assert fetched <= FLOOD // 4, f"{FLOOD} tokens with unknown kids caused {fetched} fetches of the key set"


@judges("AUTH-027")
def test_known_keys_stay_valid_while_the_issuer_is_down(vault: Vault, issuer: Issuer, minter: KeyTokens):
    did = vault.creator().did
    on_every_replica(
        lambda: assert_accepted(present_token(vault, minter.mint(did)))
    )  # so that each replica has the keys
    issuer.down = True
    try:
        for _ in range(5):
            assert_accepted(present_token(vault, minter.mint(did)))
        other = Key.new()
        stranger = minter.mint(did, header=minter.header(kid=other.kid), sign=other.private.sign)
        # The key cannot be looked up: the token must not be accepted, and the service must not fail with a 500.
        response = vault.send("GET", "/v1/media/x/meta", headers={"Authorization": f"Bearer {stranger}"}, retry=False)
        assert response.status_code in {401, 503}, response.status_code
        assert_accepted(present_token(vault, minter.mint(did)))
    finally:
        issuer.down = False


def _accepted(vault: Vault, minter: KeyTokens, key: Key, did: str) -> bool:
    """Try the key until it is accepted or the longest cool-down is over; the old key must stay valid meanwhile."""
    deadline = time.monotonic() + COOL_DOWN_MAX_SECONDS
    while time.monotonic() < deadline:
        with clause("AUTH-024"):
            assert_accepted(present_token(vault, minter.mint(did)))
        if (
            present_token(vault, minter.mint(did, header=minter.header(kid=key.kid), sign=key.private.sign)).status_code
            == 404
        ):
            return True
        time.sleep(0.5)
    return False
