"""Where a request comes from: the connection's peer, or what proxies that we trust say of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from litestar.types import Scope

from cdv_http.request_state import state_of

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_IPV6_PREFIX_BITS: Final = 64  # one subscriber's network: within it, addresses cost nothing
_REMEMBERED: Final = 4096  # most requests come from a few proxies or clients
_REMEMBERED_MAX_BYTES: Final = 256  # ours: a client may write 64 KiB of them, and they must not fill our memory


class ClientAddresses:
    """Tells clients apart by address. `trusted_proxies`: addresses or networks whose X-Forwarded-* are believed."""

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        self._trusted: list[_Network] = [ipaddress.ip_network(network, strict=False) for network in trusted_proxies]
        self._trusts = lru_cache(_REMEMBERED)(self._trusts_peer)
        self._remembered_client = lru_cache(_REMEMBERED)(self._client)

    def of(self, scope: Scope) -> str:
        """Return the client's IPv4 address or IPv6 /64; `unknown` without a peer, as over a local socket."""
        peer = scope.get("client")
        if not peer:
            return "unknown"
        forwarded = b",".join(state_of(scope).headers.every(b"x-forwarded-for")) if self._trusts(peer[0]) else b""
        client = self._remembered_client if len(forwarded) <= _REMEMBERED_MAX_BYTES else self._client
        return client(peer[0], forwarded)

    def speak_https(self, scope: Scope) -> bool:
        """Return whether the client spoke HTTPS: to us, or to a proxy that we trust and that says so."""
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
        """`forwarded`: what a peer that we trust says; empty otherwise."""
        address = self._nearest_untrusted(forwarded) or _parse(peer)
        if address is None:
            return "unknown"
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((address, _IPV6_PREFIX_BITS), strict=False))
        return str(address)

    def _nearest_untrusted(self, forwarded: bytes) -> _Address | None:
        """Return the last address that no trusted proxy of ours put itself between; None if there is none."""
        nearest: _Address | None = None
        for text in reversed(forwarded.decode("latin-1").split(",")):
            address = _parse(_without_port(text.strip()))
            if address is None:
                break  # what stands before nonsense was written by whoever wrote the nonsense
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
