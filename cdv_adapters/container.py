"""Which adapter stands behind each port: chosen by the settings, wired once, opened and closed in order.

The only file that names concrete adapters. Those of the production stack are imported where they are made: the embedded
vault opens without loading a database driver, an S3 client or a broker's client.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
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
from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.ids.ulid import UlidSource
from cdv_adapters.media.sqlite import SqliteMediaStore
from cdv_adapters.outbox.sqlite import SqliteOutbox
from cdv_adapters.records.sqlite import SqliteRecordStore
from cdv_adapters.removal import sqlite as sqlite_removal
from cdv_adapters.schemas.bundled import BundledSchemas
from cdv_adapters.secrets.references import SecretReferences
from cdv_adapters.service import Chore, Dependency, Service
from cdv_adapters.settings import Settings
from cdv_adapters.tokens.local_key import LocalIssuer, LocalKeyTokenVerifier
from cdv_adapters.tracing import trace_methods
from cdv_core.domain.identifiers import Did
from cdv_core.domain.media import Asset
from cdv_core.domain.records import StoredRecord
from cdv_core.domain.schemas import Catalogue
from cdv_core.errors import CannotStart, InvalidField, Unavailable
from cdv_core.ports.media import MediaStore
from cdv_core.ports.outbox import Outbox
from cdv_core.ports.records import RecordStore
from cdv_core.ports.schemas import SchemaSource
from cdv_core.use_cases.media import Media, MediaPolicy
from cdv_core.use_cases.outbox import Relay
from cdv_core.use_cases.records import Records, SchemaPolicy
from cdv_core.use_cases.served_media import ServedMedia
from cdv_core.vault import EmbeddedVault, Vault

if TYPE_CHECKING:
    from cdv_adapters.blobs.s3 import S3BlobStore
    from cdv_adapters.database.postgres import PostgresDatabase
    from cdv_adapters.events.nats import NatsEventBus
    from cdv_adapters.schemas.url import UrlSchemas
    from cdv_adapters.tokens.jwks import JwksTokenVerifier

THROW_AWAY_DID = "did:example:cdv-doctor-"  # ours: what `cdv doctor` writes under, and may remove again
_SPECS_AT_START_SECONDS = 5  # ours: a slow source delays the start no longer; what arrives later is used
_STORE_ANSWERED_SECONDS = 1.0  # ours: one question a second, while URLs are asked for
_SPECS_EVERY_SECONDS = 300  # ours: how old a catalogue may be while its source is well


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


def _which(value: object) -> str:
    return "embedded" if value is None else "production"


@dataclass(frozen=True, slots=True)
class PostgresAccess:
    """Where the database is, without its password, and what gives the present one; None if none is needed."""

    dsn: str
    password: Callable[[], Awaitable[str]] | None


async def _postgres_access(settings: Settings, secrets: SecretReferences) -> PostgresAccess:
    """Read the DSN: it may be a reference as a whole, and its password may be one."""
    from cdv_adapters.database.postgres import split_password

    assert settings.db_dsn is not None, "asked only with a DSN"  # noqa: S101
    given = settings.db_dsn.get_secret_value()
    dsn, password = split_password(await secrets.get(given))
    if password is None:
        return PostgresAccess(dsn, None)

    async def present() -> str:
        _, current = split_password(await secrets.get(given))
        return await secrets.get(current or "")

    return PostgresAccess(dsn, present)


def _postgres(access: PostgresAccess, settings: Settings) -> PostgresDatabase:
    from cdv_adapters.database.postgres import PostgresDatabase, PostgresOptions

    options = PostgresOptions(max_size=settings.db_pool_size, transaction_pooler=settings.db_transaction_pooler)
    return PostgresDatabase(access.dsn, password=access.password, options=options)


def _nats(settings: Settings, secrets: SecretReferences) -> NatsEventBus:
    from cdv_adapters.events.nats import NatsEventBus
    from cdv_adapters.events.nats_connection import NatsAccess
    from cdv_adapters.events.nats_streams import StreamSettings

    assert settings.nats_url is not None, "made only with an address"  # noqa: S101
    url, credentials = settings.nats_url, settings.nats_creds
    # Asked again at every connection, so that a rotated secret is taken up.
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


def _s3(settings: Settings, clock: SystemClock, secrets: SecretReferences) -> S3BlobStore:
    from cdv_adapters.blobs.s3 import S3BlobStore

    assert settings.s3_endpoint is not None, "selected only with an endpoint"  # noqa: S101
    assert settings.s3_bucket is not None, "the settings require it with an endpoint"  # noqa: S101
    access, secret = settings.s3_access_key, settings.s3_secret_key

    async def keys() -> tuple[str, str]:
        assert access is not None, "asked only with keys"  # noqa: S101
        assert secret is not None, "the settings require both or neither"  # noqa: S101
        return await secrets.get(access.get_secret_value()), await secrets.get(secret.get_secret_value())

    return S3BlobStore(
        endpoint=settings.s3_endpoint,
        bucket=settings.s3_bucket,
        clock=clock,
        region=settings.s3_region,
        ca_file=settings.s3_ca,
        keys=None if access is None else keys,
        answered_within_seconds=_STORE_ANSWERED_SECONDS,
    )


def _url_schemas(settings: Settings) -> UrlSchemas:
    from cdv_adapters.schemas.url import UrlSchemas

    assert settings.specs_url is not None, "selected only with a URL"  # noqa: S101
    return UrlSchemas.at(settings.specs_url, settings.data_dir)


def _jwks(settings: Settings, clock: SystemClock) -> JwksTokenVerifier:
    from cdv_adapters.tokens.jwks import JwksTokenVerifier, JwksUrl
    from cdv_adapters.tokens.key_set import IssuerKeys

    url = settings.jwks_url or f"{settings.issuer.rstrip('/')}/.well-known/jwks.json"
    return JwksTokenVerifier(
        IssuerKeys(JwksUrl(url, ca_file=settings.jwks_ca)),
        issuer=settings.issuer,
        audience=settings.audience,
        clock=clock,
    )


class Container(containers.DeclarativeContainer):
    """The vault's parts. A Selector picks the embedded or the production adapter by what is configured."""

    settings = providers.Dependency(instance_of=Settings)
    postgres_access = providers.Dependency(instance_of=PostgresAccess)

    secrets = providers.Singleton(SecretReferences, settings.provided.env)
    clock = providers.Singleton(SystemClock)
    ids = providers.Singleton(UlidSource)
    schemas = providers.Selector(
        providers.Callable(_which, settings.provided.specs_url),
        embedded=providers.Singleton(BundledSchemas),
        production=providers.Singleton(_url_schemas, settings),
    )

    _database = providers.Callable(_which, settings.provided.db_dsn)
    sqlite = providers.Singleton(SqliteDatabase, settings.provided.data_dir.joinpath.call("vault.sqlite3"))
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

    blobs = providers.Selector(
        providers.Callable(_which, settings.provided.s3_endpoint),
        embedded=providers.Singleton(
            FilesystemBlobStore,
            settings.provided.data_dir.joinpath.call("media"),
            clock,
            settings.provided.max_media_size,
        ),
        production=providers.Singleton(_s3, settings, clock, secrets),
    )

    issuer = providers.Singleton(local_issuer, settings)
    tokens = providers.Selector(
        providers.Callable(_which, settings.provided.jwt_issuer),
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
        providers.Callable(_which, settings.provided.s3_endpoint),
        embedded=providers.Singleton(ServedMedia, media_store, blobs, clock, ids, _media_policy),
        production=providers.Singleton(Media, media_store, blobs, clock, ids, _media_policy),
    )
    vault = providers.Singleton(Vault, records, media)

    bus = providers.Singleton(_nats, settings, secrets)
    relay = providers.Singleton(Relay, outbox, bus, clock, ids)


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncGenerator[Service, None]:
    """Open the vault and what it depends on; close it all in reverse order.

    The database must be there; everything else may come later. Raises: CannotStart: with what to do about it.
    """
    container = Container(settings=providers.Object(settings))
    async with AsyncExitStack() as stack:
        _make_what_is_kept_here(settings)
        if settings.db_dsn is not None:
            await _reach(container)
        database = await stack.enter_async_context(container.database())
        others = await stack.enter_async_context(_open_others(container))
        blobs, tokens = container.blobs(), container.tokens()
        service = Service(
            settings,
            container.vault(),
            tokens,
            container.outbox(),
            container.clock(),
            dependencies=[Dependency("database", critical=True, check=database.ping), *others],
            chores=[
                Chore("purge expired replies", 60, lambda: _purge(container)),
                Chore("sweep uploads", 60, container.media().sweep),
            ],
        )
        service.readings.append(partial(_catalogue_readings, container.schemas()))
        for part in (service.vault.records, service.vault.media):
            trace_methods(part)
        for part in (database, blobs):
            trace_methods(part, "client")
        if settings.db_dsn is not None:
            service.readings.append(database.usage)
        if settings.s3_endpoint is None:
            service.served_blobs = blobs
        else:
            service.chores.append(Chore("prepare the bucket", 10, lambda: _provision(blobs, settings), until_done=True))
        if settings.jwt_issuer is None:
            service.public_keys = container.issuer().jwks()
        else:
            service.readings.append(lambda: _issuer_readings(tokens))
        if settings.nats_url is not None:
            bus = container.bus()
            service.relay, service.bus = container.relay(), bus
            service.readings.append(lambda: {"stream_differences": len(bus.differences)})
        if settings.specs_url is not None:
            schemas = container.schemas()
            service.chores.append(Chore("refresh the schemas", _SPECS_EVERY_SECONDS, schemas.refresh))
            service.readings.append(lambda: _refresh_readings(schemas))
        if settings.rate_limit_storage is not None:
            address = settings.rate_limit_storage.get_secret_value()
            try:
                service.rate_limit_storage = await container.secrets().get(address)
            except (InvalidField, Unavailable) as error:
                raise CannotStart("read CDV_RATE_LIMIT_STORAGE", str(error.__cause__ or error), "correct it") from error
        yield service


