"""The client's address: that of the connection's peer, or the one that trusted proxies report."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from litestar.types import Scope

from cdv_http.request_state import state_of

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_IPV6_PREFIX_BITS: Final = 64  # one subscriber's network, in which a client has as many addresses as it likes
_CACHE_ENTRIES: Final = 4096  # most requests come from a few proxies or clients
_CACHED_MAX_BYTES: Final = 256  # ours: a client may send 64 KiB of X-Forwarded-For, which must not fill the cache


class ClientAddresses:
    """Finds clients' addresses. `trusted_proxies`: addresses or networks whose X-Forwarded-* headers are trusted."""

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        self._trusted: list[_Network] = [ipaddress.ip_network(network, strict=False) for network in trusted_proxies]
        self._trusts = lru_cache(_CACHE_ENTRIES)(self._trusts_peer)
        self._cached_client = lru_cache(_CACHE_ENTRIES)(self._client)

    def of(self, scope: Scope) -> str:
        """Return the client's IPv4 address or IPv6 /64; `unknown` without a peer, as over a local socket."""
        peer = scope.get("client")
        if not peer:
            return "unknown"
        forwarded = b",".join(state_of(scope).headers.every(b"x-forwarded-for")) if self._trusts(peer[0]) else b""
        client = self._cached_client if len(forwarded) <= _CACHED_MAX_BYTES else self._client
        return client(peer[0], forwarded)

    def uses_https(self, scope: Scope) -> bool:
        """Return whether the client used HTTPS: with us, or according to a trusted proxy."""
        if scope["scheme"] == "https":
            return True
        peer = scope.get("client")
        if not peer or state_of(scope).headers.only(b"x-forwarded-proto") != b"https":
            return False
        return self._trusts(peer[0])

    def _trusts_peer(self, peer: str) -> bool:
        address = _parse(peer)
        return address is not None and self._is_trusted(address)

    def _client(self, peer: str, forwarded: bytes) -> str:
        """`forwarded`: the X-Forwarded-For of a trusted peer; empty otherwise."""
        address = self._nearest_untrusted(forwarded) or _parse(peer)
        if address is None:
            return "unknown"
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((address, _IPV6_PREFIX_BITS), strict=False))
        return str(address)

    def _nearest_untrusted(self, forwarded: bytes) -> _Address | None:
        """Return the last address that is not a trusted proxy, or else the first valid one; None if there is none."""
        nearest: _Address | None = None
        for text in reversed(forwarded.decode("latin-1").split(",")):
            address = _parse(_without_port(text.strip()))
            if address is None:
                break  # entries before an invalid one were written by whoever wrote the invalid one
            nearest = address
            if not self._is_trusted(address):
                break
        return nearest

    def _is_trusted(self, address: _Address) -> bool:
        return any(address in network for network in self._trusted)


def _without_port(text: str) -> str:
    """Return the address of `192.0.2.7:80` and `[2001:db8::1]:80`, as some proxies write them; other text as it is."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _parse(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
