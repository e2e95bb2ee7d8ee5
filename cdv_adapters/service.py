"""The vault with everything around it that serving it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from cdv_adapters.settings import Settings
from cdv_core.ports.blobs import ServedBlobStore
from cdv_core.ports.clock import Clock
from cdv_core.ports.events import EventBus
from cdv_core.ports.outbox import Outbox
from cdv_core.ports.tokens import TokenVerifier
from cdv_core.use_cases.outbox import Relay
from cdv_core.vault import Vault


@dataclass(frozen=True, slots=True)
class Dependency:
    """Something the service needs. `check` returns when it is up and raises a CdvError when it is not."""

    name: Literal["database", "object_store", "events", "issuer", "schemas"]
    critical: bool
    check: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Chore:
    """Work off the request path, to be done again and again. Safe with any number of replicas doing it.

    A number that `do` returns is how much it has removed; then it is done again at once, until it finds nothing.
    `until_done`: it is begun at once, and not repeated after it has succeeded. `prepares`: what works only after that.
    """

    name: str
    every_seconds: float
    do: Callable[[], Awaitable[object]]
    until_done: bool = False
    prepares: Literal["object_store"] | None = None


@dataclass(slots=True)
class Service:
    """What `open_service` opens.

    `relay`, `bus`: None when no broker is configured. `served_blobs`: set when media goes through the service itself.
    `public_keys`: the built-in issuer's JWKS, None when tokens come from elsewhere. `rate_limit_storage`: the address
    of the budgets' shared store, None without one. `wrote`: to be called after a write, so that its event need not
    wait. `readings`: each gives present values of an adapter's state, by name, without I/O.
    """

    settings: Settings
    vault: Vault
    tokens: TokenVerifier
    outbox: Outbox
    clock: Clock
    dependencies: list[Dependency]
    chores: list[Chore]
    relay: Relay | None = None
    bus: EventBus | None = None
    served_blobs: ServedBlobStore | None = None
    public_keys: dict[str, Any] | None = None
    rate_limit_storage: str | None = None
    wrote: Callable[[], None] = field(default=lambda: None)
    readings: list[Callable[[], dict[str, float]]] = field(default_factory=list)

    @property
    def reads_need_token(self) -> bool:
        return self.settings.read_auth == "token"
