"""The last fetched catalogue on disk, in one file that is replaced atomically."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
from loguru import logger

from cdv_adapters.schemas.specs_url import CATALOGUE_MAX_BYTES, HttpValidators


class CachedCatalogue(msgspec.Struct, frozen=True, omit_defaults=True):
    """A catalogue as its source at `url` published it: the index and the documents by path, byte for byte.

    `owner_only`: still read, but no longer written: the collections that this or an earlier catalogue has restricted to
    their owners. Restrictions were stored here before the database had them (SQLite schema 4, Postgres migration 5).
    This field can be removed when no vault is upgraded from an earlier schema any more.
    """

    url: str
    stamp: HttpValidators
    index: bytes
    documents: dict[str, bytes]
    owner_only: list[str] = []


class CatalogueCache:
    """Stores one catalogue in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> CachedCatalogue | None:
        """Return the catalogue written last, of whatever URL; None if there is none or it cannot be read."""
        try:
            # Twice the limit of the files alone: names and framing add to them.
            if self._path.stat().st_size > 2 * CATALOGUE_MAX_BYTES:
                return None
            return msgspec.msgpack.decode(self._path.read_bytes(), type=CachedCatalogue)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # ValueError: not msgpack, or text that is not UTF-8
            logger.warning("the cached catalogue in {} cannot be read: {}", self._path, error)
            return None

    def write(self, published: CachedCatalogue) -> None:
        """Store `published` for the next start. An I/O error is only logged: the catalogue is used nevertheless."""
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
            logger.warning("the catalogue cannot be cached in {}: {}", self._path, error)
