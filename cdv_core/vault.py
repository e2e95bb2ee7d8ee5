"""The vault: the object that an embedding program uses."""

from __future__ import annotations

from dataclasses import dataclass

from cdv_core.use_cases.media import Media
from cdv_core.use_cases.records import Records
from cdv_core.use_cases.served_media import ServedMedia


@dataclass(frozen=True, slots=True)
class Vault:
    """The records and media of creators, by DID."""

    records: Records
    media: Media


@dataclass(frozen=True, slots=True)
class EmbeddedVault(Vault):
    """A vault that stores everything itself, media bytes included."""

    media: ServedMedia
