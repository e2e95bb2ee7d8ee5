"""What leading bytes say about a file's type, for the types whose first bytes cannot be mistaken."""

from __future__ import annotations

import re
from typing import Final

_ISO_MEDIA: Final = frozenset(
    {
        "video/mp4",
        "audio/mp4",
        "video/quicktime",
        "audio/x-m4a",
        "video/x-m4v",
        "image/heic",
        "image/heif",
        "image/avif",
    }
)
# Signature at an offset → the types that begin so. Sources: the PNG, GIF, JFIF, RIFF, ISO-BMFF, EBML and Ogg formats.
_SIGNATURES: Final[tuple[tuple[int, bytes, frozenset[str]], ...]] = (
    (0, b"\x89PNG\r\n\x1a\n", frozenset({"image/png", "image/apng"})),
    (0, b"\xff\xd8\xff", frozenset({"image/jpeg", "image/jpg"})),
    (0, b"GIF87a", frozenset({"image/gif"})),
    (0, b"GIF89a", frozenset({"image/gif"})),
    (8, b"WEBP", frozenset({"image/webp"})),
    (8, b"WAVE", frozenset({"audio/wav", "audio/wave", "audio/x-wav"})),
    (4, b"ftyp", _ISO_MEDIA),
    (0, b"\x1a\x45\xdf\xa3", frozenset({"video/webm", "audio/webm", "video/x-matroska", "audio/x-matroska"})),
    (0, b"OggS", frozenset({"audio/ogg", "video/ogg", "application/ogg"})),
    (0, b"ID3", frozenset({"audio/mpeg", "audio/mp3"})),
    (0, b"fLaC", frozenset({"audio/flac"})),
    (0, b"%PDF-", frozenset({"application/pdf"})),
    (0, b"PK\x03\x04", frozenset({"application/zip"})),
    (0, b"\x1f\x8b", frozenset({"application/gzip"})),
    (0, b"MZ", frozenset({"application/vnd.microsoft.portable-executable"})),
    (0, b"\x7fELF", frozenset({"application/x-elf"})),
)
# Markup may be preceded by a byte order mark and white space, and its case is free.
_MARKUP: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|script|svg|\?xml)", re.IGNORECASE)
_SVG: Final = frozenset({"image/svg+xml"})
_MARKUP_TYPES: Final = {
    b"svg": _SVG,
    b"?xml": _SVG | {"application/xml", "text/xml", "application/xhtml+xml"},
}
_HTML: Final = frozenset({"text/html"})


def types_shown_by(head: bytes) -> frozenset[str]:
    """Return the MIME types a file beginning with `head` can be; empty when the bytes do not show it."""
    for offset, signature, types in _SIGNATURES:
        if head.startswith(signature, offset):
            return types
    markup = _MARKUP.match(head)
    return frozenset() if markup is None else _MARKUP_TYPES.get(markup.group(1).lower(), _HTML)
