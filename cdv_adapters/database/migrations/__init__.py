"""The schema migrations of both databases, as SQL scripts in the order in which they are applied."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal


def read_migrations(database: Literal["postgres", "sqlite"]) -> list[tuple[str, str]]:
    """Return each migration's name and script, oldest first. The one at index n leads to schema version n + 1."""
    folder = files(__name__) / database
    scripts = sorted((it for it in folder.iterdir() if it.name.endswith(".sql")), key=lambda it: it.name)
    # The part after the marker undoes the migration. It is meant for operators and never run here.
    return [(it.name.removesuffix(".sql"), it.read_text(encoding="utf-8").split("-- rollback:")[0]) for it in scripts]
