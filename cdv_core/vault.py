"""The vault: what an embedding program holds."""

from __future__ import annotations

from dataclasses import dataclass

from cdv_core.use_cases.media import Media
from cdv_core.use_cases.records import Records
from cdv_core.use_cases.served_media import ServedMedia


@dataclass(frozen=True, slots=True)
class Vault:
    """Creators' records and media, under their DIDs."""

    records: Records
    media: Media


@dataclass(frozen=True, slots=True)
class EmbeddedVault(Vault):
    """A vault that keeps everything itself, media too."""

    media: ServedMedia
