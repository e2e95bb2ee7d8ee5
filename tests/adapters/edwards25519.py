"""The curve of Ed25519 by RFC 8032's formulas, to make invalid keys and signatures that no library makes."""

from __future__ import annotations

import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)

Point = tuple[int, int]
IDENTITY: Point = (0, 1)


def add(a: Point, b: Point) -> Point:
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2
    return (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P


def times(n: int, point: Point) -> Point:
    total = IDENTITY
    while n:
        if n & 1:
            total = add(total, point)
        point, n = add(point, point), n >> 1
    return total


def point_at(y: int, x_is_odd: bool) -> Point | None:
    """The point with that y, None if the curve has none."""
    x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if x * x % P != x2:
        x = x * SQRT_OF_MINUS_1 % P
    if x * x % P != x2:
        return None
    return (P - x if x % 2 != x_is_odd else x) % P, y


BASE = point_at(4 * pow(5, -1, P) % P, False)
assert BASE is not None


def encode(point: Point) -> bytes:
    x, y = point
    return encode_y(y, bool(x % 2))


def encode_y(y: int, sign: bool) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


def small_order_points() -> set[Point]:
    """The eight points whose order divides 8, found by multiplying any point by L."""
    found: set[Point] = set()
    y = 2
    while len(found) < 8:
        point = point_at(y, False)
        if point is not None:
            torsion = times(L, point)
            found |= {times(n, torsion) for n in range(8)}
        y += 1
    return found


def scalar(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % L


def secret_scalar(seed: bytes) -> int:
    """The scalar that RFC 8032 derives from a private key."""
    digest = bytearray(hashlib.sha512(seed).digest()[:32])
    digest[0] &= 248
    digest[31] &= 127
    digest[31] |= 64
    return int.from_bytes(digest, "little")
