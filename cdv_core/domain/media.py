"""Media assets: pending until their bytes are verified, then finalised and permanent; or expired."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Self
from urllib.parse import quote

from cdv_core.domain.characters import plain_str
from cdv_core.domain.identifiers import AssetId, Did, Nsid, RecordKey, RecordUri
from cdv_core.domain.limits import FILENAME_MAX_BYTES
from cdv_core.errors import InvalidField

MEDIA_COLLECTION: Final = Nsid("com.registryaccord.media.asset")  # spec: identifiers
SHA256_SYNTAX: Final = re.compile(r"[0-9a-fA-F]{64}")
# Not allowed in file names: control characters, separators, and marks that change the text direction.
_UNSAFE_IN_FILENAME: Final = r"\x00-\x1f\x7f-\x9f/\\\u200e\u200f\u2028-\u202e\u2066-\u2069"
# A name needs another character than dots and spaces, or it would be a dot segment or blank.
FILENAME_SYNTAX: Final = re.compile(rf"[. ]*[^. {_UNSAFE_IN_FILENAME}][^{_UNSAFE_IN_FILENAME}]*")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SAFE_IN_QUOTES: Final = re.compile(r"[^A-Za-z0-9 ._-]")
# Object keys are limited to 1024 bytes and directory names to 255, while a DID may have 2048 characters.
_DID_IN_KEY_MAX_CHARS: Final = 200
_UNNAMED: Final = "media"


class AssetState(StrEnum):
    PENDING = "pending"
    FINALIZED = "finalized"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Asset:
    """A media asset.

    `announced_checksum`: the SHA-256 given at init, None if none was. `checksum`: the SHA-256 that was verified on the
    uploaded bytes; once set it never changes. Both are 64 lower-case hex characters. `expires_at`: until when a pending
    asset may be uploaded and finalised.
    """

    asset_id: AssetId
    did: Did
    mime_type: str
    size_bytes: int
    created_at: datetime
    expires_at: datetime
    filename: str | None = None
    announced_checksum: str | None = None
    checksum: str | None = None
    state: AssetState = AssetState.PENDING

    @property
    def uri(self) -> RecordUri:
        return RecordUri(self.did, MEDIA_COLLECTION, RecordKey(self.asset_id))

    @property
    def staging_key(self) -> str:
        """The object key of the upload. No final key has this prefix, so that a lifecycle rule can expire uploads."""
        return f"uploads/{self.asset_id}"

    def final_key(self, env: str) -> str:
        """Return the object key of the permanent bytes, at most 500 bytes long; no upload URL can write to it."""
        did = (
            self.did
            if len(self.did) <= _DID_IN_KEY_MAX_CHARS
            else f"did-{hashlib.sha256(self.did.encode()).hexdigest()}"
        )
        return f"{env}/{did}/{self.asset_id}/{self.filename or _UNNAMED}"


class Sha256(str):
    """A SHA-256 as 64 lower-case hex characters."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str, field: str = "sha256") -> Self:
        """Raises InvalidField: not 64 hex characters of either case."""
        if not SHA256_SYNTAX.fullmatch(text):
            raise InvalidField(field, "must be a SHA-256 (64 hex characters)")
        return cls(text.lower())


def parse_filename(text: str, field: str = "filename") -> str:
    """Return `text`, checked to be usable as the last segment of an object key.

    Raises InvalidField: empty, a dot segment, a separator or control character, or more than 255 bytes.
    """
    if not FILENAME_SYNTAX.fullmatch(text) or _SURROGATE.search(text):
        raise InvalidField(field, "must be a plain file name (no separators, control characters or dot segments)")
    if len(text.encode()) > FILENAME_MAX_BYTES:
        raise InvalidField(field, f"must be at most {FILENAME_MAX_BYTES} bytes in UTF-8")
    return plain_str(text)


def content_disposition(mime_type: str, filename: str | None) -> str:
    """Return the Content-Disposition that makes browsers display images, audio and video, and download all else.

    SVG can run scripts and is downloaded. The name is given in ASCII and, if that is lossy, in UTF-8 too.
    """
    family = mime_type.partition("/")[0]
    shown = family in {"image", "audio", "video"} and "svg" not in mime_type and "xml" not in mime_type
    disposition = "inline" if shown else "attachment"
    if filename is None:
        return disposition
    plain = _SAFE_IN_QUOTES.sub("_", filename)
    extended = "" if plain == filename else f"; filename*=UTF-8''{quote(filename, safe='')}"
    return f'{disposition}; filename="{plain}"{extended}'
