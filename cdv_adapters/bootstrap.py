"""Opens the vault and its dependencies, all or some of them, and closes them in reverse order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from cdv_adapters.background import run_in_background
from cdv_adapters.container import Container, make_data_dir, provision_bucket, reach_postgres, removal, wire
from cdv_adapters.service import BackgroundTask, Dependency, Service
from cdv_adapters.settings import Settings
from cdv_adapters.tracing import trace_methods
from cdv_core.domain.identifiers import Did
from cdv_core.domain.media import Asset
from cdv_core.domain.records import StoredRecord
from cdv_core.errors import CannotStart, InvalidField, Unavailable
from cdv_core.ports.schemas import SchemaSource
from cdv_core.ports.visibility import OwnerOnlyStore
from cdv_core.use_cases.served_media import ServedMedia
from cdv_core.use_cases.visibility import load_restrictions, sync_restrictions
from cdv_core.vault import EmbeddedVault

DOCTOR_DID_PREFIX = "did:example:cdv-doctor-"  # ours: the only DIDs that `cdv doctor` writes and may remove
_SPECS_AT_START_SECONDS = 5  # ours: a slow source delays the start by this at most; a later catalogue is still used
# ours: the maximum age of the catalogue, and of what is known about other replicas' catalogues, while the source is up
_SPECS_EVERY_SECONDS = 300


@asynccontextmanager
async def open_service(settings: Settings, *, owns_database: bool = True) -> AsyncGenerator[Service, None]:
    """Open the vault and its dependencies; close them in reverse order.

    The database must be available; the other dependencies may become available later. `owns_database`: True for the
    service itself; False for commands that look or test. Only the owner migrates an existing Postgres schema, and
    stores which collections the catalogue restricts to their owners.

    Raises: CannotStart: with what to do about it.
    """
    container = wire(settings)
    async with AsyncExitStack() as stack:
        _make_data_dir_if_used(settings)
        if settings.db_dsn is not None:
            await reach_postgres(container, upgrade=owns_database)
        database = await stack.enter_async_context(container.database())
        schemas, owner_only_store = container.schemas(), container.owner_only_store()
        await _require_restrictions(load_restrictions(schemas, owner_only_store))
        others = await stack.enter_async_context(_open_others(container))
        if owns_database:
            await _require_restrictions(sync_restrictions(schemas, owner_only_store))
        has_broker = settings.nats_url is not None
        service = Service(
            settings,
            container.vault(),
            container.tokens(),
            container.outbox(),
            container.clock(),
            dependencies=[Dependency("database", critical=True, check=database.ping), *others],
            background_tasks=_background_tasks(container, settings, schemas),
            relay=container.relay() if has_broker else None,
            bus=container.bus() if has_broker else None,
            served_blobs=container.blobs() if settings.s3_endpoint is None else None,
            public_keys=container.issuer().jwks() if settings.jwt_issuer is None else None,
            rate_limit_storage=await _rate_limit_storage(container),
            readings=_readings(container, settings, schemas),
        )
        _trace(service, database, container.blobs())
        yield service


def _background_tasks(container: Container, settings: Settings, schemas: SchemaSource) -> list[BackgroundTask]:
    tasks = [
        BackgroundTask("purge expired replies", 60, lambda: _purge(container)),
        BackgroundTask("sweep uploads", 60, container.media().sweep),
    ]
    if settings.s3_endpoint is not None:
        prepare = partial(provision_bucket, container.blobs(), settings)
        tasks.append(BackgroundTask("prepare the bucket", 10, prepare, until_success=True, prepares="object_store"))
    owner_only_store = container.owner_only_store()
    if settings.specs_url is None:
        # Other replicas may already follow a catalogue, for example during the rollout that sets its address.
        sync = partial(sync_restrictions, schemas, owner_only_store)
        tasks.append(BackgroundTask("sync the owner-only collections", _SPECS_EVERY_SECONDS, sync))
        return tasks
    source = container.schemas()
    refresh = partial(_refresh, source.refresh, schemas, owner_only_store)
    tasks.append(BackgroundTask("refresh the catalogue", _SPECS_EVERY_SECONDS, refresh))
    if source.is_refreshing:
        # Store the restrictions of a catalogue that arrives late at once, not only after the next refresh.
        tasks.append(BackgroundTask("take over the late catalogue", 30, refresh, until_success=True))
    return tasks


def _readings(container: Container, settings: Settings, schemas: SchemaSource) -> list[Callable[[], dict[str, float]]]:
    readings: list[Callable[[], dict[str, float]]] = [partial(_catalogue_readings, schemas)]
    if settings.db_dsn is not None:
        readings.append(container.database().usage)
    if settings.jwt_issuer is not None:
        readings.append(container.tokens().keys.readings)
    if settings.nats_url is not None:
        bus = container.bus()
        readings.append(lambda: {"stream_differences": len(bus.differences)})
    if settings.specs_url is not None:
        readings.append(container.schemas().readings)
    return readings


async def _rate_limit_storage(container: Container) -> str | None:
    """Return the address of the shared rate limit store, None without one. Raises: CannotStart."""
    settings: Settings = container.settings()
    if settings.rate_limit_storage is None:
        return None
    try:
        address: str = await container.secrets().get(settings.rate_limit_storage.get_secret_value())
    except (InvalidField, Unavailable) as error:
        raise CannotStart("read CDV_RATE_LIMIT_STORAGE", str(error.__cause__ or error), "correct it") from error
    return address


def _trace(service: Service, database: object, blobs: object) -> None:
    for part in (service.vault.records, service.vault.media):
        trace_methods(part)
    for client in (database, blobs):
        trace_methods(client, "client")


@asynccontextmanager
async def open_dependencies_except_database(settings: Settings) -> AsyncGenerator[list[Dependency], None]:
    """Open all dependencies but the database, to check them too when the database is not available.

    Raises: CannotStart.
    """
    _make_data_dir_if_used(settings)
    async with _open_others(wire(settings)) as others:
        yield others


def _make_data_dir_if_used(settings: Settings) -> None:
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
async def open_vault(data_dir: str | Path) -> AsyncGenerator[EmbeddedVault, None]:
    """Open the embedded vault in `data_dir`, which is created if it does not exist.

    While the vault is open, a background task removes expired idempotency keys and abandoned uploads once a minute.

    Raises: CannotStart: the directory or the database in it cannot be used; it is left unchanged.
    """
    async with open_service(Settings.embedded(Path(data_dir))) as service, run_in_background(service.background_tasks):
        media = service.vault.media
        assert isinstance(media, ServedMedia), "by default, media is stored in the data directory"  # noqa: S101
        yield EmbeddedVault(service.vault.records, media)


@asynccontextmanager
async def open_records(settings: Settings) -> AsyncGenerator[AsyncIterator[StoredRecord], None]:
    """Open only the record store; the context's value iterates over every record in it."""
    container = wire(settings)
    if settings.db_dsn is None:
        make_data_dir(settings)
    else:
        await reach_postgres(container, upgrade=False)
    async with container.database():
        yield container.record_store().scan()


