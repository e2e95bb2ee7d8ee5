"""The vault and everything else that the HTTP service needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from cdv_adapters.settings import Settings
from cdv_core.errors import DependencyName
from cdv_core.ports.blobs import ServedBlobStore
from cdv_core.ports.clock import Clock
from cdv_core.ports.events import EventBus
from cdv_core.ports.outbox import Outbox
from cdv_core.ports.tokens import TokenVerifier
from cdv_core.use_cases.relay import Relay
from cdv_core.vault import Vault


@dataclass(frozen=True, slots=True)
class Dependency:
    """Something the service depends on. `check` returns if it is available and raises a CdvError if it is not."""

    name: DependencyName
    critical: bool
    check: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class BackgroundTask:
    """Recurring work outside of requests. Safe to run on any number of replicas at once.

    If `run` returns a number, that is how many items it removed, and it runs again soon, until it removes none.
    `until_success`: run immediately, then at the interval until it succeeds, and never again. `prepares`: the
    dependency that cannot be fully used before the task has succeeded.
    """

    name: str
    interval_seconds: float
    run: Callable[[], Awaitable[object]]
    until_success: bool = False
    prepares: DependencyName | None = None


@dataclass(slots=True)
class Service:
    """What `open_service` opens.

    `relay`, `bus`: None if no broker is configured. `served_blobs`: set if clients transfer media through the service
    itself. `public_keys`: the built-in issuer's JWKS, None if another issuer is configured. `rate_limit_storage`: the
    address of the shared rate limit store, None without one. `readings`: each returns current values of an adapter's
    state, by name, without I/O. `on_write`: called after each write, so that the relay publishes its event at once; the
    HTTP service replaces it, which is why this class is not frozen.
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
    readings: list[Callable[[], dict[str, float]]] = field(default_factory=list)
    on_write: Callable[[], None] = field(default=lambda: None)

    @property
    def reads_need_token(self) -> bool:
        return self.settings.read_auth == "token"
