"""The layout of the data directory (CDV_DATA_DIR). Nothing here touches the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MediaDir:
    """The paths in the directory of FilesystemBlobStore, which explains what they are for."""

    root: Path

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def incoming(self) -> Path:
        return self.root / "incoming"

    @property
    def url_signing_key(self) -> Path:
        return self.root / "url-signing.key"


@dataclass(frozen=True, slots=True)
class DataDir:
    """The paths in the data directory `root`. Which of them exist depends on the settings."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "vault.sqlite3"

    @property
    def media(self) -> MediaDir:
        return MediaDir(self.root / "media")

    @property
    def issuer_key(self) -> Path:
        return self.root / "issuer-key.json"

    @property
    def catalogue_cache(self) -> Path:
        return self.root / "catalogue.msgpack"
