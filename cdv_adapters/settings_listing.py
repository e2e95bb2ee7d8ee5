"""Lists the settings for people: current values, unknown variables, and the table in the docs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cdv_adapters.settings import Settings

_NOT_SETTINGS: Final = ("CDV_TEST_",)  # servers for the test suite


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Return the variables that start with `CDV_` but are no settings: misspelt ones would silently have no effect."""
    known = {f"CDV_{name.upper()}" for name in Settings.model_fields}
    return sorted(
        name for name in names if name.startswith("CDV_") and name not in known and not name.startswith(_NOT_SETTINGS)
    )


def masked(settings: Settings) -> dict[str, str]:
    """Return each variable with its effective value, secrets as asterisks."""
    # Defaults that are derived from other settings. The built-in issuer is not shown: it is not a value to set.
    derived = {"jwt_audience": settings.audience, "jwks_url": settings.keys_url}
    shown = {}
    for name in Settings.model_fields:
        value = derived.get(name, getattr(settings, name))
        if isinstance(value, tuple):
            value = ",".join(value)
        shown[f"CDV_{name.upper()}"] = "" if value is None else str(value)
    return shown


def markdown_table() -> str:
    """Return the settings as a table for the docs: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        value = field.default
        if isinstance(value, tuple):
            value = ",".join(value)
        default = "" if value in {None, ""} else f"`{value}`"
        rows.append(f"| `CDV_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"