async def remove_doctor_data(settings: Settings, did: Did, assets: Sequence[Asset], sequences: Sequence[int]) -> None:
    """Remove what `cdv doctor` wrote: the DID's records and replies, these assets and these op-log entries.

    Messages in the streams are not removed: a gap would look like a loss. An asset whose bytes cannot be deleted keeps
    its row, so that the next sweep finds it. Raises: CannotStart, Unavailable.
    """
    if not did.startswith(DOCTOR_DID_PREFIX):
        raise ValueError("only data written by `cdv doctor` may be removed")
    container = wire(settings)
    async with AsyncExitStack() as stack:
        blobs = container.blobs()
        if settings.s3_endpoint is not None:
            stack.callback(blobs.close)
        deleted, problem = [], None
        for asset in assets:
            try:
                await blobs.delete(asset.staging_key)
                await blobs.delete(asset.final_key(settings.env))
                deleted.append(asset.asset_id)
            except Unavailable as error:
                problem = error
        if settings.db_dsn is not None:
            await reach_postgres(container, upgrade=False)
        database = await stack.enter_async_context(container.database())
        await removal(settings)(database, did, deleted, sequences, with_account=problem is None)
    if problem is not None:
        raise problem


async def migrate(settings: Settings) -> list[str]:
    """Migrate the database to this version's schema; return the names of the migrations applied.

    Raises: CannotStart.
    """
    container = wire(settings)
    if settings.db_dsn is not None:
        return await reach_postgres(container, upgrade=True)
    make_data_dir(settings)
    async with container.database() as database:
        applied: list[str] = database.applied
        return applied


async def _purge(container: Container) -> int:
    purged: int = await container.record_store().purge_expired_replies(container.clock().now(), limit=1000)
    return purged


async def _require_restrictions(step: Awaitable[None]) -> None:
    try:
        await step
    except Unavailable as error:
        reason, remedy = str(error.__cause__ or error), "make the database available, and start again"
        raise CannotStart("read which collections only their owners may read", reason, remedy) from error


async def _refresh(
    refresh: Callable[[], Awaitable[None]], schemas: SchemaSource, owner_only_store: OwnerOnlyStore
) -> None:
    """Refresh the catalogue and store its restrictions.

    Raises: Unavailable: the catalogue is in use, but its restrictions are not stored yet.
    """
    await refresh()
    await sync_restrictions(schemas, owner_only_store)


def _catalogue_readings(schemas: SchemaSource) -> dict[str, float]:
    catalogue = schemas.catalogue
    return {"catalogue_generated": catalogue.generated_at.timestamp(), "catalogue_collections": len(catalogue)}
