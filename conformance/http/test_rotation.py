"""The issuer's keys change, are asked for in floods, and cannot be had. Only with an issuer of the run's own."""

from __future__ import annotations

import time

from conformance.http.requirements import clause, judges
from conformance.http.servers import Issuer
from conformance.http.test_auth import admitted, knock
from conformance.http.tokens import Key, KeyTokens
from conformance.http.vault import Vault, at_once, everywhere, refused

# The contract sets no length for the cool-down; a client locked out for longer than this has lost requests.
COOL_DOWN_MAX_SECONDS = 90.0
FLOOD, FLOOD_AT_ONCE = 64, 16


@judges("AUTH-024", "AUTH-026")
def test_a_new_key_is_found_and_the_old_one_goes_on(vault: Vault, issuer: Issuer, minter: KeyTokens):
    did = vault.creator().did
    old = minter.key
    admitted(knock(vault, minter.mint(did)))
    new = Key.new()
    issuer.publish(old, new, wrapped=True)

    if _accepted(vault, minter, new, did):
        return
    issuer.publish(old, new)
    with clause("AUTH-024"):
        assert _accepted(vault, minter, new, did), f"the new key is not accepted after {COOL_DOWN_MAX_SECONDS:.0f} s"
    with clause("AUTH-026"):
        raise AssertionError("keys published as {data: {keys}} are not read, bare ones are")


@judges("AUTH-025")
def test_junk_does_not_flood_the_issuer(vault: Vault, issuer: Issuer, minter: KeyTokens):
    did = vault.creator().did
    admitted(knock(vault, minter.mint(did)))
    before = issuer.fetches()

    def junk(_: int) -> None:
        other = Key.new()
        header = minter.header(kid=other.kid)
        refused(knock(vault, minter.mint(did, header=header, sign=other.private.sign)), 401, "CDV_JWT_INVALID")

    for number in range(FLOOD // 2):
        junk(number)  # one after the other, none can share a fetch with another
    for _ in range(FLOOD // 2 // FLOOD_AT_ONCE):
        at_once(junk, range(FLOOD_AT_ONCE))

    # One, and one more for a cool-down that ends meanwhile or a refresh that was due; a replica does so for itself.
    fetched = issuer.fetches() - before
    assert fetched <= FLOOD // 4, f"{FLOOD} tokens with unknown kids made {fetched} fetches"


@judges("AUTH-027")
def test_an_issuer_that_is_down_locks_nobody_out(vault: Vault, issuer: Issuer, minter: KeyTokens):
    did = vault.creator().did
    everywhere(lambda: admitted(knock(vault, minter.mint(did))))  # so that each replica has the keys
    issuer.down = True
    try:
        for _ in range(5):
            admitted(knock(vault, minter.mint(did)))
        other = Key.new()
        stranger = minter.mint(did, header=minter.header(kid=other.kid), sign=other.private.sign)
        # Unknown, or unknowable for now: never let in, and no failure of the service.
        answer = vault.send("GET", "/v1/media/x/meta", headers={"Authorization": f"Bearer {stranger}"}, patient=False)
        assert answer.status_code in {401, 503}, answer.status_code
        admitted(knock(vault, minter.mint(did)))
    finally:
        issuer.down = False


def _accepted(vault: Vault, minter: KeyTokens, key: Key, did: str) -> bool:
    """Try the key until it is accepted, or for the longest cool-down; meanwhile the old one must go on."""
    deadline = time.monotonic() + COOL_DOWN_MAX_SECONDS
    while time.monotonic() < deadline:
        with clause("AUTH-024"):
            admitted(knock(vault, minter.mint(did)))
        if knock(vault, minter.mint(did, header=minter.header(kid=key.kid), sign=key.private.sign)).status_code == 404:
            return True
        time.sleep(0.5)
    return False