@asynccontextmanager
async def open_others(settings: Settings) -> AsyncGenerator[list[Dependency], None]:
    """Open all that the vault depends on but the database: when that is not there, more may be wrong.

    Raises: CannotStart.
    """
    _make_what_is_kept_here(settings)
    async with _open_others(Container(settings=providers.Object(settings))) as others:
        yield others


def _make_what_is_kept_here(settings: Settings) -> None:
    if None in {settings.db_dsn, settings.s3_endpoint, settings.jwt_issuer} or settings.specs_url is not None:
        make_data_dir(settings)


@asynccontextmanager
async def _open_others(container: Container) -> AsyncGenerator[list[Dependency], None]:
    settings: Settings = container.settings()
    async with AsyncExitStack() as stack:
        blobs, tokens = container.blobs(), container.tokens()
        opened = [Dependency("object_store", critical=False, check=blobs.check)]
        if settings.s3_endpoint is None:
            await blobs.prepare()
        else:
            stack.callback(blobs.close)
        if settings.jwt_issuer is not None:
            stack.push_async_callback(tokens.keys.aclose)
            opened.append(Dependency("issuer", critical=False, check=tokens.keys.check))
        if settings.nats_url is not None:
            bus = await stack.enter_async_context(container.bus())
            opened.append(Dependency("events", critical=False, check=bus.check))
        if settings.specs_url is not None:
            schemas = container.schemas()
            stack.callback(schemas.close)
            await schemas.open(_SPECS_AT_START_SECONDS)
            opened.append(Dependency("schemas", critical=False, check=schemas.check))
        yield opened


