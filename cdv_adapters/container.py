"""Chooses the adapter for each port by the settings, and wires them. `bootstrap.py` opens and closes them.

The only file that names concrete adapters. Adapters of the production stack are imported where they are created: the
embedded vault opens without loading a Postgres driver, an S3 client or a NATS client.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dependency_injector import containers, providers
from loguru import logger

from cdv_adapters.backup import sqlite as sqlite_backup
from cdv_adapters.blobs.filesystem import FilesystemBlobStore
from cdv_adapters.clock.system import SystemClock
from cdv_adapters.data_dir import DataDir
from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.ids.ulid import UlidSource
from cdv_adapters.media.sqlite import SqliteMediaStore
from cdv_adapters.outbox.sqlite import SqliteOutbox
from cdv_adapters.records.sqlite import SqliteRecordStore
from cdv_adapters.removal import sqlite as sqlite_removal
from cdv_adapters.schemas.bundled import BundledSchemas
from cdv_adapters.secrets.references import SecretReferences
from cdv_adapters.settings import Settings
from cdv_adapters.tokens.local_key import LocalIssuer, LocalKeyTokenVerifier
from cdv_adapters.visibility.sqlite import SqliteOwnerOnlyStore
from cdv_core.domain.media import Asset
from cdv_core.domain.records import StoredRecord
from cdv_core.domain.schemas import Catalogue
from cdv_core.errors import CannotStart, InvalidField, Unavailable
from cdv_core.ports.media import MediaStore
from cdv_core.ports.outbox import Outbox
from cdv_core.ports.records import RecordStore
from cdv_core.ports.visibility import OwnerOnlyStore
from cdv_core.use_cases.media import Media, MediaPolicy
from cdv_core.use_cases.records import Records, SchemaPolicy
from cdv_core.use_cases.relay import Relay
from cdv_core.use_cases.served_media import ServedMedia
from cdv_core.vault import Vault

if TYPE_CHECKING:
    from cdv_adapters.blobs.s3 import S3BlobStore
    from cdv_adapters.database.postgres import PostgresDatabase
    from cdv_adapters.events.nats import NatsEventBus
    from cdv_adapters.schemas.url import UrlSchemas
    from cdv_adapters.tokens.jwks import JwksTokenVerifier

_PROBE_VALID_SECONDS = 1.0  # ours: while clients request URLs, the object store gets one probe per second


def local_issuer(settings: Settings, key_file: Path | None = None) -> LocalIssuer:
    """Return the built-in issuer with the key in the data directory, or in `key_file` if given."""
    if key_file is not None:
        return LocalIssuer.from_file(key_file, issuer=settings.issuer, audience=settings.audience)
    make_data_dir(settings)
    return LocalIssuer.open(settings.data_dir, issuer=settings.issuer, audience=settings.audience)


def make_data_dir(settings: Settings) -> None:
    """Create the data directory unless it exists. Raises: CannotStart."""
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(
            f"use the data directory {settings.data_dir}",
            error.strerror or str(error),
            "make it writable or set CDV_DATA_DIR to another",
        ) from error


def has_vault(settings: Settings) -> bool:
    """Return whether the data directory contains the database of an embedded vault."""
    return DataDir(settings.data_dir).database.is_file()


def _embedded_unless_set(value: object) -> str:
    return "embedded" if value is None else "production"


@dataclass(frozen=True, slots=True)
class PostgresAccess:
    """The DSN without its password, and a function that returns the current password; None if none is needed."""

    dsn: str
    password: Callable[[], Awaitable[str]] | None


async def _postgres_access(settings: Settings, secrets: SecretReferences) -> PostgresAccess:
    """Resolve the DSN. The whole DSN may be a secret reference, and so may its password."""
    from cdv_adapters.dsn import split_password

    assert settings.db_dsn is not None, "called only with a DSN"  # noqa: S101
    dsn_or_reference = settings.db_dsn.get_secret_value()
    dsn, password = split_password(await secrets.get(dsn_or_reference))
    if password is None:
        return PostgresAccess(dsn, None)

    async def current_password() -> str:
        _, current = split_password(await secrets.get(dsn_or_reference))
        return await secrets.get(current or "")

    return PostgresAccess(dsn, current_password)


def _postgres(access: PostgresAccess, settings: Settings) -> PostgresDatabase:
    from cdv_adapters.database.postgres import PostgresDatabase, PostgresOptions

    options = PostgresOptions(max_size=settings.db_pool_size, transaction_pooler=settings.db_transaction_pooler)
    return PostgresDatabase(access.dsn, password=access.password, options=options)


def _nats(settings: Settings, secrets: SecretReferences) -> NatsEventBus:
    from cdv_adapters.events.nats import NatsEventBus
    from cdv_adapters.events.nats_connection import NatsAccess
    from cdv_adapters.events.nats_streams import StreamSettings

    assert settings.nats_url is not None, "created only with an address"  # noqa: S101
    url, credentials = settings.nats_url, settings.nats_creds
    # Functions, called for every connection, so that a rotated secret takes effect.
    return NatsEventBus(
        NatsAccess(
            partial(secrets.get, url.get_secret_value()),
            None if credentials is None else partial(secrets.get, credentials.get_secret_value()),
            settings.nats_ca,
        ),
        StreamSettings(
            max_age=timedelta(seconds=settings.nats_max_age),
            max_bytes=settings.nats_max_bytes,
            replicas=settings.nats_replicas,
            ack_wait=timedelta(seconds=settings.nats_ack_wait),
            max_ack_pending=settings.nats_max_ack_pending,
        ),
    )


def _postgres_records(database: PostgresDatabase) -> RecordStore:
    from cdv_adapters.records.postgres import PostgresRecordStore

    return PostgresRecordStore(database)


def _postgres_media(database: PostgresDatabase) -> MediaStore:
    from cdv_adapters.media.postgres import PostgresMediaStore

    return PostgresMediaStore(database)


def _postgres_outbox(database: PostgresDatabase) -> Outbox:
    from cdv_adapters.outbox.postgres import PostgresOutbox

    return PostgresOutbox(database)


def _postgres_owner_only(database: PostgresDatabase) -> OwnerOnlyStore:
    from cdv_adapters.visibility.postgres import PostgresOwnerOnlyStore

    return PostgresOwnerOnlyStore(database)


def _s3(settings: Settings, clock: SystemClock, secrets: SecretReferences) -> S3BlobStore:
    from cdv_adapters.blobs.s3 import S3BlobStore, S3TimeLimits, copy_seconds

    assert settings.s3_endpoint is not None, "selected only with an endpoint"  # noqa: S101
    assert settings.s3_bucket is not None, "the settings require it with an endpoint"  # noqa: S101
    access, secret = settings.s3_access_key, settings.s3_secret_key

    async def keys() -> tuple[str, str]:
        assert access is not None, "called only with keys"  # noqa: S101
        assert secret is not None, "the settings require both or neither"  # noqa: S101
        return await secrets.get(access.get_secret_value()), await secrets.get(secret.get_secret_value())

    return S3BlobStore(
        endpoint=settings.s3_endpoint,
        bucket=settings.s3_bucket,
        clock=clock,
        region=settings.s3_region,
        ca_file=settings.s3_ca,
        keys=None if access is None else keys,
        time_limits=S3TimeLimits(
            copy_seconds=copy_seconds(settings.max_media_size), probe_valid_seconds=_PROBE_VALID_SECONDS
        ),
    )


def _url_schemas(settings: Settings) -> UrlSchemas:
    from cdv_adapters.schemas.url import UrlSchemas

    assert settings.specs_url is not None, "selected only with a URL"  # noqa: S101
    return UrlSchemas.at(settings.specs_url, settings.data_dir)


def _jwks(settings: Settings, clock: SystemClock) -> JwksTokenVerifier:
    from cdv_adapters.tokens.jwks import JwksTokenVerifier, JwksUrl
    from cdv_adapters.tokens.key_set import IssuerKeys

    assert settings.keys_url is not None, "selected only with an issuer"  # noqa: S101
    return JwksTokenVerifier(
        IssuerKeys(JwksUrl(settings.keys_url, ca_file=settings.jwks_ca)),
        issuer=settings.issuer,
        audience=settings.audience,
        clock=clock,
    )


class Container(containers.DeclarativeContainer):
    """The vault's parts. Each Selector picks the embedded or the production adapter by the settings."""

    settings = providers.Dependency(instance_of=Settings)
    postgres_access = providers.Dependency(instance_of=PostgresAccess)

    data_dir = providers.Factory(DataDir, settings.provided.data_dir)
    secrets = providers.Singleton(SecretReferences, settings.provided.env)
    clock = providers.Singleton(SystemClock)
    ids = providers.Singleton(UlidSource)
    schemas = providers.Selector(
        providers.Callable(_embedded_unless_set, settings.provided.specs_url),
        embedded=providers.Singleton(BundledSchemas),
        production=providers.Singleton(_url_schemas, settings),
    )

    _database = providers.Callable(_embedded_unless_set, settings.provided.db_dsn)
    sqlite = providers.Singleton(SqliteDatabase, data_dir.provided.database)
    postgres = providers.Singleton(_postgres, postgres_access, settings)
    database = providers.Selector(_database, embedded=sqlite, production=postgres)
    record_store = providers.Selector(
        _database,
        embedded=providers.Singleton(SqliteRecordStore, sqlite),
        production=providers.Singleton(_postgres_records, postgres),
    )
    media_store = providers.Selector(
        _database,
        embedded=providers.Singleton(SqliteMediaStore, sqlite),
        production=providers.Singleton(_postgres_media, postgres),
    )
    outbox = providers.Selector(
        _database,
        embedded=providers.Singleton(SqliteOutbox, sqlite),
        production=providers.Singleton(_postgres_outbox, postgres),
    )
    owner_only_store = providers.Selector(
        _database,
        embedded=providers.Singleton(SqliteOwnerOnlyStore, sqlite),
        production=providers.Singleton(_postgres_owner_only, postgres),
    )

    blobs = providers.Selector(
        providers.Callable(_embedded_unless_set, settings.provided.s3_endpoint),
        embedded=providers.Singleton(
            FilesystemBlobStore,
            data_dir.provided.media.root,
            clock,
            settings.provided.max_media_size,
        ),
        production=providers.Singleton(_s3, settings, clock, secrets),
    )

    issuer = providers.Singleton(local_issuer, settings)
    tokens = providers.Selector(
        providers.Callable(_embedded_unless_set, settings.provided.jwt_issuer),
        embedded=providers.Singleton(LocalKeyTokenVerifier, issuer, clock),
        production=providers.Singleton(_jwks, settings, clock),
    )

    records = providers.Singleton(
        Records,
        record_store,
        schemas,
        clock,
        ids,
        providers.Factory(
            SchemaPolicy,
            allow_drafts=settings.provided.is_dev,
            reject_deprecated=settings.provided.reject_deprecated_schemas,
        ),
    )
    _media_policy = providers.Factory(
        MediaPolicy,
        env=settings.provided.env,
        max_bytes=settings.provided.max_media_size,
        allowed_types=settings.provided.allowed_mime_types,
    )
    media = providers.Selector(
        providers.Callable(_embedded_unless_set, settings.provided.s3_endpoint),
        embedded=providers.Singleton(ServedMedia, media_store, blobs, clock, ids, _media_policy),
        production=providers.Singleton(Media, media_store, blobs, clock, ids, _media_policy),
    )
    vault = providers.Singleton(Vault, records, media)

    bus = providers.Singleton(_nats, settings, secrets)
    relay = providers.Singleton(Relay, outbox, bus, clock, ids)


