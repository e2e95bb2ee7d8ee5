"""The copy on disk of the catalogue last fetched: one file, replaced at once, so that it is whole or the one before."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
from loguru import logger

from cdv_adapters.schemas.specs_url import CATALOGUE_MAX_BYTES, HttpValidators


class CachedCatalogue(msgspec.Struct, frozen=True, omit_defaults=True):
    """A catalogue as its source at `url` published it: the index and the documents by path, byte for byte.

    `owner_only`: read, and written no more: the collections that are their owner's only with it, of which an earlier
    one may have said so. They stood here before the database had them (SQLite schema 4, Postgres migration 5); this can
    go when no vault is upgraded from there any more.
    """

    url: str
    stamp: HttpValidators
    index: bytes
    documents: dict[str, bytes]
    owner_only: list[str] = []


class CatalogueCache:
    """Keeps one catalogue in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> CachedCatalogue | None:
        """Return what was written last, whichever URL it is of; None if nothing, or if it cannot be read."""
        try:
            # Twice: names and framing around files that are themselves within the limit.
            if self._path.stat().st_size > 2 * CATALOGUE_MAX_BYTES:
                return None
            return msgspec.msgpack.decode(self._path.read_bytes(), type=CachedCatalogue)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # also what is no UTF-8 where there should be text
            logger.warning("the catalogue kept in {} cannot be read: {}", self._path, error)
            return None

    def write(self, published: CachedCatalogue) -> None:
        """Keep `published` across restarts. A disk that refuses is logged: the catalogue is in force all the same."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(msgspec.msgpack.encode(published))
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(self._path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            logger.warning("the catalogue cannot be kept in {}: {}", self._path, error)
