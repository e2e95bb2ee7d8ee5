"""Open the vault and what it depends on, whole or in part, and close it all in reverse order."""

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

DOCTOR_DID_PREFIX = "did:example:cdv-doctor-"  # ours: what `cdv doctor` writes under, and may remove again
_SPECS_AT_START_SECONDS = 5  # ours: a slow source delays the start no longer; what arrives later is used
_SPECS_EVERY_SECONDS = 300  # ours: how old a catalogue may be while its source is well, and what other replicas know


@asynccontextmanager
async def open_service(settings: Settings, *, upgrade: bool = True) -> AsyncGenerator[Service, None]:
    """Open the vault and what it depends on; close it all in reverse order.

    The database must be there; everything else may come later. `upgrade`: whether a Postgres schema of older code is
    migrated, and what the catalogue says is its owner's only is noted; whoever only looks leaves both to the service.
    Raises: CannotStart: with what to do about it.
    """
    container = wire(settings)
    async with AsyncExitStack() as stack:
        _make_what_is_kept_here(settings)
        if settings.db_dsn is not None:
            await reach_postgres(container, upgrade=upgrade)
        database = await stack.enter_async_context(container.database())
        schemas, owner_only_store = container.schemas(), container.owner_only_store()
        await _at_start(load_restrictions(schemas, owner_only_store))
        others = await stack.enter_async_context(_open_others(container))
        if upgrade:
            await _at_start(sync_restrictions(schemas, owner_only_store))
        blobs, tokens = container.blobs(), container.tokens()
        service = Service(
            settings,
            container.vault(),
            tokens,
            container.outbox(),
            container.clock(),
            dependencies=[Dependency("database", critical=True, check=database.ping), *others],
            background_tasks=[
                BackgroundTask("purge expired replies", 60, lambda: _purge(container)),
                BackgroundTask("sweep uploads", 60, container.media().sweep),
            ],
        )
        service.readings.append(partial(_catalogue_readings, schemas))
        for part in (service.vault.records, service.vault.media):
            trace_methods(part)
        for part in (database, blobs):
            trace_methods(part, "client")
        if settings.db_dsn is not None:
            service.readings.append(database.usage)
        if settings.s3_endpoint is None:
            service.served_blobs = blobs
        else:
            prepare = partial(provision_bucket, blobs, settings)
            service.background_tasks.append(
                BackgroundTask("prepare the bucket", 10, prepare, until_success=True, prepares="object_store")
            )
        if settings.jwt_issuer is None:
            service.public_keys = container.issuer().jwks()
        else:
            service.readings.append(tokens.keys.readings)
        if settings.nats_url is not None:
            bus = container.bus()
            service.relay, service.bus = container.relay(), bus
            service.readings.append(lambda: {"stream_differences": len(bus.differences)})
        if settings.specs_url is not None:
            refresh = partial(_refresh, schemas.refresh, schemas, owner_only_store)
            service.background_tasks.append(BackgroundTask("refresh the catalogue", _SPECS_EVERY_SECONDS, refresh))
            if schemas.is_refreshing:
                # What it says is its owner's only is not to wait for the next refresh to be noted.
                service.background_tasks.append(
                    BackgroundTask("take over the late catalogue", 30, refresh, until_success=True)
                )
            service.readings.append(schemas.readings)
        else:
            # Replicas that follow a catalogue may be there already: in the rollout that sets its address, say.
            learn = partial(sync_restrictions, schemas, owner_only_store)
            service.background_tasks.append(
                BackgroundTask("sync the owner-only collections", _SPECS_EVERY_SECONDS, learn)
            )
        if settings.rate_limit_storage is not None:
            address = settings.rate_limit_storage.get_secret_value()
            try:
                service.rate_limit_storage = await container.secrets().get(address)
            except (InvalidField, Unavailable) as error:
                raise CannotStart("read CDV_RATE_LIMIT_STORAGE", str(error.__cause__ or error), "correct it") from error
        yield service


@asynccontextmanager
async def open_dependencies_except_database(settings: Settings) -> AsyncGenerator[list[Dependency], None]:
    """Open all that the vault depends on but the database: when that is not there, more may be wrong.

    Raises: CannotStart.
    """
    _make_what_is_kept_here(settings)
    async with _open_others(wire(settings)) as others:
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
async def open_vault(data_dir: str | Path) -> AsyncGenerator[EmbeddedVault, None]:
    """Open the embedded vault kept in `data_dir`, made if it is not there.

    While it is open it tidies up, once a minute: expired idempotency keys and abandoned uploads go.

    Raises: CannotStart: the directory or the database in it cannot be used; nothing is damaged.
    """
    async with open_service(Settings.embedded(Path(data_dir))) as service, run_in_background(service.background_tasks):
        media = service.vault.media
        assert isinstance(media, ServedMedia), "the defaults keep media here"  # noqa: S101
        yield EmbeddedVault(service.vault.records, media)


@asynccontextmanager
async def open_records(settings: Settings) -> AsyncGenerator[AsyncIterator[StoredRecord], None]:
    """Open the record store alone, and give every record in it."""
    container = wire(settings)
    if settings.db_dsn is None:
        make_data_dir(settings)
    else:
        await reach_postgres(container, upgrade=False)
    async with container.database():
        yield container.record_store().scan()


async def remove_doctor_data(settings: Settings, did: Did, assets: Sequence[Asset], sequences: Sequence[int]) -> None:
    """Remove what `cdv doctor` wrote: all of that DID, with these assets and these op-log entries.

    What a stream holds stays there: a hole in it would look like a loss. An asset whose bytes cannot be removed keeps
    its row, so that a sweep finds it. Raises: CannotStart, Unavailable.
    """
    if not did.startswith(DOCTOR_DID_PREFIX):
        raise ValueError("records are for ever")
    container = wire(settings)
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
            await reach_postgres(container, upgrade=False)
        database = await stack.enter_async_context(container.database())
        await removal(settings)(database, did, gone, sequences, with_account=problem is None)
    if problem is not None:
        raise problem


async def migrate(settings: Settings) -> list[str]:
    """Bring the database to the schema that this code knows; return the names of the migrations applied.

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


async def _at_start(step: Awaitable[None]) -> None:
    try:
        await step
    except Unavailable as error:
        reason, remedy = str(error.__cause__ or error), "see to it, and start again"
        raise CannotStart("learn which collections are their owner's only", reason, remedy) from error


async def _refresh(
    refresh: Callable[[], Awaitable[None]], schemas: SchemaSource, owner_only_store: OwnerOnlyStore
) -> None:
    """Raises: Unavailable: the catalogue is in force, and what it says is its owner's only is not noted yet."""
    await refresh()
    await sync_restrictions(schemas, owner_only_store)


def _catalogue_readings(schemas: SchemaSource) -> dict[str, float]:
    catalogue = schemas.catalogue
    return {"catalogue_generated": catalogue.generated_at.timestamp(), "catalogue_collections": len(catalogue)}
