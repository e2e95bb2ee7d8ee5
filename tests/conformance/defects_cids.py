"""Defects of content ids."""

from __future__ import annotations

from tests.conformance.defects_model import Defect, defect

CANONICAL = "cdv_core/domain/canonical.py"
_DIGEST = "hashlib.sha256(libipld.encode_dag_cbor(value)).digest()"

CONTENT_IDS: list[Defect] = [
    defect(
        "raw-cid",
        "The CID has the codec raw instead of dag-cbor.",
        "CID-001",
        (CANONICAL, r'b"\x01\x71\x12\x20"', r'b"\x01\x55\x12\x20"'),
    ),
    defect(
        "random-cid",
        "The CID is made of random bytes.",
        "CID-002",
        (CANONICAL, _DIGEST, '__import__("os").urandom(32)'),
        trap="A random id called a CID",
    ),
    defect(
        "cid-of-the-text",
        "The CID is computed from the JSON form of the value, not from the DAG-CBOR form.",
        "CID-002 CID-004",
        (CANONICAL, _DIGEST, "hashlib.sha256(msgspec.json.encode(value)).digest()"),
    ),
    defect(
        "floats-stay-floats",
        "1.0 and 1e0 give other CIDs than 1.",
        "CID-003",
        (CANONICAL, "_integer(int(value)) if value.is_integer() else float(value)", "float(value)"),
        (CANONICAL, "    number = float(text)\n", "    number = float(text)\n    return number\n"),
    ),
    defect(
        "normal-forms-merged",
        "Text is normalised to NFC before it is stored.",
        "CID-005",
        (
            CANONICAL,
            "    return text\n\n\ndef _printable",
            '    return __import__("unicodedata").normalize("NFC", text)\n\n\ndef _printable',
        ),
    ),
    defect(
        "integers-cut",
        "Integers outside 64 bits are stored as the largest 64-bit integer.",
        "CID-006",
        (CANONICAL, '        raise _Refused("must fit in a signed 64-bit integer")', "        return INTEGER_MAX"),
    ),
    defect(
        "nul-accepted",
        "Text that contains U+0000 is accepted.",
        "CID-007",
        (CANONICAL, r'if "\x00" in text:', "if False:"),
    ),
]
