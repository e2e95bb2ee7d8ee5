"""Defects of content ids."""

from __future__ import annotations

from tests.conformance.defects_model import Defect, defect

CANONICAL = "cdv_core/domain/canonical.py"
_DIGEST = "hashlib.sha256(libipld.encode_dag_cbor(value)).digest()"

CONTENT_IDS: list[Defect] = [
    defect(
        "raw-cid",
        "The CID says that the block is raw bytes.",
        "CID-001",
        (CANONICAL, r'b"\x01\x71\x12\x20"', r'b"\x01\x55\x12\x20"'),
    ),
    defect(
        "random-cid",
        "A random id is called a CID.",
        "CID-002",
        (CANONICAL, _DIGEST, '__import__("os").urandom(32)'),
        trap="A random id called a CID",
    ),
    defect(
        "cid-of-the-text",
        "The CID is that of the JSON text.",
        "CID-002 CID-004",
        (CANONICAL, _DIGEST, "hashlib.sha256(msgspec.json.encode(value)).digest()"),
    ),
    defect(
        "floats-stay-floats",
        "1.0 and 1e0 are other values than 1.",
        "CID-003",
        (CANONICAL, "_integer(int(value)) if value.is_integer() else float(value)", "float(value)"),
        (CANONICAL, "    number = float(text)\n", "    return float(text)\n"),
    ),
    defect(
        "normal-forms-merged",
        "Text is normalised before it is stored.",
        "CID-005",
        (
            CANONICAL,
            "    return text\n\n\ndef _printable",
            '    return __import__("unicodedata").normalize("NFC", text)\n\n\ndef _printable',
        ),
    ),
    defect(
        "integers-cut",
        "Integers beyond 64 bits are stored as the largest that fits.",
        "CID-006",
        (CANONICAL, '        raise _Refused("must fit in a signed 64-bit integer")', "        return INTEGER_MAX"),
    ),
    defect(
        "nul-accepted",
        "Text may hold U+0000.",
        "CID-007",
        (CANONICAL, r'if "\x00" in text:', "if False:"),
    ),
]