@asynccontextmanager
async def open_bus(settings: Settings) -> AsyncGenerator[NatsEventBus, None]:
    """Open the broker alone. CDV_NATS_URL must be set."""
    async with Container(settings=providers.Object(settings)).bus() as bus:
        yield bus


@asynccontextmanager
async def open_vault(data_dir: str | Path) -> AsyncGenerator[EmbeddedVault, None]:
    """Open the embedded vault kept in `data_dir`, made if it is not there.

    Raises: CannotStart: the directory or the database in it cannot be used; nothing is damaged.
    """
    async with open_service(Settings.embedded(Path(data_dir))) as service:
        media = service.vault.media
        assert isinstance(media, ServedMedia), "the defaults keep media here"  # noqa: S101
        yield EmbeddedVault(service.vault.records, media)


def read_catalogue(specs_url: str | None) -> Catalogue:
    """Return the catalogue at `specs_url`, or the bundled one if None. Blocks.

    Raises: CannotStart: it cannot be fetched. ValueError: no such address. CatalogueRefused: with every problem it has.
    """
    if specs_url is None:
        return BundledSchemas().catalogue
    from cdv_adapters.schemas.specs_url import FetchFailed
    from cdv_adapters.schemas.url import fetch_catalogue

    try:
        return fetch_catalogue(specs_url)
    except FetchFailed as error:
        raise CannotStart(f"fetch the catalogue at {specs_url}", str(error), "correct the address") from error


