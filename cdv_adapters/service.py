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
from cdv_core.use_cases.relay import Relay
from cdv_core.vault import Vault


@dataclass(frozen=True, slots=True)
class Dependency:
    """Something the service needs. `check` returns when it is up and raises a CdvError when it is not."""

    name: Literal["database", "object_store", "events", "issuer", "schemas"]
    critical: bool
    check: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class BackgroundTask:
    """Recurring work off the request path. Safe to run on any number of replicas at once.

    If `run` returns a number, it is how many items it removed; then it runs again at once, until nothing is left.
    `until_success`: run at once, again at the interval while it fails, and never again once it has succeeded.
    `prepares`: the dependency that cannot be used fully before the task has succeeded.
    """

    name: str
    interval_seconds: float
    run: Callable[[], Awaitable[object]]
    until_success: bool = False
    prepares: Literal["object_store"] | None = None


@dataclass(slots=True)
class Service:
    """What `open_service` opens.

    `relay`, `bus`: None when no broker is configured. `served_blobs`: set when media goes through the service itself.
    `public_keys`: the built-in issuer's JWKS, None when tokens come from elsewhere. `rate_limit_storage`: the address
    of the budgets' shared store, None without one. `on_write`: to be called after a write, so that its event need not
    wait. `readings`: each gives present values of an adapter's state, by name, without I/O.
    """

    settings: Settings
    vault: Vault
    tokens: TokenVerifier
    outbox: Outbox
    clock: Clock
    dependencies: list[Dependency]
    background_tasks: list[BackgroundTask]
    relay: Relay | None = None
    bus: EventBus | None = None
    served_blobs: ServedBlobStore | None = None
    public_keys: dict[str, Any] | None = None
    rate_limit_storage: str | None = None
    on_write: Callable[[], None] = field(default=lambda: None)
    readings: list[Callable[[], dict[str, float]]] = field(default_factory=list)

    @property
    def reads_need_token(self) -> bool:
        return self.settings.read_auth == "token"
