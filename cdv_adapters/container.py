"""Which adapter stands behind each port: chosen by the settings, wired once, opened and closed in order.

The only file that names concrete adapters.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dependency_injector import containers, providers

from cdv_adapters.blobs.filesystem import FilesystemBlobStore
from cdv_adapters.clock.system import SystemClock
from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.ids.ulid import UlidSource
from cdv_adapters.media.sqlite import SqliteMediaStore
from cdv_adapters.outbox.sqlite import SqliteOutbox
from cdv_adapters.records.sqlite import SqliteRecordStore
from cdv_adapters.schemas.bundled import BundledSchemas
from cdv_adapters.settings import Settings
from cdv_adapters.tokens.local_key import LocalIssuer, LocalKeyTokenVerifier
from cdv_core.errors import CannotStart
from cdv_core.ports.blobs import ServedBlobStore
from cdv_core.ports.tokens import TokenVerifier
from cdv_core.use_cases.media import Media, MediaPolicy
from cdv_core.use_cases.records import Records, SchemaPolicy
from cdv_core.vault import Vault


@dataclass(frozen=True, slots=True)
class Dependency:
    """Something the service needs. `check` returns when it is up and raises a CdvError when it is not."""

    name: Literal["database", "object_store", "events", "issuer", "schemas"]
    critical: bool
    check: Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Service:
    """The vault with everything around it that serving it takes.

    `served_blobs`: set when media goes through the service itself. `public_keys`: the built-in issuer's JWKS, None
    when tokens come from elsewhere.
    """

    settings: Settings
    vault: Vault
    tokens: TokenVerifier
    dependencies: tuple[Dependency, ...]
    served_blobs: ServedBlobStore | None
    public_keys: dict[str, Any] | None
    draining: bool = False

    @property
    def reads_need_token(self) -> bool:
        return self.settings.read_auth == "token"


def local_issuer(settings: Settings, key_file: Path | None = None) -> LocalIssuer:
    """Return the built-in issuer with the key of the data dir, or with that of `key_file`."""
    if key_file is not None:
        return LocalIssuer.from_file(key_file, issuer=settings.issuer, audience=settings.audience)
    make_data_dir(settings)
    return LocalIssuer.open(settings.data_dir, issuer=settings.issuer, audience=settings.audience)


def make_data_dir(settings: Settings) -> None:
    """Make the data dir. Raises: CannotStart."""
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(
            f"use the data directory {settings.data_dir}",
            error.strerror or str(error),
            "make it writable or set CDV_DATA_DIR to another",
        ) from error


class Container(containers.DeclarativeContainer):
    """The vault's parts. A Selector picks the embedded or the production adapter by what is configured."""

    settings = providers.Dependency(instance_of=Settings)

    clock = providers.Singleton(SystemClock)
    ids = providers.Singleton(UlidSource)
    schemas = providers.Singleton(BundledSchemas)

    database = providers.Singleton(SqliteDatabase, settings.provided.data_dir.joinpath.call("vault.sqlite3"))
    records_store = providers.Singleton(SqliteRecordStore, database)
    media_store = providers.Singleton(SqliteMediaStore, database)
    outbox = providers.Singleton(SqliteOutbox, database)

    blobs = providers.Singleton(FilesystemBlobStore, settings.provided.data_dir.joinpath.call("media"), clock)

    issuer = providers.Singleton(local_issuer, settings)
    tokens = providers.Singleton(LocalKeyTokenVerifier, issuer, clock)

    records = providers.Singleton(
        Records,
        records_store,
        schemas,
        clock,
        ids,
        providers.Factory(
            SchemaPolicy,
            allow_drafts=settings.provided.is_dev,
            reject_deprecated=settings.provided.reject_deprecated_schemas,
        ),
    )
    media = providers.Singleton(
        Media,
        media_store,
        blobs,
        clock,
        ids,
        providers.Factory(
            MediaPolicy,
            env=settings.provided.env,
            max_bytes=settings.provided.max_media_size,
            allowed_types=settings.provided.allowed_mime_types,
        ),
    )
    vault = providers.Singleton(Vault, records, media)


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncGenerator[Service, None]:
    """Open the vault and what it depends on; close it all in reverse order.

    Raises: CannotStart: with what to do about it.
    """
    make_data_dir(settings)
    container = Container(settings=providers.Object(settings))
    async with container.database() as database:
        yield Service(
            settings,
            container.vault(),
            container.tokens(),
            (
                Dependency("database", critical=True, check=database.ping),
                Dependency("object_store", critical=False, check=container.blobs().check),
            ),
            container.blobs(),
            container.issuer().jwks(),
        )


@asynccontextmanager
async def open_vault(data_dir: str | Path) -> AsyncGenerator[Vault, None]:
    """Open the embedded vault kept in `data_dir`, made if it is not there.

    Raises: CannotStart: the directory or the database in it cannot be used; nothing is damaged.
    """
    async with open_service(Settings.embedded(Path(data_dir))) as service:
        yield service.vault


async def migrate(settings: Settings) -> list[str]:
    """Bring the database to the version that this code knows; return the names of the migrations applied."""
    raise NotImplementedError(settings)