@asynccontextmanager
async def open_records(settings: Settings) -> AsyncGenerator[AsyncIterator[StoredRecord], None]:
    """Open the record store alone, and give every record in it."""
    container = Container(settings=providers.Object(settings))
    if settings.db_dsn is None:
        make_data_dir(settings)
    else:
        await _reach(container)
    async with container.database():
        yield container.record_store().scan()


async def forget(settings: Settings, did: Did, assets: Sequence[Asset], sequences: Sequence[int]) -> None:
    """Remove what `cdv doctor` wrote: all of that DID, with these assets and these op-log entries.

    What a stream holds stays there: a hole in it would look like a loss. An asset whose bytes cannot be removed keeps
    its row, so that a sweep finds it. Raises: CannotStart, Unavailable.
    """
    if not did.startswith(THROW_AWAY_DID):
        raise ValueError("records are for ever")
    container = Container(settings=providers.Object(settings))
    async with AsyncExitStack() as stack:
        blobs = container.blobs()
        if settings.s3_endpoint is not None:
            stack.callback(blobs.close)
        gone, problem = [], None
        for asset in assets:
            try:
                await blobs.delete(asset.staging_key)
                await blobs.delete(asset.final_key(settings.env))
                gone.append(asset.asset_id)
            except Unavailable as error:
                problem = error
        if settings.db_dsn is not None:
            await _reach(container)
        database = await stack.enter_async_context(container.database())
        await _removal(settings)(database, did, gone, sequences, with_account=problem is None)
    if problem is not None:
        raise problem


def _removal(settings: Settings) -> Callable[..., Awaitable[None]]:
    if settings.db_dsn is None:
        return sqlite_removal.remove
    from cdv_adapters.removal import postgres as postgres_removal

    return postgres_removal.remove


def copy_database(source: Path, target: Path) -> None:
    """Copy an embedded vault's database while it is in use. Raises: CannotStart."""
    sqlite_backup.copy_database(source, target)


def read_database(path: Path) -> Iterator[StoredRecord | Asset]:
    """Yield all records and finalised assets of such a copy, checked as a whole first. Raises: CannotStart."""
    return sqlite_backup.read_database(path)


async def migrate(settings: Settings) -> list[str]:
    """Bring the database to the schema that this code knows; return the names of Postgres's migrations applied.

    SQLite is migrated by opening it. Raises: CannotStart.
    """
    if settings.db_dsn is not None:
        return await _reach(Container(settings=providers.Object(settings)))
    async with open_service(settings):
        return []


async def _reach(container: Container) -> list[str]:
    """Find out where Postgres is, and migrate it."""
    from cdv_adapters.database.postgres import migrate as migrate_postgres

    try:
        access = await _postgres_access(container.settings(), container.secrets())
        container.postgres_access.override(providers.Object(access))
        return await migrate_postgres(access.dsn, password=access.password)
    except Unavailable as error:
        remedy = "start it, or correct CDV_DB_DSN"
        raise CannotStart(f"reach the {error.dependency}", str(error.__cause__ or error), remedy) from error
    except InvalidField as error:
        raise CannotStart("read the secret", str(error), "correct CDV_DB_DSN or what it refers to") from error


async def _purge(container: Container) -> int:
    purged: int = await container.record_store().purge_expired_replies(container.clock().now(), limit=1000)
    return purged


def _issuer_readings(tokens: JwksTokenVerifier) -> dict[str, float]:
    state = tokens.keys.state
    return {
        "issuer_keys_age_seconds": state.age_seconds or 0,
        "issuer_failing": state.failing,
        "issuer_fetches": state.fetches,
        "issuer_failures": state.failures,
    }


def _catalogue_readings(schemas: SchemaSource) -> dict[str, float]:
    catalogue = schemas.catalogue
    return {"catalogue_generated": catalogue.generated_at.timestamp(), "catalogue_collections": len(catalogue)}


def _refresh_readings(schemas: UrlSchemas) -> dict[str, float]:
    state = schemas.state
    return {
        "catalogue_failing": state.outcome in {"failed", "refused"},
        "catalogue_refreshes": state.refreshes,
        "catalogue_failures": state.failures,
        "catalogue_refusals": state.refusals,
    }


async def _provision(blobs: S3BlobStore, settings: Settings) -> None:
    for feature in await blobs.provision(settings.cors_allowed_origins):
        level = "INFO" if feature.outcome == "done" else "WARNING"
        logger.log(level, "bucket {}: {}: {}: {}", settings.s3_bucket, feature.feature, feature.outcome, feature.detail)