def wire(settings: Settings) -> Container:
    """Return the container for these settings. Each part is created when it is first requested."""
    return Container(settings=providers.Object(settings))


@asynccontextmanager
async def open_bus(settings: Settings) -> AsyncGenerator[NatsEventBus, None]:
    """Open only the event bus. CDV_NATS_URL must be set."""
    async with wire(settings).bus() as bus:
        yield bus


async def reach_postgres(container: Container, *, upgrade: bool) -> list[str]:
    """Resolve the DSN and migrate the schema; return the names of the migrations applied.

    `upgrade`: False does not change an existing schema, which an older service may be using. Raises: CannotStart.
    """
    from cdv_adapters.database.postgres_migration import migrate

    try:
        access = await _postgres_access(container.settings(), container.secrets())
        container.postgres_access.override(providers.Object(access))
        return await migrate(access.dsn, password=access.password, upgrade=upgrade)
    except Unavailable as error:
        remedy = "start it, or correct CDV_DB_DSN"
        what = f"reach the {error.dependency.replace('_', ' ')}"
        raise CannotStart(what, str(error.__cause__ or error), remedy) from error
    except InvalidField as error:
        raise CannotStart("read the secret", str(error), "correct CDV_DB_DSN or what it refers to") from error


async def provision_bucket(blobs: S3BlobStore, settings: Settings) -> None:
    """Create and configure the bucket, and log the outcome of each feature."""
    for feature in await blobs.provision(settings.cors_allowed_origins):
        level = "INFO" if feature.outcome == "done" else "WARNING"
        logger.log(level, "bucket {}: {}: {}: {}", settings.s3_bucket, feature.feature, feature.outcome, feature.detail)


