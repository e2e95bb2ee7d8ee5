"""The vault: what an embedding program holds."""

from __future__ import annotations

from dataclasses import dataclass

from cdv_core.use_cases.media import Media
from cdv_core.use_cases.records import Records


@dataclass(frozen=True, slots=True)
class Vault:
    """Creators' records and media, under their DIDs."""

    records: Records
    media: Media
