"""Copies the vault's SQLite file while it is in use, and reads such copies."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from cdv_adapters.database.sqlite import from_micros
from cdv_core.domain.identifiers import AssetId, Did, Nsid, RecordKey, RecordUri
from cdv_core.domain.media import Asset, AssetState
from cdv_core.domain.records import StoredRecord
from cdv_core.errors import CannotStart

_BUSY_SECONDS: Final = 10.0  # as in database/sqlite_file.py


def copy_database(source: Path, target: Path) -> None:
    """Write a consistent snapshot of the database at `source` into the new file `target`. Raises: CannotStart."""
    with (
        _sqlite_errors_as_cannot_start(f"copy {source}", "fix what the message says, then try again"),
        closing(_connect(source, "mode=rw")) as live,
        closing(sqlite3.connect(target)) as copy,
    ):
        # All pages in one step, in one read transaction: in WAL mode it blocks no writer.
        live.backup(copy)


def read_database(path: Path) -> Iterator[StoredRecord | Asset]:
    """Check the integrity of a copy that is not open elsewhere, then yield every record and every finalized asset.

    Raises: CannotStart: it is damaged, or not the database of a vault.
    """
    with (
        _sqlite_errors_as_cannot_start(f"read {path}", "take another backup"),
        closing(_connect(path, "mode=ro&immutable=1")) as connection,
    ):
        for check in ("integrity_check(1)", "foreign_key_check"):
            found = connection.execute(f"PRAGMA {check}").fetchone()
            if found not in {None, ("ok",)}:
                raise CannotStart(f"read {path}", f"it is damaged ({found[0]})", "take another backup")
        # Not the columns of records/sqlite.py and media/sqlite.py: a backup from an earlier version is read here before
        # its schema is migrated, so these columns must exist in every version of the schema.
        for row in connection.execute(
            "SELECT did, collection, rkey, cid, value, indexed_at, schema_version FROM records"
        ):
            yield _record(row)
        for row in connection.execute(
            "SELECT asset_id, did, mime_type, size_bytes, created_at, expires_at, filename, checksum FROM assets"
            " WHERE state = 'finalized'"
        ):
            yield _asset(row)


def _connect(path: Path, uri_parameters: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{uri_parameters}", uri=True, timeout=_BUSY_SECONDS)


@contextmanager
def _sqlite_errors_as_cannot_start(what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise CannotStart(what, str(error), remedy) from error


def _record(row: tuple[Any, ...]) -> StoredRecord:
    did, collection, rkey, cid, value, indexed_at, schema_version = row
    uri = RecordUri(Did(did), Nsid(collection), RecordKey(rkey))
    return StoredRecord(uri, cid, value, from_micros(indexed_at), schema_version)


def _asset(row: tuple[Any, ...]) -> Asset:
    asset_id, did, mime_type, size_bytes, created_at, expires_at, filename, checksum = row
    return Asset(
        AssetId(asset_id),
        Did(did),
        mime_type,
        size_bytes,
        from_micros(created_at),
        from_micros(expires_at),
        filename,
        checksum=checksum,
        state=AssetState.FINALIZED,
    )