def read_catalogue(specs_url: str | None) -> Catalogue:
    """Return the catalogue at `specs_url`, or the bundled one if None. Blocks.

    Raises: CannotStart: it cannot be fetched. ValueError: the address is invalid. CatalogueRefused: with all problems.
    """
    if specs_url is None:
        return BundledSchemas().catalogue
    from cdv_adapters.schemas.specs_url import FetchFailed
    from cdv_adapters.schemas.url import fetch_catalogue

    try:
        return fetch_catalogue(specs_url)
    except FetchFailed as error:
        raise CannotStart(f"fetch the catalogue at {specs_url}", str(error), "correct the address") from error


def removal(settings: Settings) -> Callable[..., Awaitable[None]]:
    """Return the function that removes a DID from the database."""
    if settings.db_dsn is None:
        return sqlite_removal.remove
    from cdv_adapters.removal import postgres as postgres_removal

    return postgres_removal.remove


def copy_database(source: Path, target: Path) -> None:
    """Copy an embedded vault's database, which may be in use. Raises: CannotStart."""
    sqlite_backup.copy_database(source, target)


def read_database(path: Path) -> Iterator[StoredRecord | Asset]:
    """Check the integrity of such a copy, then yield all its records and finalized assets. Raises: CannotStart."""
    return sqlite_backup.read_database(path)
