"""The forgeries of the attack table are effective: each would be accepted without our own check."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.adapters import edwards25519 as curve
from tests.adapters.minted_tokens import (
    PRIVATE,
    PUBLIC,
    SMALL_ORDER,
    forge_under,
    with_non_canonical_r,
    with_s_plus_order,
)


def test_there_are_eight_points_of_small_order():
    assert len(SMALL_ORDER) == 8
    assert all(curve.times(8, point) == curve.IDENTITY for point in curve.small_order_points())


@pytest.mark.parametrize("key", SMALL_ORDER, ids=bytes.hex)
def test_openssl_accepts_forged_signatures_under_small_order_keys(key: bytes):
    for message in (b"", b"one", b"two"):
        ed25519.Ed25519PublicKey.from_public_bytes(key).verify(forge_under(key)(message), message)


def test_openssl_accepts_a_non_canonical_key():
    key = curve.encode_y(curve.P + 1, False)

    ed25519.Ed25519PublicKey.from_public_bytes(key).verify(forge_under(key)(b"message"), b"message")


def test_malleated_signatures_satisfy_the_equation_and_openssl_rejects_them():
    key = curve.point_at(int.from_bytes(PUBLIC, "little") & (2**255 - 1), bool(PUBLIC[31] >> 7))
    assert key is not None
    assert curve.BASE is not None
    for sign in (PRIVATE.sign, with_s_plus_order, with_non_canonical_r):
        signature = sign(b"message")
        y = int.from_bytes(signature[:32], "little") & (2**255 - 1)
        r = curve.point_at(y % curve.P, bool(signature[31] >> 7))
        assert r is not None
        h = curve.scalar(signature[:32], PUBLIC, b"message")
        assert curve.times(int.from_bytes(signature[32:], "little"), curve.BASE) == curve.add(r, curve.times(h, key))
    for sign in (with_s_plus_order, with_non_canonical_r):
        with pytest.raises(InvalidSignature):
            PRIVATE.public_key().verify(sign(b"message"), b"message")
