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
        "Members beyond those of the schema are refused.",
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
    defect("texts-of-any-length", "Texts may be of any length.", "SCHEMA-003", _without("maxLength")),
    defect(
        "texts-in-bytes",
        "Texts are measured in bytes.",
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
    defect("members-of-any-type", "Members may be of any type.", "SCHEMA-004", _without("type")),
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
        "A violation does not say where it is.",
        "SCHEMA-006",
        ("cdv_core/errors.py", '{"pointer": v.pointer, "rule"', '{"pointer": "", "rule"'),
    ),
    defect(
        "first-violation-only",
        "The first violation is listed and no other.",
        "SCHEMA-007",
        (DOMAIN, _FOUND, f"{_FOUND}[:1]"),
    ),
    defect(
        "unknown-collections-accepted",
        "A collection that nobody knows is written by another's rules.",
        "SCHEMA-008",
        (
            DOMAIN,
            "            raise CollectionUnknown(name, version) from None",
            "            return next(iter(self._collections.values()))",
        ),
    ),
    defect(
        "unknown-versions-accepted",
        "A version that is not there is taken for the latest.",
        "SCHEMA-009",
        (
            DOMAIN,
            "else entry.versions.get(wanted)",
            "else entry.versions.get(wanted, entry.versions[entry.latest_stable])",
        ),
    ),
    defect(
        "version-not-kept",
        "Records keep a made-up schema version.",
        "SCHEMA-010",
        (
            "cdv_core/use_cases/records.py",
            "now, resolution.schema.version, request.created_at",
            'now, "0.0.0", request.created_at',
        ),
    ),
    defect(
        "newest-by-text",
        "The newest version is the one that sorts last as text.",
        "SCHEMA-011",
        (DOMAIN, "wanted = entry.latest_stable if version is None", "wanted = max(entry.versions) if version is None"),
    ),
    defect(
        "catalogue-setting-ignored",
        "The bundled versions stay, whatever was fetched from CDV_SPECS_URL.",
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
        "Deprecated versions are accepted although CDV_REJECT_DEPRECATED_SCHEMAS is true.",
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
        "The Deprecation header says true.",
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
        "maxGraphemes counts characters.",
        "SCHEMA-016",
        (
            "cdv_core/domain/graphemes.py",
            '    return sum(1 for _ in _CLUSTER.finditer(_FLAG.sub("X", text)))',
            "    return len(text)",
        ),
    ),
    defect(
        "bytes-are-characters",
        "A Lexicon's maxLength counts characters.",
        "SCHEMA-016",
        ("cdv_core/domain/lowering.py", '{"Bytes": count_bytes, "Graphemes"', '{"Bytes": len, "Graphemes"'),
    ),
    defect(
        "visibility-hardcoded",
        "Only moderation flags are for their owner.",
        "SCHEMA-017",
        (
            DOMAIN,
            'for name, it in collections.items() if it.visibility == "owner"}',
            'for name in collections if name.endswith("moderation.flag")}',
        ),
    ),
]
