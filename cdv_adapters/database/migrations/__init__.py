"""The databases' schemas, as scripts in the order in which they apply."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal


def read_migrations(database: Literal["postgres", "sqlite"]) -> list[tuple[str, str]]:
    """Return each migration's name and script, oldest first; the one at index n makes version n + 1."""
    folder = files(__name__) / database
    scripts = sorted((it for it in folder.iterdir() if it.name.endswith(".sql")), key=lambda it: it.name)
    # What follows the mark undoes the migration, and is there for people.
    return [(it.name.removesuffix(".sql"), it.read_text(encoding="utf-8").split("-- rollback:")[0]) for it in scripts]
