"""Media type detection by leading bytes, for the types with an unambiguous signature."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Final

_BINARY: Final = rb".*?[\0-\x08\x0b\x0e-\x1a\x1c-\x1f]"
_MARKUP: Final = rb"(?:\xef\xbb\xbf)?\s*<"
_X_MATROSKA: Final = ("video/x-matroska", "audio/x-matroska")
# Signature → the types that the file can have, the most common first; the first matching row applies. A `*` matches
# only types that no row names, for containers with more types than can be listed. Text may begin with the bytes of a
# short signature, so that a short one must be followed by a byte that text does not contain. Sources: the formats, and
# WHATWG's MIME Sniffing.
_SIGNATURES: Final[tuple[tuple[bytes, tuple[str, ...]], ...]] = (
    (rb"\x89PNG\r\n\x1a\n", ("image/png", "image/apng", "image/vnd.mozilla.apng", "image/x-png")),
    (rb"\xff\xd8\xff", ("image/jpeg", "image/jpg", "image/pjpeg")),
    (rb"GIF8[79]a", ("image/gif",)),
    (rb"RIFF....WEBP", ("image/webp",)),
    (rb"RIFF....WAVE", ("audio/wav", "audio/wave", "audio/x-wav", "audio/vnd.wave")),
    (rb"RIFF....AVI ", ("video/x-msvideo", "video/avi", "video/msvideo", "video/vnd.avi")),
    # TIFF and BigTIFF; most raw camera formats are TIFF too.
    (rb"II[*+]\0|MM\0[*+]", ("image/tiff", "image/tiff-fx", "image/dng", "image/x-*")),
    # BMP: the file size, four zero bytes, an offset below 64 KiB, and the size of a known header.
    (rb"BM.{4}\0{4}..\0\0[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}", ("image/bmp", "image/x-bmp", "image/x-ms-bmp")),
    # ISO base media: a first box of less than 16 MiB, and the brand. Brands not listed belong to the MP4 family.
    (rb"\0...ftyphe(?:i[cxms]|v[cxms])", ("image/heic", "image/heif", "image/heic-sequence", "image/heif-sequence")),
    (rb"\0...ftypavi[fs]", ("image/avif", "image/avif-sequence")),
    (rb"\0...ftypm[is]f1", ("image/heif", "image/heif-sequence", "image/heic", "image/heic-sequence", "image/avif")),
    (rb"\0...ftypqt  ", ("video/quicktime",)),
    (rb"\0...ftyp3g", ("video/3gpp", "video/3gpp2", "audio/3gpp", "audio/3gpp2")),
    (rb"\0...ftypM4[ABP] ", ("audio/mp4", "audio/m4a", "audio/x-m4a", "audio/x-m4b", "audio/x-m4p")),
    (rb"\0...ftypcrx ", ("image/x-canon-cr3",)),
    (rb"\0...ftyp", ("video/mp4", "audio/mp4", "application/mp4", "video/x-*", "audio/m4a", "audio/x-m4a")),
    (rb"\x1a\x45\xdf\xa3", ("video/webm", "audio/webm", "video/matroska", "audio/matroska", *_X_MATROSKA)),
    (
        rb"OggS" + _BINARY,
        ("application/ogg", "audio/ogg", "video/ogg", "audio/opus", "audio/vorbis", "audio/speex", "*+ogg"),
    ),
    (rb"ID3" + _BINARY, ("audio/mpeg", "audio/mp3", "audio/mpeg3", "audio/aac", "audio/flac", "audio/x-*")),
    (rb"fLaC" + _BINARY, ("audio/flac", "audio/x-flac")),
    (rb"%PDF-", ("application/pdf", "application/x-pdf")),
    # ZIP: documents, books, programs, maps and layered images.
    (
        rb"PK(?:\x03\x04|\x05\x06|\x07\x08)",
        ("application/zip", "application/*", "*+zip", "model/*", "image/openraster"),
    ),
    (rb"\x1f\x8b", ("application/gzip", "application/x-gzip", "application/*")),
    (rb"MZ" + _BINARY, ("application/vnd.microsoft.portable-executable", "application/x-*")),
    (rb"7z\xbc\xaf\x27\x1c", ("application/x-7z-compressed",)),
    (rb"Rar!\x1a\x07", ("application/vnd.rar", "application/x-rar-compressed", "application/x-rar")),
    (rb"\xfd7zXZ\0", ("application/x-xz", "application/*")),
    (rb"\x28\xb5\x2f\xfd", ("application/zstd", "application/*")),
    (rb"\0asm\x01\0\0\0", ("application/wasm",)),
    (rb"\xca\xfe\xba\xbe", ("application/java-vm", "application/*")),
    (rb"\x7fELF", ("application/x-elf", "application/x-*")),
    # Markup may follow a byte order mark and white space, and is case-insensitive.
    (_MARKUP + rb"(?i:!doctype html|html|head|body|script)", ("text/html", "application/xhtml+xml")),
    (_MARKUP + rb"(?i:svg)", ("image/svg+xml", "application/xml", "text/xml")),
    (_MARKUP + rb"(?i:\?xml)", ("application/xml", "text/xml", "image/svg+xml", "application/xhtml+xml", "*+xml")),
)
_COMPILED: Final = tuple((re.compile(signature, re.DOTALL), types) for signature, types in _SIGNATURES)
_NAMED: Final = frozenset(name for _, types in _SIGNATURES for name in types)


def mismatched_type(declared: str, head: bytes) -> str | None:
    """Return the detected type of a file beginning with `head` if it contradicts `declared`, which is in lower case.

    None if `declared` is possible, and if no type is detected.
    """
    for signature, types in _COMPILED:
        if signature.match(head):
            return None if _is_among(declared, types) else types[0]
    return None


def _is_among(declared: str, types: tuple[str, ...]) -> bool:
    return declared in types or (declared not in _NAMED and any(fnmatchcase(declared, it) for it in types))
