"""The client's address behind trusted proxies (spec: CDV_TRUSTED_PROXIES); over HTTP in test_rate_limits.py."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from cdv_http.client_address import ClientAddresses
from cdv_http.request_state import begin_state

PROXY = ("10.0.0.1", 40_000)


def scope_of(client: tuple[str, int] | None, *forwarded: bytes) -> Any:
    scope: Any = {"type": "http", "client": client, "headers": [(b"x-forwarded-for", each) for each in forwarded]}
    begin_state(scope)
    return scope


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        (PROXY, (), "10.0.0.1"),
        (PROXY, (b"192.0.2.7",), "192.0.2.7"),
        (PROXY, (b"192.0.2.7:51234",), "192.0.2.7"),
        (PROXY, (b"[2001:db8::1]:443",), "2001:db8::/64"),
        (PROXY, (b"[2001:db8::1]",), "2001:db8::/64"),
        (PROXY, (b"2001:db8::1",), "2001:db8::/64"),
        (PROXY, (b"203.0.113.9", b"192.0.2.7, 10.0.0.2"), "192.0.2.7"),
        (PROXY, (b"192.0.2.7, what is this?",), "10.0.0.1"),
        (PROXY, (b"192.0.2.7" + b", 10.0.0.2" * 100,), "192.0.2.7"),
        (PROXY, (b"10.0.0.3, 10.0.0.2",), "10.0.0.3"),
        (PROXY, (b"",), "10.0.0.1"),
        (PROXY, (b"\xff",), "10.0.0.1"),
        (("::ffff:10.0.0.1", 1), (b"::ffff:192.0.2.7",), "192.0.2.7"),
        (("fe80::1%eth0", 1), (), "fe80::/64"),
        (("198.51.100.1", 1), (b"192.0.2.7",), "198.51.100.1"),
        (("a socket", 1), (b"192.0.2.7",), "unknown"),
        (None, (b"192.0.2.7",), "unknown"),
    ],
)
def test_the_client_address_is_the_nearest_that_is_not_a_trusted_proxy(
    client: tuple[str, int] | None, forwarded: tuple[bytes, ...], address: str
) -> None:
    addresses = ClientAddresses(("10.0.0.0/8",))
    for _ in range(2):  # the second time, it may be remembered
        assert addresses.of(scope_of(client, *forwarded)) == address


def test_long_forwarded_headers_are_not_kept_in_memory() -> None:
    addresses = ClientAddresses(("10.0.0.0/8",))
    tracemalloc.start()
    try:
        for number in range(100):
            assert addresses.of(scope_of(PROXY, b"%d" % number * 20_000 + b", 192.0.2.7")) == "192.0.2.7"
            assert addresses.of(scope_of(PROXY, b"192.0.2.7, " + b"%d" % number * 20_000)) == "10.0.0.1"
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000
