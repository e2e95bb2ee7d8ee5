"""Where a request comes from: the connection's peer, or what proxies that we trust say of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from litestar.types import Scope

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_IPV6_PREFIX_BITS: Final = 64  # one subscriber's network: within it, addresses cost nothing


class ClientAddresses:
    """Tells clients apart by address. `trusted_proxies`: addresses or networks whose X-Forwarded-* are believed."""

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        self._trusted: list[_Network] = [ipaddress.ip_network(network, strict=False) for network in trusted_proxies]

    def of(self, scope: Scope) -> str:
        """Return the client's IPv4 address or IPv6 /64; `unknown` without a peer, as over a local socket."""
        address = _peer(scope)
        if address is None:
            return "unknown"
        if self._trusted and self._is_trusted(address):
            address = self._forwarded(scope) or address
        return _name(address)

    def speak_https(self, scope: Scope) -> bool:
        """Return whether the client spoke HTTPS: to us, or to a proxy that we trust and that says so."""
        if scope["scheme"] == "https":
            return True
        said = [value for name, value in scope["headers"] if name == b"x-forwarded-proto"]
        address = _peer(scope) if said == [b"https"] else None
        return address is not None and self._is_trusted(address)

    def _forwarded(self, scope: Scope) -> _Address | None:
        """Return the last address that no trusted proxy of ours put itself between; None if there is none."""
        lines = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        nearest: _Address | None = None
        for text in reversed(",".join(lines).split(",") if lines else []):
            address = _parse(text.strip())
            if address is None:
                break  # what stands before nonsense was written by whoever wrote the nonsense
            nearest = address
            if not self._is_trusted(address):
                break
        return nearest

    def _is_trusted(self, address: _Address) -> bool:
        return any(address in network for network in self._trusted)


def _peer(scope: Scope) -> _Address | None:
    client = scope.get("client")
    return _parse(client[0]) if client else None


@lru_cache(maxsize=4096)
def _name(address: _Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _IPV6_PREFIX_BITS), strict=False))
    return str(address)


@lru_cache(maxsize=4096)  # most requests come from a few proxies or clients
def _parse(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
