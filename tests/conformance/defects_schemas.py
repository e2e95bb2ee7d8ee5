"""Defects of schemas and their catalogue."""

from __future__ import annotations

from tests.conformance.defects_model import Defect, defect

DOMAIN = "cdv_core/domain/schemas.py"
CONTAINER = "cdv_adapters/container.py"
_FOUND = "return self.validator.violations(value)"


def _without(rule: str) -> tuple[str, str, str]:
    """Return the edit that lets whatever breaks this rule alone pass."""
    return DOMAIN, _FOUND, f'return tuple(it for it in self.validator.violations(value) if it.rule != "{rule}")'


SCHEMAS: list[Defect] = [
    defect(
        "members-beyond-refused",
        "Members that the schema does not define are rejected.",
        "SCHEMA-001",
        (
            DOMAIN,
            _FOUND,
            """known = {*__import__("json").loads(self.document).get("properties", {})}
        beyond = tuple(Violation(f"/{it}", "additionalProperties", "no") for it in {*value} - known)
        return self.validator.violations(value) or beyond""",
        ),
    ),
    defect("nothing-is-required", "Required members may be missing.", "SCHEMA-002", _without("required")),
    defect("texts-of-any-length", "maxLength is not enforced.", "SCHEMA-003", _without("maxLength")),
    defect(
        "texts-in-bytes",
        "The length of text is counted in UTF-8 bytes instead of characters.",
        "SCHEMA-003",
        (
            DOMAIN,
            _FOUND,
            (
                'text = __import__("json").dumps(value, ensure_ascii=False).encode().decode("latin-1")\n'
                '        return self.validator.violations(__import__("json").loads(text))'
            ),
        ),
    ),
    defect("members-of-any-type", "The types of members are not checked.", "SCHEMA-004", _without("type")),
    defect(
        "formats-of-any-kind",
        "Formats are not enforced.",
        "SCHEMA-005",
        _without("format"),
        trap="Formats the validator does not know pass everything",
    ),
    defect("patterns-of-any-kind", "Patterns are not enforced.", "SCHEMA-005", _without("pattern")),
    defect(
        "violation-nowhere",
        "The pointer of a violation is empty.",
        "SCHEMA-006",
        ("cdv_core/errors.py", '{"pointer": v.pointer, "rule"', '{"pointer": "", "rule"'),
    ),
    defect(
        "first-violation-only",
        "Only the first violation is listed.",
        "SCHEMA-007",
        (DOMAIN, _FOUND, f"{_FOUND}[:1]"),
    ),
    defect(
        "unknown-collections-accepted",
        "A record of an unknown collection is validated by the schema of another one.",
        "SCHEMA-008",
        (
            DOMAIN,
            "            raise CollectionUnknown(name, version) from None",
            "            return next(iter(self._collections.values()))",
        ),
    ),
    defect(
        "unknown-versions-accepted",
        "An unknown version is replaced by the latest stable one.",
        "SCHEMA-009",
        (
            DOMAIN,
            "else entry.versions.get(wanted)",
            "else entry.versions.get(wanted, entry.versions[entry.latest_stable])",
        ),
    ),
    defect(
        "version-not-kept",
        "Records have the schema version 0.0.0 instead of the one that validated them.",
        "SCHEMA-010",
        (
            "cdv_core/use_cases/records.py",
            "now, resolution.schema.version, request.created_at",
            'now, "0.0.0", request.created_at',
        ),
    ),
    defect(
        "newest-by-text",
        "The default version is the last one in text order.",
        "SCHEMA-011",
        (DOMAIN, "wanted = entry.latest_stable if version is None", "wanted = max(entry.versions) if version is None"),
    ),
    defect(
        "catalogue-setting-ignored",
        "A catalogue fetched from CDV_SPECS_URL is not used.",
        "SCHEMA-011",
        (
            "cdv_adapters/schemas/url.py",
            'self._published_catalogue, self._published, self._is_confirmed = catalogue, published, origin == "source"',
            'self._published, self._is_confirmed = published, origin == "source"',
        ),
        trap="Versions hardcoded while the setting for their source does nothing",
        waits=True,
    ),
    defect(
        "deprecation-setting-unread",
        "CDV_REJECT_DEPRECATED_SCHEMAS has no effect.",
        "SCHEMA-012",
        (CONTAINER, "reject_deprecated=settings.provided.reject_deprecated_schemas", "reject_deprecated=False"),
        trap="The deprecation setting stored and never read",
        settings={"CDV_REJECT_DEPRECATED_SCHEMAS": "true"},
    ),
    defect(
        "deprecation-unmentioned",
        "A deprecated version is accepted without a warning.",
        "SCHEMA-012",
        (DOMAIN, '(_deprecation(schema),) if schema.status == "deprecated" else ()', "()"),
    ),
    defect(
        "deprecation-header-of-old",
        "The Deprecation header is true instead of a date.",
        "SCHEMA-013",
        ("cdv_http/routes/records.py", 'f"@{int(receipt.deprecated_at.timestamp())}"', '"true"'),
    ),
    defect(
        "sunset-ignored",
        "A version past its sunset is accepted.",
        "SCHEMA-014",
        (DOMAIN, "        if schema.sunset is not None and now >= schema.sunset:", "        if False:"),
    ),
    defect(
        "retired-accepted",
        "A retired version is accepted.",
        "SCHEMA-015",
        (DOMAIN, '    if schema.status == "retired":', "    if False:"),
    ),
    defect(
        "graphemes-are-characters",
        "maxGraphemes counts characters instead of grapheme clusters.",
        "SCHEMA-016",
        (
            "cdv_core/domain/graphemes.py",
            '    return sum(1 for _ in _CLUSTER.finditer(_FLAG.sub("X", text)))',
            "    return len(text)",
        ),
    ),
    defect(
        "bytes-are-characters",
        "A Lexicon's maxLength counts characters instead of bytes.",
        "SCHEMA-016",
        ("cdv_core/domain/lowering.py", '{"Bytes": count_bytes, "Graphemes"', '{"Bytes": len, "Graphemes"'),
    ),
    defect(
        "visibility-hardcoded",
        "The visibility in the catalogue is ignored: only moderation.flag is owner-only.",
        "SCHEMA-017",
        (
            DOMAIN,
            'for name, it in collections.items() if it.visibility == "owner"}',
            'for name in collections if name.endswith("moderation.flag")}',
        ),
    ),
]
